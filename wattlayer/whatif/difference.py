"""How unsure the difference of two passes is.

Before and after are priced by one model, so most of what it gets wrong it gets wrong in both. The rule, for the energy
per sample, in joules, with d_i = (calls after - calls before) x energy of distinct layer i:

- a layer that runs as often as before cancels: d_i = 0;
- of an error's variance the model's `correlation` is shared, by all layers or by those of one group of kinds alone, whichever
  is wider: groups that err apart do not cancel. Up to the narrower of the two mean relative half-widths (of what was added, of
  what was removed) it moves both sides alike: it counts as that width x |Σ d_i|. What the wider side has beyond that is its own
  and counts in full;
- the rest of the variance is each layer's own and adds in quadrature;
- sums of layers, where networks measured whole told of them, may be off by one share before and after, which counts on Σ d_i;
- between graph and eager mode a pass may change by another share of it, which counts on the dearer of the two;
- what a bias adds to a convolution was hardly measured (four convolutions of the A30 and two of the RTX 2080 Ti with one and
  without), and nothing of it cancels: where convolutions gain or lose one and change in nothing else, it may be off by all of it;
- the host's time may be off by another share, which counts on what it adds to launch gaps or takes from them where the host is as
  much too slow before as after. That of a measured host was told by what networks differ in: of operators that the two do not
  have in common each side's gaps are unsure for themselves as well. All of these add in quadrature.

Half-widths are taken up and down apart (e^w - 1 and 1 - e^-w), because intervals of energy are symmetric in its logarithm.
That the narrower width is common to both sides is an assumption, which is not made between two networks, whose layers err
otherwise: of the shared variance of layers each has its own, and only layers that both run cancel (`models/check_pairs.py`
counts on measured passes how often either holds).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..features.columns import Array
from ..model.metadata import Metadata


def difference_spread_j(
    model: Metadata, difference_j: Array, up: Array, down: Array, groups: Sequence[str],
    operators: Sequence[Counter[str]], gaps_j: Sequence[Sequence[float]], of_one_network: bool, mode_j: float = 0.0,
    biases_j: float = 0.0,
) -> tuple[float, float]:  # fmt: skip
    """Return how far the interval of a difference of two passes reaches below and above it, in joules: the rule of this module.

    Layers as in `spread_j`; of the passes before and after, `operators` by kind and what gaps cost, as in `gap_spread_j`;
    `mode_j` and `biases_j` are what the mode and the biases that convolutions gain or lose may be off by; `of_one_network` says
    whether they are one network before and after a change.
    """
    launches = model.launches_or_assumed
    sum_j = launches.sum_spread_frac * float(difference_j.sum())
    apart = apart_frac(*operators) if launches.basis == "measured" else 0.0
    of_layers = spread_j(difference_j, up, down, groups, model.conformal.correlation, of_one_network)
    parts = zip(of_layers, gap_spread_j(gaps_j[0], gaps_j[1], apart))
    below, above = (math.hypot(layers_j, gap_j, sum_j, mode_j, biases_j) for layers_j, gap_j in parts)
    return below, above


def gap_spread_j(before_j: Sequence[float], after_j: Sequence[float], parted_frac: float = 0.0) -> tuple[float, float]:
    """Return how far the interval of a difference of gaps reaches below and above it, in joules: one host makes both.

    Each is what the gaps cost, and what they cost with the host as fast and as slow as it may be; `parted_frac` of each is of
    operators that the other does not have, in which one host errs otherwise.
    """
    (before, *ends_before), (after, *ends_after) = before_j, after_j
    moved = [(x - after) - (y - before) for x, y in zip(ends_after, ends_before)]
    (fast_before, slow_before), (fast_after, slow_after) = ([x - before for x in ends_before], [x - after for x in ends_after])
    below = math.hypot(min(0.0, *moved), parted_frac * math.hypot(fast_after, slow_before))
    above = math.hypot(max(0.0, *moved), parted_frac * math.hypot(slow_after, fast_before))
    return below, above


def apart_frac(before: Counter[str], after: Counter[str]) -> float:
    """Return the share of operators, by kind and calls, that two passes do not have in common (1 less Jaccard's index)."""
    most = (before | after).total()
    return 1.0 - (before & after).total() / most if most else 0.0


def spread_j(
    difference_j: Array, up: Array, down: Array, groups: Sequence[str], correlation: float, of_one_network: bool = True
) -> tuple[float, float]:  # fmt: skip
    """Return how far the interval of Σ difference_j reaches below and above it, in joules.

    `difference_j` [n] is what each distinct layer adds, `up` and `down` [n] are the relative half-widths of its energy, `groups`
    [n] its group of kinds. Between two networks no layers cancel but those that both run.
    """
    added, code = difference_j > 0, np.unique(np.array(groups, dtype=str), return_inverse=True)[1]
    widths = np.where(added, down, up), np.where(added, up, down)
    below, above = (_half_width_j(difference_j, width, code, correlation, of_one_network) for width in widths)
    return below, above


def _half_width_j(
    difference_j: Array, width: Array, group: NDArray[np.intp], correlation: float, of_one_network: bool
) -> float:  # fmt: skip
    """Half-width of Σ difference_j where layers have relative half-widths `width`: the rule in this module's docstring."""
    of_groups = sum(_shared_j2(difference_j[group == i], width[group == i], of_one_network) for i in np.unique(group))
    shared = max(_shared_j2(difference_j, width, of_one_network), of_groups)
    return float(np.sqrt(correlation * shared + (1 - correlation) * ((difference_j * width) ** 2).sum()))


def _shared_j2(difference_j: Array, width: Array, of_one_network: bool) -> float:
    """Square of what Σ difference_j may be off by where all these layers err alike, or those that each of two networks adds."""
    size_j, added = np.abs(difference_j), difference_j > 0
    plus_j, minus_j = float(size_j[added].sum()), float(size_j[~added].sum())
    plus, minus = float((size_j * width)[added].sum()), float((size_j * width)[~added].sum())
    if not of_one_network:
        return plus**2 + minus**2
    sides = [total / of for total, of in ((plus, plus_j), (minus, minus_j)) if of > 0]
    common = min(sides, default=0.0)
    own = (plus - common * plus_j) + (minus - common * minus_j)
    return (common * (plus_j - minus_j)) ** 2 + own**2
