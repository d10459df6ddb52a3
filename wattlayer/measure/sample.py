"""Which layers are worth measuring: those of real networks by their share of energy, and what is like them.

Energy is guessed by a roofline, which is enough to tell a layer that matters from one that does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import floor, log10, sqrt
from random import Random

from ..errors import InputError
from ..hardware import HARDWARE
from ..kinds import KINDS
from ..layer import Argument, Layer, Operand
from ..trace import Trace
from .rig import Item

SHARES = {
    "matmul": 0.25, "conv": 0.25, "attention": 0.12, "elementwise": 0.12, "norm": 0.08, "copy": 0.05, "pooling": 0.04,
    "softmax": 0.03, "embedding": 0.03, "recurrent": 0.03,
}  # fmt: skip
"""Share of the budget for each group of kinds (measurement protocol); other groups count with one of these."""
COUNTED_WITH = {"reduction": "pooling", "resample": "copy", "sort": "copy", "fft": "copy", "creation": "copy", "other": "copy"}
assert SHARES.keys() >= {COUNTED_WITH.get(kind.group, kind.group) for kind in KINDS.values()}
PERTURBED_LOW, PERTURBED_HIGH = 0.5, 1.2
"""Factor on a channel count."""
ODD_FRAC = 0.15
"""Share of the perturbed sizes that are no multiple of 8."""
LONGEST_CALL_S, LONGEST_DRAWN_S = 0.25, 0.1
"""Of a network's own layer and of one made up: a window needs some calls, and few large layers would take all of a campaign."""
UNKNOWN_MEMORY_BYTES = 16e9
"""Taken for the memory of a GPU that does not tell; for a processor's a quarter of it, which other programs share."""


@dataclass(frozen=True)
class Roofline:
    """Rates to guess a layer's time with."""

    flop_per_s: Callable[[Layer], float]
    bytes_per_s: float
    launch_s: float
    memory_bytes: float = UNKNOWN_MEMORY_BYTES

    @staticmethod
    def of(hardware: str, cuda: bool, memory_bytes: float | None = None) -> Roofline:
        """Return the rates of a known device, else of one of its type that stands for all."""
        known = HARDWARE.get(hardware) or HARDWARE["a30" if cuda else "xeon-gold-5120"]
        memory_bytes = memory_bytes or (UNKNOWN_MEMORY_BYTES if cuda else UNKNOWN_MEMORY_BYTES / 4)
        return Roofline(lambda x: known.peak(x.dtype, x.tf32), known.dram_bytes_per_s, known.launch_s, memory_bytes)

    def time_s(self, layer: Layer) -> float:
        moved_s = (layer.read_bytes + layer.write_bytes) / self.bytes_per_s
        return self.launch_s + max(layer.flop / self.flop_per_s(layer), moved_s)

    def fits(self, layer: Layer, longest_s: float = LONGEST_CALL_S) -> bool:
        """Whether a layer is worth its time: it fits into a quarter of the memory (several copies of its weights keep them cold)
        and one call is not too long."""
        held_bytes = sum(x.size_bytes for x in (*layer.inputs, *layer.outputs))
        return held_bytes < self.memory_bytes / 4 and self.time_s(layer) < longest_s


@dataclass(frozen=True)
class Candidate:
    """A layer that occurs in a network, and its share of that network's energy."""

    layer: Layer
    share: float
    network: str
    rectified: bool = False


def shares(trace: Trace, roofline: Roofline) -> dict[Layer, float]:
    """Return each distinct layer's share of the network's time, calls included; together they are 1."""
    taken_s = {layer: calls * roofline.time_s(layer) for layer, calls in trace.unique().items()}
    total_s = sum(taken_s.values()) or 1.0
    return {layer: seconds / total_s for layer, seconds in taken_s.items()}


def candidates(trace: Trace, roofline: Roofline) -> list[Candidate]:
    """Return the layers of a network, each with its share and with whether its input comes from a ReLU."""
    rectified = _behind_relu(trace)
    return [Candidate(x, share, trace.network, x in rectified) for x, share in shares(trace, roofline).items()]


def _behind_relu(trace: Trace) -> set[Layer]:
    """Layers whose input has the shape that the call before, a ReLU, returned."""
    found = set()
    for before, layer in zip(trace.layers, trace.layers[1:]):
        if before.kind in ("relu", "relu6", "hardtanh") and layer.inputs and layer.inputs[0].shape == before.outputs[0].shape:
            found.add(layer)
    return found


def draw(pool: Iterable[Candidate], count: int, random: Random, taken: set[Layer]) -> list[Item]:
    """Draw up to `count` distinct layers that are not `taken`, by group as `SHARES` says, with weight sqrt(share).

    Weighted sampling without replacement by Efraimidis and Spirakis (2006): the largest u^(1 / weight) win.
    """
    groups: dict[str, dict[Layer, Candidate]] = {}
    for x in pool:
        if x.layer not in taken:
            best = groups.setdefault(budget_group(x.layer), {})
            if x.layer not in best or best[x.layer].share < x.share:
                best[x.layer] = x
    drawn: list[Candidate] = []
    for group, members in sorted(groups.items()):
        ranked = sorted(members.values(), key=lambda x: random.random() ** (1 / sqrt(x.share + 1e-12)), reverse=True)
        drawn += _spread(ranked, round(count * SHARES[group]))
    taken |= {x.layer for x in drawn}
    return [Item(x.layer, rectified=x.rectified, source=x.network) for x in drawn]


def budget_group(layer: Layer) -> str:
    """The group that a layer's budget comes from."""
    return COUNTED_WITH.get(layer.group, layer.group)


def _spread(ranked: Sequence[Candidate], count: int) -> list[Candidate]:
    """Take the first `count`, in turns over the sorts of a group (1x1, 3x3, depthwise, grouped, transposed convolutions)."""
    sorts: dict[str, list[Candidate]] = {}
    for x in ranked:
        sorts.setdefault(sort_of(x.layer), []).append(x)
    turns = [x for row in range(max(map(len, sorts.values()), default=0)) for s in sorts.values() for x in s[row : row + 1]]
    return turns[:count]


def sort_of(layer: Layer) -> str:
    """What a layer is within its group: kinds, and convolutions by kernel and grouping."""
    if layer.group != "conv" or "transpose" in layer.kind:
        return layer.kind
    weight, groups = layer.inputs[1].shape, layer.argument("groups", 1)
    if groups > 1:
        return "depthwise" if weight[1] == 1 else "grouped"
    return f"{layer.kind} {'x'.join(map(str, weight[2:]))}"


def stratify(layers: Sequence[Layer], count: int, roofline: Roofline) -> list[Layer]:
    """Choose `count` of `layers` in turns over cells of time decade and arithmetic intensity."""
    cells: dict[tuple[int, int], list[Layer]] = {}
    for x in layers:
        decade = floor(log10(roofline.time_s(x)))
        intensity = floor(log10(max(0.1, x.intensity_flop_per_byte)))
        cells.setdefault((decade, intensity), []).append(x)
    rows = max(map(len, cells.values()), default=0)
    turns = [x for row in range(rows) for _, cell in sorted(cells.items()) for x in cell[row : row + 1]]
    return turns[:count]


# --- layers like those that occur


def perturbed(layer: Layer, random: Random) -> Layer | None:
    """Return `layer` with one of its channel counts changed throughout, or None where that makes no valid call."""
    from .record import relayer

    sizes = sorted({n for x in layer.inputs for n in x.shape[1:] if n >= 8})
    if not sizes:
        return None
    old = random.choice(sizes)
    new = max(1, round(old * random.uniform(PERTURBED_LOW, PERTURBED_HIGH)))
    new = new if random.random() < ODD_FRAC else max(8, 8 * round(new / 8))
    if new == old:
        return None
    inputs = tuple(_resized(x, old, new) for x in layer.inputs)
    arguments = tuple((name, _renamed(value, old, new)) for name, value in layer.arguments)
    changed = relayer(replace(layer, inputs=inputs, arguments=arguments))
    return changed if changed is not None and changed != layer else None


def _resized(x: Operand, old: int, new: int) -> Operand:
    shape = tuple(new if n == old else n for n in x.shape)
    if shape == x.shape:
        return x
    if not x.channels_last:
        return replace(x, shape=shape, strides=None)
    strides, step = [0] * len(shape), 1
    for dimension in (1, *range(len(shape) - 1, 1, -1), 0):
        strides[dimension], step = step, step * shape[dimension]
    return replace(x, shape=shape, strides=tuple(strides))


def _renamed(value: Argument, old: int, new: int) -> Argument:
    if isinstance(value, tuple):
        return tuple(_renamed(x, old, new) for x in value)
    return new if value == old and not isinstance(value, bool) else value


# --- where a model is unsure


def most_uncertain(pool: Sequence[Candidate], count: int, interval_j: Mapping[Layer, float], taken: set[Layer]) -> list[Item]:
    """Return up to `count` layers where the model's interval, times the layer's share of energy, is largest."""
    fresh = {x.layer: x for x in sorted(pool, key=lambda x: x.share) if x.layer not in taken}
    missing = [x.kind for x in fresh if x not in interval_j]
    if missing:
        raise InputError(f"the model gave no interval for {len(missing)} layers, the first a {missing[0]}")
    ranked = sorted(fresh.values(), key=lambda x: interval_j[x.layer] * x.share, reverse=True)[:count]
    taken |= {x.layer for x in ranked}
    return [Item(x.layer, rectified=x.rectified, source=f"active:{x.network}") for x in ranked]
