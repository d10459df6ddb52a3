"""First pass over a graph: shapes of everything, values of what follows from sizes alone, and which branch is taken.

A tensor whose value is known is real, any other is a meta tensor. Nodes with known outputs are the host's
bookkeeping (shape arithmetic) and are gone afterwards, as in a module, where Python does them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch

from ...errors import InputError, WattlayerError, first_line
from ...trace.constants import remember
from ..scopes import MOST_DIMENSIONS, Declared, made, record_opaque
from . import compute, contrib, elementwise, layout
from .graph import Branch, Node, Reader, needed
from .operators import OPERATORS, ints, scalar

MOST_KNOWN = 8192
"""Elements of a tensor that is worked out: sizes and indices, never a bomb."""
MOST_KNOWN_TOGETHER = 1 << 24

__all__ = ["Declarations", "Folded", "compute", "contrib", "elementwise", "fold", "layout", "run"]


@dataclass(frozen=True)
class Declarations:
    """What the file says of tensors by name, for operators that nobody here knows."""

    by_name: Mapping[str, Declared]
    symbols: Mapping[str, int]


@dataclass
class Folded:
    """The nodes that are left, and all tensors by name: real ones are known, meta ones are not."""

    tensors: dict[str, torch.Tensor]
    weights: set[str]
    declarations: Declarations
    nodes: list[Node] = field(default_factory=list)
    unread: dict[str, str] = field(default_factory=dict)
    """Outputs that operators here do not give, each with the node that has it."""
    sequences: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """What each sequence holds: tensors with names of their own, for nothing runs on the sequence itself."""


def fold(
    reader: Reader, nodes: Iterable[Node], tensors: dict[str, torch.Tensor], weights: set[str], declarations: Declarations
) -> Folded:
    """Work through `nodes`, given inputs and initialisers; raise InputError naming the node that cannot be."""
    folded = Folded(dict(tensors), set(weights), declarations)
    standing: dict[str, torch.Tensor] = {}  # known tensors as meta tensors that know their value
    spent = 0
    pending: list[Iterator[Node]] = [iter(nodes)]
    while pending:
        node = next(pending[-1], None)
        if node is None:
            pending.pop()
            continue
        _check_names(node, folded)
        if node.op == "If" and not node.domain:
            pending.append(_taken(reader, node, folded))
            continue
        if (node.op in _GIVE_SEQUENCES and not node.domain) or any(x in folded.sequences for x in node.inputs):
            pending.append(_without_sequences(node, folded))
            continue
        results = _results(node, folded.tensors, standing, folded.declarations)
        spent += sum(x.numel() for x in results.values() if not x.is_meta)
        if spent > MOST_KNOWN_TOGETHER:
            raise InputError(f"{node.label}: arithmetic of shapes has grown beyond that of any network")
        folded.tensors.update(results)
        folded.unread.update(dict.fromkeys((x for x in node.outputs if x and x not in results), node.label))
        if any(x.is_meta for x in results.values()):
            folded.nodes.append(node)
            if all(x in folded.weights or not folded.tensors[x].is_meta for x in node.inputs if x):
                folded.weights.update(results)
    return folded


def run(node: Node, inputs: list[torch.Tensor | None], declarations: Declarations) -> dict[str, torch.Tensor]:
    """Run one node and return its outputs by name; raise InputError for an operator without a meaning or a shape here."""
    key = f"{node.domain}.{node.op}" if node.domain else node.op
    if key not in OPERATORS:
        return _opaque(node, inputs, declarations)
    result = OPERATORS[key](node, *inputs)
    values = [result] if isinstance(result, torch.Tensor) else list(result)
    named = {name: x for name, x in zip(node.outputs, values) if name and isinstance(x, torch.Tensor)}
    if any(x.dim() > MOST_DIMENSIONS for x in named.values()):
        raise InputError(f"{node.label} gives more than {MOST_DIMENSIONS} dimensions")
    return named


_CURES = {
    "": "run onnx.shape_inference on the model",
    "com.microsoft": "run onnxruntime.tools.symbolic_shape_infer on the model",
    "com.microsoft.nchwc": "give the model as it was before it was optimised, or optimised up to ORT_ENABLE_EXTENDED",
}
"""How shapes get into a file, by the domain of the operator: what is of no other domain is known to its authors alone."""


def _opaque(node: Node, inputs: list[torch.Tensor | None], declarations: Declarations) -> dict[str, torch.Tensor]:
    """An operator that is in no table: its cost is guessed from its shapes, if the file declares them."""
    missing = [name for name in node.outputs if name and name not in declarations.by_name]
    if missing or not any(node.outputs):
        where = f"of domain {node.domain[:60]!r} " if node.domain else ""
        cure = _CURES.get(node.domain, "declare it in the model's value_info")
        raise InputError(
            f"operator {node.op[:80]} {where}is not known and the file does not declare the shape of"
            f" {(missing or ['it'])[0][:60]!r}: {cure}, or export it to .pt2"
        )
    outputs = {name: made(declarations.by_name[name], dict(declarations.symbols)) for name in node.outputs if name}
    read = [("input", x) for x in inputs if x is not None]
    record_opaque(f"{node.domain or 'onnx'}::{node.op}", read, list(outputs.values()))
    return outputs


def _results(
    node: Node, tensors: Mapping[str, torch.Tensor], standing: dict[str, torch.Tensor], declarations: Declarations
) -> dict[str, torch.Tensor]:
    """Run a node on meta tensors and, where all it reads is known and little comes out, again on values."""
    given = [tensors[x] if x else None for x in node.inputs]
    for name, x in zip(node.inputs, given):
        if x is not None and not x.is_meta and name not in standing:
            standing[name] = known_meta(x)
    try:
        results = run(node, [standing.get(name, x) for name, x in zip(node.inputs, given)], declarations)
        known = all(x is None or not x.is_meta for x in given[: 1 if node.op == "CastLike" else None])
        if known and any(x.is_meta for x in results.values()) and sum(x.numel() for x in results.values()) <= MOST_KNOWN:
            results = run(node, given, declarations)
    except WattlayerError:
        raise
    except Exception as error:  # torch's operators raise whatever a wrong shape or attribute leads to
        raise InputError(f"{node.label} cannot be: {first_line(error)}") from error
    if not results:
        raise InputError(f"{node.label} gives nothing")
    return results


def known_meta(x: torch.Tensor) -> torch.Tensor:
    """Return a meta tensor that knows the value of `x`."""
    return remember(torch.empty_strided(x.size(), x.stride(), dtype=x.dtype, device="meta"), x)


def _taken(reader: Reader, node: Node, folded: Folded) -> Iterator[Node]:
    """Return the nodes of the branch that an If takes, and one for each of its outputs."""
    condition = folded.tensors.get(node.inputs[0]) if node.inputs else None
    choice = scalar(condition) if condition is not None and not condition.is_meta else condition
    branch = node.get("then_branch" if choice else "else_branch") if isinstance(choice, bool | int) else None
    if not isinstance(branch, Branch):
        raise InputError(f"{node.label} chooses by values that only running the network could give: export it without the choice")
    nodes, outputs, tensors, declared = reader.branch(branch)
    nodes = needed(nodes, outputs)
    outside = folded.declarations.by_name
    by_name = {**{x: outside[name] for x, name in zip(outputs, node.outputs) if name in outside}, **outside, **declared}
    folded.declarations = replace(folded.declarations, by_name=by_name)
    folded.tensors.update(tensors)
    folded.weights.update(tensors)
    return iter([*nodes, *(Node("Identity", (x,), (name,), path=node.path) for x, name in zip(outputs, node.outputs))])


_GIVE_SEQUENCES = ("SequenceConstruct", "SequenceEmpty", "SplitToSequence")
_ON_SEQUENCES = ("ConcatFromSequence", "Identity", "SequenceAt", "SequenceConstruct", "SequenceLength", "SplitToSequence")
"""What is read: sequences that grow tensor by tensor (SequenceEmpty, SequenceInsert) come with loops, which are not."""


def _without_sequences(node: Node, folded: Folded) -> Iterator[Node]:
    """Return what stands for an operator on sequences; raise InputError for one that only running the network could work out."""
    if node.domain or node.op not in _ON_SEQUENCES or (node.op == "SequenceAt" and len(node.inputs) != 2):
        raise InputError(f"{node.label} works on a sequence of tensors in a way that is not read: export the network without it")
    if not any(node.outputs[:1]) or not node.inputs:
        raise InputError(f"{node.label} has no input or no output: export the network again")
    other = next((x for x in node.inputs if x not in folded.tensors), None) if node.op == "SequenceConstruct" else None
    if other is not None:
        raise InputError(f"{node.label} holds {other[:60]!r}, which is no tensor: export the network without it")
    name, members = node.outputs[0], folded.sequences.get(node.inputs[0], ())
    if node.op in ("SequenceConstruct", "Identity"):
        folded.sequences[name] = members if node.op == "Identity" else node.inputs
        return iter(())
    if node.op == "SplitToSequence":
        parted = _parted(node, folded.tensors)
        folded.sequences[name] = parted.outputs
        return iter((parted,))
    if node.op == "SequenceLength":
        return iter((replace(node, op="Constant", inputs=(), attributes={"value_int": len(members)}),))
    if node.op == "ConcatFromSequence":
        return iter((replace(node, op="Concat", inputs=members),))
    where = ints(node, folded.tensors.get(node.inputs[1]))
    if len(where) != 1 or not -len(members) <= where[0] < len(members):
        raise InputError(f"{node.label} takes element {where} of a sequence of {len(members)}: export the network again")
    return iter((replace(node, op="Identity", inputs=(members[where[0]],)),))


def _parted(node: Node, tensors: Mapping[str, torch.Tensor]) -> Node:
    """A split into a sequence as one into tensors: each of one where no sizes are given, without their axis if it says so."""
    x, given = (tensors.get(name) for name in (*node.inputs, "")[:2])
    axis = node.get("axis", 0)
    if x is None or not -x.dim() <= axis < x.dim():
        raise InputError(f"{node.label} splits along axis {axis}, which is none of what it reads: export the network again")
    whole, sizes = x.shape[axis], [1] if given is None else ints(node, given)
    if given is None or not given.dim():
        if sizes[0] < 1 or whole // sizes[0] >= layout.MOST_PIECES:
            raise InputError(f"{node.label} cuts {whole} into pieces of {sizes[0]}; up to {layout.MOST_PIECES} pieces are read")
        sizes = [min(sizes[0], whole - start) for start in range(0, whole, sizes[0])]
    parts = tuple(f"{node.outputs[0]}/{i}" for i in range(len(sizes)))
    attributes = {"axis": axis, "split": tuple(sizes), "keepdims": given is not None or node.get("keepdims", 1)}
    return replace(node, op="Split", inputs=node.inputs[:1], outputs=parts, attributes=attributes)


def _check_names(node: Node, folded: Folded) -> None:
    missing = [x for x in node.inputs if x and x not in folded.tensors and x not in folded.sequences]
    if missing and missing[0] in folded.unread:
        raise InputError(
            f"{node.label} reads {missing[0][:60]!r}, an output of {folded.unread[missing[0]]} that is not read:"
            " export the network without it"
        )
    if missing:
        raise InputError(
            f"{node.label} reads {missing[0][:60]!r}, which nothing before it gives:"
            " the graph has a cycle, is not sorted, or an initialiser is missing"
        )
    again = [x for x in node.outputs if x in folded.tensors or x in folded.sequences]
    if again or len(set(node.outputs)) < len(node.outputs) - node.outputs.count(""):
        raise InputError(
            f"{node.label} gives {(again or node.outputs)[0][:60]!r}, which is there already: a graph names each tensor once"
        )
