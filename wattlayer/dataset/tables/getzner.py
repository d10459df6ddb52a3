"""Single layers on two Xeon Gold 5120 by RAPL (Getzner et al., dl-energy-estimator): PyTorch on the CPU, float32."""

from __future__ import annotations

from collections.abc import Mapping

from ...errors import InputError
from ...layer import Layer
from .. import Measurement
from .modules import layer_of
from .values import positive, whole

NAME = "Getzner et al."
COLUMNS = ("op", "batch_size", "duration_s", "cpu_power_W", "forward_passes", "cpu_energy_J_per_pass", "time_s_per_pass")

CAMPAIGNS = {"": "getzner", "0": "getzner", "0.0": "getzner", "1": "getzner-test", "1.0": "getzner-test"}
"""The column `test` tells two campaigns of ReLU apart, which differ 3.2 x in time at equal size; other operators have none."""

TOLERANCE = 0.1
"""Rows whose power x duration differs from their energy by more than this share contradict themselves."""


def measurement(row: Mapping[str, str]) -> Measurement:
    """Return one row as a Measurement; rows that contradict themselves are refused."""
    energy_j, time_s = positive(row, "cpu_energy_J_per_pass"), positive(row, "time_s_per_pass")
    total_j = energy_j * positive(row, "forward_passes")
    if abs(positive(row, "cpu_power_W") * positive(row, "duration_s") / total_j - 1) > TOLERANCE:
        raise InputError("cpu_power_W x duration_s differs from the energy by more than 10 %")
    layer = _layer(row)
    return Measurement(
        hardware="xeon-gold-5120", time_s=time_s, energy_j=energy_j, layer=layer,
        input_shapes=(layer.inputs[0].shape,), tf32="none", mode="eager", run=_campaign(row),
    )  # fmt: skip


def _campaign(row: Mapping[str, str]) -> str:
    test = row.get("test") or ""
    if test not in CAMPAIGNS:
        raise InputError(f"test {test!r} is not 0, 1 or empty")
    return CAMPAIGNS[test]


def _layer(row: Mapping[str, str]) -> Layer:
    text, shape = _module(row, whole(row, "batch_size"))
    return layer_of(text, (shape,), "float32", "none", False)


def _module(row: Mapping[str, str], batch: int) -> tuple[str, tuple[int, ...]]:
    match row["op"]:
        case "conv2d":
            channels, out = whole(row, "in_channels"), whole(row, "out_channels")
            return f"Conv2d({channels}, {out}, {_window(row)})", _image(row, batch, channels)
        case "maxpool2d":
            return f"MaxPool2d({_window(row)})", _image(row, batch, whole(row, "in_channels"))
        case "linear":
            inner = whole(row, "input_size")
            return f"Linear({inner}, {whole(row, 'output_size')})", (batch, inner)
        case "softmax":
            return "Softmax(dim=1)", (batch, whole(row, "input_size"))
        case "relu" | "sigmoid" | "tanh" as op:
            return {"relu": "ReLU()", "sigmoid": "Sigmoid()", "tanh": "Tanh()"}[op], (batch, whole(row, "input_size"))
    raise InputError(f"op {row['op']!r} cannot be mapped to a layer exactly")


def _window(row: Mapping[str, str]) -> str:
    sizes = (whole(row, c) for c in ("kernel_size", "stride", "padding"))
    return "kernel_size={}, stride={}, padding={}".format(*sizes)


def _image(row: Mapping[str, str], batch: int, channels: int) -> tuple[int, ...]:
    edge = whole(row, "image_size")
    return (batch, channels, edge, edge)
