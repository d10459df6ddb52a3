"""How often intervals order two measured networks, and how often wrongly: `python models/check_pairs.py [--shipped]`.

Networks of the H200 were measured whole, so pairs of them can be counted: those of one dtype, batch and mode, as `wattlayer
compare` ranks them, all pairs of one mode, per sample, and each network with itself at another batch, in another dtype or mode.
Two rules stand side by side: that the intervals of the two energies are apart, as `compare` asks for, and that the interval of
the difference (`whatif.difference`) does not reach zero.

The shipped model was trained on these networks and their layers. Without `--shipped`, models that know neither of the two, not
their layers nor a pass of theirs, are trained: one for each of a dozen groups of four networks, which hold every pair of one
dtype, batch and mode (a quarter of an hour on one core). A pair in several groups counts where it comes first.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from wattlayer.dataset import Measurement, read_measurements
from wattlayer.estimate import Estimate, estimate
from wattlayer.model import EnergyModel, load_model
from wattlayer.trace import Trace
from wattlayer.train.networks import traced_networks
from wattlayer.whatif import change

NAME = "h200-sxm"
ROWS = Path(__file__).parents[1] / "data" / NAME
SIZE = 4
"""Networks that one model does not know: more of them need fewer models, which know less."""
CLOSE = 1.5
"""Pairs are close that differ, as measured, by less than this factor."""

Passes = Sequence[tuple[Measurement, Trace]]
Priced = tuple[Measurement, Estimate]


@dataclass(frozen=True)
class Pair:
    """Two measured passes of one mode and what was said of them; energies are per sample."""

    key: frozenset[object]
    of_one_network: bool
    """At another batch, in another dtype or mode."""
    alike: bool
    """Of one dtype, TF32 mode and batch."""
    close: bool
    inside: bool
    """Whether the measured difference is in its interval."""
    right: bool
    apart: bool
    """Whether the intervals of the two energies do not overlap."""
    certain: bool


def main(arguments: list[str]) -> None:
    """Print one line for each selection of pairs."""
    if arguments not in ([], ["--shipped"]):
        sys.exit("usage: python models/check_pairs.py [--shipped]")
    rows = [m for path in sorted(ROWS.glob("*.jsonl")) for m in read_measurements(path)]
    networks = traced_networks(rows)
    if arguments:
        return told(pairs(networks, load_model(NAME)))
    found: dict[frozenset[object], Pair] = {}
    for group in groups(networks):
        own, known = ([x for x in networks if (x[0].network in group) is same] for same in (True, False))
        out = {layer.as_defined() for _, trace in own for layer in trace.unique()}
        layers = [m for m in rows if m.layer is not None and m.layer.as_defined() not in out]
        model = EnergyModel.train(layers, seed=0, hardware=NAME, networks=known)
        found = {x.key: x for x in pairs(own, model)} | found
        print(f"without {', '.join(group)}", file=sys.stderr, flush=True)
    told(found.values())


def groups(networks: Passes) -> Iterator[tuple[str, ...]]:
    """Yield networks by name until every two that were measured alike were in one, each time those with the most new pairs."""
    names = sorted({str(m.network) for m, _ in networks})
    rivals = [
        (sorted((str(m.network), str(n.network))), setting(m, t) == setting(n, u)) for (m, t), (n, u) in combinations(networks, 2)
    ]
    open_pairs = [tuple(x) for x, alike in rivals if alike and x[0] != x[1]]
    while open_pairs:
        group = max(combinations(names, SIZE), key=lambda g: sum(x in g and y in g for x, y in open_pairs))
        open_pairs = [(x, y) for x, y in open_pairs if not (x in group and y in group)]
        yield group


def setting(m: Measurement, trace: Trace) -> tuple[object, ...]:
    return m.dtype, m.tf32, trace.batch, m.mode


def pairs(networks: Passes, model: EnergyModel) -> list[Pair]:
    """Judge all pairs of two networks in one mode, and of one network in two settings."""
    known = model.metadata.runs
    priced = [(m, estimate(trace, model, m.mode, run=m.run if m.run in known else None)) for m, trace in networks]
    rivals = ((x, y) for x, y in combinations(priced, 2) if x[0].mode == y[0].mode or x[0].network == y[0].network)
    return [judged(*x) for x in rivals]


def judged(one: Priced, other: Priced) -> Pair:
    (m, before), (n, after) = one, other
    own = m.network == n.network
    difference, settings = change(before, after, of_one_network=own), [setting(x, e.trace) for x, e in (one, other)]
    was_j, is_j = (x.energy_j / e.trace.batch for x, e in (one, other))
    (low, high), (low_after, high_after) = ([x / e.trace.batch for x in e.interval_j] for e in (before, after))
    return Pair(
        frozenset((x.network, its) for x, its in zip((m, n), settings)), own, settings[0] == settings[1],
        max(was_j, is_j) < CLOSE * min(was_j, is_j), difference.interval_j[0] <= is_j - was_j <= difference.interval_j[1],
        (is_j > was_j) == (difference.change_j > 0), high < low_after or high_after < low, difference.certain,
    )  # fmt: skip


def told(found: Collection[Pair]) -> None:
    every, own = ([x for x in found if x.of_one_network is one] for one in (False, True))
    chosen = {"one dtype, batch and mode": [x for x in every if x.alike], "one mode, per sample": every}
    chosen |= {f"{title}, within a factor of {CLOSE}": [x for x in of if x.close] for title, of in chosen.items()}
    chosen["one network, another batch, dtype or mode"] = own
    for title, of in chosen.items():
        apart, certain = [x for x in of if x.apart], [x for x in of if x.certain]
        print(
            f"{title}: {len(of)} pairs, {sum(x.inside for x in of)} differences in their intervals; "
            f"intervals apart: {len(apart)}, {sum(not x.right for x in apart)} of them wrongly; "
            f"difference certain: {len(certain)}, {sum(not x.right for x in certain)} of them wrongly; "
            f"both: {sum(x.certain for x in apart)}"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
