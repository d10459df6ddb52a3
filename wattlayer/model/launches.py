"""From layers to a pass: what the host takes to issue operators, and what layers cost more among others than alone.

In eager mode the host runs ahead of the device or the device waits for the host: a pass takes about as long as the slower of
both, `(device^p + host^p)^(1/p)`, and the device burns its idle power while it waits. In a graph nobody waits, but a layer whose
data fit into the cache finds them there only when it is repeated alone: among others, which displace them, it costs more.

Where whole networks were measured all this is fitted to them; elsewhere the host is that of measured boards (`train.transfer`) or
assumed, and layers cost what they do alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

import numpy as np

from ..features.columns import Array
from ..layer import Layer
from .intervals import conformal_quantile, effective_count

ASSUMED_HOST_S = 7.5e-6
"""In which a host issues one operator in eager mode: the middle of the 5 to 10 us that PyTorch takes."""
SHARPNESS = 6.0
"""The exponent p above: passes that keep host and device equally busy take a tenth longer than either. Chosen among 4, 6 and 10
on networks of an H200 (docs/method.md)."""
BOUND = 1.5
"""An eager pass this many times as long as its kernels is one whose length the host decides."""
OTHER_SPREAD_FRAC = 2.0
"""How much slower, at least, another board's host may be: the RTX 2080 Ti's was three times as slow as three others told."""
ASSUMED_SPREAD_FRAC = 1 / 3
"""How far the assumed 7.5 us may be off: hosts take 5 to 10."""
BASES = {
    "measured": "fitted to networks measured there", "carried over": "as slow as the hosts of measured boards",
    "assumed": "assuming 7.5 µs a launch",
}  # fmt: skip
"""What a host's times may rest on, and how tables say so."""
_NETWORK_SD, _KIND_SD = 0.05, 0.3
"""What a network's time is off by, and how far kinds part from what single operators told, as shares; the second is one of four
tried on the same networks."""
_LEAST_HOST_FRAC = 0.2
"""Networks do not make a kind's time on the host less than this share of what single operators told."""
ASSUMED_MODE_SPREAD_FRAC = 0.04
"""What the H200's networks told (4.0 %), where none was measured in both modes."""
MIN_NETWORKS = 3
"""With fewer networks launches stay assumed, however many of their passes were measured: these err alike."""
MOST = 1e4
"""No host takes hours to issue an operator, no device idles at so many watts."""


@dataclass(frozen=True)
class Launches:
    """What passes cost beside their kernels; times are of one call."""

    host_s: Mapping[str, float] = field(default_factory=lambda: {"*": ASSUMED_HOST_S})
    """In which the host issues an operator, by kind; of others under "*"."""
    displaced_time_frac: float = 0.0
    displaced_energy_frac: float = 0.0
    """By what share a layer whose data fit into the cache (`Columns.cached`) takes longer, and costs more, among others."""
    idle_w: float = 0.0
    """Power of the device while it waits for the host."""
    spread_frac: float = ASSUMED_SPREAD_FRAC
    """How much slower the host may be, nine times of ten, as a share of its time; and by the same factor faster."""
    sum_spread_frac: float = 0.0
    """Share of a network's layers together that their sum may be off by, beyond what each is; 0 where no network told."""
    basis: str = "assumed"
    """What the host's times rest on, one of `BASES`."""
    mode_spread_frac: float = ASSUMED_MODE_SPREAD_FRAC
    """By what share of the dearer one a pass in graph and one in eager mode may part beyond gaps, nine times of ten."""

    def __post_init__(self) -> None:
        told = [
            *self.host_s.values(), self.displaced_time_frac, self.displaced_energy_frac, self.idle_w, self.spread_frac,
            self.sum_spread_frac, self.mode_spread_frac,
        ]  # fmt: skip
        if "*" not in self.host_s or not all(0 <= x <= MOST for x in told):
            raise ValueError(
                f"launches are seconds, watts and shares, none of them below 0 or above {MOST:g}, and the host's under '*' too"
            )
        if self.basis not in BASES:
            raise ValueError(f"the basis {self.basis!r} is none of {', '.join(BASES)}")

    def elsewhere(self, idle_w: float) -> Launches:
        """Return what this tells of a board that idles at `idle_w` watts on a host that nobody measured."""
        unsure = max(self.spread_frac, OTHER_SPREAD_FRAC)
        return replace(self, idle_w=idle_w, spread_frac=unsure, basis="carried over" if self.basis == "measured" else self.basis)

    def hosted_as(self, other: Launches) -> Launches:
        """Return these launches on the host of `other`."""
        return replace(self, host_s=other.host_s, spread_frac=other.spread_frac, basis=other.basis)

    def issue_s(self, layers: Iterable[Layer]) -> float:
        """Seconds that the host takes to issue `layers`."""
        return sum(calls * self.host_s.get(kind, self.host_s["*"]) for kind, calls in Counter(x.kind for x in layers).items())

    def gap_interval_j(self, device_s: Array | float, issue_s: float) -> tuple[Array, Array]:
        """Return between what bounds lies what the device burns while it waits, both [n] in joules: host as fast, and as slow, as
        it may be.

        `device_s` [n] is each pass's seconds of kernels. What is off is the host's time, of which gaps are what is left.
        """
        factor = 1.0 + self.spread_frac
        low, high = (self.idle_w * wait_s(device_s, x) for x in (issue_s / factor, issue_s * factor))
        return low, high

    def interval_j(
        self, layers_j: float, half_width: float, gap_j: float, gap_interval_j: tuple[float, float]
    ) -> tuple[float, float]:
        """Return where a pass's energy lies, in joules: layers known within `half_width` in log, their sum within a share and
        gaps within `gap_interval_j`."""
        total_j, (fast_j, slow_j) = layers_j + gap_j, gap_interval_j
        width = np.hypot(half_width, np.log1p(self.sum_spread_frac))
        below, above = layers_j * -np.expm1(-width), layers_j * np.expm1(width)
        return float(total_j - np.hypot(below, gap_j - fast_j)), float(total_j + np.hypot(above, slow_j - gap_j))


def wait_s(device_s: Array | float, issue_s: float) -> Array:
    """Return how long a device waits in passes of `device_s` seconds of kernels that the host issues in `issue_s`."""
    device = np.maximum(device_s, 1e-12)
    return np.asarray(device * ((1.0 + (issue_s / device) ** SHARPNESS) ** (1.0 / SHARPNESS) - 1.0))


@dataclass(frozen=True)
class Pass:
    """A network measured whole, beside what its layers, and those of them that fit into the cache, sum to alone."""

    name: str
    mode: str
    layers: Sequence[Layer]
    time_s: float
    energy_j: float
    device_s: float
    device_j: float
    cached_s: float
    cached_j: float
    layers_spread_frac: float = 0.0
    """By what share the interval of the sum of its layers reaches above it."""


def fit_launches(passes: Sequence[Pass], operators: Mapping[str, float], idle_w: float) -> Launches:
    """Return what measured passes say; `operators` are the host's seconds by kind where single operators told them.

    Least absolute relative errors for what displaced data cost, a median for idle power, ridge regression for the host: kinds
    are drawn to what single operators took, times one factor for the modules around them. Too few networks leave what is assumed.
    """
    graph, eager = ([x for x in passes if x.mode == mode] for mode in ("graph", "eager"))
    longer = more = unsure = 0.0
    if _networks(graph) >= MIN_NETWORKS:
        longer = _displaced_frac([(x.time_s, x.device_s, x.cached_s) for x in graph])
        more = _displaced_frac([(x.energy_j, x.device_j, x.cached_j) for x in graph])
        unsure = _sum_spread_frac(graph)
    bound = [x for x in eager if x.time_s > BOUND * x.device_s]
    if _networks(bound) < MIN_NETWORKS:
        return Launches(displaced_time_frac=longer, displaced_energy_frac=more, idle_w=idle_w, sum_spread_frac=unsure)
    waited_s = np.array([x.time_s - x.device_s - longer * x.cached_s for x in bound])
    waited_j = np.array([x.energy_j - x.device_j - more * x.cached_j for x in bound])
    drawn_w = float(np.median(waited_j / np.maximum(waited_s, 1e-9)))
    names = sorted({x.name for x in bound})
    # what is told of a network is judged without it, as the next one will not have been there either
    late = [
        float(np.expm1(abs(np.log(Launches(host).issue_s(x.layers) / x.time_s))))
        for name in names if (others := [x for x in bound if x.name != name]) and (host := _host(others, operators))
        for x in bound if x.name == name
    ]  # fmt: skip
    spread = float(np.quantile(late, 0.9)) if late else ASSUMED_SPREAD_FRAC
    told = Launches(_host(bound, operators), longer, more, drawn_w if drawn_w > 0 else idle_w, spread, unsure, "measured")
    hosts = {name: _host([x for x in bound if x.name != name] or bound, operators) for name in {x.name for x in passes}}
    both = [(x, y) for x in graph for y in eager if x.name == y.name and x.layers == y.layers]
    if _networks(x for x, _ in both) < MIN_NETWORKS:
        return told
    apart = np.array([_beyond_gaps_frac(replace(told, host_s=hosts[x.name]), x, y) for x, y in both])
    return replace(told, mode_spread_frac=_quantile(apart, [x.name for x, _ in both]))


def _networks(passes: Iterable[Pass]) -> int:
    return len({x.name for x in passes})


def _beyond_gaps_frac(launches: Launches, graph: Pass, eager: Pass) -> float:
    """By what share of the dearer of two passes their difference is off, beyond what gaps are unsure of."""
    device_s = graph.device_s + launches.displaced_time_frac * graph.cached_s
    issue_s = launches.issue_s(graph.layers)
    gap_j = launches.idle_w * float(wait_s(device_s, issue_s))
    error = eager.energy_j - graph.energy_j - gap_j
    fast_j, slow_j = launches.gap_interval_j(device_s, issue_s)
    unsure = float(slow_j - gap_j if error > 0 else gap_j - fast_j)
    return float(np.sqrt(max(0.0, error**2 - unsure**2)) / max(graph.energy_j, eager.energy_j))


def _displaced_frac(sums: Sequence[tuple[float, float, float]]) -> float:
    """By what share the cached part of each (whole, parts, cached part) must grow for the least sum of absolute relative errors:
    a weighted median, 0 at least."""
    whole, parts, cached = np.array([x for x in sums if x[2] > 0]).reshape(-1, 3).T
    if not len(whole):
        return 0.0
    each, weight = (whole - parts) / cached, cached / whole
    order = np.argsort(each)
    share = np.cumsum(weight[order]) / weight.sum()
    return max(0.0, float(each[order][np.searchsorted(share, 0.5)]))


def _sum_spread_frac(graph: Sequence[Pass]) -> float:
    """How far sums of layers are off on networks left out by name, nine times of ten, beyond what their layers are unsure of."""
    off, names = [], {x.name for x in graph}
    more = {name: _displaced_frac([(x.energy_j, x.device_j, x.cached_j) for x in graph if x.name != name]) for name in names}
    for x in graph:
        error = abs(np.log(x.energy_j / (x.device_j + more[x.name] * x.cached_j)))
        off.append(np.sqrt(max(0.0, error**2 - np.log1p(x.layers_spread_frac) ** 2)))
    return float(np.expm1(_quantile(np.array(off), [x.name for x in graph])))


def _quantile(scores: Array, names: Sequence[str]) -> float:
    """The conformal quantile of passes' scores [n]: another network has about as many passes as one of these `names` [n]."""
    return conformal_quantile(scores, one_more=len(scores) / effective_count(np.array(names)))


def _host(bound: Sequence[Pass], operators: Mapping[str, float]) -> dict[str, float]:
    kinds = sorted({layer.kind for x in bound for layer in x.layers})
    group = {layer.kind: layer.group for x in bound for layer in x.layers}
    counted = [Counter(layer.kind for layer in x.layers) for x in bound]
    calls = np.array([[float(count[kind]) for kind in kinds] for count in counted])
    start_s = np.array([_alike_s(kind, group, operators) for kind in kinds])
    start_s *= np.median([x.time_s for x in bound] / (calls @ start_s))
    share = calls * start_s / np.array([[x.time_s] for x in bound])
    table = np.vstack([share / _NETWORK_SD, np.eye(len(kinds)) / _KIND_SD])
    factor = np.linalg.lstsq(table, np.concatenate([np.full(len(bound), 1 / _NETWORK_SD), np.full(len(kinds), 1 / _KIND_SD)]))[0]
    host_s = {kind: float(s) for kind, s in zip(kinds, start_s * np.maximum(_LEAST_HOST_FRAC, factor))}
    return {**host_s, "*": median(host_s.values())}


def _alike_s(kind: str, group: Mapping[str, str], operators: Mapping[str, float]) -> float:
    """What single operators tell of a kind: its own time, that of its group, that of all."""
    if kind in operators:
        return operators[kind]
    alike = [s for other, s in operators.items() if group.get(other) == group[kind]]
    return median(alike or operators.values() or [ASSUMED_HOST_S])
