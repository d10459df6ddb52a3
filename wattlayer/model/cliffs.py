"""Where a library takes another algorithm: steps of time at exact sizes, found by a shallow tree for each group of kinds.

Libraries choose algorithms by thresholds on sizes, and do not always choose the fastest: on a Jetson Nano 1×1 convolutions of
97 to 208 channels, images of 7×7, take up to four times as long as those next to them. Neighbours smooth such a cliff over, and
so do trees that are shown blurred sizes. A regression tree (Breiman et al., Classification and Regression Trees, 1984) on exact
sizes finds it; its answer is one more feature for both, of power as well, which changes with the algorithm. Leaves of one split
are joined where no large step parts them, and none are kept where steps do not tell layers that were left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..features.columns import Array
from .kriging import CLIP, COORDINATES, PLATEAU, in_parts

SEEN = (*(name for name in COORDINATES if name not in (PLATEAU, "log2_physical_w")), "kind_code")
"""Features that cliffs are looked for along: sizes, but no answer of the model itself."""
SHAPE = tuple(name for name in SEEN if name != "tensor_core")
"""Features whose equals are one shape: with TF32 and without stay on one side when layers are left out."""

LEAST_STEP = 0.4
"""Smallest step (natural logarithm) that parts two plateaus: half as much again."""
LEAST_EXPLAINED_FRAC = 1 / 3
"""Share of the variance among layers left out that steps must explain, or the group is taken to have none."""

MIN_ROWS, LEAF_ROWS, MOST_LEAVES, FOLDS = 40, 4, 16, 8
"""A group with fewer rows has no cliffs; fewest rows of a plateau, most plateaus of a group, and folds that judge them."""
_BLOCK = 4096
"""So many layers are asked for at once, each beside every plateau."""


@dataclass(frozen=True)
class Plateau:
    """A box of sizes within which one algorithm runs, between cliffs."""

    step: float
    """How long layers in it take beside the physical answer, as a natural logarithm."""
    above: Mapping[str, float]
    """Bounds by feature that a layer exceeds."""
    up_to: Mapping[str, float]
    """Bounds by feature that a layer does not exceed."""


@dataclass(frozen=True)
class Cliffs:
    """Plateaus that fill the space of sizes, by code of the group of kinds, as text."""

    groups: Mapping[str, tuple[Plateau, ...]] = field(default_factory=dict)

    def steps(self, table: Array, names: Sequence[str]) -> Array:
        """Return the step [n] of the plateau that each row [n, names] lies on; 0 where a group has no cliffs."""
        result, codes = np.zeros(len(table)), table[:, names.index("group_code")]
        for code, bounds in self._bounds.items():
            own = np.flatnonzero(codes == code)
            if len(own):
                result[own] = bounds.steps(table[own], names)
        return result

    @cached_property
    def _bounds(self) -> dict[float, _Bounds]:
        return {float(code): _Bounds(plateaus) for code, plateaus in self.groups.items()}

    @staticmethod
    def from_json(record: Mapping[str, Sequence[Mapping[str, Any]]]) -> Cliffs:
        """Rebuild from JSON types; raise ValueError for anything else."""
        import msgspec

        groups = msgspec.convert(record, dict[str, tuple[Plateau, ...]])
        for code, plateaus in groups.items():
            float(code)
            if not plateaus:
                raise ValueError(f"cliffs of group {code} leave no plateau")
            for name in (name for x in plateaus for name in (*x.above, *x.up_to)):
                if name not in SEEN:
                    raise ValueError(f"cliffs of group {code} lie along {name!r}, which is no feature of theirs")
        return Cliffs(groups)


class _Bounds:
    """Bounds of plateaus as arrays [plateaus, features]: many layers are asked for at once."""

    def __init__(self, plateaus: Sequence[Plateau]) -> None:
        self.features = tuple(dict.fromkeys(name for x in plateaus for name in (*x.above, *x.up_to)))
        self.above = np.array([[x.above.get(name, -np.inf) for name in self.features] for x in plateaus], np.float32)
        self.up_to = np.array([[x.up_to.get(name, np.inf) for name in self.features] for x in plateaus], np.float32)
        self.step = np.array([x.step for x in plateaus])

    def steps(self, table: NDArray[Any], names: Sequence[str]) -> Array:
        """Return the step [n] of the plateau that each row [n, names] lies on."""
        rows = table[:, [names.index(name) for name in self.features]].astype(np.float32)
        return in_parts(self._steps, rows, -(-len(rows) // _BLOCK))

    def _steps(self, rows: NDArray[np.float32]) -> Array:
        at = rows[:, None, :]
        held = ((at > self.above) & (at <= self.up_to)).all(axis=2)
        return np.asarray(self.step[held.argmax(axis=1)])


NONE = Cliffs()
"""No cliffs: what is measured is as smooth as the physical answer."""


def find_cliffs(table: Array, names: Sequence[str], target: Array, seed: int) -> Cliffs:
    """Return the cliffs of `target` [n] over rows [n, names] of the model's features, of groups that have any."""
    codes, columns = table[:, names.index("group_code")], np.array([names.index(name) for name in SEEN])
    groups = {}
    for code in np.unique(codes):
        own = np.flatnonzero(codes == code)
        rows, bounded = table[np.ix_(own, columns)].astype(np.float32), np.clip(target[own], -CLIP, CLIP)
        if len(own) >= MIN_ROWS and _explained_frac(rows, SEEN, bounded, seed) >= LEAST_EXPLAINED_FRAC:
            groups[f"{code:g}"] = _plateaus(rows, SEEN, bounded, seed)
    return Cliffs(groups)


def _explained_frac(rows: NDArray[np.float32], names: Sequence[str], target: Array, seed: int) -> float:
    """Return the share of the variance that steps explain among rows [n, names] left out, all of one shape together; 0 of one."""
    _, shape = np.unique(rows[:, [names.index(name) for name in SHAPE]], axis=0, return_inverse=True)
    fold = (np.random.default_rng(seed).permutation(shape.max() + 1) % FOLDS)[shape.ravel()]
    if not fold.any():
        return 0.0
    left, whole = 0.0, 0.0
    for out in (fold == i for i in np.unique(fold)):
        answer = _Bounds(_plateaus(rows[~out], names, target[~out], seed)).steps(rows[out], names)
        left += float(((target[out] - answer) ** 2).sum())
        whole += float(((target[out] - target[~out].mean()) ** 2).sum())
    return 1.0 - left / whole if whole > 0 else 0.0


def _plateaus(rows: NDArray[np.float32], names: Sequence[str], target: Array, seed: int) -> tuple[Plateau, ...]:
    """Return the leaves of a shallow tree; two of one split are joined where no large step parts them."""
    from sklearn.tree import DecisionTreeRegressor

    fitted = DecisionTreeRegressor(min_samples_leaf=LEAF_ROWS, max_leaf_nodes=MOST_LEAVES, random_state=seed).fit(rows, target)
    tree = fitted.tree_

    def below(node: int, above: dict[str, float], up_to: dict[str, float]) -> Iterator[Plateau]:
        whole = Plateau(round(float(tree.value[node, 0, 0]), 4), above, up_to)
        if tree.children_left[node] < 0:
            yield whole
            return
        name, bound = names[tree.feature[node]], float(np.float32(tree.threshold[node]))
        first = list(below(tree.children_left[node], above, up_to | {name: bound}))
        second = list(below(tree.children_right[node], above | {name: bound}, up_to))
        alike = len(first) == len(second) == 1 and abs(first[0].step - second[0].step) < LEAST_STEP
        yield from [whole] if alike else first + second

    return tuple(below(0, {}, {}))
