"""Intervals that mean it: conformal by groups of layers, wider with the distance from what was measured.

Out-of-fold errors |log(predicted / measured)| of layers that lie at a measured point give each group of kinds its quantile; by
what factor errors are larger farther away, step by step, widens the interval of a new layer there, and so does what class it is
of: far, larger than all measured, long (split conformal with normalised scores: Lei et al., JASA 2018; classes by group and by
distance: Mondrian conformal, Vovk 2012). Distance is counted in octaves to the nearest measured point (`support`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..features.columns import Array
from .support import FAR_OCTAVES

LEVEL = 0.9
"""Share of layers whose measured energy the interval is meant to hold (`interval_frac` in the output)."""

EXTRAPOLATED_OCTAVES = 2.0
"""A layer farther than this from everything measured is marked as extrapolated."""

FADING_OCTAVES = 1.0
"""By this much beyond the largest measured layer, about a third is left of what was learned of times (docs/method.md)."""

STEPS_OCTAVES = (0.0, 1.0, EXTRAPOLATED_OCTAVES, FAR_OCTAVES - 0.01, FAR_OCTAVES)
"""Upper ends of the classes of distance: at a measured point, next to one, near, far, and too far to be told apart."""

CLASSES = 8
"""Of layers: near or far, within or beyond the largest measured, short or long."""

ASSUMED_NEVER = float(np.log(4.0))
"""Half-width (log energy) for kinds never measured where fewer kinds were measured than could tell: a factor of 4, assumed."""

PRIOR = 20
"""Layers' worth that a group borrows from all groups, and a class of distance from the nearer one: shrinkage of quantiles."""


@dataclass(frozen=True)
class Where:
    """Where layers lie beside what was measured; all arrays [n_layers]."""

    distance_octaves: Array
    beyond_octaves: Array
    """By how much they exceed the largest measured."""
    time_s: Array
    """What they are predicted to take."""

    def take(self, chosen: NDArray[Any]) -> Where:
        """Return the same of the `chosen`, by places or by marks, alone."""
        return Where(self.distance_octaves[chosen], self.beyond_octaves[chosen], self.time_s[chosen])


@dataclass(frozen=True)
class LeftOut:
    """Readings of layers that were predicted by models that did not know them; all arrays [n]."""

    error: Array
    """Log of predicted energy to read energy."""
    groups: NDArray[Any]
    """Of kinds."""
    distance_octaves: Array
    row: NDArray[np.intp]
    """Number of the row that was read, a layer in a campaign, in each way it was left out: its readings share one vote."""
    layer: NDArray[np.intp]
    """Number of the layer. Its rows err alike: they are not independent examples of how a new layer errs."""

    def take(self, chosen: NDArray[Any]) -> LeftOut:
        """Return the same of the `chosen`, by places or by marks, alone."""
        return LeftOut(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def known(self) -> LeftOut:
        """Return those of kinds that were measured; all of them where there is none."""
        known = self.distance_octaves <= FAR_OCTAVES
        return self.take(known if known.any() else ~known)

    @property
    def votes(self) -> Array:
        """What each reading counts in a quantile."""
        _, number, sizes = np.unique(self.row, return_inverse=True, return_counts=True)
        result: Array = 1.0 / sizes[number]
        return result

    @property
    def count(self) -> float:
        """The effective number of layers."""
        return effective_count(self.layer, self.votes)

    @property
    def few(self) -> bool:
        """Whether they are of fewer than `PRIOR` layers; sums of thirds end beside whole numbers."""
        return self.count < PRIOR - 1e-6

    def quantile(self, scores: Array) -> float:
        """Return the conformal quantile of their `scores` [n]: another layer has about as many votes as one of these."""
        votes = self.votes
        return conformal_quantile(scores, votes, one_more=votes.sum() / effective_count(self.layer, votes))

    @property
    def own_share(self) -> float:
        """The weight of what they say against what stands in for it, which is worth `PRIOR` layers."""
        count = self.count
        return count / (count + PRIOR)


@dataclass(frozen=True)
class Conformal:
    """Half-widths of log-energy intervals: a quantile per group, and factors per class of distance and per class of layers."""

    quantiles: Mapping[str, float]
    """Of layers at a measured point, per group of kinds; under "*" for a group without measurements."""
    widening: tuple[float, ...]
    """By what factor half-widths are larger in each class of `STEPS_OCTAVES`; never falling."""
    never: float
    """Half-width for kinds never measured, or never in that number format."""
    correlation: float
    """Share of the error variance that layers measured alike have in common; 1 would add up in full in a network."""
    factors: tuple[float, ...] = (1.0,) * CLASSES
    """By what factor half-widths differ from that in each class of layers: + 1 long, + 2 larger than all measured, + 4 far."""
    long_s: float = 0.0
    """Layers that take longer than this are long: the median of those measured."""

    def __post_init__(self) -> None:
        if "*" not in self.quantiles or len(self.widening) != len(STEPS_OCTAVES) or len(self.factors) != CLASSES:
            raise ValueError(f"intervals need a quantile for '*', {len(STEPS_OCTAVES)} steps and {CLASSES} factors")
        if not min(*self.quantiles.values(), *self.widening, *self.factors, self.never) > 0 or not 0 <= self.correlation <= 1:
            raise ValueError("half-widths of intervals are above 0, and what errors have in common is a share")

    def quantile(self, group: str) -> float:
        """Return the quantile of scores of a group of kinds; that of all where the group was not measured."""
        return self.quantiles.get(group, self.quantiles["*"])

    def half_width(self, quantile: Array | float, where: Where) -> Array:
        """Return half-widths [n_layers] in log energy by quantiles of groups; the interval is energy · exp(± half-width)."""
        width: Array = quantile * np.array(self.widening)[_step(where.distance_octaves)]
        width *= np.array(self.factors)[self._class(where)]
        return np.where(where.distance_octaves > FAR_OCTAVES, self.never, width)

    def _class(self, where: Where) -> NDArray[np.intp]:
        far, larger = where.distance_octaves > EXTRAPOLATED_OCTAVES, where.beyond_octaves > 0
        return 4 * far.astype(np.intp) + 2 * larger + (where.time_s > self.long_s)

    def parted(self, left_out: LeftOut, where: Where, long_s: float) -> Conformal:
        """Return these half-widths, each class of layers with the factor that layers `left_out`, which lie at `where`, ask for.

        Classes with few layers are drawn to a factor of 1.
        """
        own = replace(self, factors=(1.0,) * CLASSES, long_s=long_s)
        scores = np.abs(left_out.error) / own.half_width(np.array([own.quantile(name) for name in left_out.groups]), where)
        known, code = where.distance_octaves <= FAR_OCTAVES, own._class(where)
        members = [known & (code == i) for i in range(CLASSES)]
        return replace(own, factors=tuple(_drawn(scores[x], left_out.take(x), 1.0) for x in members))

    def moved(self, left_out: LeftOut, common: float) -> Conformal:
        """Return these intervals for another device, with quantiles of the few layers `left_out` that were measured there.

        Few rows lie far apart: what each is off by counts less what it may be more for its distance from the others, else new
        layers would be widened for that twice.
        """
        own = left_out.known()
        scores = np.abs(own.error) / np.array(self.widening)[_step(own.distance_octaves)]
        return Conformal(_by_group(scores, own), self.widening, self.never, common)

    @staticmethod
    def fit(left_out: LeftOut, common: float, never: float = ASSUMED_NEVER) -> Conformal:
        """Calibrate on layers `left_out` and the `common` share of their errors' variance.

        Kinds that were left out whole are told by `never` alone.
        """
        own = left_out.known()
        size, step = np.abs(own.error), _step(own.distance_octaves)
        # what is nearest stands for what is near: few measurements cover points twice
        enough = np.array([not own.take(step == i).few for i in range(len(STEPS_OCTAVES))])
        nearest = int(np.argmax(enough)) if enough.any() else len(STEPS_OCTAVES) - 1
        near = step <= nearest
        quantiles = _by_group(size[near], own.take(near))
        scaled = size / np.array([quantiles.get(str(name), quantiles["*"]) for name in own.groups])
        widening = [1.0] * (nearest + 1)
        for far in (step == i for i in range(nearest + 1, len(STEPS_OCTAVES))):
            widening.append(max(widening[-1], _drawn(scaled[far], own.take(far), widening[-1])))
        # groups with little near take what lies farther as well, scaled back
        every = _by_group(size / np.array(widening)[step], own)
        few = [name for name in every if name != "*" and own.take(near & (own.groups == name)).few]
        return Conformal(quantiles | {name: every[name] for name in few}, tuple(widening), never, common)


def _step(distance_octaves: Array) -> NDArray[np.intp]:
    """The class [n_layers] of distances [n_layers] in `STEPS_OCTAVES`."""
    return np.minimum(np.searchsorted(STEPS_OCTAVES, distance_octaves - 1e-9), len(STEPS_OCTAVES) - 1)


def _drawn(scores: Array, own: LeftOut, towards: float) -> float:
    """The quantile of scores [n], drawn `towards` a factor as far as there are few layers."""
    share = own.own_share
    return float(own.quantile(scores) ** share * towards ** (1 - share)) if len(scores) else towards


def _by_group(scores: Array, own: LeftOut) -> dict[str, float]:
    """The quantile of each group's scores [n], drawn to that of all ("*")."""
    overall = own.quantile(scores)
    quantiles = {"*": overall}
    for name in sorted(set(own.groups.tolist())):
        members = own.groups == name
        group = own.take(members)
        share = group.own_share
        quantiles[name] = share * group.quantile(scores[members]) + (1 - share) * overall
    return quantiles


def effective_count(cluster: NDArray[Any], votes: Array | None = None) -> float:
    """Return the effective number of independent examples among members [n] of clusters, within which all are alike.

    Kish's effective sample size, (Σ v)² / Σ v² over clusters with v `votes` each (Survey Sampling, 1965): the number of clusters
    where all have as many. Without `votes` every member has one; no members are none.
    """
    if not len(cluster):
        return 0.0
    total = np.bincount(np.unique(cluster, return_inverse=True)[1], weights=votes).astype(float)
    return float(total.sum() ** 2 / (total**2).sum())


def never_half_width(errors: Sequence[Array]) -> float:
    """Return the half-width for kinds never measured from log errors of kinds that were left out whole, an array each.

    Kinds and not rows are the sample here: the quantile is taken over the quantile of each, without a correction for a finite
    sample (that would be the widest up to 18 kinds); fewer than nine kinds cannot tell a tenth.
    """
    widths = np.array([conformal_quantile(np.abs(own)) for own in errors])
    if len(widths) < LEVEL / (1 - LEVEL) - 1e-9:
        return max(ASSUMED_NEVER, float(widths.max(initial=0.0)))
    return float(np.quantile(widths, LEVEL, method="higher"))


def conformal_quantile(scores: Array, votes: Array | None = None, one_more: float = 1.0) -> float:
    """The finite-sample conformal quantile of scores [n]: rank ceil((n + 1) · level), and the largest where there is none.

    Where scores have `votes` [n] other than one each, it is the score at which these reach (Σ votes + `one_more`) · level; a new
    example has `one_more` votes.
    """
    votes = np.ones(len(scores)) if votes is None else votes
    order = np.argsort(scores, kind="stable")
    rank = np.cumsum(votes[order])
    wanted = min(rank[-1], (rank[-1] + one_more) * LEVEL) - 1e-6  # sums of thirds end beside whole numbers
    return float(scores[order[np.searchsorted(rank, wanted)]])


def correlation(error: Array, *names: Sequence[Any] | NDArray[Any], layer: NDArray[np.intp] | None = None) -> float:
    """Intra-class correlation, between 0 and 1, of errors [n] alike in all of `names` ([n] each); 1 where it cannot be told.

    Rows of one `layer` [n] count once, by their mean: what they have in common is the layer's own error. One-way analysis of
    variance with classes of unequal size (Donner, A review of inference procedures for the intraclass correlation coefficient in
    the one-way random effects model, International Statistical Review 54, 1986).
    """
    table = np.column_stack([np.array(x).astype(str) for x in names])
    if layer is not None:
        own = np.column_stack([layer.astype(str), table])
        _, first, place = np.unique(own, axis=0, return_index=True, return_inverse=True)
        error, table = np.bincount(place.ravel(), weights=error) / np.bincount(place.ravel()), table[first]
    code = np.unique(table, axis=0, return_inverse=True)[1].ravel()
    size = np.bincount(code)
    n, classes = len(error), len(size)
    if classes < 2 or n == classes:
        return 1.0
    mean = np.bincount(code, weights=error) / size
    between = float((size * (mean - error.mean()) ** 2).sum()) / (classes - 1)
    within = float(((error - mean[code]) ** 2).sum()) / (n - classes)
    typical = (n - float((size**2).sum()) / n) / (classes - 1)
    return float(np.clip((between - within) / max(between + (typical - 1) * within, 1e-12), 0.0, 1.0))


def total_half_width(energy_j: Array, half_width: Array, correlation: float) -> float:
    """Return the log half-width of a sum of layers whose errors share `correlation`; `energy_j` [n] are the summands.

    Relative half-widths add in full for the shared part and in quadrature for the rest.
    """
    total = float(energy_j.sum())
    if total <= 0:
        return 0.0
    parts = energy_j * half_width / total
    return float(np.sqrt(correlation * parts.sum() ** 2 + (1 - correlation) * (parts**2).sum()))
