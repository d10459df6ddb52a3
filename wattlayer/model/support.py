"""Where layers were measured, as points on a half-octave grid of shapes, and how far from them and beyond them others lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..features.columns import Array, Columns
from ..hardware import Hardware
from ..layer import Layer

AXES = ("batches", "m", "n", "k", "window", "stride", "in_positions")
"""Dimensions in which layers of one kind are near or far from each other."""

SIZES = ("batches", "m", "n", "k")
"""Their product is how large a layer is."""

FAR_OCTAVES, NEVER_OCTAVES = 4.0, 8.0
"""Distances are not told apart beyond the first; the second stands for kinds never measured, or never in that number format."""

MANY_LAYERS = 5_000
"""From here on, threads pay, in boosters and in looking for neighbours."""


def positions(columns: Columns) -> Array:
    """Return layers as points [n_layers, axes] in octaves, rounded to half octaves."""
    octaves = np.column_stack([np.log2(np.maximum(columns[name], 1.0)) for name in AXES])
    return np.round(octaves * 2) / 2


@dataclass(frozen=True)
class Support:
    """Which points of the half-octave grid were measured, per kind, number format and tensor-core use."""

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
        """Return the distance [n_layers] to the nearest measured point, at most `FAR_OCTAVES`; `NEVER_OCTAVES` without any."""
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
