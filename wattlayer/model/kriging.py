"""Learning from the nearest: a Gaussian process of shape space for each group of kinds, beside the trees (kriging).

Trees cut shape space into boxes and answer alike within one; what a layer's neighbours measured, weighted by how near they
are, errs elsewhere. How far is near, in each direction, follows from the measurements themselves (marginal likelihood:
Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, chapter 5; Matérn kernel with nu = 3/2). Far from
everything measured the answer returns to 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..features.columns import Array
from ..quiet import quiet
from .support import MANY_LAYERS

PLATEAU = "plateau"
"""The feature that tells algorithms apart (`cliffs`)."""
COORDINATES = (
    "log2_batches", "log2_m", "log2_n", "log2_k", "log2_window", "stride", "log2_in_channels", "log2_out_channels",
    "log2_in_positions", "log2_out_positions", "train", "transposed", "bias", "tensor_core", "element_bytes", "causal",
    "dilation", "positions_multiple", "in_channels_multiple", "strided", "log2_heads_per_kv", "log2_physical_w", PLATEAU,
)  # fmt: skip
"""Features in which layers of one group are near or far; the kind and the campaign are far or the same."""
CATEGORIES = ("kind_code", "run")

MIN_ROWS, MAX_ROWS = 12, 1600
"""A group with fewer rows has too few neighbours to learn from; with more, trees have enough and this would be slow."""
ROWS_FOR_LENGTHS = 600
"""As many rows, drawn by the seed, tell the lengths of a group; the time that this takes grows with their cube."""
ITERATIONS = 25
"""Steps of the search for lengths and noise at most: each takes the cube of the rows, and more gained little (docs/method.md)."""
CLIP = 2.0
"""Errors beyond a factor of e² are slips or kinds apart, and no matter of neighbours."""

AMPLITUDE_SD, LENGTH_SD, NOISE_SD = 5.0, 1.0, 1.5
"""How far logarithms of amplitude (variance), lengths and noise (variance) are expected from where they start."""

_OCTAVES, _STEPS = 3.0, 1.0
"""Where lengths start: in octaves of a size, and in steps of anything else."""
_BOUNDS = (0.02, 100.0)
"""Between what lengths are searched: from no neighbours at all to a feature that does not matter."""
_VARIANCE, _NOISE = (1e-4, 3.0), (3e-5, 0.1)
"""Between what variances of log time or power, and of its noise, are searched: of 1 % to a factor of e^1.7, of 0.5 to 30 %."""
_NOISE_START, _VARIANCE_START = 1e-3, (1e-3, 1.0)
"""Where the search begins: noise of 3 %, and the variance seen, within these."""
_DECIMALS = 4
"""Of points in the file of a model."""
_BLOCK = 256
"""So many layers are asked for at once: the table of their distances stays in cache."""


@dataclass(frozen=True)
class Neighbours:
    """What one group of kinds taught: points of shape space and the weight of each."""

    features: tuple[str, ...]
    """Names of the columns of `points`; "name=code" is 1 for that category."""
    lengths: tuple[float, ...]
    """Over what difference in each feature layers grow apart."""
    variance: float
    noise: float
    points: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]

    def ask(self, columns: Array) -> Array:
        """Return the answers [n] at `columns` [n, features]."""
        here = columns * self._inverse_lengths
        # in place: this is what pricing many layers waits for. Distances need all digits, roots and exponentials of them do not
        squared = here @ self._there
        squared += 3.0 * np.einsum("ij,ij->i", here, here)[:, None]
        squared += self._norms
        root = np.maximum(squared, 0.0, out=squared).astype(np.float32)
        np.sqrt(root, out=root)
        like = np.exp(-root)
        root += 1.0
        like *= root
        answer: Array = like.astype(np.float64) @ self._weights
        return answer

    @cached_property
    def _inverse_lengths(self) -> Array:
        return 1.0 / np.array(self.lengths)

    @cached_property
    def _there(self) -> Array:
        return np.ascontiguousarray(-6.0 * (np.array(self.points) * self._inverse_lengths).T)

    @cached_property
    def _norms(self) -> Array:
        return np.asarray((self._there**2).sum(axis=0) / 12.0)

    @cached_property
    def _weights(self) -> Array:
        return self.variance * np.array(self.weights)


@dataclass(frozen=True)
class Kriging:
    """Neighbours by code of the group of kinds, as text."""

    groups: Mapping[str, Neighbours]

    def ask(self, table: NDArray[Any], names: Sequence[str]) -> tuple[Array, NDArray[np.bool_]]:
        """Return the answers [n] for rows [n, names] of the model's features, and which rows have neighbours at all."""
        result, known = np.zeros(len(table)), np.zeros(len(table), dtype=bool)
        codes = table[:, list(names).index("group_code")]
        for code in np.unique(codes) if self.groups else ():
            if (group := self.groups.get(f"{code:g}")) is not None:
                chosen = np.flatnonzero(codes == code)
                columns = _columns(table[chosen], names, group.features)
                parts = -(-len(chosen) // _BLOCK)
                result[chosen] = in_parts(group.ask, columns, parts) if parts > 1 else group.ask(columns)
                known[chosen] = True
        return result, known

    @staticmethod
    def from_json(record: Mapping[str, Mapping[str, Any]]) -> Kriging:
        """Rebuild from JSON types; raise ValueError for anything else."""
        import msgspec

        groups = msgspec.convert(record, dict[str, Neighbours])
        for code, its in groups.items():
            for name, _, category in (feature.partition("=") for feature in its.features):
                if not (name in CATEGORIES and np.isfinite(float(category)) if category else name in COORDINATES):
                    raise ValueError(f"neighbours of group {code} lie in {name!r}, which is no feature of theirs")
            widths = {len(its.features), *(len(row) for row in its.points)}
            if widths != {len(its.lengths)} or len(its.points) != len(its.weights) or min(its.lengths) <= 0:
                raise ValueError(f"neighbours of group {code} do not fit together")
        return Kriging(groups)


def in_parts(ask: Callable[[Any], Array], rows: NDArray[Any], parts: int) -> Array:
    """Return the answers of `ask` to `rows` [n, …] in so many parts, on all cores where there are many rows."""
    split = np.array_split(rows, parts)
    if len(rows) < MANY_LAYERS:
        return np.concatenate([ask(part) for part in split])
    with ThreadPoolExecutor() as pool:
        return np.concatenate(list(pool.map(ask, split)))


def _columns(table: Array, names: Sequence[str], features: Sequence[str]) -> Array:
    places, coded, codes = _places(tuple(names), tuple(features))
    columns = table[:, places].astype(np.float64)
    columns[:, coded] = columns[:, coded] == codes
    return columns


@lru_cache(maxsize=64)
def _places(names: tuple[str, ...], features: tuple[str, ...]) -> tuple[list[int], list[int], Array]:
    """Where in `names` the columns of `features` are, and which of them are categories of which code."""
    parted = [feature.partition("=") for feature in features]
    coded = [i for i, (_, is_code, _) in enumerate(parted) if is_code]
    return [names.index(name) for name, _, _ in parted], coded, np.array([float(parted[i][2]) for i in coded])


def krige(table: Array, names: Sequence[str], target: Array, seed: int, like: Kriging | None = None) -> Kriging:
    """Learn `target` [n] at the rows [n, names] of the model's features; lengths are those of `like` where it is given."""
    codes = table[:, list(names).index("group_code")]
    groups = {}
    for code in np.unique(codes):
        chosen = np.flatnonzero(codes == code)
        if MIN_ROWS <= len(chosen) <= MAX_ROWS:
            name, bounded = f"{code:g}", np.clip(target[chosen], -CLIP, CLIP)
            groups[name] = _learn(table[chosen], names, bounded, seed, like.groups.get(name) if like else None)
    return Kriging(groups)


def _learn(table: Array, names: Sequence[str], target: Array, seed: int, like: Neighbours | None) -> Neighbours:
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    features = _varied(table, names)
    points = np.round(_columns(table, names, features), _DECIMALS)
    if like is None:
        variance, noise, lengths = _likely(points, features, target, seed)
    else:
        # a campaign can be new to a group: codes follow how often campaigns occur
        of_feature = dict(zip(like.features, like.lengths))
        variance, noise, lengths = like.variance, like.noise, np.array([of_feature.get(x, _STEPS) for x in features])
    kernel = ConstantKernel(variance) * Matern(lengths, nu=1.5) + WhiteKernel(noise)
    weights = np.ravel(GaussianProcessRegressor(kernel, optimizer=None).fit(points, target).alpha_)
    return Neighbours(
        features, tuple(float(x) for x in lengths), float(variance), float(noise),
        tuple(tuple(float(x) for x in row) for row in points), tuple(float(x) for x in weights),
    )  # fmt: skip


def _likely(points: Array, features: Sequence[str], target: Array, seed: int) -> tuple[float, float, Array]:
    """Return variance, noise and lengths [features] under which the measurements are likeliest."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    start = np.array([_OCTAVES if x.startswith("log2_") else _STEPS for x in features])
    spread = float(np.clip(target.var(), *_VARIANCE_START))
    kernel = ConstantKernel(spread, _VARIANCE) * Matern(start, _BOUNDS, nu=1.5) + WhiteKernel(_NOISE_START, _NOISE)
    some = np.sort(np.random.default_rng(seed).permutation(len(target))[:ROWS_FOR_LENGTHS])
    with quiet(ConvergenceWarning):  # a direction that does not matter has a length at its bound
        fitted = GaussianProcessRegressor(kernel, optimizer=_most_likely).fit(points[some], target[some]).kernel_
    return fitted.k1.k1.constant_value, fitted.k2.noise_level, np.atleast_1d(fitted.k1.k2.length_scale)


def _varied(table: Array, names: Sequence[str]) -> tuple[str, ...]:
    """Features that differ between rows, categories one by one where there is more than one."""
    index = {name: i for i, name in enumerate(names)}
    found = [name for name in COORDINATES if name in index and np.ptp(table[:, index[name]]) > 1e-9]
    for name in CATEGORIES:
        codes = np.unique(table[:, index[name]])
        found += [f"{name}={code:g}" for code in codes] if len(codes) > 1 else []
    return tuple(found)


def _most_likely(objective: Any, start: Array, bounds: NDArray[Any]) -> tuple[Array, float]:
    """Maximise the likelihood times a prior on the logarithms of amplitude, lengths and noise, about where they start."""
    from scipy.optimize import minimize

    sd = np.array([AMPLITUDE_SD, *[LENGTH_SD] * (len(start) - 2), NOISE_SD])

    def penalised(theta: Array) -> tuple[float, Array]:
        value, slope = objective(theta)
        off = (theta - start) / sd
        return value + 0.5 * float(off @ off), slope + off / sd

    found = minimize(penalised, start, jac=True, bounds=bounds, method="L-BFGS-B", options={"maxiter": ITERATIONS})
    return found.x, float(found.fun)
