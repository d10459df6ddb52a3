"""Where FLOP misleads: the share of the FLOP against the share of the energy, by kind and by family of layers."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from ..estimate import GAPS, Estimate
from ..features.columns import Array

_NUMBER = re.compile(r"(?<![^._])\d+(?![^.])")
"""A place in a sequence: `blocks.3`, `encoder_layer_3`; not the 3 of `conv3`, which tells layers of one block apart."""


@dataclass(frozen=True)
class Family:
    """Layers that belong together, with their shares of the whole network."""

    name: str
    kind: str
    calls: int
    energy_j: float
    energy_frac: float
    flop_frac: float

    @property
    def gap_frac(self) -> float:
        """Energy share less FLOP share: positive where counting FLOP makes it look cheaper than it is."""
        return self.energy_frac - self.flop_frac


def by_kind(estimate: Estimate) -> list[Family]:
    """Return the kinds of layers and, in eager mode, the gaps between launches, the costliest first."""
    return _families(estimate, [layer.kind for layer in estimate.trace.layers])


def by_pattern(estimate: Estimate) -> list[Family]:
    """Return layers of one kind whose paths differ in numbers only (`layer1.*.conv2`), the most misjudged by FLOP first."""
    names = [_NUMBER.sub("*", path) or "(top level)" for path in estimate.trace.paths]
    return sorted(_families(estimate, names), key=lambda x: -abs(x.gap_frac))


def with_rest(families: list[Family], least_frac: float = 0.001) -> list[Family]:
    """Return the families with at least `least_frac` of the energy or of the FLOP, and all others as one at the end."""
    large = [x for x in families if max(x.energy_frac, x.flop_frac) >= least_frac]
    rest = [x for x in families if x not in large]
    if len(rest) < 2:
        return families
    name = f"{len(rest)} other kinds"
    energy_j, energy_frac, flop_frac = (float(sum(getattr(x, f) for x in rest)) for f in ("energy_j", "energy_frac", "flop_frac"))
    return [*large, Family(name, name, sum(x.calls for x in rest), energy_j, energy_frac, flop_frac)]


def misplaced_frac(estimate: Estimate) -> float:
    """Return which share of the energy a FLOP count would put in the wrong layers, 0 to 1.

    Half the sum over layers of |energy share - FLOP share|: the total variation distance of the two distributions.
    """
    energy, flop = _shares(estimate)
    return float(np.abs(energy - flop).sum() + estimate.gap_energy_j / max(estimate.energy_j, 1e-300)) / 2


def _shares(e: Estimate) -> tuple[Array, Array]:
    flop = np.array([float(layer.flop) for layer in e.trace.layers])
    return e.layer_energy_j / max(e.energy_j, 1e-300), flop / max(float(flop.sum()), 1.0)


def _families(e: Estimate, names: list[str]) -> list[Family]:
    energy, flop = _shares(e)
    members: dict[tuple[str, str], list[int]] = {}
    for i, name in enumerate(names):
        members.setdefault((name, e.trace.layers[i].kind), []).append(i)
    found = [
        Family(name, kind, len(at), float(e.layer_energy_j[at].sum()), float(energy[at].sum()), float(flop[at].sum()))
        for (name, kind), at in members.items()
    ]
    if e.gap_energy_j:
        found.append(Family(GAPS, GAPS, 0, e.gap_energy_j, e.gap_energy_j / e.energy_j, 0.0))
    return sorted(found, key=lambda x: -x.energy_j)
