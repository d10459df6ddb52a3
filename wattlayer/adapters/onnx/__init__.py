"""ONNX models (`.onnx`): graph and shapes, never weights.

The file is parsed as protobuf, after its tensor data was skipped over; external data is never opened, and no ONNX runtime is
involved. Each node becomes the PyTorch operator that has its meaning (see `operators`), run on meta tensors, so that a
trace holds the same layers as one of the module that was exported.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import InputError, first_line
from ..scopes import Declared, bind, conversion, converted, empty, made
from ..source import InputSize, Network, require
from .fold import Declarations, Folded, fold
from .fuse import fuse
from .graph import Reader, needed
from .network import OnnxNetwork
from .tensors import all_declared, declared, dtype_of, read, shape_of
from .wire import read_without_weights

OLDEST_OPSET, NEWEST_OPSET = 7, 28
"""Operator sets that the table of operators follows.

Of what is new since opset 23, BitCast, CausalConvWithState, LinearAttention, RotaryEmbedding and TensorScatter are not in it.
"""


def load(name: str, size: InputSize) -> Network:
    """Read the network of file `name` and its inputs of `size`; raise InputError for what cannot be read or does not fit."""
    import torch

    path = Path(name)
    model = _parse(path)
    graph = model.graph
    dtypes = conversion((empty(shape_of(x), dtype_of(x.data_type)) for x in graph.initializer), size.dtype)
    names = {x.name for x in graph.initializer}
    dtypes = dtypes or conversion((empty((), x.dtype) for x in all_declared(graph.input, {}).values()), size.dtype)
    inputs = [x for x in _inputs(path.name, graph, dtypes) if x.name not in names]
    declarations = Declarations(all_declared([*graph.value_info, *graph.output], dtypes), bind(path.name, inputs, size))
    reader = Reader(model, dtypes)
    nodes = needed(list(reader.nodes(graph.node)), (x.name for x in graph.output))
    tensors = {x.name: read(x, dtypes, scales=x.name in _scales(graph)) for x in graph.initializer}
    given = {x.name: made(x, dict(declarations.symbols)) for x in inputs}
    if len(names) < len(graph.initializer) or len(given) < len(inputs):
        raise InputError(f"{path.name} has two inputs or initialisers of one name: a graph names each tensor once")
    with torch.inference_mode():
        folded = fold(reader, nodes, {**tensors, **given}, names, declarations)
        outputs = _outputs(path.name, graph, folded)
        module = OnnxNetwork(fuse(folded, outputs), list(given), outputs, folded.tensors, folded.declarations)
    return Network(name, module, tuple(given.values()), assumptions=converted(dtypes))


def _parse(path: Path) -> Any:
    onnx = require("onnx")
    from google.protobuf.message import DecodeError

    data = read_without_weights(path)
    try:
        model = onnx.load_model_from_string(data)
    except (DecodeError, ValueError, RecursionError) as error:
        raise InputError(f"{path.name} is no ONNX model: {first_line(error)}") from error
    versions = [x.version for x in model.opset_import if x.domain in ("", "ai.onnx")]
    if not model.graph.output:
        raise InputError(f"{path.name} is no ONNX model, or one without outputs: export the network again")
    if model.graph.sparse_initializer:
        raise InputError(f"{path.name} has sparse weights, which are not priced: export the dense network")
    if any(not OLDEST_OPSET <= x <= NEWEST_OPSET for x in versions):
        raise InputError(
            f"{path.name} uses opset {max(versions)}; {OLDEST_OPSET} to {NEWEST_OPSET} are read:"
            " export it with one of them, or convert it with onnx.version_converter"
        )
    return model


def _inputs(file: str, graph: Any, dtypes: Mapping[Any, Any]) -> list[Declared]:
    found = []
    for proto in graph.input:
        try:
            found.append(declared(proto, dtypes))
        except InputError as error:
            raise InputError(f"{file}: its input {proto.name[:60]!r} {error}") from None
    return found


def _outputs(file: str, graph: Any, folded: Folded) -> list[str]:
    """Return the names of the tensors that a graph gives, those of a sequence one by one."""
    found = [name for x in graph.output for name in folded.sequences.get(x.name, (x.name,))]
    missing = next((x for x in found if x not in folded.tensors), None)
    if missing in folded.unread:
        node = folded.unread[missing]
        raise InputError(f"{file} gives {missing[:60]!r}, an output of {node} that is not read: export the network without it")
    if missing is not None:
        raise InputError(f"{file} gives {missing[:60]!r}, which no node in it makes: export the network again")
    return found


def _scales(graph: Any) -> set[str]:
    """Names of what resizing takes: the only floats beside scalars whose values shapes follow from."""
    return {x for node in graph.node if node.op_type in ("Resize", "Upsample") for x in node.input}
