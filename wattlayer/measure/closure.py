"""Whole networks: the sum of isolated layers over the measured network (closure), and what the gaps of eager mode take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..dataset import Measurement
from ..dataset.labels import idled
from .plan import NetworkPlan
from .rig import Item, NetworkCall

CLOSURE_LOW, CLOSURE_HIGH = 0.9, 1.1
"""Outside, the difference is looked into: launch gaps x hot idle, cache regime, capping, data, in this order."""
COVERED_ENOUGH_FRAC = 0.9


@dataclass(frozen=True)
class Closure:
    """One network measured whole, against its layers measured alone."""

    call: NetworkCall
    layers_j: float
    """Sum of calls x energy over the layers that were measured."""
    network_j: float
    covered_frac: float
    """Share of the network's estimated energy whose layers were measured."""
    gap_s: float | None = None
    """Time of eager mode beyond graph mode; None where one of the two was not measured."""
    gap_j: float | None = None

    @property
    def ratio(self) -> float:
        """Layers over network, the layers that are missing filled in by their share."""
        return self.layers_j / self.covered_frac / self.network_j

    def __str__(self) -> str:
        odd = "" if CLOSURE_LOW <= self.ratio <= CLOSURE_HIGH else " (look into it)"
        gap = ""
        if self.gap_s and self.gap_j is not None:
            gap = f", eager adds {1e3 * self.gap_s:.3g} ms at {self.gap_j / self.gap_s:.0f} W"
        what = f"{self.call.name} x{self.call.batch} {self.call.dtype}"
        return f"closure {what}: {self.ratio:.3f}{odd}, {100 * self.covered_frac:.0f} % of its energy covered{gap}"


def closures(networks: Sequence[NetworkPlan], rows: Sequence[Measurement]) -> tuple[Closure, ...]:
    """Return the closure of every network that was measured in graph mode with enough of its layers, without rows of graphs that
    the device waited for."""
    best: dict[str | None, Measurement] = {
        row.key: row for row in sorted(rows, key=lambda row: (row.attempt, -len(row.flags))) if row.key and not idled(row)
    }
    found = (_closure(network, best) for network in networks)
    return tuple(x for x in found if x is not None)


def _closure(network: NetworkPlan, rows: Mapping[str | None, Measurement]) -> Closure | None:
    graph, eager = (_row(rows, Item(network=network.call, mode=mode).digest, mode) for mode in ("graph", "eager"))
    whole = graph or eager
    if whole is None:
        return None
    layers_j = covered = 0.0
    for digest, (calls, share) in network.layers.items():
        row = _row(rows, digest, whole.mode)
        if row is not None:
            layers_j += calls * row.settled_j
            covered += share
    if covered < COVERED_ENOUGH_FRAC:
        return None
    gap_s, gap_j = (eager.time_s - graph.time_s, eager.settled_j - graph.settled_j) if graph and eager else (None, None)
    return Closure(network.call, layers_j, whole.settled_j, covered, gap_s, gap_j)


def _row(rows: Mapping[str | None, Measurement], digest: str, mode: str) -> Measurement | None:
    """The layer or network in this mode: diluted where it ran into the power limit alone, else with cold weights."""
    return rows.get(f"{digest}-{mode}-diluted") or rows.get(f"{digest}-{mode}-cold")
