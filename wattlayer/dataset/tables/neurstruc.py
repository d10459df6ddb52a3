"""Convolutions on a Jetson-Nano-class board by an external DC meter (NeurstrucEnergy): float32, idle included.

They were measured one by one in eager mode, each call waited for, with a bias (its `data/conv2d_energy_profiling.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

from ...errors import InputError
from .. import Measurement
from .modules import layer_of
from .values import positive, whole

NAME = "NeurstrucEnergy convolutions"
COLUMNS = (
    "batch", "c_in", "h_in", "w_in", "c_out", "h_out", "w_out", "kh", "kw", "stride_h", "stride_w", "pad_h", "pad_w",
    "dil_h", "dil_w", "groups", "energy_total_J", "time_s",
)  # fmt: skip


def measurement(row: Mapping[str, str]) -> Measurement:
    """Return one row as a Measurement; its output size must be the convolution's own."""
    value = {c: whole(row, c) for c in COLUMNS[:16]}
    shape = (value["batch"], value["c_in"], value["h_in"], value["w_in"])
    layer = layer_of(_text(value), (shape,), "float32", "none", False)
    out = (value["batch"], value["c_out"], value["h_out"], value["w_out"])
    if layer.outputs[0].shape != out:
        raise InputError(f"the output of such a convolution is {layer.outputs[0].shape}, not {out}")
    return Measurement(
        hardware="jetson-nano", time_s=positive(row, "time_s"), energy_j=positive(row, "energy_total_J"),
        layer=layer, input_shapes=(shape,), tf32="none", mode="eager", run="neurstruc",
    )  # fmt: skip


def _text(value: Mapping[str, int]) -> str:
    pairs = {"kernel_size": ("kh", "kw"), "stride": ("stride_h", "stride_w"), "padding": ("pad_h", "pad_w"),
             "dilation": ("dil_h", "dil_w")}  # fmt: skip
    window = ", ".join(f"{name}={tuple(value[c] for c in columns)}" for name, columns in pairs.items())
    return f"Conv2d({value['c_in']}, {value['c_out']}, {window}, groups={value['groups']})"
