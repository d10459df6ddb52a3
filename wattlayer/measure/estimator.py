"""Mean power from the instants at which an energy counter steps, with its 95 % interval.

A counter that publishes about every 100 ms is exact at its steps and stale between them: mean power is the difference in
energy over the difference in time between two steps that both lie inside the steady load.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from statistics import median, variance

Z95 = 1.959964
"""Two-sided 95 % quantile of the normal distribution."""
FLOOR_FRAC = 0.002
"""Noise of one step that is always allowed for: less was never seen of a board meter."""
OUTLIER_SDS = 5.0
"""Steps further from the median than this many standard deviations are flagged: one in 10⁶ by chance."""
DRIFT_LIMIT_FRAC = 0.02
"""Halves of a window that differ by less are called steady: the precision aimed at."""
DRIFT_SDS = 3.0


@dataclass(frozen=True)
class Edge:
    """One step of a counter: about when it happened and what the counter read after it."""

    at_s: float
    energy_j: float
    uncertainty_s: float
    """The step lies within this long a stretch around `at_s`."""


@dataclass(frozen=True)
class Noise:
    """What is known of a meter before a layer is measured: pooled over the reference layer's steps."""

    sd_frac: float = 0.006
    """Relative standard deviation of one step's power."""
    weight: int = 8
    """Degrees of freedom that it counts for."""
    quantum_j: float = 0.001
    refresh_s: float = 0.1


@dataclass(frozen=True)
class Power:
    """Mean power over whole counter steps."""

    power_w: float
    interval_frac: float
    """Half the width of the 95 % interval, relative."""
    step_powers_w: tuple[float, ...]
    window_s: float
    own_variance: float
    """Relative variance of one step in this window, less what timing and quantum explain."""
    flags: tuple[str, ...]


def mean_power(edges: Sequence[Edge], noise: Noise) -> Power:
    """Return the mean power between the first and the last of at least two `edges`.

    The interval is Student's, from the window's own step noise shrunk towards `noise`, plus what the uncertain instants
    of the two outer edges (uniform: u²/12 each) and the counter's quantum (q²/12 each) add.
    """
    window_s = edges[-1].at_s - edges[0].at_s
    energy_j = edges[-1].energy_j - edges[0].energy_j
    power_w = energy_j / window_s
    steps_w = tuple((b.energy_j - a.energy_j) / (b.at_s - a.at_s) for a, b in pairwise(edges))
    reading = _reading_variance(edges, noise, window_s, energy_j)
    count = len(steps_w)
    per_step = reading * count * count
    own = max(0.0, variance(steps_w) / power_w**2 - per_step) if count > 1 and power_w > 0 else 0.0
    degrees = noise.weight + count - 1
    pooled = max((noise.weight * noise.sd_frac**2 + (count - 1) * own) / degrees, FLOOR_FRAC**2)
    interval = student95(degrees) * sqrt(pooled / count + reading)
    flags = _flags(steps_w, sqrt(noise.sd_frac**2 + per_step), interval)
    return Power(power_w, interval, steps_w, window_s, own, flags)


def _reading_variance(edges: Sequence[Edge], noise: Noise, window_s: float, energy_j: float) -> float:
    """Relative variance of the mean power from when and how coarsely the two outer edges were read."""
    timing = (edges[0].uncertainty_s ** 2 + edges[-1].uncertainty_s ** 2) / 12 / window_s**2
    quantum = noise.quantum_j**2 / 6 / energy_j**2 if energy_j > 0 else 0.0
    return timing + quantum


def _flags(steps_w: Sequence[float], step_sd: float, interval_frac: float) -> tuple[str, ...]:
    middle_w = median(steps_w)
    flags = []
    if max(abs(x - middle_w) for x in steps_w) > OUTLIER_SDS * max(step_sd, FLOOR_FRAC) * abs(middle_w):
        flags.append("outlier_step")
    half = len(steps_w) // 2
    if half:
        drift = (sum(steps_w[-half:]) - sum(steps_w[:half])) / half / abs(middle_w or 1.0)
        if abs(drift) > max(DRIFT_LIMIT_FRAC, DRIFT_SDS * step_sd * sqrt(2 / half), interval_frac):
            flags.append("not_stationary")
    return tuple(flags)


def student95(degrees: int) -> float:
    """Two-sided 95 % quantile of Student's t, within 0.3 % from 4 degrees of freedom on.

    The expansion in 1/degrees of Abramowitz and Stegun 26.7.5: a machine that only measures may lack scipy.
    """
    z, v = Z95, float(max(1, degrees))
    g1 = (z**3 + z) / 4
    g2 = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    g3 = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + g1 / v + g2 / v**2 + g3 / v**3
