"""The import table of whole networks: one row per measured forward pass."""

from __future__ import annotations

from collections.abc import Mapping

from ...errors import InputError
from ...hardware import find_hardware
from ...layer import check_dtype
from .. import Measurement
from .values import positive, shapes

NAME = "networks"
COLUMNS = ("hardware", "model", "input_shape", "dtype", "tf32", "mode", "time_s", "energy_j")
OPTIONAL = ("meter", "run")


def measurement(row: Mapping[str, str]) -> Measurement:
    """Return one row as a Measurement of a network, named as on the command line."""
    if not row["model"]:
        raise InputError("model is empty")
    return Measurement(
        hardware=find_hardware(row["hardware"]).name, time_s=positive(row, "time_s"), energy_j=positive(row, "energy_j"),
        network=row["model"], input_shapes=shapes(row["input_shape"]), dtype=check_dtype(row["dtype"] or "float32"),
        tf32=row["tf32"] or "conv", mode=row["mode"] or "graph", meter=row.get("meter") or "measured", run=row.get("run", ""),
    )  # fmt: skip
