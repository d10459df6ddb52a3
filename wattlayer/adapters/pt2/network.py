"""An exported program as a module that runs its operators on meta tensors, each under the path of the module it came from."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map

from ...errors import InputError
from ...trace.composite import COMPOSITES
from ..scopes import grow, made, record_opaque
from .program import Call, Program, Reference

LARGEST_INT = 2**63
MOST_PIECES = 4096
"""Tensors that one operator may return: what is split into a million pieces is no network but a bomb."""

NO_WORK = frozenset({"_assert_scalar", "_assert_tensor_metadata", "sym_constrain_range", "sym_constrain_range_for_size"})
"""Checks of the exporter: they compute nothing."""

_NO_COST = "cudnn_enable"
"""An optional argument of norms that the exporter spells out as the setting of its own machine."""

TEXT_ARGUMENTS = frozenset(
    {"approximate", "equation", "indexing", "interpolation", "mode", "ord", "pad_mode", "padding", "padding_mode", "reduce"}
    | {"rounding_mode", "side", "driver", "UPLO"}
)
"""Where operators of inference take text. `aten.from_file` and `aten.save` take the name of a file: they are not run."""

_KERNELS = tuple(
    getattr(torch._C.DispatchKey, name)
    for name in (
        "Meta",
        "CompositeImplicitAutograd",
        "CompositeExplicitAutograd",
        "CompositeExplicitAutogradNonFunctional",
    )
)

_OF_SIZES: dict[str, Callable[..., Any]] = {
    **{f"_operator.{x}": getattr(operator, x) for x in "add sub mul floordiv mod neg eq ne lt le gt ge and_ or_".split()},  # noqa: SIM905
    "_operator.truediv": operator.truediv,
    "math.ceil": math.ceil,
    "math.floor": math.floor,
    "math.trunc": math.trunc,
    "torch.sym_max": max,
    "torch.sym_min": min,
    "torch.sym_int": int,
    "torch.sym_float": float,
    "torch.sym_not": operator.not_,
    "torch.sym_ite": lambda b, t, f: t if b else f,
}
"""Arithmetic of sizes; `pow` is left out, for its result can take hours to write down."""

_IN_PIECES = frozenset({"split", "unbind", "chunk", "tensor_split", "unsafe_split", "unsafe_chunk"})

_INDEXING = frozenset({"index", "_unsafe_index"})
"""Tagged as of unknown shape, which holds for boolean indices only: those fail where they are met."""

_SIZES: dict[str, Callable[..., Any]] = {
    "sym_size": lambda x, dim: x.shape[dim],
    "sym_numel": lambda x: x.numel(),
    "sym_stride": lambda x, dim: x.stride(dim),
}


class ExportedNetwork(nn.Module):
    """Runs a Program; `dtypes` says how its dtypes are converted, `symbols` what its open sizes are."""

    def __init__(self, program: Program, symbols: Mapping[str, int], dtypes: Mapping[torch.dtype, torch.dtype]) -> None:
        super().__init__()
        self.program = program
        self.symbols = dict(symbols)
        self.dtypes = dict(dtypes)
        self.weights = {name: _converted(x, self.dtypes) for name, x in program.weights.items()}
        self.scopes = grow(self, (call.path for call in program.calls))
        self.eval()

    def forward(self, *inputs: torch.Tensor) -> Any:
        """Run every operator on meta tensors; raise InputError for one that cannot be."""
        known: dict[str, Any] = {**self.weights, **self.program.constants}
        known.update((x.name, value) for x, value in zip(self.program.inputs, inputs))
        for call in self.program.calls:
            scope = self.scopes.get(call.path, self.scopes[""])
            _store(call, scope(self._run, call, known), known)
        return tuple(known[name] for name in self.program.outputs if name in known)

    def _run(self, call: Call, known: dict[str, Any]) -> Any:
        arguments = {name: self._value(call, value, known) for name, value in call.arguments if name != _NO_COST}
        if call.target in _OF_SIZES:
            return _size(call, _OF_SIZES[call.target], list(arguments.values()))
        found = call.target.removeprefix("torch.ops.").split(".")
        if found[0] == "aten" and len(found) == 3:
            return _run_aten(call, found[1], found[2], arguments)
        if call.target.startswith("torch.ops.") and found[0] != "higher_order" and len(found) == 3:
            return self._opaque(call, "::".join(found[:2]), arguments)
        raise InputError(f"{call.target[:80]} is not read: control flow and foreign functions need torch.export's decompositions")

    def _value(self, call: Call, value: Any, known: dict[str, Any]) -> Any:
        if isinstance(value, Reference):
            if value.name not in known:
                raise InputError(f"{call.target[:80]} reads {value.name[:60]!r}, which nothing before it gives")
            return known[value.name]
        if isinstance(value, list):
            return [self._value(call, x, known) for x in value]
        return self.dtypes.get(value, value) if isinstance(value, torch.dtype) else value

    def _opaque(self, call: Call, kind: str, arguments: dict[str, Any]) -> Any:
        """An operator of another library: nothing of it is run, its outputs are as the file declares them."""
        inputs = [(name, x) for name, value in arguments.items() for x in _tensors(value)]

        def declared(x: Any) -> Any:
            if isinstance(x, Reference) and x.name in self.program.declared:
                return _converted(made(self.program.declared[x.name], self.symbols), self.dtypes)
            return x

        outputs = tree_map(declared, list(call.outputs))
        record_opaque(kind, inputs, _tensors(outputs))
        return outputs[0] if len(outputs) == 1 else outputs


def _converted(x: torch.Tensor, dtypes: Mapping[torch.dtype, torch.dtype]) -> torch.Tensor:
    wanted = dtypes.get(x.dtype, x.dtype)
    return x if wanted == x.dtype else torch.empty_strided(x.size(), x.stride(), dtype=wanted, device="meta")


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, list | tuple):
        return [x for part in value for x in _tensors(part)]
    return [value] if isinstance(value, torch.Tensor) else []


def _store(call: Call, result: Any, known: dict[str, Any]) -> None:
    """Give a call's results the names that the graph has for them."""
    values = list(result) if len(call.outputs) > 1 and isinstance(result, list | tuple) else [result]
    for name, value in zip(call.outputs, values):
        parts = zip(name, value) if isinstance(name, list) and isinstance(value, list | tuple) else [(name, value)]
        known.update((x.name, part) for x, part in parts if isinstance(x, Reference))


def _size(call: Call, function: Callable[..., Any], values: list[Any]) -> Any:
    if not all(isinstance(x, int | float) for x in values):
        raise InputError(f"{call.target} works on sizes, not on {', '.join(type(x).__name__ for x in values)}")
    result = function(*values)
    if abs(result) >= LARGEST_INT:
        raise InputError(f"{call.target} gives {result}, which is no size")
    return result


def _run_aten(call: Call, name: str, overload: str, arguments: dict[str, Any]) -> Any:
    if name in NO_WORK:
        return None
    if name in _SIZES:
        return _SIZES[name](*arguments.values())
    if name in COMPOSITES:
        return COMPOSITES[name](**arguments)
    func = aten(name, overload)
    _refuse_pieces(call, name, arguments)
    if "device" in _parameters(func):
        arguments["device"] = torch.device("meta")
    positional = [x.name for x in func._schema.arguments if not x.kwarg_only]
    if not set(arguments) <= set(_parameters(func)):
        raise InputError(f"{call.target} has no argument {sorted(set(arguments) - set(_parameters(func)))[0][:60]!r}")
    args = []
    while positional and positional[0] in arguments:
        args.append(arguments.pop(positional.pop(0)))
    return func(*args, **arguments)


@cache
def _parameters(func: Any) -> tuple[str, ...]:
    return tuple(x.name for x in func._schema.arguments)


@cache
def aten(name: str, overload: str) -> Any:
    """Return the operator of torch called so; raise InputError for one that is not there or may do more than compute.

    What runs needs a kernel for meta tensors and takes no text but the few modes listed in TEXT_ARGUMENTS: so no file
    is opened, and no result's size follows from values.
    """
    packet = getattr(torch.ops.aten, name, None) if name.isidentifier() and not name.startswith("__") else None
    func = (
        getattr(packet, overload, None) if isinstance(packet, torch._ops.OpOverloadPacket) and overload.isidentifier() else None
    )
    label = f"aten.{name[:60]}.{overload[:20]}"
    if not isinstance(func, torch._ops.OpOverload):
        raise InputError(f"torch {torch.__version__} has no operator {label}: export the network again with this torch")
    if name not in _INDEXING and {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(func.tags):
        raise InputError(f"what {label} gives depends on values, which a graph without weights does not have")
    text = [x.name for x in func._schema.arguments if "str" in str(x.type) and x.name not in TEXT_ARGUMENTS]
    if text or not any(func.has_kernel_for_dispatch_key(key) for key in _KERNELS):
        raise InputError(f"{label} is not an operator that runs on shapes alone: leave it out of the exported network")
    return func


def _refuse_pieces(call: Call, name: str, arguments: dict[str, Any]) -> None:
    """Stop a split into more pieces than any network has before they are made."""
    x = arguments.get("self")
    if not isinstance(x, torch.Tensor) or name not in _IN_PIECES:
        return
    dim = arguments.get("dim", 0)
    length = x.shape[dim] if x.dim() and isinstance(dim, int) and -x.dim() <= dim < x.dim() else 0
    each = arguments.get("split_size") if "split" in name else 1
    wanted = arguments.get("chunks", arguments.get("sections"))
    pieces = wanted if isinstance(wanted, int) else length // each if isinstance(each, int) and each > 0 else 0
    if pieces > MOST_PIECES:
        raise InputError(f"{call.target} makes {pieces} pieces; up to {MOST_PIECES} are read")
