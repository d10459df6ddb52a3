"""One operator call as a Layer: its operands, the arguments that tell its cost, and what moves nothing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from ..errors import InputError
from ..kinds import COPIED, INDEX_PUTS, INDEXED_AXES, PLACED
from ..layer import SCALE, Layer, Operand, freeze
from .constants import is_alias, tensors_in
from .meta import NESTED

ALLOCATIONS = frozenset(
    {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "empty_permuted"}
    | {"resize", "set_", "detach", "lift"}
)
"""Operators that move no data although they return a fresh tensor."""


PRODUCTS = frozenset(
    {"linear", "matmul", "mm", "bmm", "mv", "dot", "vdot", "addmm", "baddbmm", "addbmm", "addmv"}
    | {f"{name}{axes}d" for name in ("conv", "conv_transpose") for axes in (1, 2, 3)}
)
"""Kinds whose operands have one dtype."""

Named = list[tuple[str, torch.Tensor]]
"""Tensors of a call, each with the name of its argument; results are all called "output"."""


def make_layer(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Layer | None:
    """Describe one call as a Layer; None when it moves nothing (a view, an allocation, a size query)."""
    kind, names, writes = schema_of(func)
    given = list(zip(names, args)) + list(kwargs.items())
    inputs, outputs = operands_of(func, args, kwargs, result)
    tensors = [x for _, x in outputs]
    # what runs on real tensors is the host's own bookkeeping, not work of the device
    idle = kind in ALLOCATIONS or (kind == "dropout" and not dict(given).get("train"))  # in eval, in place too
    if kind == "_to_copy" and isinstance(args[0], nn.Parameter) and not args[0].is_meta:
        return None  # as hooks let go of a weight that they had brought
    if idle or torch.Tag.inplace_view in func.tags or not any(x.is_meta for x in tensors) or _is_view(inputs, tensors, writes):
        return None
    defaults = _defaults(func)
    if kind in PLACED and (not writes or written_by(func)[0] & dict(given).keys()):
        given.append((COPIED, True))
    if kind in INDEX_PUTS:
        given.append((INDEXED_AXES, _indexed_axes(dict(given)["indices"])))
    if kind == "mean" and _is_of_image(dict(given), *inputs[0][1:], tensors[0]):
        kind, given = "adaptive_avg_pool2d", [("output_size", (1, 1))]
        tensors = [tensors[0].reshape(*tensors[0].shape[:2], 1, 1)]
    if kind == "square":  # which ATen computes by pow (aten/src/ATen/native/UnaryOps.cpp)
        kind, given = "pow", [*given, ("exponent", 2)]
    arguments = ((n, v if (kind, n) in _COSTLY else _argument(v)) for n, v in given if not any(True for _ in tensors_in(v)))
    return Layer(
        kind=kind,
        inputs=tuple(operand(name, x) for name, x in inputs),
        outputs=tuple(operand("output", x, layout=False) for x in tensors),
        arguments=tuple(sorted((n, v) for n, v in arguments if v not in (None, defaults.get(n)) and n not in _IRRELEVANT)),
    )


def _is_of_image(given: dict[str, Any], image: torch.Tensor, result: torch.Tensor) -> bool:
    """Whether a mean is over the last two of four dimensions, planes of a batch of images: global pooling, however it is written.

    They are one operator: aten/src/ATen/native/AdaptiveAveragePooling.cpp calls `mean` for a single position.
    """
    axes = [axis % 4 for axis in given.get("dim") or ()]
    return image.dim() == 4 and sorted(axes) == [2, 3] and image.dtype == result.dtype


def has_unlike_dtypes(layer: Layer) -> bool:
    """Whether a product's factors differ in dtype, which the meta device does not check; scales say that this is meant."""
    return layer.kind in PRODUCTS and len({x.dtype for x in layer.inputs}) > 1 and layer.operand(SCALE) is None


def _indexed_axes(indices: Sequence[torch.Tensor | None]) -> tuple[int, ...] | None:
    """The axes that are indexed, of `x[:, i]` the second; None where they are the first, as a record has no gaps."""
    axes = tuple(axis for axis, index in enumerate(indices) if index is not None)
    return None if axes == tuple(range(len(axes))) else axes


_IRRELEVANT = frozenset(
    {"device", "layout", "pin_memory", "generator", "out", "dtype", "memory_format", "non_blocking", "cudnn_enabled"}
)
"""Arguments that the operands already show or that change no cost."""
_COSTLY = frozenset({("cdist", "p"), ("_cdist_forward", "p")})
"""Floating-point arguments that do change the cost: only Euclidean distances are products."""


def operand(name: str, tensor: torch.Tensor, layout: bool = True) -> Operand:
    """Describe a tensor; `layout` keeps the strides of a tensor that is not contiguous. Raises InputError for a nested tensor,
    whose sizes are no numbers."""
    if tensor.is_nested:
        raise InputError(NESTED)
    strided = layout and tensor.layout == torch.strided and not tensor.is_contiguous()
    return Operand(name, tuple(tensor.shape), _dtype_name(tensor.dtype), tuple(tensor.stride()) if strided else None)


@cache
def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@cache
def schema_of(func: Any) -> tuple[str, tuple[str, ...], bool]:
    """Return an operator's kind (its name without the in-place underscore), argument names and whether it writes to one."""
    namespace, name = func._schema.name.split("::")
    if func._schema.is_mutable:
        name = name.removesuffix("_")
    if func._schema.overload_name in ("other", "out"):  # of two tensors, element by element
        name = {"max": "maximum", "min": "minimum"}.get(name, name)
    kind = name if namespace == "aten" else f"{namespace}::{name}"
    return kind, tuple(a.name for a in func._schema.arguments), func._schema.is_mutable


def operands_of(func: Any, args: Any, kwargs: Any, result: Any) -> tuple[Named, Named]:
    """Return the tensors that a call reads, by the names of its arguments, and those that it writes.

    `out=` is not read; a call that returns nothing gives what it writes to.
    """
    outs, written = written_by(func)
    named = [*zip(schema_of(func)[1], args), *kwargs.items()]
    if reads_one_twice(func, args):
        del named[1]
    given = [(name, x) for name, value in named for x in tensors_in(value)]
    inputs = [(name, x) for name, x in given if name not in outs]
    if not func._schema.returns:
        return inputs, [(name, x) for name, x in given if name in written]
    return inputs, [("output", x) for x in tree_leaves(result) if isinstance(x, torch.Tensor)]


def reads_one_twice(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether an operator that works element by element has one tensor as both operands: a square reads each element once."""
    return len(args) > 1 and args[0] is args[1] and isinstance(args[0], torch.Tensor) and schema_of(func)[0] in _WITH_NUMBERS


_WITH_NUMBERS = frozenset({"mul", "add", "sub", "div", "eq", "ne", "lt", "le", "gt", "ge"})
"""Operators of two tensors or of one and a number, so that with one of them the layer can be run as well."""


@cache
def written_by(func: Any) -> tuple[frozenset[str], frozenset[str]]:
    """Return which arguments an operator only writes its result to (`out`), and all that it writes to."""
    written = [a for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    return frozenset(a.name for a in written if a.is_out), frozenset(a.name for a in written)


@cache
def _defaults(func: Any) -> dict[str, Any]:
    """Return the defaults of an operator's arguments: a call that spells one out is the same layer as one that does not."""
    return {a.name: _argument(a.default_value) for a in func._schema.arguments if a.has_default_value()}


def _argument(value: Any) -> Any:
    """Return what an argument adds to the record: floats (eps, p, scale) change values, never costs, and are left out."""
    if isinstance(value, torch.dtype | torch.device | torch.memory_format | torch.layout):
        return str(value).removeprefix("torch.")
    if isinstance(value, list | tuple):
        return tuple(_argument(x) for x in value)
    return freeze(value) if isinstance(value, bool | int | str) else None


def _is_view(inputs: list[tuple[str, torch.Tensor]], outputs: list[torch.Tensor], writes: bool) -> bool:
    """An operator that writes nothing and returns only parts of its inputs moves no bytes."""
    return not writes and all(any(is_alias(out, x) for _, x in inputs) for out in outputs)
