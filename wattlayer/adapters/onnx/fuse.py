"""What exporters took apart, put together again: patterns of nodes, and the operator that a module called.

Only what `torch.onnx.export` itself makes of one PyTorch operator is taken back (torch/onnx/_internal/torchscript_exporter
and onnxscript's torch_lib hold the decompositions). What a network's author wrote in parts stays in parts, as in
the module: attention, for one, is taken for `scaled_dot_product_attention` only where query and key are both scaled.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

import torch

from .fold import Folded
from .graph import Node, needed
from .operators import scalar

Pattern = Any
"""A variable, `#` for a known number, or (operator, arguments)."""
Bound = dict[str, str]
Match = tuple[Bound, tuple[Node, ...]]
Build = Callable[["Graph", Node, Bound], "Node | None"]


@dataclass(frozen=True)
class Rule:
    """A pattern, written as an expression, and what stands for it; `build` returns None where it does not apply after all."""

    pattern: Pattern
    build: Build


@dataclass(frozen=True)
class Graph:
    """A folded graph with its cross references."""

    folded: Folded
    maker: Mapping[str, Node]
    readers: Mapping[str, list[Node]]
    outputs: frozenset[str]

    @staticmethod
    def of(folded: Folded, outputs: list[str]) -> Graph:
        readers: dict[str, list[Node]] = {}
        for node in folded.nodes:
            for name in node.inputs:
                readers.setdefault(name, []).append(node)
        return Graph(folded, {x: node for node in folded.nodes for x in node.outputs}, readers, frozenset(outputs))

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.folded.tensors[name].shape)

    def number(self, name: str) -> bool:
        x = self.folded.tensors.get(name)
        return x is not None and x.numel() == 1 and (not x.is_meta or self.weight(name))

    def weight(self, name: str) -> bool:
        return name in self.folded.weights

    def find(self, pattern: Pattern, name: str, bound: Bound) -> Iterator[Match]:
        """Yield each way to match `pattern` with what makes the tensor `name`: its variables and its nodes."""
        if pattern == "#":
            if self.number(name):
                yield bound, ()
        elif isinstance(pattern, str):
            if bound.get(pattern, name) == name:
                yield {**bound, pattern: name}, ()
        else:
            node = self.maker.get(name)
            operator, arguments = pattern
            if node is None or node.op != operator or node.domain or node.outputs[0] != name or len(node.inputs) < len(arguments):
                return
            both_ways = operator in ("Add", "Mul") and len(arguments) == 2
            for order in permutations(arguments) if both_ways else (arguments,):
                for result, nodes in self._find_all(order, node.inputs, bound):
                    yield result, (node, *nodes)

    def _find_all(self, patterns: tuple[Pattern, ...], names: tuple[str, ...], bound: Bound) -> Iterator[Match]:
        if not patterns:
            yield bound, ()
            return
        for first, nodes in self.find(patterns[0], names[0], bound):
            for result, others in self._find_all(patterns[1:], names[1:], first):
                yield result, (*nodes, *others)

    def only_inside(self, root: Node, nodes: tuple[Node, ...]) -> bool:
        """Whether nobody but the nodes of a match reads what is between them."""
        ids = {id(x) for x in nodes}
        inner = [x for node in nodes if node is not root for x in node.outputs]
        return all(x not in self.outputs and all(id(reader) in ids for reader in self.readers.get(x, ())) for x in inner)


def fuse(folded: Folded, outputs: list[str]) -> list[Node]:
    """Return the nodes that run: patterns replaced, and what no output needs left out. New weights join `folded.tensors`."""
    graph = Graph.of(folded, outputs)
    replaced: dict[int, Node] = {}
    gone: set[int] = set()
    for node in reversed(folded.nodes):
        if id(node) not in gone:
            found = _first_match(graph, node)
            if found is not None:
                new, nodes = found
                replaced[id(node)] = new
                gone |= {id(x) for x in nodes} - {id(node)}
    left = [replaced.get(id(x), x) for x in folded.nodes if id(x) not in gone]
    return needed(list(_without_laying_out(left, folded)), outputs)


_MOVES = (
    "Cast", "Concat", "Constant", "Expand", "Flatten", "Identity", "Pad", "Reshape", "Slice", "Split", "Squeeze", "Tile",
    "Transpose", "Unsqueeze",
)  # fmt: skip
"""Operators that only hold weights or lay them out anew, as around LSTMs: runtimes do it once, when they load a network."""


def _without_laying_out(nodes: Sequence[Node], folded: Folded) -> Iterator[Node]:
    """Yield the nodes that are more than initialisers, or known values, laid out anew."""
    made = {x for node in nodes for x in node.outputs}
    ready = {x for x, value in folded.tensors.items() if x not in made and (x in folded.weights or not value.is_meta)}
    for node in nodes:
        if node.op in _MOVES and not node.domain and all(not x or x in ready for x in node.inputs):
            ready.update(node.outputs)
        else:
            yield node


def _first_match(graph: Graph, node: Node) -> tuple[Node, tuple[Node, ...]] | None:
    for rule in _BY_ROOT.get(node.op, ()):
        for bound, nodes in graph.find(rule.pattern, node.outputs[0], {}):
            if graph.only_inside(node, nodes):
                new = rule.build(graph, node, bound)
                if new is not None:
                    return new, nodes
    return None


def _expression(text: str) -> Pattern:
    """Read `(Mul x (Sigmoid x))` as ("Mul", ("x", ("Sigmoid", ("x",))))."""
    stack: list[list[Any]] = [[]]
    for token in re.findall(r"[()]|[^\s()]+", text):
        if token == "(":
            stack.append([])
        elif token == ")":
            head, *rest = stack.pop()
            stack[-1].append((head, tuple(rest)))
        else:
            stack[-1].append(token)
    return stack[0][0]


# --- what stands for a pattern


def _as(op: str, *variables: str, **attributes: Any) -> Build:
    """The operator `op` of these variables."""
    domain, _, name = op.rpartition(".")

    def build(_: Graph, node: Node, bound: Bound) -> Node:
        return replace(node, op=name, domain=domain, inputs=tuple(bound[v] for v in variables), attributes=attributes)

    return build


def _linear(graph: Graph, node: Node, bound: Bound) -> Node | None:
    """A product with a weight [in, out]: the layer holds it as [out, in]."""
    weight, bias = graph.shape(bound["w"]), graph.shape(bound["b"]) if "b" in bound else None
    fits = graph.weight(bound["w"]) and len(weight) == 2 and (bias is None or (graph.weight(bound["b"]) and bias == weight[1:]))
    if not fits or graph.folded.tensors[bound["x"]].dim() < 2:
        return None
    like = graph.folded.tensors[bound["w"]]
    name = f"{bound['w']}/transposed"
    graph.folded.tensors[name] = torch.empty(weight[::-1], dtype=like.dtype, device="meta")
    inputs = (bound["x"], name, bound["b"]) if "b" in bound else (bound["x"], name)
    return replace(node, op="Linear", domain="wattlayer", inputs=inputs, attributes={})


def _attention(graph: Graph, node: Node, bound: Bound) -> Node | None:
    soft = graph.maker[node.inputs[0]]
    soft = graph.maker[soft.inputs[2]] if soft.op == "Where" else soft  # rows that a boolean mask hides wholly count as zero
    rank = graph.folded.tensors[soft.outputs[0]].dim()
    if soft.get("axis", -1) not in (-1, rank - 1) or rank < 3:
        return None
    untouched = "K" in bound  # the key before dimensions were merged, turned and parted again
    if untouched and graph.shape(bound["K"]) != (*graph.shape(bound["v"])[:-1], graph.shape(bound["q"])[-1]):
        return None
    causal = "m" in bound and _is_causal(graph, bound["m"])
    if "m" in bound:
        bound = {**bound, "m": _boolean(graph, bound["m"])}
    inputs = tuple(bound[v] for v in ("q", "K" if untouched else "k", "v", "m") if v in bound and not (causal and v == "m"))
    attributes = {"turned": not untouched, "is_causal": causal}
    return replace(node, op="Attention", domain="wattlayer", inputs=inputs, attributes=attributes)


def _boolean(graph: Graph, mask: str) -> str:
    """The mask of switches that the exporter turned, for one attention alone, into zeros and minus infinity, or `mask` itself."""
    if len(graph.readers.get(mask, ())) != 1:
        return mask
    for bound, (where,) in graph.find(_SWITCHED, mask, {}):
        shown, hidden = (scalar(graph.folded.tensors[x]) for x in where.inputs[1:])
        if shown == 0 and isinstance(hidden, int | float) and hidden <= _HIDDEN:
            return bound["c"]
    return mask


def _is_causal(graph: Graph, mask: str) -> bool:
    """Whether `mask` is `is_causal=True` written out: made of a lower triangle, anew in each pass or, if small, folded before."""
    known = graph.folded.tensors[mask]
    if not known.is_meta and known.dim() == 2:
        allowed = torch.ones(known.shape, dtype=torch.bool).tril()
        return torch.equal(known == 0, allowed) and torch.equal(known <= _HIDDEN, ~allowed)
    found = next(graph.find(_CAUSAL, mask, {}), None)
    if found is None:
        return False
    where, equal, triangle = found[1]
    ones = graph.maker.get(triangle.inputs[0])
    constant = graph.weight(triangle.inputs[0]) if ones is None else ones.op == "Expand" and graph.number(ones.inputs[0])
    # what hides, what shows, what the triangle is compared with and, where it is given, its offset
    said = [*where.inputs[1:], equal.inputs[1], *filter(None, triangle.inputs[1:])]
    hidden, *zeros = numbers = [scalar(graph.folded.tensors[x]) for x in said]
    if triangle.get("upper", 1) or not constant or not all(isinstance(x, int | float) for x in numbers):
        return False
    return bool(hidden <= _HIDDEN) and not any(zeros)


def _layer_norm(graph: Graph, node: Node, bound: Bound) -> Node | None:
    weight = graph.shape(bound["w"])
    if not graph.weight(bound["w"]) or graph.shape(bound["b"]) != weight or graph.shape(bound["x"])[-len(weight) :] != weight:
        return None
    attributes = {"axis": -len(weight)}
    return replace(node, op="LayerNormalization", inputs=(bound["x"], bound["w"], bound["b"]), attributes=attributes)


def _group_norm(graph: Graph, node: Node, bound: Bound) -> Node | None:
    """The exporter folds a group's channels into one and normalises those, with as many scales as groups."""
    groups = graph.shape(bound["scale"])
    if graph.shape(node.outputs[0]) != graph.shape(bound["x"]) or len(groups) != 1 or not graph.weight(bound["w"]):
        return None
    inputs = (bound["x"], bound["w"], bound["b"])
    return replace(node, op="GroupNorm", domain="wattlayer", inputs=inputs, attributes={"num_groups": groups[0]})


def _roll(graph: Graph, node: Node, bound: Bound) -> Node | None:
    """Slices that change places along an axis, and along another one inside: a `roll` of one axis or two."""
    rolled: list[tuple[int, int]] = []
    outer: Node | None = node
    while outer is not None and outer.outputs[0] != bound["x"]:
        found = _exchange(graph, outer)
        if found is None:
            return None
        rolled.append(found)
        outer = graph.maker.get(graph.maker[outer.inputs[0]].inputs[0])
    dims, shifts = zip(*reversed(rolled))
    return replace(node, op="Roll", domain="wattlayer", inputs=(bound["x"],), attributes={"shifts": shifts, "dims": dims})


def _exchange(graph: Graph, node: Node) -> tuple[int, int] | None:
    """Return the axis and the shift of `Concat(x[-shift:], x[:-shift])`; None where the slices are others."""
    axis, parts = node.get("axis", 0), [graph.shape(x) for x in node.inputs]
    slices = [graph.maker[x] for x in node.inputs]
    if len(parts) != 2 or graph.shape(node.outputs[0]) != graph.shape(slices[0].inputs[0]) or not parts[1][axis]:
        return None
    starts = [scalar(graph.folded.tensors[x.inputs[1]]) if len(x.inputs) > 1 else None for x in slices]
    return (axis, -parts[1][axis]) if starts[0] in (parts[1][axis], -parts[0][axis]) and starts[1] == 0 else None


_SCALED = "(MatMul (Mul q #) (Mul k #))"
_MERGED = "(MatMul (Mul q #) (Mul (Reshape (Transpose (Reshape K))) #))"
_CAUSAL = _expression("(Where (Equal (Trilu x) #) # #)")
_HIDDEN = torch.finfo(torch.float16).min
"""What masks add to hide a position: minus infinity or, from the newer exporter, the least number of the dtype."""
_SWITCHED = _expression("(Where c # #)")
_CENTRED = "(Sub x (ReduceMean x))"
_EXCHANGE = "(Concat (Slice x) (Slice x))"
_CUBE = "(Mul x (Mul x x))"


def _unless_nan(soft: str) -> str:
    """A softmax whose rows without any shown position are set to zero, as masks of switches are exported."""
    return f"(Where (IsNaN {soft}) # {soft})"


def _tanh(cube: str) -> str:
    """1 + tanh(a (x + b x³)), of Gaussian error linear units."""
    return f"(Add # (Tanh (Mul # (Add x (Mul # {cube})))))"


_RULES = {
    "(Add (MatMul x w) b)": _linear,
    "(MatMul x w)": _linear,
    f"(MatMul (Softmax {_MERGED}) v)": _attention,
    f"(MatMul (Softmax (Add {_MERGED} m)) v)": _attention,
    f"(MatMul (Softmax {_SCALED}) v)": _attention,
    f"(MatMul (Softmax (Add {_SCALED} m)) v)": _attention,
    f"(MatMul {_unless_nan(f'(Softmax (Add {_MERGED} m))')} v)": _attention,
    f"(MatMul {_unless_nan(f'(Softmax (Add {_SCALED} m))')} v)": _attention,
    "(Mul (Mul x (Add (Erf (Div x #)) #)) #)": _as("Gelu", "x"),
    "(Mul x (Mul # (Add (Erf (Div x #)) #)))": _as("Gelu", "x"),
    f"(Mul # (Mul x {_tanh(_CUBE)}))": _as("Gelu", "x", approximate="tanh"),
    f"(Mul x (Mul # {_tanh('(Pow x #)')}))": _as("Gelu", "x", approximate="tanh"),
    "(Mul x (Sigmoid x))": _as("Swish", "x"),
    "(Where (Greater x #) x (Softplus x))": _as("Softplus", "x"),
    "(Mul x (HardSigmoid x))": _as("HardSwish", "x"),
    "(Mul x (Tanh (Softplus x)))": _as("Mish", "x"),
    f"(Add (Mul (Div {_CENTRED} (Sqrt (Add (ReduceMean (Pow {_CENTRED} #)) #))) w) b)": _layer_norm,
    "(Add (Mul (Reshape (InstanceNormalization (Reshape x) scale)) w) b)": _group_norm,
    f"(Concat (Slice {_EXCHANGE}) (Slice {_EXCHANGE}))": _roll,
    _EXCHANGE: _roll,
}

_BY_ROOT: dict[str, list[Rule]] = {}
for _text, _build in _RULES.items():
    _rule = Rule(_expression(_text), _build)
    _BY_ROOT.setdefault(_rule.pattern[0], []).append(_rule)
