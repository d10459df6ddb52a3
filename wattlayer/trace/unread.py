"""Which of a network's parameters a forward pass reads: a tower that gets no input costs nothing, and that must be seen."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from .constants import tensors_in

_ASKS = frozenset({"__get__", "size", "dim", "numel", "stride", "is_floating_point", "type", "element_size", "untyped_storage"})
"""Functions that ask a tensor about itself, not for its values."""


_WHOLE = {torch.Tensor.T.__get__, torch.Tensor.mT.__get__, torch.Tensor.data.__get__}  # type: ignore[attr-defined]
"""Attributes that are the tensor itself, seen otherwise."""


class Reads(TorchFunctionMode):
    """Collect the tensors that functions are called with while this is active."""

    def __init__(self) -> None:
        super().__init__()
        self._read: set[int] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") not in _ASKS or func in _WHOLE:
            self._read.update(map(id, tensors_in((args, kwargs))))
        return func(*args, **kwargs)

    def unread_frac(self, module: nn.Module) -> float:
        """Return the share of `module`'s parameters that no function was called with; 0.0 where it has none."""
        sizes = {id(x): x.numel() for x in module.parameters()}
        unread = sum(size for key, size in sizes.items() if key not in self._read)
        return unread / max(sum(sizes.values()), 1)
