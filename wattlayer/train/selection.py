"""Which layers to measure when there is time for few: those that tell a calibration most about all the others.

Log times are taken for a Gaussian process: shifts of the scaffold's rates, as a calibration reckons with them, plus what no
shift can say, which like layers (one kind, near in shape) have in common. What measuring one layer takes off the variance of
all predictions is then known before it is done (Bayesian I-optimal design; Chaloner and Verdinelli, Statistical Science 1995;
Krause et al., JMLR 2008, for the Gaussian process). Layers are picked one after the other by what they take off.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..features.columns import Array, Columns
from ..hardware import Hardware
from ..layer import Layer
from ..model.scaffold import Scaffold
from ..model.support import positions
from .calibration import NOISE_SD, rate_design

MISFIT_SD = 0.25
"""How far (standard deviation in log time) like layers are expected to lie off the scaffold together: its scatter on A30 and
RTX 2080 Ti, fitted to all rows, is 0.2 to 0.3. Without it the picks are all extremes, which tell little of the middle."""
ALIKE_OCTAVES = 4.0
"""Over how many octaves of shape that is shared."""


def most_informative(layers: Sequence[Layer], count: int, scaffold: Scaffold, device: Hardware) -> list[int]:
    """Return the indices of the `count` of `layers` to measure on `device`, the most telling first.

    Any first part of the answer is the answer for fewer; all indices where there are no more layers than `count`.
    """
    columns = Columns(layers, device)
    design, sd = rate_design(scaffold.log_rates, columns)
    covariance = (design * sd**2) @ design.T + MISFIT_SD**2 * alike(columns)
    chosen: list[int] = []
    while len(chosen) < min(count, len(layers)):
        seen = NOISE_SD**2 + np.diag(covariance)
        gain = (covariance**2).sum(axis=0) / seen
        gain[chosen] = -1.0
        best = int(np.argmax(gain))
        chosen.append(best)
        covariance -= np.outer(covariance[best], covariance[best]) / seen[best]
    return chosen


def alike(columns: Columns) -> Array:
    """Return how much of the misfit layers share, [n_layers, n_layers]: 1 with themselves, 0 between kinds."""
    points, kinds = positions(columns), columns.of_kind(lambda x: x.kind)
    squared = (points**2).sum(axis=1)
    distance = squared[:, None] + squared - 2.0 * points @ points.T
    shared: Array = np.exp(-0.5 * np.maximum(distance, 0.0) / ALIKE_OCTAVES**2) * (kinds[:, None] == kinds)
    return shared
