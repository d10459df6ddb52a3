"""How sure a figure of errors is itself: bounds of the figure of all layers, or networks, like those that were judged.

Rows of one layer err alike, so the layers count and not the rows. What a model trained on other rows would answer is not in it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..features.columns import Array

CONFIDENCE = 0.95
"""Share of samples whose bounds hold the figure of all that they were drawn from."""
MIN_CLUSTERS = 6
"""The least and the greatest of five hold the median of what they were drawn from in 1 − 2/2⁵ = 94 % of cases, of six in 97 %."""

Bounds = tuple[float, float]


def of_share(hit: NDArray[np.bool_] | Array, cluster: NDArray[np.int64]) -> Bounds | None:
    """Return the bounds of the share of rows [n] that `hit`, where rows of one `cluster` [n] are alike; None of few clusters.

    Clopper and Pearson's interval for an `_effective` number of rows.
    """
    from scipy.stats import beta

    if len(np.unique(cluster)) < MIN_CLUSTERS:
        return None
    share, effective, tail = float(np.mean(hit)), _effective(hit, cluster), (1 - CONFIDENCE) / 2
    x = share * effective
    low = float(beta.ppf(tail, x, effective - x + 1)) if share > 0 else 0.0
    high = float(beta.ppf(1 - tail, x + 1, effective - x)) if share < 1 else 1.0
    return low, high


def of_median(value: Array, cluster: NDArray[np.int64]) -> Bounds | None:
    """Return the bounds of the median of `value` [n], in its unit; None of few clusters.

    The values between which the median of as many independent rows lies as are effective for the share below it (Woodruff,
    J. Am. Stat. Assoc. 47, 1952), by the ranks of the binomial.
    """
    from scipy.stats import binom

    if len(np.unique(cluster)) < MIN_CLUSTERS:
        return None
    median = np.median(value)
    effective = int(_effective((value < median) + 0.5 * (value == median), cluster) + 1e-6)  # what rounding takes off an integer
    if not (rank := int(binom.ppf((1 - CONFIDENCE) / 2, effective, 0.5))):
        return None
    shares = (np.array([rank, effective + 1 - rank]) - 0.5) / effective  # in the middle of a rank's step
    low, high = np.quantile(value, shares, method="inverted_cdf")
    return float(low), float(high)


def _effective(hit: NDArray[np.bool_] | Array, cluster: NDArray[np.int64]) -> float:
    """Return how many independent rows tell as much of the mean of `hit` [n] as these do, in clusters.

    As many as would make the mean scatter as much as the clusters do (Korn and Graubard, Survey Methodology 24, 1998). Instead of
    their factor of degrees of freedom it is at most what it would be if rows of a cluster were one and the same (Kish 1965).
    """
    n, sizes = len(hit), np.unique(cluster, return_counts=True)[1]
    most = n**2 / float(np.sum(sizes**2))
    off = np.bincount(cluster, weights=hit - np.mean(hit))
    variance = len(sizes) / (len(sizes) - 1) * float(np.sum(off**2)) / n**2
    return min(n / (n - 1) * float(np.var(hit)) / variance, most) if variance > 0 else most
