"""Modules and inputs as meta tensors: shapes and dtypes without data."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from .constants import remember, value_of
from .errors import InputError, first_line


def to_meta(module: nn.Module, dtype: torch.dtype | None = None, train_mode: bool = False) -> nn.Module:
    """Return `module` as meta tensors in the wanted mode and dtype; the given one is copied, never changed.

    Raises InputError when the module cannot be copied.
    """
    own = [*module.parameters(), *module.buffers()]
    held = _held_tensors(module)
    fits = all(dtype is None or not x.is_floating_point() or x.dtype == dtype for x in own)
    if fits and all(x.is_meta for x in held) and all(m.training == train_mode for m in module.modules()):
        return module
    # deepcopy takes what its memo already holds: so no weight is ever copied, and tied weights stay tied
    memo = {id(x): tensor_to_meta(x) for x in held} | {id(x): tensor_to_meta(x, dtype) for x in own}
    try:
        return copy.deepcopy(module, memo).train(train_mode)
    except Exception as error:
        cure = "build it under torch.device('meta') and call .eval()"
        raise InputError(f"{type(module).__name__} cannot be copied ({first_line(error)}); {cure}") from error


def tensor_to_meta(tensor: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Return a meta tensor of this shape; `dtype` converts floating ones, and what is not a parameter keeps its value."""
    wanted = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
    if tensor.layout == torch.strided:  # `to` would pack what is expanded or sliced
        meta = torch.empty_strided(tensor.size(), tensor.stride(), dtype=wanted, device="meta")
    else:
        meta = tensor.detach().to("meta", wanted)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(meta, requires_grad=False)
    value = value_of(tensor)
    return meta if value is None else remember(meta, value)


_ATOMS = frozenset({bool, int, float, str, type(None)})


def _held_tensors(module: nn.Module) -> list[torch.Tensor]:
    """Return every tensor that a module holds, also in plain attributes and in modules that it never registered."""
    found: list[torch.Tensor] = []
    seen: set[int] = set()
    pending: list[Any] = [module]
    while pending:
        value = pending.pop()
        if type(value) in _ATOMS or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, nn.Module):
            pending.extend(vars(value).values())
        elif isinstance(value, dict):
            pending.extend(value.values())
        elif isinstance(value, list | tuple):
            pending.extend(value)
    return found
