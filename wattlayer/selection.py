"""Which layers to measure when there is time for few: those that tell a calibration most about all the others.

Calibrating is a ridge regression of log time on shifts of the scaffold's rates, so what a measurement of one layer takes off
the variance of all predictions is known before it is made (Bayesian I-optimal design; Chaloner and Verdinelli, Statistical
Science 1995). Layers are picked one after the other by what they take off.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .calibration import NOISE_SD, rate_design
from .features import Columns
from .hardware import Hardware
from .layer import Layer
from .scaffold import Scaffold


def most_informative(layers: Sequence[Layer], count: int, scaffold: Scaffold, device: Hardware) -> list[int]:
    """Return the indices of the `count` of `layers` to measure on `device`, the most telling first.

    Any first part of the answer is the answer for fewer; all indices where there are no more layers than `count`.
    """
    design, sd = rate_design(scaffold.log_rates, layers, Columns(layers, device))
    covariance = np.diag(sd**2)
    chosen: list[int] = []
    while len(chosen) < min(count, len(layers)):
        projected = design @ covariance
        shared = projected @ design.T
        seen = NOISE_SD**2 + np.diag(shared)
        gain = (shared**2).sum(axis=0) / seen
        gain[chosen] = -1.0
        best = int(np.argmax(gain))
        chosen.append(best)
        covariance -= np.outer(projected[best], projected[best]) / seen[best]
    return chosen
