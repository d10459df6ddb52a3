"""Values of the meta tensors that depend on no weight: what a forward pass may branch on although nothing is computed.

Networks ask for such values ("is any position masked?", "how many levels?") and a meta tensor has none. The calls
whose tensors are all known are kept on a tape, and only when a value is asked for is the tape run, on the CPU, in
call order, so that views and in-place operators come out as in a real pass.

Which experts a router chooses is the exception: only weights could tell, and the cost hardly depends on it. The indices
of a maximum or of the largest k are taken to be spread evenly, and whether a value that was asked for rests on
that is told in `Constants.assumed`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from math import prod
from numbers import Number
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.nn.attention.bias import CausalBias, CausalVariant
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from ..errors import InputError
from ..kinds import causal_from_last
from .flow import address

LARGEST_ELEMENTS = 1 << 22
"""Tensors above this (a mask of 2,048² positions) are not followed: a value read from one is an error, never a wait."""

_VALUE = "_wattlayer_value"
_SHAPE_ONLY = frozenset({"ones_like", "zeros_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full", "new_empty"})
"""Operators that take from a tensor its shape and dtype only."""

_ALL_TRUE = torch.ops.aten._is_all_true.default
"""With which torch.distributions checks its arguments: in a network that works they are right."""

_CHOICES = {torch.ops.aten.topk.default: (2, -1), torch.ops.aten.max.dim: (1, None), torch.ops.aten.argmax.default: (1, None)}
"""Operators that choose entries by value: the position of `dim` among their arguments, and its default."""


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
        self._sharing: dict[int, list[int]] = {}  # ids of known tensors by the memory that they are views of
        self._values: dict[int, torch.Tensor] = {}
        self._run = 0
        self.asked = 0
        """How often values were asked for."""
        self.assumed = False
        """Whether a value that was asked for rests on evenly spread choices."""
        self._chosen: set[int] = set()  # ids of known tensors that rest on such choices

    def follow(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Put a call on the tape if all it reads is known; forget what it overwrites with something unknown."""
        shape_only = func._schema.name.removeprefix("aten::") in _SHAPE_ONLY
        if not shape_only and not all(self._knows(x) for x in tensors_in((args, kwargs))):
            if self._known and func._schema.is_mutable:
                self._forget(args[0])
            if func in _CHOICES:
                self._choose(func, args, kwargs, result)
            elif func is _ALL_TRUE:
                self._put(torch.tensor, (True,), {}, result)
            return
        if torch.Tag.nondeterministic_seeded not in func.tags:
            self._put(func, args, kwargs, result)

    def _put(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        made = [x for x in tensors_in(result) if x.is_meta]
        if made and all(x.numel() <= LARGEST_ELEMENTS for x in made):
            self._tape.append((func, args, kwargs, result))
            for x in made:
                self._know(x)
            if self._chosen and any(id(x) in self._chosen for x in tensors_in((args, kwargs))):
                self._chosen.update(map(id, made))

    def _choose(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Take the chosen indices to be spread evenly over `dim`, should anybody ask for them."""
        position, default = _CHOICES[func]
        axis = kwargs.get("dim", args[position] if len(args) > position else default)
        if axis is None or not args[0].dim():
            return
        indices = result if isinstance(result, torch.Tensor) else result[1]
        kept = axis % args[0].dim() if indices.dim() == args[0].dim() else None
        self._put(_spread, (tuple(indices.shape), args[0].shape[axis], kept), {}, indices)
        self._chosen.add(id(indices))

    def compute(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run a call on the values of its tensors; raise InputError where one has none."""
        tensors = list(tensors_in((args, kwargs)))
        if func is torch.ops.aten.index.Tensor and all(map(self._knows, tensors_in(args[1]))) and not self._knows(args[0]):
            return func(args[0], self._positions(args[1]))
        if not all(map(self._knows, tensors)):
            name = func._schema.name.removeprefix("aten::")
            if "::" in name:
                raise InputError(f"{name} has no kernel for meta tensors: give it one with torch.library.register_fake")
            raise InputError(
                f"its forward needs the values of a tensor ({name}) that only weights could give, or inputs not given"
            )
        chosen = any(id(x) in self._chosen for x in tensors)
        self._catch_up(chosen)
        result = func(*self._real(args), **self._real(kwargs))
        if kwargs.get("device") == torch.device("cpu"):  # asked for on the host: `tolist`, `numpy`
            return result
        return tree_map(lambda x: self._stand_in(x, chosen) if isinstance(x, torch.Tensor) else x, result)

    def _stand_in(self, value: torch.Tensor, chosen: bool) -> torch.Tensor:
        meta = remember(value.to("meta"), value)
        if chosen:
            self._know(meta)
            self._chosen.add(id(meta))
        return meta

    def _catch_up(self, chosen: bool) -> None:
        """Run what was put on the tape since values were last asked for."""
        self.asked += 1
        self.assumed |= chosen
        for taped in self._tape[self._run :]:
            self._replay(*taped)
        self._run = len(self._tape)

    def _positions(self, indices: Any) -> list[Any]:
        """Return the numbers of the entries that known masks keep: enough to tell the shape of what they are kept from."""
        self._catch_up(any(id(x) in self._chosen for x in tensors_in(indices)))
        result: list[Any] = []
        for x in indices:
            masks = isinstance(x, torch.Tensor) and x.dtype == torch.bool
            result += [n.to("meta") for n in self._real_leaf(x).nonzero(as_tuple=True)] if masks else [x]
        return result

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
        if id(x) in self._values:
            return self._values[id(x)]
        if not hasattr(x, _VALUE):
            # only its shape and dtype are asked for: one element, expanded, has both and takes no memory
            return torch.empty((), dtype=x.dtype).expand(x.shape)
        # the value is the user's own buffer or input, and what is replayed may write to it
        self._values[id(x)], self._known[id(x)] = getattr(x, _VALUE).clone(), x
        return self._values[id(x)]

    def _know(self, x: torch.Tensor) -> None:
        self._known[id(x)] = x
        self._sharing.setdefault(address(x), []).append(id(x))

    def _forget(self, target: Any) -> None:
        if isinstance(target, torch.Tensor):
            for key in self._sharing.pop(address(target), ()):
                # the tape still holds the tensor, so its id stays taken
                self._known.pop(key, None)


def _spread(shape: tuple[int, ...], among: int, axis: int | None) -> torch.Tensor:
    """Return indices below `among`, all different along `axis` and, over all, each as often as any other."""
    if axis is None:
        return (torch.arange(prod(shape)) % among).reshape(shape)
    others = (*shape[:axis], *shape[axis + 1 :])
    return (torch.arange(prod(shape)) % among).reshape(*others, shape[axis]).movedim(-1, axis)


class KnownIndices(TorchFunctionMode):
    """Keep what the host writes down as numbers known: below, torch makes meta tensors without values of them.

    These are the lists in `tensor[:, [0, -1]]` and the data of `torch.tensor(data, device=...)`. What is copied to the host stays
    on the meta device.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.tensor, torch.as_tensor) and args and (kwargs or {}).get("device") is not None:
            return _stated(func, args, kwargs)
        if func in (torch.Tensor.cpu, torch.Tensor.to) and args[0].is_meta:
            return _moved(func, args, kwargs or {})
        if func in (torch.Tensor.numpy, torch.Tensor.__array__) and args[0].is_meta:
            args = (args[0].cpu(), *args[1:])  # below this mode: the values, or a refusal
        if func is torch.Tensor.__format__ and args[0].is_meta and args[0].dim() == 0:
            return _formatted(*args)
        if func is torch.Tensor.type and isinstance(args[-1], str) and args[-1].startswith("torch.meta."):
            # a name that `type()` told, and that it does not take
            kind = getattr(torch, args[-1].rpartition(".")[2], None)
            args = args if kind is None else (args[0], kind.dtype)
        if func is functional.scaled_dot_product_attention and any(
            isinstance(x, CausalBias) for x in (*args, *(kwargs or {}).values())
        ):
            return _causal(*args, **(kwargs or {}))
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            index = args[1]
            if func is torch.Tensor.__setitem__ and args[0].is_meta and isinstance(args[2], Number | np.number):
                # as on CUDA devices, where a number stays on the host and fills (THPVariable_setitem); on the meta device torch
                # makes a tensor of it there, which it copies
                args = (*args[:2], torch.tensor(args[2], dtype=args[0].dtype, device="cpu"))
            if isinstance(index, list):
                args = (args[0], _index(index), *args[2:])
            elif isinstance(index, tuple) and any(isinstance(x, list | tuple) for x in index):
                args = (args[0], tuple(_index(x) for x in index), *args[2:])
        return func(*args, **(kwargs or {}))


def _moved(func: Any, args: Any, kwargs: Any) -> Any:
    """Copy to the host as a tensor that stays on the meta device, or all that reads it would run there for real; of whole numbers
    and masks, by which a host counts and cuts, as the values themselves where these are known."""
    x, given = args[0], (*args[1:], *kwargs.values())
    if func is torch.Tensor.to and not any(map(_is_host, given)):
        return func(*args, **kwargs)
    if not (x.is_floating_point() or x.is_complex()):
        with suppress(InputError):
            return func(*args, **kwargs)
    dtype = next((y if isinstance(y, torch.dtype) else y.dtype for y in given if isinstance(y, torch.dtype | torch.Tensor)), None)
    return x.to("meta", dtype, copy=True, memory_format=kwargs.get("memory_format"))


def _causal(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: CausalBias, *args: Any, **kwargs: Any) -> Any:
    """Attention under `torch.nn.attention.bias`, for which fused kernels read no mask."""
    causal = attn_mask.variant == CausalVariant.UPPER_LEFT or causal_from_last(attn_mask.seq_len_q, attn_mask.seq_len_kv)
    given = dict(zip(("dropout_p", "is_causal"), args)) | kwargs | {"is_causal": causal}
    return functional.scaled_dot_product_attention(query, key, value, **given)


def _is_host(target: Any) -> bool:
    if isinstance(target, torch.Tensor):
        return not target.is_meta
    return isinstance(target, str | torch.device) and torch.device(target).type == "cpu"


def _formatted(x: torch.Tensor, form: str) -> str:
    """Write a number as it is written on every other device ("expert_3"); where it is not known, as a meta tensor."""
    try:
        return format(x.item(), form)
    except InputError:
        return object.__format__(x, form)


def _stated(func: Any, args: Any, kwargs: Any) -> Any:
    """Make a tensor of numbers on the meta device that knows them; lists of scalars are such numbers too."""
    if torch.device(kwargs["device"]).type != "meta" or isinstance(args[0], torch.Tensor):
        return func(*args, **kwargs)
    try:
        args = tree_map(lambda x: x.item() if isinstance(x, torch.Tensor) else x, args)
    except (InputError, RuntimeError):  # a scalar that only weights could tell, or no scalar
        return func(*args, **kwargs)
    with _disable_current_modes():  # else the tape would hold it as an allocation, whose values are anything
        value = func(*args, **(kwargs | {"device": "cpu"}))
        return remember(torch.empty(value.shape, dtype=value.dtype, device="meta"), value)


def _index(x: Any) -> Any:
    if not isinstance(x, list | tuple) or not x:
        return x
    if all(isinstance(n, torch.Tensor) and n.dim() == 0 for n in x):
        return torch.stack(list(x))
    return torch.tensor(x) if all(isinstance(n, int) for n in x) else x


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
