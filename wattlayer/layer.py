"""A Layer: one operator call as a frozen, hashable, framework-free record, with its FLOP and bytes.

FLOP and bytes come from the formulas of `kinds`; everything else (coverage, features, rebuilding on
hardware) follows from the record. A multiply-add is two FLOP, as in `torch.utils.flop_counter`. Bytes are
ideal: each distinct input element is read once, each output element is written once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil, prod
from typing import Any

from .errors import InputError
from .kinds import KINDS, group_of_kind

DTYPE_BYTES: dict[str, float] = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1, "int4": 0.5, "uint8": 1, "uint16": 2, "uint32": 4, "uint64": 8, "bool": 1,
    "complex32": 4, "complex64": 8, "complex128": 16,
}  # fmt: skip
"""Bytes of one element of each dtype that a layer may carry; two numbers of four bits share a byte."""

MOST_ELEMENTS = 2**53
"""Of a tensor in a file: as many as a float counts one by one, and thousands of times what a device holds."""
TF32_MODES = ("none", "conv", "all")
"""Where float32 may run as TF32: nowhere, in what cuDNN runs (convolutions, recurrent layers; PyTorch's default), everywhere."""

NETWORK_DTYPES = ("float32", "float16", "bfloat16", "int8", "int4")
"""What a whole network can be asked to run in; int8 and int4 hold the weights of its linear layers so, all else is float16."""

SCALE = "scale"
"""The operand that weights held in int8 or int4 bring along, what turns them back. It was measured nowhere: as one operand more
it would look like a bias to what is learned, which does not count it."""

GROUP_SIZE = 128
"""Weights in int4 that share a scale and a zero point: the default of torchao's `Int4WeightOnlyConfig`, of GPTQ and of AWQ."""

Argument = None | bool | int | float | str | tuple["Argument", ...]


@dataclass(frozen=True)
class Operand:
    """One tensor of an operator call; `name` is the argument's name in the operator's schema."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    strides: tuple[int, ...] | None = None
    """In elements; None when the tensor is contiguous."""

    def __post_init__(self) -> None:
        if self.dtype not in DTYPE_BYTES:
            raise InputError(f"dtype {self.dtype!r} of operand {self.name!r} is not one of {', '.join(DTYPE_BYTES)}")
        if any(size < 0 for size in self.shape):
            raise InputError(f"shape {self.shape} of operand {self.name!r} has a negative size")
        if self.strides is not None and len(self.strides) != len(self.shape):
            raise InputError(f"strides {self.strides} of operand {self.name!r} do not fit its shape {self.shape}")

    @property
    def elements(self) -> int:
        """How many numbers the tensor holds."""
        return prod(self.shape)

    def bytes_of(self, elements: int) -> int:
        """Bytes of so many of its numbers, a byte begun counted whole."""
        return ceil(elements * DTYPE_BYTES[self.dtype])

    @property
    def size_bytes(self) -> int:
        """Bytes of the distinct elements: a dimension expanded with stride 0 counts once, windows that overlap no more than the
        stretch they lie in."""
        if self.strides is None:
            return self.bytes_of(self.elements)
        distinct = prod(n for n, stride in zip(self.shape, self.strides) if stride or n == 0)
        return self.bytes_of(min(distinct, self.span_elements))

    @property
    def span_elements(self) -> int:
        """Elements from the first to the last in memory; of a dense tensor as many as it has."""
        if self.strides is None or not self.elements:
            return self.elements
        return 1 + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides))

    @property
    def steps(self) -> tuple[int, ...]:
        """Strides in elements, of a contiguous tensor too."""
        return self.strides or tuple(prod(self.shape[i + 1 :]) for i in range(len(self.shape)))

    @property
    def layout(self) -> tuple[int, ...]:
        """The dimensions with more than one element, from the outermost in memory to the innermost."""
        wide = [i for i, n in enumerate(self.shape) if n > 1]
        strides = self.strides
        return tuple(wide) if strides is None else tuple(sorted(wide, key=lambda i: -strides[i]))

    @property
    def dense(self) -> bool:
        """Whether the elements fill one stretch of memory, in whatever order."""
        near = 1
        for i in reversed(self.layout):
            if self.strides is not None and self.strides[i] != near:
                return False
            near *= self.shape[i]
        return True

    @property
    def channels_last(self) -> bool:
        """Whether the innermost dimension in memory is dimension 1 of a 4-D or 5-D tensor."""
        strides = self.strides
        return strides is not None and len(strides) >= 4 and strides[1] == 1 and self.shape[1] > 1 and strides[-1] > 1


@dataclass(frozen=True)
class Layer:
    """One operator call before decomposition: what ran, on which shapes and dtypes, with which arguments.

    Equal layers cost the same on the same hardware. `arguments` holds only what differs from the operator's
    defaults, sorted by name; `tf32` says that a float32 layer may run on tensor cores as TF32.
    """

    kind: str
    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    arguments: tuple[tuple[str, Argument], ...] = ()
    tf32: bool = False

    @cached_property
    def _hash(self) -> int:
        return hash((self.kind, self.inputs, self.outputs, self.arguments, self.tf32))

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[type[Layer], tuple[Any, ...]]:
        # the cached hash holds for this process only (text hashes are salted), so it must not travel in a pickle
        return Layer, (self.kind, self.inputs, self.outputs, self.arguments, self.tf32)

    def operand(self, name: str) -> Operand | None:
        """Return the first input called `name`, or None."""
        return next((x for x in self.inputs if x.name == name), None)

    def argument(self, name: str, default: Any = None) -> Any:
        """Return argument `name`, or `default` where the call left it at the operator's own default."""
        return next((value for key, value in self.arguments if key == name), default)

    @property
    def group(self) -> str:
        """The group of kinds that cost alike: conv, matmul, attention, norm, …; "other" for an unknown kind."""
        return group_of_kind(self.kind)

    @property
    def known(self) -> bool:
        """Whether FLOP and bytes come from this kind's own formula rather than from the generic one."""
        return self.kind in KINDS

    @cached_property
    def dtype(self) -> str:
        """The dtype the work is done in: that of the first floating input, else of the first output."""
        floating = (x.dtype for x in self.inputs if "float" in x.dtype or "complex" in x.dtype)
        return next(floating, self.outputs[0].dtype if self.outputs else "float32")

    @cached_property
    def flop(self) -> int:
        """Floating-point operations, a multiply-add counted as two; unknown kinds: one per output element."""
        entry = KINDS.get(self.kind)
        return entry.flop(self) if entry else sum(x.elements for x in self.outputs)

    @cached_property
    def read_bytes(self) -> int:
        """Bytes that must be read at least once."""
        entry = KINDS.get(self.kind)
        formula = entry.read_bytes if entry else None
        return formula(self) if formula else sum(x.size_bytes for x in self.inputs)

    @cached_property
    def write_bytes(self) -> int:
        """Bytes that must be written at least once: every output (of an in-place operator, its target)."""
        entry = KINDS.get(self.kind)
        formula = entry.write_bytes if entry else None
        return formula(self) if formula else sum(x.size_bytes for x in self.outputs)

    @property
    def intensity_flop_per_byte(self) -> float:
        """FLOP per byte moved; 0.0 for a layer that moves nothing."""
        moved_bytes = self.read_bytes + self.write_bytes
        return self.flop / moved_bytes if moved_bytes else 0.0

    def with_tf32(self, mode: str) -> Layer:
        """Return this layer as it runs under TF32 `mode` ("none", "conv" or "all"); only float32 products change.

        PyTorch's default, "conv", is what cuDNN may use (`torch.backends.cudnn.allow_tf32`): convolutions and recurrent layers.
        """
        check_tf32(mode)
        allowed = {"none": (), "conv": ("conv", "recurrent"), "all": ("conv", "recurrent", "matmul", "attention")}[mode]
        tf32 = self.dtype == "float32" and self.group in allowed
        return self if tf32 == self.tf32 else replace(self, tf32=tf32)

    def as_defined(self) -> Layer:
        """Return this layer as a network defines it, however it ran: with TF32 or not, in train or eval mode."""
        arguments = tuple((name, value) for name, value in self.arguments if name != "training")
        return replace(self, arguments=arguments).with_tf32("none")

    def as_computed(self) -> Layer:
        """Return this layer with weights in the dtype that it computes in, where it holds them in fewer bytes beside scales."""
        if self.operand(SCALE) is None:
            return self
        inputs = (replace(x, dtype=self.dtype) if x.name == "weight" else x for x in self.inputs if x.name != SCALE)
        return replace(self, inputs=tuple(inputs))

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON types; `from_json` gives back an equal layer."""
        record: dict[str, Any] = {
            "kind": self.kind,
            "inputs": [_operand_json(x) for x in self.inputs],
            "outputs": [_operand_json(x) for x in self.outputs],
        }
        if self.arguments:
            record["arguments"] = dict(self.arguments)
        return record | ({"tf32": True} if self.tf32 else {})

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> Layer:
        """Rebuild a layer from `to_json`; raise InputError where a field is missing, of the wrong type or unfit for the kind."""
        try:
            layer = Layer(
                kind=_text(record["kind"]),
                inputs=tuple(_operand(x) for x in record["inputs"]),
                outputs=tuple(_operand(x) for x in record["outputs"]),
                arguments=tuple(sorted((_text(k), freeze(v)) for k, v in record.get("arguments", {}).items())),
                tf32=_truth(record.get("tf32", False)),
            )
            _ = layer.flop, layer.read_bytes, layer.write_bytes  # a kind's formulas need its operands
        except (LookupError, ArithmeticError, TypeError, AttributeError, ValueError, RecursionError) as error:
            raise InputError(f"not a layer record: {type(error).__name__} {error}; see the README of data/") from None
        return layer

    def digest(self) -> str:
        """Return 16 hexadecimal digits that name this layer in files, the same in every process."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_dtype(dtype: str) -> str:
    """Return `dtype`, or raise InputError naming those that a network can be asked for."""
    if dtype not in NETWORK_DTYPES:
        raise InputError(f"dtype {dtype!r} is not one of {', '.join(NETWORK_DTYPES)}")
    return dtype


def check_tf32(mode: str) -> str:
    """Return `mode`, or raise InputError naming the modes there are."""
    if mode not in TF32_MODES:
        raise InputError(f"tf32 {mode!r} is not one of {', '.join(TF32_MODES)}")
    return mode


def format_shape(shape: Iterable[int | str]) -> str:
    """Write a shape as on the command line: 8x3x224x224."""
    return "x".join(map(str, shape))


def freeze(value: Any) -> Argument:
    """Return `value` with lists turned to tuples, so that it can be hashed and compared."""
    if isinstance(value, list | tuple):
        return tuple(freeze(x) for x in value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise InputError(f"an operator's argument of type {type(value).__name__} cannot be recorded: {value!r}")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} is neither true nor false")
    return value


def _sizes(values: Iterable[Any]) -> tuple[int, ...]:
    sizes = tuple(values)
    if any(type(x) is not int for x in sizes):
        raise TypeError(f"{sizes!r} are not whole numbers")
    if any(not 0 <= x <= MOST_ELEMENTS for x in sizes):
        raise ValueError(f"{sizes!r} are no sizes")
    return sizes


def _operand_json(x: Operand) -> dict[str, Any]:
    record = {"name": x.name, "shape": list(x.shape), "dtype": x.dtype}
    return record if x.strides is None else record | {"strides": list(x.strides)}


def _operand(record: Mapping[str, Any]) -> Operand:
    strides, shape = record.get("strides"), _sizes(record["shape"])
    if prod(shape) > MOST_ELEMENTS:
        raise ValueError(f"{shape!r} is no shape of a tensor")
    return Operand(_text(record["name"]), shape, _text(record["dtype"]), None if strides is None else _sizes(strides))
