"""Building networks without their weights."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

_FILLERS = {torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.eye}

_INITIALISERS = {
    *(torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.zero_, torch.Tensor.fill_, torch.Tensor.erfinv_),
    *(torch.Tensor.mul_, torch.Tensor.add_, torch.Tensor.clamp_),  # of truncated normals; clamp_ alone took a third of a build
    *(x for name, x in vars(nn.init).items() if name.endswith("_") and not name.endswith("__") and callable(x)),
}
"""What fills a tensor in place: nothing to do, and slow to find out, where there is nothing to fill."""

_MIXED = ("Cannot copy out of meta tensor", "is not on the expected device meta")
"""Said where a tensor that grew large is sent back to where a small one began, and where a constructor that runs a
backbone to learn its widths has small real tensors meet large ones: then all go to the meta device."""

_SMALL = 4096
"""Elements up to which a filled tensor may carry values that a constructor reads back."""


class Weightless(TorchFunctionMode):
    """Put uninitialised and large tensors on the meta device, and leave small ones real.

    Under plain `torch.device("meta")` constructors that compute widths or drop rates with tensors fail ("Cannot copy
    out of meta tensor"); here such small tensors keep their values.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in _INITIALISERS:
            target = args[0] if args else kwargs.get("tensor")
            if isinstance(target, torch.Tensor) and target.is_meta:
                return target
        if kwargs.get("device") is None and (func is torch.empty or (func in _FILLERS and _elements(args) > _SMALL)):
            kwargs["device"] = "meta"
        try:
            return func(*args, **kwargs)
        except RuntimeError as error:
            if not any(said in str(error) for said in _MIXED):
                raise
            return func(*_stay_meta(args), **_stay_meta(kwargs))


def _elements(args: tuple[Any, ...]) -> int:
    sizes = args[0] if args and isinstance(args[0], tuple | list) else args
    return prod(n for n in sizes if isinstance(n, int))


def _stay_meta(arguments: Any) -> Any:
    def stay(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.to("meta")
        return torch.device("meta") if isinstance(value, torch.device) else value

    return tree_map(stay, arguments)
