"""Layers of calls that no network made: a function or a changed record, run on meta tensors and recorded as a trace would."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..errors import InputError, WattlayerError
from ..layer import Layer
from ..trace import trace
from .rebuild import bind
from .rig import CannotRun


class _Function(nn.Module):
    """A function as a module, which is what `trace` takes."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *tensors: torch.Tensor) -> Any:
        return self.function(*tensors)


def record(function: Callable[..., Any], *tensors: torch.Tensor, tf32: str = "none") -> Layer:
    """Return the layer of a function that makes one operator call; of several the one with the most FLOP or bytes.

    Raises InputError where the call fails or moves nothing.
    """
    layers = trace(_Function(function), *tensors, tf32=tf32).layers
    if not layers:
        raise InputError("the function computes and moves nothing")
    return max(layers, key=lambda x: (x.flop, x.read_bytes + x.write_bytes))


def relayer(changed: Layer) -> Layer | None:
    """Return the record that a call with the inputs and arguments of `changed` gives; None where it is no valid call."""
    tensors = [_meta(x.shape, x.dtype, x.strides) for x in changed.inputs]
    try:
        function, arguments = bind(changed, tensors)
        found = record(lambda *_: function(**arguments), *tensors, tf32="all" if changed.tf32 else "none")
    except (WattlayerError, CannotRun, RuntimeError):
        return None
    return found if found.kind == changed.kind else None


def _meta(shape: tuple[int, ...], dtype: str, strides: tuple[int, ...] | None) -> torch.Tensor:
    kind = getattr(torch, dtype)
    if strides is None:
        return torch.empty(shape, dtype=kind, device="meta")
    return torch.empty_strided(shape, strides, dtype=kind, device="meta")


def meta(*shape: int, dtype: str = "float32") -> torch.Tensor:
    """A contiguous meta tensor."""
    return _meta(shape, dtype, None)
