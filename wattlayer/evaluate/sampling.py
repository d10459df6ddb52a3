"""How sure a figure of errors is itself: where it would lie with other layers, or networks, of the same sort.

Rows of one layer err alike, so the layers count and not the rows. What a model trained on other rows would answer is not in it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..features.columns import Array

CONFIDENCE = 0.95
"""Share of samples whose interval holds the figure of all that they were drawn from."""
MIN_CLUSTERS = 6
"""The least and the greatest of five hold the median of what they were drawn from in 1 − 2/2⁵ = 94 % of cases, of six in 97 %."""

Bounds = tuple[float, float]


def of_share(hit: Array, cluster: NDArray[np.int64]) -> Bounds | None:
    """Return the bounds of the mean of `hit` [n], of 0 to 1, where rows of one `cluster` [n] are alike; None of few clusters.

    Clopper and Pearson's interval for as many independent rows as would scatter as much as these clusters do (Korn and
    Graubard, Survey Methodology 24, 1998), and never for more rows than there are clusters.
    """
    from scipy.stats import beta

    n, clusters = len(hit), len(np.unique(cluster))
    if clusters < MIN_CLUSTERS:
        return None
    share, alone = float(np.mean(hit)), float(np.var(hit)) / (n - 1)
    variance = clusters / (clusters - 1) * float(np.sum(np.bincount(cluster, weights=hit - share) ** 2)) / n**2
    effective = min(n * alone / variance, clusters) if variance > 0 else clusters
    x, tail = share * effective, (1 - CONFIDENCE) / 2
    low = float(beta.ppf(tail, x, effective - x + 1)) if x > 0 else 0.0
    high = float(beta.ppf(1 - tail, x + 1, effective - x)) if x < effective else 1.0
    return low, high


def of_median(value: Array, cluster: NDArray[np.int64]) -> Bounds | None:
    """Return the bounds of the median of `value` [n], in its unit; None of few clusters.

    The values at the bounds of the share that is to lie below it (Woodruff, J. Am. Stat. Assoc. 47, 1952).
    """
    median = np.median(value)
    shares = of_share((value < median) + 0.5 * (value == median), cluster)
    if shares is None:
        return None
    low, high = np.quantile(value, shares, method="inverted_cdf")
    return float(low), float(high)
