"""ONNX operators that treat each element alike, and those that sum, sort or search along axes."""

from __future__ import annotations

import operator as python
from functools import reduce
from typing import Any

import torch
from torch.nn import functional

from ...errors import InputError
from ...trace.constants import value_of
from .graph import Node
from .operators import OPERATORS, axes, ints, operator, scalar

Tensor = torch.Tensor

_UNARY: dict[str, Any] = {
    "Abs": torch.abs, "Acos": torch.acos, "Acosh": torch.acosh, "Asin": torch.asin, "Asinh": torch.asinh, "Atan": torch.atan,
    "Atanh": torch.atanh, "Ceil": torch.ceil, "Cos": torch.cos, "Cosh": torch.cosh, "Erf": torch.erf, "Exp": torch.exp,
    "Floor": torch.floor, "IsInf": torch.isinf, "IsNaN": torch.isnan, "Log": torch.log, "Reciprocal": torch.reciprocal,
    "Round": torch.round, "Sigmoid": torch.sigmoid, "Sign": torch.sign, "Sin": torch.sin, "Sinh": torch.sinh, "Sqrt": torch.sqrt,
    "Tan": torch.tan, "Tanh": torch.tanh,
    "Neg": torch.neg, "Not": torch.logical_not, "BitwiseNot": torch.bitwise_not, "Relu": torch.relu,
    "Softplus": functional.softplus, "Softsign": functional.softsign, "Mish": functional.mish, "HardSwish": functional.hardswish,
    "Elu": functional.elu, "Celu": functional.celu, "Selu": functional.selu, "LeakyRelu": functional.leaky_relu,
    "Swish": functional.silu, "HardSigmoid": functional.hardsigmoid, "Shrink": functional.hardshrink,
}  # fmt: skip
"""Functions of one tensor; factors of theirs change values, never costs."""

_BINARY: dict[str, Any] = {
    "Add": python.add, "Sub": python.sub, "Mul": python.mul, "Pow": python.pow,
    "Equal": python.eq, "Greater": python.gt, "GreaterOrEqual": python.ge, "Less": python.lt, "LessOrEqual": python.le,
}  # fmt: skip

_LOGICAL: dict[str, Any] = {
    "And": torch.logical_and, "Or": torch.logical_or, "Xor": torch.logical_xor,
    "BitwiseAnd": torch.bitwise_and, "BitwiseOr": torch.bitwise_or, "BitwiseXor": torch.bitwise_xor,
}  # fmt: skip


def _one(function: Any) -> Any:
    return lambda _, x: function(x)


def _both(function: Any) -> Any:
    return lambda _, a, b: function(a, b)


def _two(function: Any) -> Any:
    return lambda _, a, b: function(*_numbers(a, b))


OPERATORS.update({name: _one(function) for name, function in _UNARY.items()})
OPERATORS.update({name: _two(function) for name, function in _BINARY.items()})
OPERATORS.update({name: _both(function) for name, function in _LOGICAL.items()})


def _numbers(a: Tensor, b: Tensor) -> tuple[Any, Any]:
    """A known number beside a tensor goes into the operator itself, as in a module; it is no operand in memory."""
    number = scalar(b)
    if number is not b and b.dim() <= a.dim():
        return a, number
    number = scalar(a)
    return (a, b) if number is a or a.dim() > b.dim() else (number, b)


@operator("Div")
def div(_: Node, a: Tensor, b: Tensor) -> Tensor:
    """`div`; of whole numbers the quotient is cut off."""
    x, y = _numbers(a, b)
    return x / y if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


@operator("Mod")
def mod(node: Node, a: Tensor, b: Tensor) -> Tensor:
    """`fmod` or `remainder`."""
    return torch.fmod(a, b) if node.get("fmod", 0) else torch.remainder(a, b)


@operator("BitShift")
def bit_shift(node: Node, a: Tensor, b: Tensor) -> Tensor:
    """`bitwise_left_shift` or right."""
    return torch.bitwise_left_shift(a, b) if node.get("direction") == "LEFT" else torch.bitwise_right_shift(a, b)


@operator("Sum", "Mean", "Max", "Min")
def variadic(node: Node, first: Tensor, *others: Tensor) -> Tensor:
    """Two operands at a time, as PyTorch has them."""
    function: Any = {"Sum": python.add, "Mean": python.add, "Max": torch.maximum, "Min": torch.minimum}[node.op]
    total = reduce(function, others, first)
    return total / (1 + len(others)) if node.op == "Mean" and others else total


@operator("Where")
def where(_: Node, condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """`where`."""
    return torch.where(condition, a, b)


@operator("Clip")
def clip(node: Node, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """`clamp`; between two known numbers `hardtanh`, which is what ReLU6 is."""
    least, most = (scalar(given) if given is not None else node.get(name) for given, name in ((low, "min"), (high, "max")))
    if isinstance(least, int | float) and isinstance(most, int | float) and x.is_floating_point():
        return functional.hardtanh(x, least, most)
    return x if least is None and most is None else torch.clamp(x, least, most)


@operator("PRelu")
def prelu(_: Node, x: Tensor, slope: Tensor) -> Tensor:
    """`prelu` with one slope or one a channel; its kernel alone takes slopes of other shapes, as Keras has them."""
    if slope.numel() == 1 or (x.dim() > 1 and slope.numel() == x.shape[1]):
        return torch.prelu(x, slope.reshape(-1))
    return torch._prelu_kernel(x, slope.expand(x.shape))  # private, for torch.prelu refuses such slopes


@operator("Gelu")
def gelu(node: Node, x: Tensor) -> Tensor:
    """`gelu`."""
    return functional.gelu(x, approximate=node.get("approximate", "none"))


@operator("SwiGLU")
def swiglu(_: Node, a: Tensor, b: Tensor) -> Tensor:
    """`silu` of one input times the other; `alpha` changes values, not costs."""
    return functional.silu(a) * b


@operator("Cast", "CastLike")
def cast(node: Node, x: Tensor, like: Tensor | None = None) -> Tensor:
    """`to`: nothing where the dtype is the same already."""
    return x.to(node.get("to", x.dtype) if like is None else like.dtype)


@operator("Identity", "Dropout")
def identity(_: Node, x: Tensor, *__: Tensor) -> Tensor:
    """In eval mode nothing happens."""
    return x


# --- along axes

_REDUCE: dict[str, Any] = {
    "ReduceMean": torch.mean, "ReduceSum": torch.sum, "ReduceMax": torch.amax, "ReduceMin": torch.amin,
    "ReduceLogSumExp": torch.logsumexp,
    "ReduceL1": lambda x, dim, keepdim: torch.linalg.vector_norm(x, 1, dim, keepdim),
    "ReduceL2": lambda x, dim, keepdim: torch.linalg.vector_norm(x, 2, dim, keepdim),
    "ReduceSumSquare": lambda x, dim, keepdim: torch.sum(x * x, dim, keepdim),
    "ReduceLogSum": lambda x, dim, keepdim: torch.log(torch.sum(x, dim, keepdim)),
}  # fmt: skip


@operator(*_REDUCE)
def reduction(node: Node, x: Tensor, given: Tensor | None = None) -> Tensor:
    """The reduction of that name."""
    listed = axes(node, given)
    if not listed:
        if node.get("noop_with_empty_axes", 0):
            return x
        listed = list(range(x.dim()))
    return _REDUCE[node.op](x, listed, bool(node.get("keepdims", 1)))


@operator("ReduceProd")
def product(node: Node, x: Tensor, given: Tensor | None = None) -> Tensor:
    """`prod`, axis by axis."""
    listed = axes(node, given) or list(range(x.dim()))
    keep = bool(node.get("keepdims", 1))
    for axis in sorted((a % max(1, x.dim()) for a in listed), reverse=True):
        x = torch.prod(x, axis, keepdim=keep)
    return x


@operator("ArgMax", "ArgMin")
def arg(node: Node, x: Tensor) -> Tensor:
    """`argmax` or `argmin`."""
    function = torch.argmax if node.op == "ArgMax" else torch.argmin
    return function(x, node.get("axis", 0), keepdim=bool(node.get("keepdims", 1)))


@operator("TopK")
def topk(node: Node, x: Tensor, k: Tensor | None = None) -> Any:
    """`topk`."""
    count = node.get("k", 0) if k is None else ints(node, k)[0]
    return torch.topk(x, count, node.get("axis", -1), bool(node.get("largest", 1)), bool(node.get("sorted", 1)))


@operator("CumSum", "CumProd")
def cumulative(node: Node, x: Tensor, axis: Tensor) -> Tensor:
    """`cumsum` or `cumprod`."""
    return (torch.cumsum if node.op == "CumSum" else torch.cumprod)(x, ints(node, axis)[0])


@operator("NonZero")
def non_zero(node: Node, x: Tensor) -> Tensor:
    """The indices of what is not zero, known where the values are: of ones, which is how torch.onnx wrote a range."""
    value = value_of(x)
    return by_values(node) if value is None else value.nonzero().t()


@operator("Unique", "Compress", "NonMaxSuppression")
def by_values(node: Node, *_: Tensor) -> Tensor:
    """Refuse: how much comes out depends on values."""
    raise InputError(f"{node.label}: how much comes out depends on values; export the network without it")


@operator("Loop", "Scan")
def control_flow(node: Node, *_: Tensor) -> Tensor:
    """Refuse: one pass of the body would be priced as if it were all."""
    raise InputError(f"{node.label} repeats a graph as often as values say: export the network without loops, or unrolled")


@operator("Optional", "OptionalGetElement", "OptionalHasElement")
def optional(node: Node, *_: Tensor) -> Tensor:
    """Refuse: whether there is a tensor is known to a running network alone."""
    raise InputError(f"{node.label} works on a tensor that may be missing, which is not read: export the network without it")


@operator("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul")
@operator("ConvInteger", "MatMulInteger")
def quantised(node: Node, *_: Tensor) -> Tensor:
    """Refuse: how a runtime joins these into integer kernels is not known."""
    raise InputError(f"{node.label} is part of a quantised model, which is not read: export the network before it is quantised")
