"""What networks read from a file share: module paths without modules, operators without kernels, inputs from declared shapes."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from ..errors import InputError, nearest
from ..layer import Layer, format_shape
from ..trace.call import operand
from ..trace.recorder import Recorder
from .source import InputSize

DEEPEST_PATH = 32
"""Parts of a module path; a deeper one, which no network has, counts as the top level."""
MOST_DIMENSIONS = 64
"""What torch's own kernels can index (c10/core/TensorImpl.h, at most 64 dimensions)."""


class Scope(nn.Module):
    """A place in the tree of module paths: runs what it is given, so that the trace sees the path."""

    def forward(self, run: Callable[..., Any], *args: Any) -> Any:
        return run(*args)


def grow(root: nn.Module, paths: Iterable[str]) -> dict[str, Scope]:
    """Give `root` a Scope at each dotted path and return them by path; the top level is one as well."""
    scopes = {"": Scope()}
    for path in dict.fromkeys(paths):
        parts = path.split(".")
        if path and all(parts) and len(parts) <= DEEPEST_PATH:
            parent = root
            for part in parts:
                # not add_module, which refuses the names of attributes: a network may well call a part `type`
                parent = parent._modules.setdefault(part, Scope())  # type: ignore[assignment]
            scopes[path] = parent  # type: ignore[assignment]
    return scopes


def record_opaque(kind: str, inputs: Sequence[tuple[str, torch.Tensor]], outputs: Sequence[torch.Tensor]) -> None:
    """Record a call of an operator that torch does not have: only its name, its inputs and its outputs are known."""
    layer = Layer(kind, tuple(operand(n, x) for n, x in inputs), tuple(operand("output", x, layout=False) for x in outputs))
    record(layer, [x for _, x in inputs], outputs)


def record(layer: Layer, read: Sequence[torch.Tensor], written: Sequence[torch.Tensor]) -> None:
    """Record a layer that no operator of torch is, with the tensors of its inputs and outputs, wherever a trace is taken."""
    for mode in _get_current_dispatch_mode_stack():
        if isinstance(mode, Recorder):
            mode.take(layer, read, written)


@dataclass(frozen=True)
class Declared:
    """A tensor as a file declares it: a dimension is a size, a name that stands for one, or arithmetic on such names."""

    name: str
    dtype: torch.dtype
    dims: tuple[int | str, ...]

    @property
    def text(self) -> str:
        return format_shape(self.dims) or "scalar"


_ARITHMETIC: dict[Any, Callable[[int, int], int]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv,
    "Add": operator.add, "Mul": operator.mul, "FloorDiv": operator.floordiv,
}  # fmt: skip
"""What a size may be made of, as operators and as `torch.export` writes them."""
_SIGNS = re.compile(r"[ (*+/]")
"""What tells an expression from a name: a minus alone does not, for many names hold one."""
_LONGEST_EXPRESSION = 200


def _tree(text: str) -> ast.expr | None:
    """Return a size that is written as an expression; None for a name, which may be any text, also `image-size`."""
    try:
        tree = ast.parse(text, mode="eval").body if _SIGNS.search(text) and len(text) <= _LONGEST_EXPRESSION else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return tree if isinstance(tree, ast.BinOp | ast.Call) else None


def _names(text: str) -> set[str]:
    """Return the names in a size: none in one of numbers alone."""
    tree = _tree(text)
    if tree is None:
        return {text}
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in called}


def _needs(declared: Sequence[Declared], given: Mapping[str, int]) -> dict[str, set[str]]:
    """Return the names that each open dimension follows from.

    It is an expression if each name in it is given, or is a whole dimension elsewhere; else it is a name itself.
    """
    written = {dim: _names(dim) for x in declared for dim in x.dims if isinstance(dim, str)}
    known = given.keys() | written.keys()
    return {
        dim: names if dim not in given and (names <= known if names else _size(dim, {}) is not None) else {dim}
        for dim, names in written.items()
    }


def _size(dim: int | str, symbols: Mapping[str, int]) -> int | None:
    """Return what a dimension is, worked out where it is an expression; None where `symbols` do not say."""

    def value(node: ast.expr) -> int:
        match node:
            case ast.Constant(int(number)):
                return number
            case ast.UnaryOp(ast.USub(), inner):
                return -value(inner)
            case ast.Name(name):
                return symbols[name]
            case ast.BinOp(left, sign, right):
                return _ARITHMETIC[type(sign)](value(left), value(right))
            case ast.Call(ast.Name(name), parts, []):
                return reduce(_ARITHMETIC[name], map(value, parts))
        raise KeyError(node)

    if isinstance(dim, int) or dim in symbols:
        return symbols.get(str(dim), dim)  # type: ignore[arg-type]
    tree = _tree(dim)
    try:
        return None if tree is None else value(tree)
    except (KeyError, TypeError, ZeroDivisionError):
        return None


def bind(file: str, declared: Sequence[Declared], size: InputSize) -> dict[str, int]:
    """Return what each named dimension of the inputs is under `size`; raise InputError for one that nothing says.

    `sizes` sets dimensions by name, `shape` the first input. Else the first dimension is the batch, the last two of an image
    (rank 4 or 5) follow `image_size`, the second of a sequence (rank 2 or 3) `seq_len`. What the file fixes can be repeated,
    never changed.
    """
    symbols = dict(size.sizes)
    needs = _needs(declared, size.sizes)
    names = sorted(set().union(*needs.values()))
    unknown = next((name for name in symbols if name not in names), None)
    if unknown is not None:
        raise InputError(f"{file} leaves no size {unknown!r} open{nearest(unknown, names) if names else ': all are fixed'}")
    for i, x in enumerate(declared):
        for dim, wanted in zip(x.dims, _wanted(file, x, size, first=i == 0)):
            follows = needs.get(str(dim), {dim}) != {dim}
            if wanted is None or follows or (dim in size.sizes and wanted == 1):  # which is what nobody asked for
                continue
            if symbols.get(str(dim), dim) not in (wanted, dim) or (isinstance(dim, int) and dim != wanted):
                raise InputError(f"{file} takes {x.name} of {x.text}: {wanted} does not fit {symbols.get(str(dim), dim)} there")
            if isinstance(dim, str):
                symbols[dim] = wanted
    missing = [x for x in declared if any(isinstance(dim, str) and not needs[dim] <= symbols.keys() for dim in x.dims)]
    if missing:
        inputs = ", ".join(f"{x.name} {x.text}" for x in missing)
        example = ",".join(f"{name}=1" for name in names if name not in symbols)
        raise InputError(
            f"{file} leaves sizes open ({inputs}): give --batch and --image-size or --seq-len, --input with all sizes,"
            f" or by name: --input {example}"
        )
    for i, x in enumerate(declared):
        for dim, wanted in zip(x.dims, _wanted(file, x, size, first=i == 0)):
            found = _size(dim, symbols)
            if found is None:
                raise InputError(
                    f"{file} takes {x.name} of {x.text}: {dim!r} cannot be worked out, export it with a name instead"
                )
            if wanted not in (None, found) and (wanted != 1 or (i == 0 and size.shape is not None)):
                raise InputError(f"{file} takes {x.name} of {x.text}: {wanted} does not fit {found} there")
    _refuse_unused(file, declared, size)
    return symbols


def _wanted(file: str, x: Declared, size: InputSize, first: bool) -> list[int | None]:
    """What the user's sizes say of each dimension of an input; None where they say nothing."""
    rank = len(x.dims)
    if first and size.shape is not None:
        if len(size.shape) != rank:
            raise InputError(f"input {format_shape(size.shape)} does not fit {file}, which takes {x.name} of {x.text}")
        return list(size.shape)
    wanted: list[int | None] = [None] * rank
    if rank and (isinstance(x.dims[0], str) or size.batch > 1) and (first or size.shape is None):
        wanted[0] = size.batch
    if rank in (4, 5) and size.image_size is not None:
        wanted[-2:] = [size.image_size] * 2
    if rank in (2, 3) and size.seq_len is not None:
        wanted[1] = size.seq_len
    return wanted


def _refuse_unused(file: str, declared: Sequence[Declared], size: InputSize) -> None:
    ranks = {len(x.dims) for x in declared}
    takes = ", ".join(x.text for x in declared) or "no input"
    for option, fitting in (("image_size", {4, 5}), ("seq_len", {2, 3}), ("shape", ranks)):
        if not ranks & fitting:
            size.refuse(option, file, takes)


def empty(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Return a meta tensor; raise InputError for a shape that no tensor can have."""
    try:
        if len(shape) > MOST_DIMENSIONS:
            raise RuntimeError(f"{len(shape)} dimensions are more than torch's {MOST_DIMENSIONS}")
        return torch.empty(tuple(shape), dtype=dtype, device="meta")
    except (RuntimeError, TypeError, OverflowError, ValueError) as error:
        text = format_shape(tuple(shape))[:60]
        raise InputError(f"no tensor can have the shape {text} of {len(shape)} dimensions that the file declares") from error


def made(declared: Declared, symbols: dict[str, int]) -> torch.Tensor:
    """Return a meta tensor of a declared shape; raise InputError for a dimension that `symbols` do not say."""
    sizes = [_size(x, symbols) for x in declared.dims]
    if None in sizes:
        unknown = declared.dims[sizes.index(None)]
        raise InputError(f"{declared.name} has a size {unknown!r} that only running the network could tell")
    return empty(sizes, declared.dtype)  # type: ignore[arg-type]


def conversion(tensors: Iterable[torch.Tensor], dtype: str) -> dict[torch.dtype, torch.dtype]:
    """Return how to convert a file's dtypes so that what it mostly computes in becomes `dtype`."""
    elements: dict[torch.dtype, int] = {}
    for x in tensors:
        if x.dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
            elements[x.dtype] = elements.get(x.dtype, 0) + x.numel()
    return {max(elements, key=elements.__getitem__): getattr(torch, dtype)} if elements else {}


def converted(dtypes: Mapping[torch.dtype, torch.dtype]) -> tuple[str, ...]:
    """Say of a file that computes in another dtype than float32, the default, that it was converted."""
    return tuple(
        f"the file computes in {str(own)[6:]} and is priced in {str(asked)[6:]}, as --dtype says"
        for own, asked in dtypes.items()
        if own not in (torch.float32, asked)
    )
