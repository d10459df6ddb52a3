"""What every source of networks shares: the Network record, the size of its input, building on the meta device."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError, WattlayerError, first_line
from ..layer import format_shape
from ..quiet import quiet

if TYPE_CHECKING:
    import torch
    from torch import nn

DEFAULT_SEQ_LEN = 128
"""Tokens of a text input where `--seq-len` is not given: IMDb- and GLUE-like sentences, torchinfo's own example."""

DEFAULT_IMAGE_SIZE = 224
"""Height and width of an image where neither the user nor the network says: the crop of ImageNet's standard protocol."""


MOST, MOST_ELEMENTS = 2**31 - 1, 2**50
"""No size and no tensor of an input is larger: sizes beyond 32 bits and petabytes are slips of a finger."""


class UnusedSize(InputError):
    """A size that a network has no use for."""


@dataclass(frozen=True)
class InputSize:
    """What the user said of the input; None means the network's own default."""

    batch: int = 1
    image_size: int | None = None
    seq_len: int | None = None
    shape: tuple[int, ...] | None = None
    dtype: str = "float32"
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Of dimensions that a file leaves open, by the names that it gives them."""

    def __post_init__(self) -> None:
        if any(not 0 <= n <= MOST for n in self.sizes.values()):
            raise InputError(f"input {self.sizes_text} has a size of more than {MOST:,}")
        for name in ("batch", "image_size", "seq_len"):
            value = getattr(self, name)
            if value is None and name != "batch":
                continue
            if isinstance(value, bool) or not isinstance(value, int | np.integer):
                raise InputError(f"{name.replace('_', '-')} {value!r} is not a whole number")
            if not 1 <= value <= MOST:
                raise InputError(f"{name.replace('_', '-')} {value} must be {'at least 1' if value < 1 else f'at most {MOST:,}'}")
        edges, tokens = self.image_size or 1, self.seq_len or 1
        if self.batch * max(edges * edges, tokens) > MOST_ELEMENTS:
            name, value = ("image-size", edges) if edges * edges > tokens else ("seq-len", tokens)
            raise InputError(f"{name} {value} in a batch of {self.batch} has more than {MOST_ELEMENTS:,} elements: ask for less")
        if self.shape is None:
            return
        if not isinstance(self.shape, tuple | list) or not all(isinstance(n, int | np.integer) for n in self.shape):
            given = " ".join(repr(self.shape).split())  # a tensor's takes many lines
            raise InputError(f"input {given:.60} is not a shape of whole numbers like (8, 3, 224, 224)")
        if any(n < 1 for n in self.shape) or prod(self.shape) > MOST_ELEMENTS:
            raise InputError(f"input {format_shape(self.shape)} has a size below 1 or more than {MOST_ELEMENTS:,} elements")
        for name in ("image_size", "seq_len"):
            if getattr(self, name) is not None:
                raise InputError(f"input {format_shape(self.shape)} says all of the shape: leave {name.replace('_', '-')} out")
        if self.batch not in (1, *self.shape[:1]):
            raise InputError(f"input {format_shape(self.shape)} says the batch: leave batch {self.batch} out")

    @property
    def sizes_text(self) -> str:
        return ",".join(f"{name}={size}" for name, size in self.sizes.items())

    def refuse(self, option: str, network: str, takes: str) -> None:
        """Raise InputError when the user gave `option`, which `network`, taking `takes`, has no use for."""
        value = getattr(self, option)
        if value is not None:
            given = format_shape(value) if isinstance(value, tuple) else value
            name = {"shape": "input"}.get(option, option.replace("_", "-"))
            raise UnusedSize(f"{name} {given} does not apply to {network}, which takes {takes}: leave it out")


@dataclass(frozen=True)
class Network:
    """A module on the meta device with the inputs of one forward pass; both have their dtype already."""

    name: str
    module: nn.Module
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    assumptions: tuple[str, ...] = ()
    """What was filled in of its configuration and left out of its inputs, a sentence each."""
    asked_dtype: str | None = None
    """That of the command line, which tells its trace where the weights of linear layers are to be held in fewer bits."""

    def __post_init__(self) -> None:
        # names of files need not be UTF-8, results are: what is not is written as its number
        object.__setattr__(self, "name", self.name.encode(errors="backslashreplace").decode())


def require(library: str) -> ModuleType:
    """Import an optional library; raise InputError naming the extra that installs it."""
    try:
        return importlib.import_module(library)
    except ModuleNotFoundError as error:
        if error.name != library:
            raise
        raise InputError(f"{library} is not installed: pip install 'wattlayer[{library}]'") from None


def build(factory: Callable[[], nn.Module], dtype: str | None) -> nn.Module:
    """Call `factory` without allocating its weights and return the module on the meta device, in eval mode.

    `dtype` converts floating parameters and buffers; None leaves them as the factory made them.
    Raises InputError with the reason when the factory fails.
    """
    import torch

    from ..trace.meta import to_meta
    from .weightless import Weightless

    with Weightless(), quiet():  # of warnings about initial weights, of which there are none
        try:
            module = factory()
        except WattlayerError:
            raise
        except Exception as error:  # a constructor is somebody else's code
            raise InputError(f"the network cannot be built: {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(module, torch.nn.Module):
        raise InputError(f"the factory returned {type(module).__name__}, not a torch.nn.Module")
    return to_meta(module, getattr(torch, dtype) if dtype else None)


def image_input(size: InputSize, network: str, default: tuple[int, ...]) -> torch.Tensor:
    """Return a meta tensor [batch, channels, …, height, width], `default` but its batch, resized as `size` says.

    Raises InputError for a `size.shape` of another rank or other channels and for `size.seq_len`.
    """
    import torch

    size.refuse("seq_len", network, "images")
    edges = default[-2:] if size.image_size is None else (size.image_size, size.image_size)
    shape = size.shape or (size.batch, *default[:-2], *edges)
    if len(shape) != len(default) + 1 or shape[1] != default[0]:
        example = format_shape((shape[0], *default))
        raise InputError(
            f"input {format_shape(shape)} does not fit {network}, which takes {len(default) + 1} dimensions like {example}"
        )
    return torch.empty(shape, dtype=getattr(torch, size.dtype), device="meta")
