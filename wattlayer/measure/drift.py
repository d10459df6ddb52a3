"""Drift of the board, seen by a reference layer that is measured again and again, taken out of every other row.

What drifts with temperature is the leakage, which adds the same watts to every layer: so watts are subtracted, and not a
factor divided out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt
from statistics import median

import numpy as np

from ..dataset import Measurement
from ..errors import InputError

REFERENCE_SOURCE = "reference"


def correct_drift(rows: Sequence[Measurement]) -> list[Measurement]:
    """Return `rows` with `energy_corrected_j` as it would be at the reference layer's median power.

    Between two turns of the reference its power is interpolated in time; before the first and after the last it is held,
    and nothing is interpolated from one run to the next. Without reference rows nothing is corrected. Raises InputError
    for rows of several devices, which have no drift in common.
    """
    if len({row.hardware for row in rows}) > 1:
        raise InputError(f"drift is one board's: {', '.join(sorted({row.hardware for row in rows}))} cannot be joined")
    references = [row for row in rows if row.source == REFERENCE_SOURCE and row.measured_at_s is not None]
    if not references:
        return list(rows)
    level_w = median(row.power_w for row in references)
    by_run: dict[str, list[Measurement]] = {}
    for row in references:
        by_run.setdefault(row.run, []).append(row)
    return [_corrected(row, by_run.get(row.run, []), level_w) for row in rows]


def _corrected(row: Measurement, references: Sequence[Measurement], level_w: float) -> Measurement:
    if not references or row.measured_at_s is None:
        return row
    turns = sorted((x.measured_at_s or 0.0, x.power_w) for x in references)
    drift_w = float(np.interp(row.measured_at_s, [t for t, _ in turns], [w for _, w in turns])) - level_w
    return replace(row, energy_corrected_j=row.energy_j - drift_w * row.time_s)


@dataclass(frozen=True)
class Repeatability:
    """Spread between a row and its hidden repeat."""

    pairs: int
    sd_frac: float
    """Standard deviation of one measurement, from the pairs' differences: sqrt(mean(d²) / 2)."""
    median_frac: float
    """Median of |d|."""


def repeatability(rows: Sequence[Measurement]) -> Repeatability | None:
    """Compare rows with their hidden repeats, both without flags; None where there is no such pair."""

    def energy_j(row: Measurement) -> float:
        return row.energy_corrected_j or row.energy_j

    first = {row.key: row for row in rows if not row.flags}
    pairs = [(row, first[row.duplicate_of]) for row in rows if not row.flags and row.duplicate_of in first]
    if not pairs:
        return None
    differences = [2 * (energy_j(a) - energy_j(b)) / (energy_j(a) + energy_j(b)) for a, b in pairs]
    sd_frac = sqrt(sum(d * d for d in differences) / len(differences) / 2)
    return Repeatability(len(pairs), sd_frac, median(abs(d) for d in differences))
