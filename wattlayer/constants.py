"""Values of the meta tensors that depend on no weight: what a forward pass may branch on although nothing is computed.

Networks ask for such values ("is any position masked?", "how many levels?") and a meta tensor has none. The calls
whose tensors are all known are kept on a tape, and only when a value is asked for is the tape run, on the CPU, in
call order, so that views and in-place operators come out as in a real pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from .errors import InputError

LARGEST_ELEMENTS = 1 << 22
"""Tensors above this (a mask of 2,048² positions) are not followed: a value read from one is an error, never a wait."""

_VALUE = "_wattlayer_value"
_SHAPE_ONLY = frozenset({"ones_like", "zeros_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full", "new_empty"})
"""Operators that take from a tensor its shape and dtype only."""


def remember(meta: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Return `meta`, now knowing that it stands for `value`."""
    if meta.is_meta and value.numel() <= LARGEST_ELEMENTS:
        setattr(meta, _VALUE, value.detach().to(meta.dtype))
    return meta


class Constants:
    """The tape of one forward pass."""

    def __init__(self) -> None:
        self._tape: list[tuple[Any, Any, Any, Any]] = []
        self._known: dict[int, torch.Tensor] = {}  # holding the tensors keeps their ids from being used again
        self._values: dict[int, torch.Tensor] = {}
        self._run = 0
        self.asked = 0
        """How often values were asked for."""

    def follow(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Put a call on the tape if all it reads is known; forget what it overwrites with something unknown."""
        shape_only = func._schema.name.removeprefix("aten::") in _SHAPE_ONLY
        if not shape_only and not all(self._knows(x) for x in tensors_in((args, kwargs))):
            if self._known and func._schema.is_mutable:
                self._forget(args[0])
            return
        made = [x for x in tensors_in(result) if x.is_meta]
        random = torch.Tag.nondeterministic_seeded in func.tags
        if made and not random and all(x.numel() <= LARGEST_ELEMENTS for x in made):
            self._tape.append((func, args, kwargs, result))
            self._known.update((id(x), x) for x in made)

    def compute(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run a call on the values of its tensors; raise InputError where one has none."""
        if not all(self._knows(x) for x in tensors_in((args, kwargs))):
            name = func._schema.name.removeprefix("aten::")
            raise InputError(
                f"its forward needs the values of a tensor ({name}) that only weights could give, or inputs not given"
            )
        self.asked += 1
        for taped in self._tape[self._run :]:
            self._replay(*taped)
        self._run = len(self._tape)
        result = func(*self._real(args), **self._real(kwargs))
        if kwargs.get("device") == torch.device("cpu"):  # asked for on the host: `tolist`, `numpy`
            return result
        return tree_map(lambda x: remember(x.to("meta"), x) if isinstance(x, torch.Tensor) else x, result)

    def _knows(self, x: torch.Tensor) -> bool:
        return id(x) in self._known or not x.is_meta or hasattr(x, _VALUE)

    def _replay(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        real = func(*self._real(args), **self._real(kwargs))
        for meta, value in zip(tree_leaves(result), tree_leaves(real)):
            if isinstance(meta, torch.Tensor):
                self._values[id(meta)] = value

    def _real(self, values: Any) -> Any:
        return tree_map(self._real_leaf, values)

    def _real_leaf(self, x: Any) -> Any:
        if isinstance(x, torch.device):
            return torch.device("cpu")
        if not isinstance(x, torch.Tensor) or not x.is_meta:
            return x
        value = self._values.get(id(x), getattr(x, _VALUE, None))
        # only its shape and dtype are asked for: one element, expanded, has both and takes no memory
        return torch.empty((), dtype=x.dtype).expand(x.shape) if value is None else value

    def _forget(self, target: Any) -> None:
        if isinstance(target, torch.Tensor):
            stale = [key for key, x in self._known.items() if is_alias(x, target)]
            for key in stale:
                # the tape still holds the tensor, so its id stays taken
                del self._known[key]


class KnownIndices(TorchFunctionMode):
    """Keep what the host writes down as numbers known: below, torch makes meta tensors without values of them.

    These are the lists in `tensor[:, [0, -1]]` and the data of `torch.tensor(data, device=...)`.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.tensor, torch.as_tensor) and args and (kwargs or {}).get("device") is not None:
            return _stated(func, args, kwargs)
        if func is torch.Tensor.__getitem__:
            index = args[1]
            if isinstance(index, list):
                args = (args[0], _index(index))
            elif isinstance(index, tuple) and any(isinstance(x, list) for x in index):
                args = (args[0], tuple(_index(x) for x in index))
        return func(*args, **(kwargs or {}))


def _stated(func: Any, args: Any, kwargs: Any) -> Any:
    """Make a tensor of numbers on the meta device that knows them."""
    if torch.device(kwargs["device"]).type != "meta" or any(True for _ in tensors_in(args)):
        return func(*args, **kwargs)
    with _disable_current_modes():  # else the tape would hold it as an allocation, whose values are anything
        value = func(*args, **(kwargs | {"device": "cpu"}))
        return remember(torch.empty(value.shape, dtype=value.dtype, device="meta"), value)


def _index(x: Any) -> Any:
    flat = isinstance(x, list) and bool(x) and all(isinstance(n, int) for n in x)
    return torch.tensor(x) if flat else x


def is_alias(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors share memory; meta tensors too."""
    return bool(torch._C._is_alias_of(a, b))  # type: ignore[attr-defined]


def value_of(x: torch.Tensor) -> torch.Tensor | None:
    """Return what a tensor is known to hold: a real one itself, a meta one what it stands for, or None."""
    return getattr(x, _VALUE, None) if x.is_meta else x


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors of nested tuples, lists and dicts, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for x in value:
            yield from tensors_in(x)
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))
