"""Drift of the board, seen by a reference layer that is measured again and again, taken out of every other row.

What drifts with temperature is the leakage, which adds the same watts to every layer: so watts are subtracted, and not a
factor divided out. A turn of the reference has an interval of its own, and what lies within that is no drift: taken out of
rows that draw a third of the reference's power, it would be their noise three times over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt
from statistics import median

import numpy as np
from numpy.typing import NDArray

from ..dataset import REFERENCE, Measurement
from ..errors import InputError

LEAST_SHIFT_FRAC = 0.01
"""Of the reference's power: sessions that part by less are as alike as repeats within one (0.9 % on the H200)."""


def correct_drift(rows: Sequence[Measurement]) -> list[Measurement]:
    """Return `rows` with `energy_corrected_j` as it would be at the reference layer's median power.

    The reference's power is smoothed by as much as its turns are unsure (a random walk seen with noise: Kalman, 1960), and
    interpolated in time between them; before the first and after the last it is held, and nothing is interpolated from one run
    to the next. Flagged turns tell nothing. Without reference rows, or where these move from turn to turn by no more than their
    own intervals say and no session lies `LEAST_SHIFT_FRAC` off, nothing is corrected, and no row that would be left without
    energy. Raises InputError for rows of several devices, which have no drift in common.
    """
    if len({row.hardware for row in rows}) > 1:
        raise InputError(f"drift is one board's: {', '.join(sorted({row.hardware for row in rows}))} cannot be joined")
    rows = [row if row.energy_corrected_j is None else replace(row, energy_corrected_j=None) for row in rows]
    by_run: dict[str, list[Measurement]] = {}
    for row in rows:
        if row.source == REFERENCE and row.measured_at_s is not None and not row.flags:
            by_run.setdefault(row.run, []).append(row)
    turns = {run: _Turns.of(own) for run, own in by_run.items()}
    passed_s = sum(float(x.passed_s.sum()) for x in turns.values())
    # what turns move beyond their noise, per second
    walk = sum(float(np.sum(np.diff(x.power_w) ** 2 - x.variance[1:] - x.variance[:-1])) for x in turns.values())
    if not turns:
        return rows
    level_w = median(row.power_w for own in by_run.values() for row in own)
    drifts = walk > 0.0 and passed_s > 0.0
    smoothed = {run: x.smoothed_w(walk / passed_s if drifts else 0.0) for run, x in turns.items()}
    if not drifts and max(abs(float(x.mean()) - level_w) for x in smoothed.values()) < LEAST_SHIFT_FRAC * level_w:
        return rows
    drift_w = {run: (turns[run].at_s, x - level_w) for run, x in smoothed.items()}
    return [_corrected(row, drift_w.get(row.run)) for row in rows]


@dataclass(frozen=True)
class _Turns:
    """A run's turns of the reference in order of time, arrays [n_turns]; variances in W²."""

    at_s: NDArray[np.float64]
    power_w: NDArray[np.float64]
    variance: NDArray[np.float64]

    @staticmethod
    def of(rows: Sequence[Measurement]) -> _Turns:
        told = sorted((row.measured_at_s or 0.0, row.power_w, row.interval_frac or 0.0) for row in rows)
        at_s, power_w, half = (np.array(x, dtype=np.float64) for x in zip(*told))
        return _Turns(at_s, power_w, (half * power_w / _SDS) ** 2)

    @property
    def passed_s(self) -> NDArray[np.float64]:
        passed_s: NDArray[np.float64] = np.diff(self.at_s)
        return passed_s

    def smoothed_w(self, walk: float) -> NDArray[np.float64]:
        """Return the power at each turn where it moves by the variance `walk` (W²/s) and is seen with the turns' own."""
        seen = 1.0 / np.maximum(self.variance, 1e-9 * self.power_w**2)
        moved = 1.0 / np.maximum(walk * self.passed_s, 1e-12 * self.power_w[1:] ** 2)
        precision = np.diag(seen)
        for i, x in enumerate(moved):
            precision[i : i + 2, i : i + 2] += x * np.array([[1.0, -1.0], [-1.0, 1.0]])
        return np.asarray(np.linalg.solve(precision, seen * self.power_w), dtype=np.float64)


_SDS = 1.96
"""Standard deviations in half a 95 % interval."""


def _corrected(row: Measurement, drift_w: tuple[NDArray[np.float64], NDArray[np.float64]] | None) -> Measurement:
    if drift_w is None or row.measured_at_s is None:
        return row
    energy_j = row.energy_j - float(np.interp(row.measured_at_s, *drift_w)) * row.time_s
    return replace(row, energy_corrected_j=energy_j) if energy_j > 0 else row


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
    first = {row.key: row for row in rows if not row.flags}
    pairs = [(row, first[row.duplicate_of]) for row in rows if not row.flags and row.duplicate_of in first]
    if not pairs:
        return None
    differences = [2 * (a.settled_j - b.settled_j) / (a.settled_j + b.settled_j) for a, b in pairs]
    sd_frac = sqrt(sum(d * d for d in differences) / len(differences) / 2)
    return Repeatability(len(pairs), sd_frac, median(abs(d) for d in differences))
