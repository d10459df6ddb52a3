"""Fitting what measured devices teach together: one law of rates and of watts under them all.

Each device counts alike in each cell of layers. What is its own state is told apart from the law: how long its host takes to
launch, and how much more or less than the law each of its campaigns draws. The next device gets the law alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..features.columns import Array, Columns
from ..hardware import find_hardware
from ..model.cells import cells, groups
from ..model.power import CONSUMERS, START_FRAC, busy_frac, softmin
from ..model.roofline import RATES, START, Terms, terms
from ..model.scaffold import ALL_SD, Prior, Scaffold, fit_levels, fit_rates, per_layer
from .rows import Rows
from .transfer import Lesson, launch_floor

NOISE_SD = 0.14
"""Scatter of log power around the law; larger errors count less (pseudo-Huber)."""
CAMPAIGN_SD = 0.3
"""How far (standard deviation in log power) a campaign is expected to draw off the law."""
CONSUMER_SD = 2.0
"""How far (standard deviation in log watts) a consumer is expected to lie off where fitting starts: next to nothing is known."""
LAYERS_PER_DEVICE = 300.0
"""As how many independent layers each device counts in the law of watts."""
IDLE_FRAC = 0.25
"""Where fitting starts: a board that is hot and waits draws this share of its limit."""
CAP_QUANTILE = 0.999
"""Power that a device holds to, as observed: above it are single slips of the meter."""


@dataclass(frozen=True)
class Sample:
    """Measured layers of one device, with what fitting needs of them."""

    columns: Columns
    rows: Rows
    looped: bool = True
    """Whether a host issued each kernel, in loops in eager mode, and not a graph."""

    @staticmethod
    def of(hardware: str, rows: Rows, looped: bool = True) -> Sample:
        """Return the sample of `rows`, measured on `hardware`."""
        return Sample(Columns(rows.layers, find_hardware(hardware)), rows, looped)

    @property
    def launch_s(self) -> float | None:
        """The launch floor that these layers should show: of graphs, or None for that of loops."""
        return None if self.looped else launch_floor(self.columns.hardware)

    @property
    def weight(self) -> Array:
        """Weights [n_rows] that let each distinct layer count once."""
        return per_layer(self.rows.layers)

    def own_host(self) -> float:
        """Return the log rate of the host that this device's layers have in common."""
        prior = Prior(START, ALL_SD)
        return float(fit_rates(prior, terms(self.columns), np.log(self.rows.time_s), self.weight)[RATES.index("host")])


def learn(samples: Sequence[Sample]) -> Lesson:
    """Return the law under `samples`, one of each device."""
    rates = Scaffold({name: tuple(float(x) for x in row) for name, row in _rates(samples).items()})
    return Lesson(
        tuple(x.columns.hardware.name for x in samples),
        rates.taught({}).log_rates,  # what none of them measured takes the middle of what they did
        tuple(float(x) for x in _consumers_frac(samples)),
    )


def _rates(samples: Sequence[Sample]) -> Mapping[str, Array]:
    """Fit all layers first, then each group from them, then each cell from its group, as one scaffold does."""
    device = np.repeat(np.arange(len(samples)), [len(x.weight) for x in samples])
    target, weight = (np.concatenate(x) for x in ([np.log(x.rows.time_s) for x in samples], [x.weight for x in samples]))
    of_group, of_cell = (np.concatenate([names(x.columns) for x in samples]) for names in (groups, cells))
    return fit_levels(_terms(samples), of_group, of_cell, target, lambda chosen: balanced(weight[chosen], device[chosen]))


def _terms(samples: Sequence[Sample]) -> Terms:
    """Bounds of all rows; issuing a kernel is relative to what each device's host takes, about the middle of those that loop."""
    host, parts = np.array([x.own_host() for x in samples]), [terms(x.columns) for x in samples]
    looped = np.array([x.looped for x in samples])
    slower = np.exp(host - (host[looped] if looped.any() else host).mean())
    return Terms.join([replace(x, host_s=x.host_s * own) for x, own in zip(parts, slower)])


def balanced(weight: Array, device: NDArray[np.int64]) -> Array:
    """Return weights [n] scaled so that the devices [n] share their sum equally."""
    sums = np.bincount(device, weight)
    scaled: Array = weight / sums[device] * weight.sum() / np.count_nonzero(sums)
    return scaled


def _consumers_frac(samples: Sequence[Sample]) -> Array:
    """Shares of the limit that each consumer draws at full use; campaigns' own factors are fitted beside and left behind."""
    from scipy.optimize import least_squares

    start = np.log(np.concatenate([[IDLE_FRAC], START_FRAC]))
    parts, campaigns = [], 0
    for sample in samples:
        rows, device = sample.rows, sample.columns.hardware
        names = list(dict.fromkeys(rows.runs))
        campaign = campaigns + np.array([names.index(run) for run in rows.runs])
        use_w = busy_frac(sample.columns, rows.time_s) * device.max_w
        cap_w = float(np.quantile(rows.power_w, CAP_QUANTILE))
        parts.append((use_w, rows.power_w, cap_w, campaign, sample.weight * LAYERS_PER_DEVICE / sample.weight.sum()))
        campaigns += len(names)

    def residuals(x: Array) -> Array:
        share, own = np.split(x, [len(CONSUMERS)])
        errors = [(share - start) / CONSUMER_SD, own / CAMPAIGN_SD]
        for use_w, power_w, cap_w, campaign, weight in parts:
            error = np.log(softmin(use_w @ np.exp(share) * np.exp(own[campaign]), cap_w) / power_w) / NOISE_SD
            errors.append(np.sign(error) * np.sqrt(2 * weight * (np.sqrt(1 + error**2) - 1)))
        return np.concatenate(errors)

    found: Array = least_squares(residuals, np.concatenate([start, np.zeros(campaigns)]), max_nfev=200).x
    return np.exp(found[: len(CONSUMERS)])
