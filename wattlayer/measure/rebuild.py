"""Run any recorded layer from its record alone: the operator, its operands as realistic data, and its arguments.

A Layer keeps an operator's name but not its overload, and no floating-point arguments (they change values, never
costs). The overload is the one whose schema takes every recorded name and lacks the fewest; what is missing is filled in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch

from ..errors import first_line
from ..kinds import COPIED, INDEX_PUTS, INDEXED_AXES, PLACED
from ..layer import Layer
from .rig import CannotRun
from .values import fill_operand

Tensors = list[torch.Tensor]

WEIGHT_NAMES = frozenset({"weight", "bias", "params", "running_mean", "running_var", "offset_weight"})
"""Operands that a network reads from memory anew in each pass, where activations come from the layer before."""

MOST_COPIES = 1000
"""Weights of a few kilobytes never fill a cache, however many copies there are; `Measurement.rotated_bytes` tells."""

FLOATS = {"eps": 1e-5, "momentum": 0.1, "p": 0.0, "dropout": 0.0, "dropout_p": 0.0, "alpha": 1.0, "beta": 1.0}
"""What stands in for a floating-point argument, by name; else 0.7."""


DATA_DEPENDENT = frozenset({
    "nonzero", "masked_select", "unique_consecutive", "_unique2", "unique_dim", "bincount", "torchvision::nms", "histc",
})  # fmt: skip
"""Kinds whose output's size depends on data: the host must wait for it, which no graph can."""


@dataclass(frozen=True)
class Call:
    """One operator with its arguments, ready to run on each of several copies of its weights in turn."""

    layer: Layer
    function: Any
    arguments: tuple[dict[str, Any], ...]
    """One set per copy; sets share every tensor that is not a weight."""
    copied_bytes: int
    """Of one copy's weights."""

    @property
    def copies(self) -> int:
        return len(self.arguments)

    def run(self, copy: int = 0) -> Any:
        """Call the operator on copy `copy` (modulo the copies there are) and return its result."""
        return self.function(**self.arguments[copy % len(self.arguments)])


def rotated(layer: Layer) -> tuple[bool, ...]:
    """Say of each input whether a network finds it cold: weights, and keys and values far longer than the query."""
    query = layer.operand("query")
    keys_cold = query is not None and len(query.shape) > 2 and _decodes(layer, query.shape[-2])
    return tuple(x.name in WEIGHT_NAMES or (keys_cold and x.name in ("key", "value")) for x in layer.inputs)


def _decodes(layer: Layer, queries: int) -> bool:
    key = layer.operand("key")
    return key is not None and key.shape[-2] >= 8 * queries


def rebuild(layer: Layer, device: torch.device | str, *, seed: int = 0, rectified: bool = False, cold_bytes: float = 0.0) -> Call:
    """Return `layer` as a call on `device`, with enough copies of its weights that `cold_bytes` lie between two uses of one.

    What lies between two uses is the copies and, once, everything else that a call touches. Raises CannotRun with the
    flag "cannot_rebuild" for an operator that is not there or does not take the record.
    """
    generator = torch.Generator(device=device).manual_seed(seed)
    tensors = [fill_operand(layer, index, generator, rectified) for index in range(len(layer.inputs))]
    function, arguments = bind(layer, tensors, device)
    cold = rotated(layer)
    weights = [x for x, is_cold in zip(tensors, cold) if is_cold]
    copied_bytes = sum(x.untyped_storage().nbytes() for x in weights)
    other_bytes = layer.read_bytes + layer.write_bytes - copied_bytes
    needed = ceil((cold_bytes - max(0, other_bytes)) / copied_bytes) if copied_bytes else 1
    sets = [arguments]
    for _ in range(min(needed, MOST_COPIES) - 1):
        fresh = {id(x): _clone(x) for x in weights}
        sets.append({name: _swapped(value, fresh) for name, value in arguments.items()})
    return Call(layer, function, tuple(sets), copied_bytes)


def _swapped(value: Any, fresh: Mapping[int, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_swapped(x, fresh) for x in value]
    return fresh.get(id(value), value)


def _clone(x: torch.Tensor) -> torch.Tensor:
    """Copy a tensor with its strides, also those of an expanded one."""
    storage = x.as_strided((x.untyped_storage().nbytes() // x.element_size(),), (1,), 0).clone()
    return storage.as_strided(x.shape, x.stride(), x.storage_offset())


def has_nan(result: Any) -> bool:
    """Whether any floating output is not finite."""
    return any(not bool(torch.isfinite(x).all()) for x in _tensors(result) if x.is_floating_point())


def shapes_of(result: Any) -> list[tuple[int, ...]]:
    """Shapes of the tensors that a call returned."""
    return [tuple(x.shape) for x in _tensors(result)]


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for x in value:
            yield from _tensors(x)


# --- recurrent cells, which PyTorch joins to one kernel on GPUs only (aten/src/ATen/native/RNN.cpp)


def _lstm_cell(input_gates: torch.Tensor, hidden_gates: torch.Tensor, cx: torch.Tensor, **biases: torch.Tensor) -> Tensors:
    gates = sum(biases.values(), input_gates + hidden_gates)
    take, forget, new, give = gates.chunk(4, 1)
    cell = forget.sigmoid() * cx + take.sigmoid() * new.tanh()
    return [give.sigmoid() * cell.tanh(), cell, gates]


def _gru_cell(
    input_gates: torch.Tensor, hidden_gates: torch.Tensor, hx: torch.Tensor,
    input_bias: torch.Tensor | float = 0.0, hidden_bias: torch.Tensor | float = 0.0,
) -> Tensors:  # fmt: skip
    (reset, update, new), old = (input_gates + input_bias).chunk(3, 1), (hidden_gates + hidden_bias).chunk(3, 1)
    reset, update = (reset + old[0]).sigmoid(), (update + old[1]).sigmoid()
    new = (new + reset * old[2]).tanh()
    return [new + update * (hx - new), torch.cat([reset, update, new, hx, old[2]], 1)]


_CELLS: dict[str, Callable[..., Tensors]] = {"_thnn_fused_lstm_cell": _lstm_cell, "_thnn_fused_gru_cell": _gru_cell}
"""What a processor runs in their place, operator by operator."""


# --- from a record to an overload and its arguments


def bind(layer: Layer, tensors: Tensors, device: torch.device | str | None = None) -> tuple[Any, dict[str, Any]]:
    """Return the overload that takes what was recorded, and its arguments by name; what has no operands is made on `device`."""
    if layer.kind in _CELLS and tensors[0].device.type == "cpu":
        return _CELLS[layer.kind], {x.name: tensor for x, tensor in zip(layer.inputs, tensors)}
    candidates = []
    in_place = layer.kind in PLACED and not layer.argument(COPIED, False)
    for overload in _overloads(layer.kind, in_place):
        arguments = _arguments(overload, layer, tensors, tensors[0].device if tensors else device)
        if arguments is not None:
            candidates.append((_distance(overload, layer), overload, arguments))
    if not candidates:
        names = ", ".join(dict.fromkeys([x.name for x in layer.inputs] + [n for n, _ in layer.arguments]))
        raise CannotRun("cannot_rebuild", f"no overload of {layer.kind} takes {names or 'no operands'}")
    _, overload, arguments = min(candidates, key=lambda x: x[0])
    return overload, arguments


def _overloads(kind: str, in_place: bool = False) -> list[Any]:
    """Every overload of an operator; of one that was called `in_place` or exists so only (`copy_`), those."""
    namespace, _, name = kind.rpartition("::")
    operators = getattr(torch.ops, namespace or "aten")
    for candidate in (name + "_", name) if in_place else (name, name + "_"):
        try:
            packet = getattr(operators, candidate)
            return [getattr(packet, x) for x in packet.overloads() if "out" not in x]
        except (AttributeError, RuntimeError):
            continue
    return []


def _distance(overload: Any, layer: Layer) -> tuple[int, int, int]:
    """How badly an overload fits: arguments that must be made up, results too many or few, arguments left unused."""
    given = {x.name for x in layer.inputs} | {name for name, _ in layer.arguments}
    schema = overload._schema
    missing = sum(not a.has_default_value() and a.name not in given for a in schema.arguments)
    unused = sum(a.name not in given for a in schema.arguments)
    return missing, abs(len(schema.returns) - len(layer.outputs)), unused


def _arguments(overload: Any, layer: Layer, tensors: Tensors, device: torch.device | str | None) -> dict[str, Any] | None:
    """Return an overload's arguments, or None where it does not take what was recorded."""
    schema = {a.name: a for a in overload._schema.arguments}
    operands: dict[str, Tensors] = {}
    for x, tensor in zip(layer.inputs, tensors):
        operands.setdefault(_known_name(x.name, schema), []).append(tensor)
    recorded = {_known_name(name, schema): value for name, value in layer.arguments if name not in (INDEXED_AXES, COPIED)}
    if not set(operands) <= set(schema) or not set(recorded) <= set(schema):
        return None
    arguments: dict[str, Any] = {}
    for name, argument in schema.items():
        kind = str(argument.type)
        if name in operands:
            if "Tensor" not in kind or (len(operands[name]) > 1 and "List" not in kind):
                return None
            arguments[name] = _operand(operands[name], kind, layer)
        elif name in recorded and None not in _entries(recorded[name]):
            if not _takes(kind, recorded[name]):
                return None
            arguments[name] = _plain(recorded[name])
        elif not _keeps_default(name, argument, layer):
            if kind == "Tensor":
                return None
            arguments[name] = _made_up(name, kind, layer, device)
    return arguments


def _known_name(name: str, schema: Mapping[str, Any]) -> str:
    """The in-place and the functional form of an operator call the same operand `self` and `input`."""
    other = {"self": "input", "input": "self"}.get(name)
    return other if other and name not in schema and other in schema else name


def _entries(value: Any) -> tuple[Any, ...]:
    """Of a recorded list its entries: floating-point numbers within are left out of the record as None."""
    return value if isinstance(value, tuple) else ()


def _operand(tensors: Tensors, kind: str, layer: Layer) -> Any:
    if "List" not in kind:
        return tensors[0]
    if layer.kind in ("index", "_unsafe_index"):
        return [*_whole_dimensions(layer), *tensors]
    if layer.kind in INDEX_PUTS:
        at = dict(zip(layer.argument(INDEXED_AXES, range(len(tensors))), tensors))
        return [at.get(axis) for axis in range(max(at) + 1)]
    return tensors


def _whole_dimensions(layer: Layer) -> list[None]:
    """The dimensions before the first index: of `x[:, i]` the record keeps i, and the output tells its place."""
    indices = [x for x in layer.inputs if x.name == "indices"]
    if not layer.outputs or any(x.dtype in ("bool", "uint8") for x in indices):
        return []
    source, result = layer.inputs[0].shape, layer.outputs[0].shape
    common = torch.broadcast_shapes(*(x.shape for x in indices))
    for place in range(len(source) - len(indices) + 1):
        if (*source[:place], *common, *source[place + len(indices) :]) == result:
            return [None] * place
    return []


def _takes(kind: str, value: Any) -> bool:
    """Whether an argument of this schema type may have this value: a number is no tensor, and no list of switches."""
    if kind == "Tensor":
        return False
    if isinstance(value, tuple):
        return "List" in kind
    if isinstance(value, str):
        return kind.removeprefix("Optional[").startswith(("str", "int", "Device", "Scalar"))
    return "List" not in kind or not isinstance(value, bool)


def _plain(value: Any) -> Any:
    return [_plain(x) for x in value] if isinstance(value, tuple) else value


def _keeps_default(name: str, argument: Any, layer: Layer) -> bool:
    """Whether an argument that was not recorded stays at its default."""
    if (name in ("dtype", "device") and _makes_dtype(layer)) or (name == "max" and layer.kind == "clamp"):
        return False
    return bool(argument.has_default_value())


def _makes_dtype(layer: Layer) -> bool:
    """Casts and creations: the output's dtype is not the input's."""
    if not layer.outputs or not layer.inputs:
        return bool(layer.outputs)
    casts = layer.kind in ("_to_copy", "sum", "mean", "softmax", "log_softmax", "prod", "cumsum")
    return casts and layer.outputs[0].dtype != layer.inputs[0].dtype


def _made_up(name: str, kind: str, layer: Layer, device: torch.device | str | None) -> Any:
    """A value for an argument that the record leaves out because it changes no cost."""
    special: dict[str, Callable[[], Any]] = {
        "dtype": lambda: getattr(torch, layer.outputs[0].dtype),
        "device": lambda: device,
        "output_size": lambda: list(layer.outputs[0].shape[2:]),
        "end": lambda: layer.outputs[0].elements,
        "steps": lambda: layer.outputs[0].elements,
        "cudnn_enabled": lambda: True,
    }
    if name in special and layer.outputs:
        return special[name]()
    if name == "max":  # a clamp needs one bound
        return 0.7
    if kind.startswith("Optional") or "bool" in kind:
        return None if kind.startswith("Optional") else False
    return 1 if "int" in kind.lower() else FLOATS.get(name, 0.7)


def try_run(call: Call) -> Any:
    """Run a rebuilt layer once; raise CannotRun where it fails or returns other shapes than recorded."""
    try:
        with torch.inference_mode():
            result = call.run()
    except torch.OutOfMemoryError as error:
        raise CannotRun("out_of_memory", first_line(error)) from None
    except (RuntimeError, TypeError, IndexError, ValueError, NotImplementedError) as error:
        raise CannotRun("cannot_rebuild", f"{call.layer.kind}: {first_line(error)}") from None
    recorded = [x.shape for x in call.layer.outputs]
    if shapes_of(result) != recorded:
        raise CannotRun("cannot_rebuild", f"{call.layer.kind} returned {shapes_of(result)}, recorded were {recorded}")
    return result
