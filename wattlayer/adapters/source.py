"""What every source of networks shares: the Network record, the size of its input, building on the meta device."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

from ..errors import InputError, WattlayerError, first_line

if TYPE_CHECKING:
    import torch
    from torch import nn

DEFAULT_SEQ_LEN = 128
"""Tokens of a text input where `--seq-len` is not given: IMDb- and GLUE-like sentences, torchinfo's own example."""


@dataclass(frozen=True)
class InputSize:
    """What the user said of the input; None means the network's own default."""

    batch: int = 1
    image_size: int | None = None
    seq_len: int | None = None
    shape: tuple[int, ...] | None = None
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name in ("batch", "image_size", "seq_len"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name.replace('_', '-')} {value} must be at least 1")
        if self.shape is not None and any(n < 1 for n in self.shape):
            raise InputError(f"input {'x'.join(map(str, self.shape))} has a size below 1")


@dataclass(frozen=True)
class Network:
    """A module on the meta device with the inputs of one forward pass."""

    name: str
    module: nn.Module
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


def build(factory: Callable[[], nn.Module], dtype: str) -> nn.Module:
    """Call `factory` without allocating its weights and return the module on the meta device, in eval mode.

    Raises InputError with the reason when the factory fails.
    """
    import torch

    from ..recorder import to_meta

    with _weightless(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about initial weights, of which there are none
        try:
            module = factory()
        except WattlayerError:
            raise
        except Exception as error:  # a constructor is somebody else's code
            raise InputError(f"the network cannot be built: {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(module, torch.nn.Module):
        raise InputError(f"the factory returned {type(module).__name__}, not a torch.nn.Module")
    return to_meta(module, getattr(torch, dtype))


def _weightless() -> AbstractContextManager[Any]:
    """Put uninitialised and large tensors on the meta device, and leave small ones real.

    Under plain `torch.device("meta")` constructors that compute widths or drop rates with tensors fail ("Cannot copy
    out of meta tensor"); here such small tensors keep their values.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    fillers = {torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.eye}

    class Weightless(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = dict(kwargs or {})
            if kwargs.get("device") is None and (func is torch.empty or (func in fillers and _elements(args) > _SMALL)):
                kwargs["device"] = "meta"
            return func(*args, **kwargs)

    return Weightless()


_SMALL = 4096
"""Elements up to which a filled tensor may carry values that a constructor reads back."""


def _elements(args: tuple[Any, ...]) -> int:
    sizes = args[0] if args and isinstance(args[0], tuple | list) else args
    return prod(n for n in sizes if isinstance(n, int))


def image_input(size: InputSize, default_image_size: int, channels: int = 3) -> torch.Tensor:
    """Return a meta tensor [batch, channels, height, width], or of `size.shape` where that is given."""
    import torch

    edge = size.image_size or default_image_size
    shape = size.shape or (size.batch, channels, edge, edge)
    return torch.empty(shape, dtype=getattr(torch, size.dtype), device="meta")
