"""An exported program as records: calls, weights and inputs (torch/_export/serde/schema.py names the JSON's fields)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ...errors import InputError, first_line
from ..scopes import MOST_DIMENSIONS, Declared

MOST_CALLS = 40_000
"""Operators of one graph: as many as are traced in less than ten seconds."""
MOST_LIST = 4096

_SCALAR_TYPES = (
    {1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16, 7: torch.float32}
    | {8: torch.float64, 9: torch.complex32, 10: torch.complex64, 11: torch.complex128, 12: torch.bool, 13: torch.bfloat16}
    | {28: torch.uint16, 29: torch.float8_e4m3fn, 30: torch.float8_e5m2, 34: torch.uint32, 35: torch.uint64}
)
_MEMORY_FORMATS = (
    {1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d, 4: torch.preserve_format}
)  # fmt: skip
_STRIDED = 7
_ATOM = re.compile(r"Symbol\('(\w{1,40})'[^()]*\)|Integer\((-?\d{1,20})\)")
"""A symbol or number as sympy spells it; `bind` works out the expression around it."""


@dataclass(frozen=True)
class Reference:
    """Stands for the value of a name in a call's arguments."""

    name: str


@dataclass(frozen=True)
class Call:
    """One node: what is called, on which arguments, and where its results go."""

    target: str
    arguments: tuple[tuple[str, Any], ...]
    outputs: tuple[Any, ...]
    path: str


@dataclass(frozen=True)
class Program:
    """A graph whose every number has been checked; the tensors are meta tensors."""

    file: str
    calls: tuple[Call, ...]
    weights: Mapping[str, torch.Tensor]
    inputs: tuple[Declared, ...]
    constants: Mapping[str, Any]
    declared: Mapping[str, Declared]
    outputs: tuple[str, ...]

    @staticmethod
    def read(file: str, model: Mapping[str, Any]) -> Program:
        """Check a serialised program and return it; raise InputError for whatever does not follow the schema."""
        try:
            return _program(file, model["graph_module"]["graph"], model["graph_module"]["signature"]["input_specs"])
        except (LookupError, TypeError, AttributeError, ValueError, RuntimeError, OverflowError, RecursionError) as error:
            raise InputError(
                f"{file} does not follow torch.export's schema: {type(error).__name__} {first_line(error)}"
            ) from error


def _program(file: str, graph: Mapping[str, Any], specs: list[Mapping[str, Any]]) -> Program:
    if len(graph["nodes"]) > MOST_CALLS:
        raise InputError(f"{file} has {len(graph['nodes'])} operators; up to {MOST_CALLS} are read")
    if len(specs) != len(graph["inputs"]):
        raise ValueError(f"{len(specs)} input specifications for {len(graph['inputs'])} inputs")
    declared = {str(name): _declared(str(name), x) for name, x in graph["tensor_values"].items()}
    weights: dict[str, torch.Tensor] = {}
    inputs: list[Declared] = []
    constants: dict[str, Any] = {}
    for spec, argument in zip(specs, graph["inputs"]):
        kind, value = _only(spec)[0], parse(argument)
        if not isinstance(value, Reference):
            continue
        if kind == "user_input" and value.name in declared:
            inputs.append(declared[value.name])
        elif kind == "constant_input":
            constants[value.name] = _only(spec["constant_input"]["value"])[1]
        elif kind in ("parameter", "buffer", "tensor_constant"):
            weights[value.name] = _weight(graph["tensor_values"][value.name])
        else:
            raise InputError(f"{file}: its input {value.name!r} is a {kind}, not a tensor: export a network that takes tensors")
    calls = tuple(_call(x) for x in graph["nodes"])
    outputs = tuple(x.name for x in map(parse, graph["outputs"]) if isinstance(x, Reference))
    return Program(file, calls, weights, tuple(inputs), constants, declared, outputs)


_WRAPPED = {"wrap_with_set_grad_enabled": "torch.no_grad()", "wrap_with_autocast": "torch.autocast"}
"""What the exporter calls a block of these within a forward; its decompositions write the block out."""


def _call(node: Mapping[str, Any]) -> Call:
    block = _WRAPPED.get(_text(node["target"]).rpartition(".")[2])
    if block:
        raise InputError(f"the graph holds a block of {block}, which is not read: save exported.run_decompositions({{}}) instead")
    arguments = tuple((_text(x["name"]), parse(x["arg"])) for x in node["inputs"])
    stack = _text((node.get("metadata") or {}).get("nn_module_stack", ""))
    path = stack.rsplit(";", 1)[-1].split(",")[1] if stack.count(",") > 1 else ""
    return Call(_text(node["target"]), arguments, tuple(parse(x) for x in node["outputs"]), path.split("@")[0])


def parse(argument: Mapping[str, Any]) -> Any:
    """Return an argument of the schema as a Python value, a torch dtype or format, or a Reference to a name."""
    kind, value = _only(argument)
    if kind in _PARSED:
        return _PARSED[kind](value)
    if kind in ("as_graph", "as_custom_obj", "as_operator"):
        raise InputError(
            f"the graph holds an argument {kind.removeprefix('as_')} (control flow or foreign objects), which is not read"
        )
    raise ValueError(f"an argument of kind {kind[:40]!r}")


def _only(union: Mapping[str, Any]) -> tuple[str, Any]:
    if len(union) != 1:
        raise ValueError(f"{len(union)} values where one is due")
    return next(iter(union.items()))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{str(value)[:40]!r} is not text")
    return value


def _int(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not -(2**63) <= value < 2**63:
        raise TypeError(f"{str(value)[:40]!r} is no 64-bit number")
    return value


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{str(value)[:40]!r} is neither true nor false")
    return value


def _float(value: Any) -> float:
    return float(value) if value in ("Infinity", "-Infinity", "NaN") else float(value + 0.0)


def _list(of: Any) -> Any:
    def read(values: Any) -> list[Any]:
        if not isinstance(values, list) or len(values) > MOST_LIST:
            raise TypeError(f"{str(values)[:40]!r} is no list of at most {MOST_LIST}")
        return [of(x) for x in values]

    return read


def _named(value: Mapping[str, Any]) -> Reference:
    return Reference(_text(value["name"]))


def _symbolic(value: Mapping[str, Any]) -> Any:
    kind, x = _only(value)
    plain = {"as_int": _int, "as_float": _float, "as_bool": _bool}
    return Reference(_text(x)) if kind == "as_name" else plain[kind](x)


def _layout(value: Any) -> torch.layout:
    if value != _STRIDED:
        raise InputError("the graph holds sparse tensors, which are not priced: export the dense network")
    return torch.strided


_PARSED = {
    "as_none": lambda _: None,
    "as_tensor": _named,
    "as_tensors": _list(_named),
    "as_int": _int,
    "as_ints": _list(_int),
    "as_float": _float,
    "as_floats": _list(_float),
    "as_string": _text,
    "as_sym_int": _symbolic,
    "as_sym_ints": _list(_symbolic),
    "as_sym_float": _symbolic,
    "as_sym_floats": _list(_symbolic),
    "as_sym_bool": _symbolic,
    "as_scalar_type": lambda x: _SCALAR_TYPES[_int(x)],
    "as_memory_format": lambda x: _MEMORY_FORMATS[_int(x)],
    "as_layout": _layout,
    "as_device": lambda _: torch.device("meta"),
    "as_bool": _bool,
    "as_bools": _list(_bool),
    "as_optional_tensor": parse,
    "as_optional_tensors": _list(parse),
    "as_nested_tensors": _list(_list(_named)),
    "as_int_lists": _list(_list(_int)),
}


def _declared(name: str, meta: Mapping[str, Any]) -> Declared:
    return Declared(name, _SCALAR_TYPES[_int(meta["dtype"])], tuple(_dimension(x) for x in _sizes(meta["sizes"])))


def _sizes(values: Any) -> list[Any]:
    if not isinstance(values, list) or len(values) > MOST_DIMENSIONS:
        raise InputError(f"the graph declares a tensor of {len(values)} dimensions; torch has at most {MOST_DIMENSIONS}")
    return values


def _dimension(size: Mapping[str, Any]) -> int | str:
    kind, value = _only(size)
    if kind == "as_expr":
        return _ATOM.sub(r"\1\2", _text(value["expr_str"]))
    if _int(value) < 0:
        raise ValueError(f"a negative size {value}")
    return _int(value)


def _weight(meta: Mapping[str, Any]) -> torch.Tensor:
    _layout(meta["layout"])
    shape, strides = ([_int(_only(x)[1]) for x in _sizes(meta[key])] for key in ("sizes", "strides"))
    if any(x < 0 for x in (*shape, *strides)):
        raise ValueError("a weight with a negative size")
    return torch.empty_strided(shape, strides, dtype=_SCALAR_TYPES[_int(meta["dtype"])], device="meta")
