"""A model's graph as records: nodes with plain attributes, functions written out, module paths read from names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ...errors import InputError
from ..scopes import Declared
from .tensors import all_declared, dtype_of, read

MOST_NODES = 40_000
"""Nodes of one model, functions written out: as many as are traced in less than ten seconds."""
DEEPEST = 16
"""Functions within functions, and branches within branches."""
MOST_LIST = 8192

_DTYPE_ATTRIBUTES = frozenset({"to", "dtype", "output_dtype"})
_SCOPES = "pkg.torch.onnx.name_scopes"
"""Where `torch.onnx.export(dynamo=True)` keeps the modules that a node came from, as a list in text."""

Rename = Callable[[str], str]


@dataclass(frozen=True)
class Node:
    """One operator call of a model."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    domain: str = ""
    path: str = ""
    version: int = 0
    """Of the operator set that defines it."""

    def get(self, name: str, default: Any = None) -> Any:
        """Return attribute `name`, or `default`."""
        return self.attributes.get(name, default)

    @property
    def label(self) -> str:
        """What messages call it: operator, and its first output."""
        kind = f"{self.domain}.{self.op}" if self.domain else self.op
        return f"{kind[:80]} ({next(iter(self.outputs), '')[:60]})"


@dataclass(frozen=True)
class Branch:
    """A graph within a node: how its names are read follows from where it stands."""

    graph: Any
    rename: Rename
    attributes: Mapping[str, Any]
    depth: int


def needed(nodes: Sequence[Node], outputs: Iterable[str]) -> list[Node]:
    """Return the nodes that `outputs` follow from; what branches take from around them counts as read, whichever is taken."""
    wanted = set(outputs)
    kept = []
    for node in reversed(nodes):
        if wanted.intersection(node.outputs):
            wanted.update(x for x in node.inputs if x)
            _add_names(node.attributes, wanted, set())
            kept.append(node)
    return kept[::-1]


def _add_names(attributes: Mapping[str, Any], wanted: set[str], seen: set[int]) -> None:
    for x in attributes.values():
        if isinstance(x, Branch) and id(x) not in seen:
            seen.add(id(x))
            wanted.update(x.rename(name) for name in _names(x.graph) if name)
            _add_names(x.attributes, wanted, seen)


def _names(graph: Any) -> Iterator[str]:
    """Yield all names that a graph, or one within it, reads."""
    yield from (x.name for x in graph.output)
    for node in graph.node:
        yield from node.input
        for x in node.attribute:
            if x.type == x.GRAPH:
                yield from _names(x.g)


class Reader:
    """Turns NodeProtos into Nodes; `dtypes` converts, and a budget ends graphs that write themselves out without end."""

    def __init__(self, model: Any, dtypes: Mapping[torch.dtype, torch.dtype]) -> None:
        self.dtypes = dtypes
        self._functions = {(x.domain, x.name, x.overload): x for x in model.functions}
        self._versions = {_domain(x.domain): x.version for x in model.opset_import}
        self._read = 0

    def nodes(
        self, protos: Iterable[Any], rename: Rename = str, given: Mapping[str, Any] | None = None, depth: int = 0
    ) -> Iterator[Node]:
        """Yield the nodes of a graph in order; `given` holds attributes of the function that they are the body of."""
        for proto in protos:
            self._read += 1
            if self._read > MOST_NODES:
                raise InputError(f"the model has more than {MOST_NODES} nodes with its functions written out")
            attributes = self._attributes(proto, rename, given or {}, depth)
            function = self._functions.get((proto.domain, proto.op_type, proto.overload))
            if function is not None:
                yield from self._body(function, proto, rename, attributes, depth)
                continue
            domain = _domain(proto.domain)
            yield Node(
                proto.op_type,
                tuple(rename(x) for x in proto.input),
                tuple(rename(x) for x in proto.output),
                attributes,
                domain,
                _path(proto),
                self._versions.get(domain, 0),
            )

    def branch(self, branch: Branch) -> tuple[list[Node], list[str], dict[str, torch.Tensor], dict[str, Declared]]:
        """Return nodes, outputs, initialisers and declarations of a branch, under names that clash with none outside it."""
        graph = branch.graph
        own = {x for node in graph.node for x in node.output} | {x.name for x in graph.initializer}
        prefix = self._prefix()

        def rename(name: str) -> str:
            return prefix + name if name and name in own else branch.rename(name)

        tensors = {rename(x.name): read(x, self.dtypes, scales=True) for x in graph.initializer}
        nodes = list(self.nodes(graph.node, rename, branch.attributes, branch.depth))
        declared = all_declared([*graph.value_info, *graph.output], self.dtypes, rename)
        return nodes, [rename(x.name) for x in graph.output], tensors, declared

    def _body(self, function: Any, call: Any, rename: Rename, attributes: Mapping[str, Any], depth: int) -> Iterator[Node]:
        if depth >= DEEPEST:
            raise InputError(f"function {function.name[:60]!r} lies more than {DEEPEST} functions deep, or calls itself")
        names = {formal: rename(actual) for formal, actual in zip(function.input, call.input)}
        names = {**dict.fromkeys(function.input, ""), **names}
        names |= {formal: rename(actual) for formal, actual in zip(function.output, call.output) if actual}
        prefix = self._prefix()

        def inside(name: str) -> str:
            return names[name] if name in names else name and prefix + name

        defaults = {x.name: self._value(x, inside, {}, depth) for x in function.attribute_proto}
        yield from self.nodes(function.node, inside, {**defaults, **attributes}, depth + 1)

    def _prefix(self) -> str:
        return f"{self._read}/"

    def _attributes(self, proto: Any, rename: Rename, given: Mapping[str, Any], depth: int) -> dict[str, Any]:
        found = {x.name: self._value(x, rename, given, depth) for x in proto.attribute}
        return {name: value for name, value in found.items() if value is not None}

    def _value(self, x: Any, rename: Rename, given: Mapping[str, Any], depth: int) -> Any:
        if x.ref_attr_name:
            return given.get(x.ref_attr_name)
        if max(len(x.ints), len(x.floats), len(x.strings)) > MOST_LIST:
            raise InputError(f"attribute {x.name[:60]!r} is a list of more than {MOST_LIST} values")
        if x.type == x.GRAPH:
            if depth >= DEEPEST:
                raise InputError(f"graphs lie more than {DEEPEST} deep within each other")
            return Branch(x.g, rename, given, depth + 1)
        if x.type == x.INT and x.name in _DTYPE_ATTRIBUTES:
            dtype = dtype_of(x.i)
            return self.dtypes.get(dtype, dtype)
        if x.type == x.TENSOR:
            return read(x.t, self.dtypes, scales=True)
        plain = {x.INT: lambda: x.i, x.FLOAT: lambda: x.f, x.STRING: lambda: _text(x.s), x.INTS: lambda: tuple(x.ints)}
        plain |= {x.FLOATS: lambda: tuple(x.floats), x.STRINGS: lambda: tuple(_text(s) for s in x.strings)}
        return plain[x.type]() if x.type in plain else None


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _text(value: bytes) -> str:
    return value.decode(errors="replace")


def _path(proto: Any) -> str:
    """Return the path of the module that a node came from, as both of torch's exporters write it; "" where none is told."""
    scopes = next((x.value for x in proto.metadata_props if x.key == _SCOPES), None)
    if scopes is not None:
        names = re.findall(r"'([^']*)'", scopes)
        return names[-2] if len(names) > 1 else ""
    if not proto.name.startswith("/"):
        return ""
    path = ""
    for part in proto.name.split("/")[1:-1]:  # /layer1/layer1.0/conv1/Conv
        last = path.rsplit(".", 1)[-1]
        inner = part.removeprefix(f"{last}.") if last else part
        path = f"{path}.{inner}" if path else part
    return path
