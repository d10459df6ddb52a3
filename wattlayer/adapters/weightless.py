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
    *(x for name, x in vars(nn.init).items() if name.endswith("_") and not name.endswith("__") and callable(x)),
}
"""What fills a tensor in place: nothing to do, and slow to find out, where there is nothing to fill."""

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
        except NotImplementedError as error:
            if "Cannot copy out of meta tensor" not in str(error):
                raise
            # a tensor that grew large is sent back to where a small one began: let it stay
            return func(*_stay_meta(args), **_stay_meta(kwargs))


def _elements(args: tuple[Any, ...]) -> int:
    sizes = args[0] if args and isinstance(args[0], tuple | list) else args
    return prod(n for n in sizes if isinstance(n, int))


def _stay_meta(arguments: Any) -> Any:
    return tree_map(lambda x: torch.device("meta") if isinstance(x, torch.device) else x, arguments)
