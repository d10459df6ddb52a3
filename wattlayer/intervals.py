"""Intervals that mean it: conformal by groups of layers, wider with the distance from what was measured.

Out-of-fold errors |log(predicted / measured)| of layers that lie in a measured cell give each group of kinds its quantile; by
what factor errors are larger farther away, step by step, widens the interval of a new layer there, and so does what class it is
of: far, larger than all measured, long (split conformal with normalised scores: Lei et al., JASA 2018; classes by group and by
distance: Mondrian conformal, Vovk 2012). Distance is counted in octaves to the nearest half-octave cell of layer shapes that
the training set covers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .features import Array, Columns
from .hardware import Hardware
from .layer import Layer

LEVEL = 0.9
"""Share of layers whose measured energy the interval is meant to hold (`interval_frac` in the output)."""

AXES = ("batches", "m", "n", "k", "window", "stride", "in_positions")
"""Dimensions in which layers of one kind are near or far from each other."""

SIZES = ("batches", "m", "n", "k")
"""Their product is how large a layer is."""

FAR_OCTAVES, NEVER_OCTAVES = 4.0, 8.0
"""Distances are not told apart beyond the first; the second stands for kinds never measured, or never in that number format."""

EXTRAPOLATED_OCTAVES = 2.0
"""A layer farther than this from everything measured is marked as extrapolated."""

FADING_OCTAVES = 1.0
"""By this much beyond the largest measured layer, about a third is left of what was learned of times (docs/method.md)."""

STEPS_OCTAVES = (0.0, 1.0, EXTRAPOLATED_OCTAVES, FAR_OCTAVES - 0.01, FAR_OCTAVES)
"""Upper ends of the classes of distance: in a measured cell, next to one, near, far, and too far to be told apart."""

CLASSES = 8
"""Of layers: near or far, within or beyond the largest measured, short or long."""

ASSUMED_NEVER = float(np.log(4.0))
"""Half-width (log energy) for kinds never measured where fewer kinds were measured than could tell: a factor of 4, assumed."""

PRIOR = 20
"""Scores that a group borrows from all groups, and a class of distance from the nearer one: shrinkage of quantiles."""

MANY_LAYERS = 5_000
"""From here on, threads pay, in boosters and in looking for neighbours."""


def positions(columns: Columns) -> Array:
    """Return layers as points [n_layers, axes] in octaves, rounded to half octaves."""
    octaves = np.column_stack([np.log2(np.maximum(columns[name], 1.0)) for name in AXES])
    return np.round(octaves * 2) / 2


@dataclass(frozen=True)
class Support:
    """Which half-octave cells of shape space were measured, per kind, number format and tensor-core use."""

    points: Mapping[str, tuple[tuple[float, ...], ...]]

    @staticmethod
    def of(columns: Columns) -> Support:
        points: dict[str, set[tuple[float, ...]]] = {}
        for key, row in zip(_keys(columns), positions(columns)):
            points.setdefault(key, set()).add(tuple(float(x) for x in row))
        return Support({key: tuple(sorted(rows)) for key, rows in sorted(points.items())})

    @property
    def kinds(self) -> frozenset[str]:
        return frozenset(key.split("|")[0] for key in self.points)

    def joined(self, other: Support) -> Support:
        """Return what either covers."""
        keys = sorted({*self.points, *other.points})
        return Support({key: tuple(sorted({*self.points.get(key, ()), *other.points.get(key, ())})) for key in keys})

    def distance_octaves(self, columns: Columns) -> Array:
        """Return the distance [n_layers] to the nearest measured cell, at most `FAR_OCTAVES`; `NEVER_OCTAVES` without any."""
        rows = positions(columns)
        result = np.full(len(rows), NEVER_OCTAVES)
        members: dict[str, list[int]] = {}
        for i, key in enumerate(_keys(columns).tolist()):
            members.setdefault(key, []).append(i)
        for key in members.keys() & self.points.keys():
            nearest, _ = self._tree(key).query(rows[members[key]], workers=-1 if len(rows) > MANY_LAYERS else 1)
            result[members[key]] = np.minimum(nearest, FAR_OCTAVES)
        return result

    def beyond_octaves(self, columns: Columns) -> Array:
        """Return how much larger layers [n_layers] are than the largest measured of their kind; `NEVER_OCTAVES` for other kinds.

        Where a kind was not measured in a layer's number format, the largest in any stands in: what was learned there tells a
        little better than physics alone (docs/method.md).
        """
        largest = columns.of_kind(lambda x: self._largest.get(_key(x, columns.hardware), self._largest.get(x.kind, -np.inf)))
        beyond: Array = np.clip(_size(positions(columns)) - largest, 0.0, NEVER_OCTAVES)
        return beyond

    @cached_property
    def _largest(self) -> dict[str, float]:
        """By key, and by kind in whatever number format."""
        largest: dict[str, float] = {}
        for key, rows in self.points.items():
            size = float(_size(np.array(rows)).max())
            for name in (key, key.split("|")[0]):
                largest[name] = max(size, largest.get(name, size))
        return largest

    def _tree(self, key: str) -> Any:
        from scipy.spatial import cKDTree

        if key not in self._trees:
            self._trees[key] = cKDTree(np.array(self.points[key]))
        return self._trees[key]

    @cached_property
    def _trees(self) -> dict[str, Any]:
        return {}


def _size(points: Array) -> Array:
    """The size [n], in octaves, of layers at `points` [n, axes]."""
    size: Array = points[:, [AXES.index(name) for name in SIZES]].sum(axis=1)
    return size


def _keys(columns: Columns) -> NDArray[Any]:
    return columns.of_kind(lambda x: _key(x, columns.hardware))


def _key(layer: Layer, device: Hardware) -> str:
    # whether a layer runs on tensor cores follows from its dtype and its use of TF32; nothing that is learned from tells apart
    # halves of one rate
    alike = layer.dtype == "bfloat16" and device.peak("bfloat16") == device.peak("float16")
    dtype = "float16" if alike else layer.dtype
    return f"{layer.kind}|{dtype}|{'tc' if device.on_tensor_cores(layer.dtype, layer.tf32) else ''}"


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
class Conformal:
    """Half-widths of log-energy intervals: a quantile per group, and factors per class of distance and per class of layers."""

    quantiles: Mapping[str, float]
    """Of layers in a measured cell, per group of kinds; under "*" for a group without measurements."""
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

    def parted(self, error: Array, groups: Sequence[str], where: Where, long_s: float) -> Conformal:
        """Return these half-widths, each class of layers with the factor that out-of-fold log errors [n] ask for.

        Classes with few errors are drawn to a factor of 1.
        """
        own = replace(self, factors=(1.0,) * CLASSES, long_s=long_s)
        scores = np.abs(error) / own.half_width(np.array([own.quantile(name) for name in groups]), where)
        known, code = where.distance_octaves <= FAR_OCTAVES, own._class(where)
        return replace(own, factors=tuple(_drawn(scores[known & (code == i)], 1.0) for i in range(CLASSES)))

    def moved(self, error: Array, groups: Sequence[str], distance_octaves: Array, common: float) -> Conformal:
        """Return these intervals for another device, with quantiles of the few log errors [n] that are known there.

        Few rows lie far apart: what each is off by counts less what it may be more for its distance from the others, else new
        layers would be widened for that twice.
        """
        known = distance_octaves <= FAR_OCTAVES
        known = known if known.any() else ~known
        scores = np.abs(error)[known] / np.array(self.widening)[_step(distance_octaves[known])]
        quantiles = _by_group(scores, np.array(groups)[known])
        return Conformal(quantiles, self.widening, self.never, common)

    @staticmethod
    def fit(
        error: Array, groups: Sequence[str], distance_octaves: Array, common: float, never: float = ASSUMED_NEVER
    ) -> Conformal:  # fmt: skip
        """Calibrate on out-of-fold log errors [n], their groups and distances, and the `common` share of their variance.

        Kinds that were left out whole are told by `never` alone.
        """
        known = distance_octaves <= FAR_OCTAVES
        known = known if known.any() else ~known
        size, names, step = np.abs(error)[known], np.array(groups)[known], _step(distance_octaves[known])
        # what is nearest stands for what is near: few measurements cover cells twice
        counts = np.bincount(step, minlength=len(STEPS_OCTAVES))
        nearest = int(np.argmax(counts >= PRIOR)) if (counts >= PRIOR).any() else len(STEPS_OCTAVES) - 1
        near = step <= nearest
        quantiles = _by_group(size[near], names[near])
        scaled = size / np.array([quantiles.get(str(name), quantiles["*"]) for name in names])
        widening = [1.0] * (nearest + 1)
        for own in (scaled[step == i] for i in range(nearest + 1, len(STEPS_OCTAVES))):
            widening.append(max(widening[-1], _drawn(own, widening[-1])))
        # groups with little near take what lies farther as well, scaled back
        every = _by_group(size / np.array(widening)[step], names)
        few = [name for name in every if name != "*" and np.count_nonzero(near & (names == name)) < PRIOR]
        return Conformal(quantiles | {name: every[name] for name in few}, tuple(widening), never, common)


def _step(distance_octaves: Array) -> NDArray[np.intp]:
    """The class [n_layers] of distances [n_layers] in `STEPS_OCTAVES`."""
    return np.minimum(np.searchsorted(STEPS_OCTAVES, distance_octaves - 1e-9), len(STEPS_OCTAVES) - 1)


def _drawn(scores: Array, towards: float) -> float:
    """The quantile of scores [n], drawn `towards` a factor as far as there are few."""
    share = len(scores) / (len(scores) + PRIOR)
    return float(conformal_quantile(scores) ** share * towards ** (1 - share)) if len(scores) else towards


def _by_group(scores: Array, names: NDArray[Any]) -> dict[str, float]:
    """The quantile of each group's scores [n], drawn to that of all ("*")."""
    members, overall = {str(name): scores[names == name] for name in sorted(set(names))}, conformal_quantile(scores)
    quantiles = {"*": overall}
    for name, own in members.items():
        share = len(own) / (len(own) + PRIOR)
        quantiles[name] = share * conformal_quantile(own) + (1 - share) * overall
    return quantiles


def never_half_width(errors: Sequence[Array]) -> float:
    """Return the half-width for kinds never measured from log errors of kinds that were left out whole, an array each.

    Kinds and not rows are the sample here: the quantile is taken over the quantile of each, without a correction for a finite
    sample (that would be the widest up to 18 kinds); fewer than nine kinds cannot tell a tenth.
    """
    widths = np.array([conformal_quantile(np.abs(own)) for own in errors])
    if len(widths) < LEVEL / (1 - LEVEL) - 1e-9:
        return max(ASSUMED_NEVER, float(widths.max(initial=0.0)))
    return float(np.quantile(widths, LEVEL, method="higher"))


def conformal_quantile(scores: Array) -> float:
    """The finite-sample conformal quantile: rank ceil((n + 1) · level)."""
    rank = min(len(scores), int(np.ceil((len(scores) + 1) * LEVEL)))
    return float(np.sort(scores)[rank - 1])


def correlation(error: Array, *names: Sequence[Any] | NDArray[Any]) -> float:
    """Intra-class correlation, between 0 and 1, of errors [n] alike in all of `names` ([n] each); 1 where it cannot be told.

    One-way analysis of variance with classes of unequal size (Donner, A review of inference procedures for the intraclass
    correlation coefficient in the one-way random effects model, International Statistical Review 54, 1986).
    """
    code = np.unique(np.column_stack([np.array(x).astype(str) for x in names]), axis=0, return_inverse=True)[1].ravel()
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
