"""Modules and inputs as meta tensors: shapes and dtypes without data."""

from __future__ import annotations

import copy
import os
import threading
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterable
from enum import Enum
from itertools import chain
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.attention.bias import CausalBias
from torch.nn.parameter import is_lazy
from torch.nn.utils.rnn import PackedSequence
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from torch.utils._pytree import tree_leaves, tree_map

from ..errors import InputError, first_line
from .constants import remember, value_of

NESTED = "a nested tensor is not traced: give it padded, torch.nested.to_padded_tensor(x, 0.0)"
TORCH_STATE = threading.RLock()
"""Held while a network is traced, or built under another default dtype: this, the attention fast path and what autocast is
belong to the process, and another thread would take them over or leave them behind. Factories do not hold it: one may trace in
threads of its own."""
os.register_at_fork(before=TORCH_STATE.acquire, after_in_parent=TORCH_STATE.release, after_in_child=TORCH_STATE.release)


def to_meta(module: nn.Module, dtype: torch.dtype | None = None, train_mode: bool = False) -> nn.Module:
    """Return `module` as meta tensors in the wanted mode and dtype; the given one is copied, never changed.

    Raises InputError for what is no module, for one whose lazy parameters have no shape yet, for one that holds tensors that
    `check_plain` refuses, for one that runs on several devices and for one that cannot be copied.
    """
    if not isinstance(module, nn.Module):
        raise InputError(_no_module(module))
    held: list[torch.Tensor] = []
    others: list[Any] = []
    try:
        twin = _twin(module, {}, held, others)
    except RecursionError:
        raise InputError(f"{type(module).__name__} is nested too deeply to be copied") from None
    if any(map(is_lazy, held)):
        raise InputError(f"{type(module).__name__} holds lazy parameters, without a shape yet: run it once on real inputs before")
    for x in held:
        check_plain(x)
    for m in module.modules():
        if (name := type(m).__name__) in _DISTRIBUTED:
            raise InputError(f"{name} is not traced: {_DISTRIBUTED[name]}")
    ready = all(x.is_meta for x in held) and all(getattr(m, "training", False) == train_mode for m in module.modules())
    own = [] if ready and dtype is None else [*module.parameters(), *module.buffers()]
    if ready and all(not x.is_floating_point() or x.dtype == dtype for x in own):
        return twin if not others else _whole(module, held, twin)
    # deepcopy takes what its memo already holds: so no weight is ever copied, and tied weights stay tied
    memo = {id(x): tensor_to_meta(x) for x in held} | {id(x): tensor_to_meta(x, dtype) for x in own}
    try:
        return copy.deepcopy(module, memo).train(train_mode)
    except Exception as error:
        cure = "build it under torch.device('meta') and call .eval()"
        raise InputError(f"{type(module).__name__} cannot be copied ({first_line(error)}); {cure}") from error


_DISTRIBUTED = {
    "DistributedDataParallel": "give its .module",
    "FullyShardedDataParallel": "give the network before it was sharded",
}
"""Modules that run on several devices, by the name of their class, and what to give in their place."""


def _whole(module: nn.Module, held: list[torch.Tensor], twin: nn.Module) -> nn.Module:
    """Copy a meta module that holds objects of other classes, which may hold its modules, but for its parameters; where that
    fails, return its `twin`, which shares those objects."""
    try:
        return copy.deepcopy(module, {id(x): x if isinstance(x, nn.Parameter) else tensor_to_meta(x) for x in held})
    except Exception:
        return twin


def inputs_to_meta(inputs: Any, dtype: torch.dtype | None = None) -> Any:
    """Return nested inputs with every tensor as `tensor_to_meta` makes it, one that is given twice as one, for forwards ask.

    Raises InputError for a packed sequence.
    """
    if any(isinstance(x, PackedSequence) for x in tree_leaves(inputs, is_leaf=lambda x: isinstance(x, PackedSequence))):
        raise InputError(
            "a packed sequence is no input: give the padded tensor, and pack it in the forward with lengths in a list"
        )
    leaves = tree_leaves(inputs)
    parts = {id(x): _parts(x) for x in leaves if not isinstance(x, torch.Tensor)}
    tensors = [x for x in (*leaves, *chain(*parts.values())) if isinstance(x, torch.Tensor)]
    meta: dict[int, Any] = {id(x): tensor_to_meta(x, dtype) for x in tensors}
    return tree_map(lambda x: meta[id(x)] if isinstance(x, torch.Tensor) else _own(x, parts[id(x)], meta), inputs)


def _own(leaf: Any, parts: list[Any], meta: dict[int, Any]) -> Any:
    """Return what stands for an object among the inputs: one that a forward may change, such as a cache of keys and values, is
    copied with `meta` for its tensors; one that cannot be copied is handed on."""
    if not parts:
        return leaf
    try:
        return copy.deepcopy(leaf, meta)
    except Exception:
        return leaf


MOST_PARTS = 10_000
"""Of an object among the inputs; one that holds more is no cache and is handed on."""


def _parts(leaf: Any) -> list[Any]:
    """Return the tensors and the containers that an object, no pytree, holds in its attributes; nothing of what cannot tell."""
    found, seen, waiting = list[Any](), set[int](), [leaf]
    while waiting:
        value = waiting.pop()
        if type(value) in _ATOMS or isinstance(value, (*_CONSTANTS, ModuleType, np.ndarray)) or id(value) in seen:
            continue
        seen.add(id(value))
        if len(seen) > MOST_PARTS:
            return []
        if isinstance(value, torch.Tensor | dict | list | set | deque):
            found.append(value)
        try:
            waiting += _held_by(value)
        except Exception:  # a class of somebody else's, which need not know what it holds
            return []
    return found


def _held_by(value: Any) -> Iterable[Any]:
    if isinstance(value, torch.Tensor):
        return ()
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, list | tuple | set | deque):
        return list(value)
    slots = [name for kind in type(value).__mro__ for name in _names(getattr(kind, "__slots__", ()))]
    return [*vars(value).values()] if hasattr(value, "__dict__") else [getattr(value, x) for x in slots if hasattr(value, x)]


def _names(slots: str | Iterable[str]) -> Iterable[str]:
    return (slots,) if isinstance(slots, str) else slots


def tensor_to_meta(tensor: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Return a meta tensor of this shape; `dtype` converts floating ones but for those of a byte, which are held so to be small,
    and what is not a parameter keeps its value.

    Raises InputError as `check_plain` does.
    """
    check_plain(tensor)
    if isinstance(tensor, CausalBias):  # which is its sizes alone
        return tensor
    wanted = dtype if dtype is not None and tensor.is_floating_point() and tensor.itemsize > 1 else tensor.dtype
    if tensor.layout == torch.strided:  # `to` would pack what is expanded or sliced
        meta = torch.empty_strided(tensor.size(), tensor.stride(), dtype=wanted, device="meta")
    else:
        meta = tensor.detach().to("meta", wanted)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(meta, requires_grad=False)
    value = value_of(tensor)
    return meta if value is None else remember(meta, value)


def check_plain(tensor: torch.Tensor) -> None:
    """Raise InputError for a tensor whose shape and dtype do not tell what it holds: a quantised, a nested, a sharded one."""
    if tensor.is_quantized:
        raise InputError(f"a quantised tensor ({tensor.dtype}) is not traced: give its .dequantize()")
    if tensor.is_nested:
        raise InputError(NESTED)
    kind = type(tensor)
    # some libraries pack numbers of a few bits into parameters of their own class
    packed = (
        issubclass(kind, nn.Parameter) and kind is not nn.Parameter and not (tensor.is_floating_point() or tensor.is_complex())
    )
    if packed or is_traceable_wrapper_subclass(tensor):
        raise InputError(
            f"a tensor of class {kind.__name__} is not traced: price the network before it was quantised, pruned or sharded"
            " (dtype='int8' or --dtype int8 for weights in int8)"
        )


def _no_module(value: Any) -> str:
    """Say of what was given as a module what it is, and what to give instead."""
    if isinstance(value, type):
        return f"{value.__name__} is a class, no torch.nn.Module: make one of it first, {value.__name__}(…)"
    cure = "call it in the forward of one" if callable(value) else "give one, or its name to wattlayer.predict"
    if isinstance(value, torch.export.ExportedProgram):
        cure = "give its .module()"
    return f"{type(value).__name__} is no torch.nn.Module: {cure}"


_ATOMS = frozenset({bool, int, float, str, type(None)})
_CONTAINERS = frozenset({dict, OrderedDict, defaultdict, list, deque})
_CONSTANTS = (type, Enum, FunctionType, BuiltinFunctionType, torch.dtype, torch.device, torch.layout, torch.memory_format)
"""What `copy.deepcopy` shares as well."""


def _twin(value: Any, memo: dict[int, Any], held: list[torch.Tensor], others: list[Any]) -> Any:
    """Copy modules and the containers that they hold, so that a forward changes none; parameters are shared.

    Ten times as fast as `copy.deepcopy`, which would take a third of a trace's time. `held` is given every tensor met,
    also those in plain attributes and in modules that were never registered, `others` what is not copied here.
    """
    kind = type(value)
    if kind in _ATOMS:
        return value
    if kind is OrderedDict and not value:  # a module holds a dozen, for its hooks
        return OrderedDict()
    if id(value) in memo:
        return memo[id(value)]
    result = memo[id(value)] = value
    if kind is nn.Parameter or isinstance(value, torch.Tensor):
        held.append(value)
        if kind is torch.Tensor and value.is_meta:  # a view of it, for its shape may be changed in place
            known = value_of(value)
            result = memo[id(value)] = value.detach() if known is None else remember(value.detach(), known)
    elif isinstance(value, nn.Module):
        result = memo[id(value)] = object.__new__(kind)  # `kind.__new__` of a GraphModule would make another class
        copied = {name: x if type(x) in _ATOMS else _twin(x, memo, held, others) for name, x in vars(value).items()}
        object.__setattr__(result, "__dict__", copied)
    elif isinstance(value, dict | list | deque):
        result = _twin_container(value, memo, held, others)
    elif isinstance(value, tuple):
        twins = [_twin(x, memo, held, others) for x in value]
        result = memo[id(value)] = tuple(twins) if kind is tuple else value
        others += [value] * (kind not in (tuple, torch.Size))
    elif kind is set:
        result = memo[id(value)] = value.copy()
        others += [x for x in value if type(x) not in _ATOMS]
    elif kind is MethodType:
        result = memo[id(value)] = MethodType(value.__func__, _twin(value.__self__, memo, held, others))
    elif not isinstance(value, _CONSTANTS):
        others.append(value)
    return result


def _twin_container(value: Any, memo: dict[int, Any], held: list[torch.Tensor], others: list[Any]) -> Any:
    """The same for a dict, a list or a deque; one of another class is not copied here, though its tensors are met."""
    result = memo[id(value)] = copy.copy(value) if type(value) in _CONTAINERS else value
    others += [value] * (result is value)
    for key, x in value.items() if isinstance(value, dict) else enumerate(value):
        others += [key] * (type(key) not in _ATOMS)
        twin = _twin(x, memo, held, others)
        if result is not value:
            result[key] = twin
    return result
