"""What `torch.compile` makes of a trace: batch norms folded into convolutions, chains of cheap operators as one layer each.

The rules are those of TorchInductor's defaults for inference, told with their sources in docs/fusion.md. Convolutions, matrix
products, attention and whatever is not named here stay layers of their own, as Inductor calls a library for them.
"""

# ruff: noqa: SIM905 -- long tables of names read better as text

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from ..layer import Layer, Operand
from . import Trace
from .flow import Flow
from .folding import flow_of, folded

LARGEST_GROUP = 64
"""Operators in one kernel (torch/_inductor/config.py, max_fusion_size)."""

LARGEST_CAT = 8
"""Tensors that a concatenation may read within a kernel (torch/_inductor/config.py, max_pointwise_cat_inputs)."""

_GATHERS = frozenset("embedding index index_select gather take take_along_dim _unsafe_index".split())

_MOVES = frozenset(
    """clone _to_copy cat stack roll flip repeat constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d
    replication_pad1d replication_pad2d replication_pad3d pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle
    tril triu upsample_nearest1d upsample_nearest2d upsample_nearest3d _unsafe_view one_hot slice_scatter select_scatter
    zeros zeros_like ones ones_like full full_like arange new_zeros new_ones new_full scalar_tensor""".split()
)
"""Kinds without arithmetic that are expressions of indices to Inductor."""

_NOT_MAPPED = frozenset(
    """fused bernoulli native_dropout rrelu_with_noise masked_scatter pdist _pdist_forward cumulative_trapezoid isin
    softmax_backward cosine_similarity cross linalg_cross addr stochastic_depth""".split()
)
"""Element-wise by their cost, but random, of data-dependent shape or of another domain."""

_WINDOWS = frozenset(
    """max_pool2d avg_pool1d avg_pool2d avg_pool3d max_pool2d_with_indices upsample_bilinear2d upsample_bicubic2d
    upsample_linear1d upsample_trilinear3d""".split()
)
"""Each output element reads many inputs, so Inductor has the input in memory first; what follows is fused."""

_SCANS = frozenset("cumsum cumprod median nanmedian count_nonzero logcumsumexp cummax".split())


@dataclass(frozen=True)
class Domain:
    """What a kernel iterates over: `elements`, and in a kernel that reduces, the `rows` that they are reduced to."""

    elements: int
    rows: int | None = None
    window: bool = False
    """Whether its inputs must lie in memory."""


def domain(layer: Layer) -> Domain | None:
    """Return what a layer iterates over in a generated kernel; None for one that stays a call of its own."""
    if layer.kind in _WINDOWS:
        return Domain(_written(layer), window=True)
    if _maps(layer):
        return Domain(_written(layer))
    return Domain(layer.inputs[0].elements, _rows(layer)) if _reduces(layer) else None


def _written(layer: Layer) -> int:
    return max((x.elements for x in layer.outputs), default=0)


def _maps(layer: Layer) -> bool:
    if layer.kind in ("cat", "stack"):
        return len(layer.inputs) <= LARGEST_CAT
    if layer.kind == "batch_norm":
        return not layer.argument("training", False)
    return layer.kind in _MOVES | _GATHERS or (layer.group == "elementwise" and layer.kind not in _NOT_MAPPED)


def _reduces(layer: Layer) -> bool:
    if "adaptive_" in layer.kind:  # to one element is a mean; to several are windows of unequal size
        return prod(layer.argument("output_size", (0,))) == 1
    named = layer.group in ("norm", "softmax", "reduction") and "weight_norm" not in layer.kind
    return named and layer.kind not in _SCANS and bool(layer.inputs)


def _rows(layer: Layer) -> int:
    """Results of the reduction within a layer: statistics of a norm, sums of a softmax, outputs of anything else."""
    shape = layer.inputs[0].shape
    elements = layer.inputs[0].elements
    if layer.group == "softmax":
        return elements // max(1, shape[layer.argument("dim", -1)] if shape else 1)
    if layer.group != "norm":
        return layer.outputs[0].elements
    if layer.kind in ("group_norm", "native_group_norm"):
        return shape[0] * int(layer.argument("num_groups", layer.argument("group", 1)))
    if layer.kind in ("instance_norm", "batch_norm"):
        return shape[1] * (shape[0] if layer.kind == "instance_norm" else 1)
    weight = layer.operand("weight")
    normalized = layer.argument("normalized_shape", weight.shape if weight else shape[-1:])
    return elements // max(1, prod(normalized))


NO_GAPS = 'compiled to run without launch gaps (on a GPU mode="reduce-overhead")'
FOLDED = "batch norms are folded into the layers before them (torch._inductor.config.freezing)"
FUSED = "fused kernels were never measured: they are told by what their parts are"
"""What holds of a compiled network that `torch.compile` does not do by itself, or that nobody measured."""


def fuse(trace: Trace) -> Trace:
    """Return `trace` as a compiled network runs: batch norms folded, every group of fused calls as one layer `fused`.

    Such a layer reads what the group takes from outside once and writes what is used outside; its FLOP are those of the
    group, its argument `of` names the kinds in it, and its path is that of its last call. Raises InputError for a trace that
    does not know which call feeds which.
    """
    folded_trace = _biases_in_next(folded(trace))
    flow = flow_of(folded_trace)
    groups = sorted(_Groups(folded_trace.layers, flow).found(), key=lambda members: members[-1])
    readers, results = flow.readers(), set(flow.results)
    layers, reads, writes = [], [], []
    for members in groups:
        if len(members) == 1:
            layers.append(folded_trace.layers[members[0]])
            reads.append(flow.reads[members[0]])
            writes.append(flow.writes[members[0]])
            continue
        read = _read_outside(folded_trace.layers, flow, members)
        written = _used_outside(folded_trace.layers, flow, members, readers, results)
        layers.append(_fused([folded_trace.layers[i] for i in members], read.values(), written.values()))
        reads.append(tuple(read))
        writes.append(tuple(written))
    told = [FOLDED] * (len(folded_trace.layers) < len(trace.layers)) + [FUSED] * any(len(members) > 1 for members in groups)
    return replace(
        folded_trace,
        layers=tuple(layers),
        paths=tuple(folded_trace.paths[members[-1]] for members in groups),
        flow=Flow(tuple(reads), tuple(writes), flow.results),
        assumptions=(*trace.assumptions, NO_GAPS, *told),
    )


def _fused(members: Sequence[Layer], read: Iterable[Operand], written: Iterable[Operand]) -> Layer:
    flop = sum(x.flop for x in members)
    return Layer("fused", tuple(read), tuple(written), (("flop", flop), ("of", " ".join(x.kind for x in members))))


def _read_outside(layers: Sequence[Layer], flow: Flow, members: Sequence[int]) -> dict[tuple[int, int], Operand]:
    """Return what a group reads of each value made elsewhere: each place once, and contiguous parts that overlap as one."""
    own = {value for i in members for value in flow.writes[i]}
    found: dict[tuple[int, int], Operand] = {}
    for i in members:
        for place, operand in zip(flow.reads[i], _reads(layers[i])):
            if place[0] not in own and (place not in found or operand.size_bytes > found[place].size_bytes):
                found[place] = operand
    values = dict.fromkeys(value for value, _ in found)
    joined = {value: _joined({start: x for (v, start), x in found.items() if v == value}) for value in values}
    return {(value, start): joined[value][start] for value, start in found if start in joined[value]}


def _joined(parts: Mapping[int, Operand]) -> dict[int, Operand]:
    """Return the parts of one value, by where they start: contiguous ones that overlap as one, without what lies within these."""
    found: dict[int, Operand] = {}
    stretches: list[tuple[int, int]] = []  # that contiguous parts cover, those that touch as one
    begin = end = 0
    contiguous = {start: x for start, x in parts.items() if x.elements == x.span_elements}
    for start, x in sorted(contiguous.items(), key=lambda part: part[0]):
        stop = start + x.elements
        if not found or start >= end:
            stretches.append((stretches.pop()[0] if stretches and start == end else start, stop))
            begin, end, found[start] = start, stop, x
        elif stop > end:
            stretches[-1] = stretches[-1][0], stop
            end, found[begin] = stop, replace(found[begin], shape=(stop - begin,), strides=None)
    strided = {start: x for start, x in parts.items() if start not in contiguous}
    return found | {
        start: x for start, x in strided.items() if not any(a <= start and start + x.span_elements <= b for a, b in stretches)
    }


def _reads(layer: Layer) -> tuple[Operand, ...]:
    """The inputs of a layer as far as it reads them: of a table as much as is taken from it."""
    if layer.kind in _GATHERS and layer.inputs:
        taken = replace(layer.inputs[0], shape=layer.outputs[0].shape, strides=None)
        return (taken, *layer.inputs[1:])
    return layer.inputs if layer.group != "creation" else ()


def _used_outside(
    layers: Sequence[Layer], flow: Flow, members: Sequence[int], readers: dict[int, list[int]], results: set[int]
) -> dict[int, Operand]:
    """Return what a group must write: what other calls read, what the network returns, and what nobody is seen to read."""
    own = set(members)
    return {
        value: operand
        for i in members
        for value, operand in zip(flow.writes[i], layers[i].outputs)
        if value in results or not own.issuperset(readers.get(value, (-1,)))
    }


class _Groups:
    """Grow groups in call order: each call joins the groups that it reads from, where one kernel can do both."""

    def __init__(self, layers: Sequence[Layer], flow: Flow) -> None:
        self._readers, producers = flow.readers(), flow.producers()
        self._writes = flow.writes
        self._feeds = [sorted({producers[v] for v, _ in places if v in producers} - {i}) for i, places in enumerate(flow.reads)]
        self._domains = [domain(x) for x in layers]
        self._group = list(range(len(layers)))
        self._members = {i: [i] for i in range(len(layers))}

    def found(self) -> list[list[int]]:
        """Return the calls of every group, in call order; one that is fused with nothing is a group of its own."""
        for call, own in enumerate(self._domains):
            if own is None or own.window:
                continue
            for producer in reversed(self._feeds[call]):
                first, second = self._group[producer], self._group[call]
                if first != second and self._fit(first, second) and not self._between(first, second):
                    self._merge(first, second)
        return list(self._members.values())

    def _fit(self, first: int, second: int) -> bool:
        """Whether one kernel can iterate over both groups, `second` reading what `first` writes."""
        if any(self._domains[i] is None for i in (first, second)):
            return False
        if len(self._members[first]) + len(self._members[second]) > LARGEST_GROUP:
            return False
        a, b = self._whole(first), self._whole(second)
        if a.rows is not None and b.rows is not None:
            return a == b
        if a.elements == b.elements:
            return True
        if a.rows is not None:
            return b.elements == a.rows
        if b.rows is not None and a.elements == b.rows:
            return True
        return a.elements < b.elements and self._only_reader(first, second)  # broadcast: computed where it is read

    def _whole(self, group: int) -> Domain:
        own = [d for i in self._members[group] if (d := self._domains[i])]
        return Domain(max(d.elements for d in own), next((d.rows for d in own if d.rows is not None), None))

    def _only_reader(self, first: int, second: int) -> bool:
        within = {*self._members[first], *self._members[second]}
        return all(within.issuperset(self._readers.get(v, ())) for i in self._members[first] for v in self._writes[i])

    def _between(self, a: int, b: int) -> bool:
        """Whether something outside reads from one group and feeds the other: then they cannot be one kernel."""
        return self._reaches(a, b) or self._reaches(b, a)

    def _reaches(self, source: int, target: int) -> bool:
        start = self._members[source][0]
        pending = [x for x in self._before(target) if x != source]
        seen = {source, target}
        while pending:
            group = pending.pop()
            if group in seen or self._members[group][-1] < start:
                continue
            seen.add(group)
            before = self._before(group)
            if source in before:
                return True
            pending += before
        return False

    def _before(self, group: int) -> set[int]:
        return {self._group[producer] for i in self._members[group] for producer in self._feeds[i]} - {group}

    def _merge(self, first: int, second: int) -> None:
        for i in self._members[second]:
            self._group[i] = first
        self._members[first] = sorted(self._members[first] + self._members.pop(second))


def _biases_in_next(trace: Trace) -> Trace:
    """Return `trace` with convolutions that leave their bias to the generated kernels which read what they wrote.

    On GPUs Inductor adds it there (kernel/conv.py), where its few numbers cost nothing. What a library, a window or the caller
    reads as well must lie in memory with its bias: there it stays, as a pass of its own.
    """
    flow = flow_of(trace)
    readers = flow.readers()
    layers, reads = list(trace.layers), list(flow.reads)
    for i, layer in enumerate(trace.layers):
        at = next((n for n, x in enumerate(layer.inputs) if x.name == "bias"), None) if layer.group == "conv" else None
        if at is None:
            continue
        after = [domain(trace.layers[reader]) for value in flow.writes[i] for reader in readers.get(value, ())]
        in_memory = any(x is None or x.window for x in after) or not set(flow.writes[i]).isdisjoint(flow.results)
        if after and not in_memory:
            layers[i] = replace(layer, inputs=(*layer.inputs[:at], *layer.inputs[at + 1 :]))
            reads[i] = (*reads[i][:at], *reads[i][at + 1 :])
    return replace(trace, layers=tuple(layers), flow=replace(flow, reads=tuple(reads)))
