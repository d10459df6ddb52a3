"""The import table of single layers: one row per measured torch module."""

from __future__ import annotations

from collections.abc import Mapping

from ...hardware import find_hardware
from .. import Measurement
from .modules import layer_of
from .values import positive, shapes, truth

NAME = "layers"
COLUMNS = ("hardware", "layer_repr", "input_shape", "dtype", "tf32", "time_s", "energy_j")
OPTIONAL = ("mode", "meter", "run", "train_mode")


def measurement(row: Mapping[str, str]) -> Measurement:
    """Return one row as a Measurement; the mode is eager where none is given, as such loops launch operator by operator."""
    input_shapes = shapes(row["input_shape"])
    tf32 = row["tf32"] or "conv"
    layer = layer_of(row["layer_repr"], input_shapes, row["dtype"] or "float32", tf32, truth(row, "train_mode"))
    return Measurement(
        hardware=find_hardware(row["hardware"]).name, time_s=positive(row, "time_s"), energy_j=positive(row, "energy_j"),
        layer=layer, input_shapes=input_shapes, dtype=layer.dtype, tf32=tf32,
        mode=row.get("mode") or "eager", meter=row.get("meter") or "measured", run=row.get("run", ""),
    )  # fmt: skip
