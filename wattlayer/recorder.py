"""The engine of `trace`: a dispatch mode that sees operators whole, and the module path each one runs under.

Under `torch.inference_mode()` the dispatcher hands composite operators (`conv2d`, `linear`, `lstm`,
`scaled_dot_product_attention`) over undecomposed. Those that have a formula in `kinds` are recorded so; other
composites are decomposed into the operators that they really run (`einsum` into `bmm`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from .errors import InputError, first_line
from .kinds import KINDS
from .layer import Layer, Operand, freeze

ALLOCATIONS = frozenset(
    "empty empty_like empty_strided new_empty new_empty_strided empty_permuted resize set_ detach lift".split()
)
"""Operators that move no data although they return a fresh tensor."""


def record(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], dtype: str | None, train_mode: bool
) -> tuple[list[tuple[str, Layer]], tuple[Operand, ...]]:
    """Run `module` on the meta device; return its (module path, layer) calls and its tensor inputs."""
    target = _torch_dtype(dtype)
    module = to_meta(module, target, train_mode)
    args, kwargs = tree_map(lambda x: _meta_input(x, target), (args, kwargs))
    recorder = Recorder()
    with _module_paths(module, recorder.path), _unfused_attention(), torch.inference_mode():
        try:
            with recorder:
                module(*args, **kwargs)
        except Exception as error:  # whatever the user's forward raises is told in one line
            raise InputError(_reason(module, recorder.path, error)) from error
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    return recorder.calls, tuple(operand("input", x) for x in tensors)


class Recorder(TorchDispatchMode):
    """Collect (path, layer) for every operator that computes or moves data."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, Layer]] = []
        self.path: list[str] = [""]
        self._layers: dict[Any, Layer | None] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _decomposes(func):
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        key = (func, _signature(args), _signature(tuple(kwargs.items())))
        result, args, kwargs = _run(func, args, kwargs)
        if key not in self._layers:
            self._layers[key] = make_layer(func, args, kwargs, result)
        layer = self._layers[key]
        if layer is not None:
            self.calls.append((self.path[-1], layer))
        return result


def make_layer(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Layer | None:
    """Describe one call as a Layer; None when it moves nothing (a view, an allocation, a size query)."""
    kind, names, writes = _schema(func)
    tensors = [x for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
    given = list(zip(names, args)) + list(kwargs.items())
    inputs = [(name, x) for name, value in given for x in _tensors(value)]
    # what runs on real tensors is the host's own bookkeeping, not work of the device
    if not any(x.is_meta for x in tensors) or kind in ALLOCATIONS or _is_view(inputs, tensors, writes):
        return None
    arguments = ((n, _argument(v)) for n, v in given if not any(True for _ in _tensors(v)))
    return Layer(
        kind=kind,
        inputs=tuple(operand(name, x) for name, x in inputs),
        outputs=tuple(operand("output", x, layout=False) for x in tensors),
        arguments=tuple(sorted((n, v) for n, v in arguments if v is not None and n not in _IRRELEVANT)),
    )


_IRRELEVANT = frozenset(
    {"device", "layout", "pin_memory", "generator", "out", "dtype", "memory_format", "non_blocking", "cudnn_enabled"}
)
"""Arguments that the operands already show or that change no cost."""


def operand(name: str, tensor: torch.Tensor, layout: bool = True) -> Operand:
    """Describe a tensor; `layout` keeps the strides of a tensor that is not contiguous."""
    strided = layout and tensor.layout == torch.strided and not tensor.is_contiguous()
    return Operand(name, tuple(tensor.shape), _dtype_name(tensor.dtype), tuple(tensor.stride()) if strided else None)


@cache
def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@cache
def _schema(func: Any) -> tuple[str, tuple[str, ...], bool]:
    """Return an operator's kind (its name without the in-place underscore), argument names and whether it writes to one."""
    namespace, name = func._schema.name.split("::")
    if func._schema.is_mutable:
        name = name.removesuffix("_")
    kind = name if namespace == "aten" else f"{namespace}::{name}"
    return kind, tuple(a.name for a in func._schema.arguments), func._schema.is_mutable


@cache
def _decomposes(func: Any) -> bool:
    """Whether an operator is only a recipe made of others, without a formula of its own."""
    implicit = torch._C.DispatchKey.CompositeImplicitAutograd
    return _schema(func)[0] not in KINDS and func.has_kernel_for_dispatch_key(implicit)


def _signature(value: Any) -> Any:
    """Return a hashable key that holds everything a layer is made of."""
    if isinstance(value, torch.Tensor):
        return (value.shape, value.dtype, value.stride() if value.layout == torch.strided else None, value.device.type)
    if isinstance(value, list | tuple):
        return tuple(_signature(x) for x in value)
    return (type(value), value)


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Run an operator; where it mixes real (small, freshly made) tensors with meta ones, move all to meta."""
    try:
        return func(*args, **kwargs), args, kwargs
    except (RuntimeError, NotImplementedError):
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        if len({x.device.type for x in tensors}) < 2:
            raise
        args, kwargs = tree_map(lambda x: x.to("meta") if isinstance(x, torch.Tensor) else x, (args, kwargs))
        return func(*args, **kwargs), args, kwargs


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for x in value:
            yield from _tensors(x)


def _argument(value: Any) -> Any:
    if isinstance(value, torch.dtype | torch.device | torch.memory_format | torch.layout):
        return str(value).removeprefix("torch.")
    """Return what an argument adds to the record: floats (eps, p, scale) change values, never costs, and are left out."""
    if isinstance(value, list | tuple):
        return tuple(_argument(x) for x in value)
    return freeze(value) if isinstance(value, bool | int | str) else None


def _is_view(inputs: list[tuple[str, torch.Tensor]], outputs: list[torch.Tensor], writes: bool) -> bool:
    """An operator that writes nothing and returns only parts of its inputs moves no bytes."""
    return not writes and all(any(torch._C._is_alias_of(out, x) for _, x in inputs) for out in outputs)


def _torch_dtype(name: str | None) -> torch.dtype | None:
    from .trace import DTYPES

    if name is not None and name not in DTYPES:
        raise InputError(f"dtype {name!r} is not one of {', '.join(DTYPES)}")
    return getattr(torch, name) if name else None


def _meta_input(value: Any, dtype: torch.dtype | None) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    return value.detach().to("meta", dtype if value.is_floating_point() else None)


def to_meta(module: nn.Module, dtype: torch.dtype | None = None, train_mode: bool = False) -> nn.Module:
    """Return `module` as meta tensors in the wanted mode and dtype; the given one is copied, never changed."""
    tensors = [*module.parameters(), *module.buffers()]
    fits = all(x.is_meta and (dtype is None or not x.is_floating_point() or x.dtype == dtype) for x in tensors)
    if fits and all(m.training == train_mode for m in module.modules()):
        return module
    # deepcopy takes what its memo already holds: so no weight is ever copied, and tied weights stay tied
    memo = {id(x): _meta_like(x, dtype) for x in tensors}
    try:
        return copy.deepcopy(module, memo).train(train_mode)
    except Exception as error:
        cure = "build it under torch.device('meta') and call .eval()"
        raise InputError(f"{type(module).__name__} cannot be copied ({first_line(error)}); {cure}") from error


def _meta_like(tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    meta = tensor.detach().to("meta", dtype if tensor.is_floating_point() else None)
    return nn.Parameter(meta, requires_grad=False) if isinstance(tensor, nn.Parameter) else meta


@contextmanager
def _module_paths(module: nn.Module, stack: list[str]) -> Iterator[None]:
    """Keep the path of the running module on top of `stack`."""
    names = {id(m): name for name, m in module.named_modules()}

    def enter(m: nn.Module, _: Any) -> None:
        stack.append(names.get(id(m), stack[-1]))

    def leave(m: nn.Module, _: Any, __: Any) -> None:
        stack.pop()

    handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _unfused_attention() -> Iterator[None]:
    """Describe `nn.MultiheadAttention` by its operators, on every device alike."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def _reason(module: nn.Module, path: list[str], error: Exception) -> str:
    where = path[-1] or "the top level"
    return f"{type(module).__name__} does not run on these inputs (at {where}): {first_line(error)}"


