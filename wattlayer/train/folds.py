"""Which layers are left out together to judge what is trained: singly, with everything like them, and the largest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..features.columns import Array, Columns
from ..layer import Layer
from ..model.support import positions
from .rows import Rows

FOLDS, BLOCKS, LARGEST_FRAC = 4, 6, 0.2
"""Out-of-fold errors come from random folds of layers (near), from blocks of like layers left out whole (far) and from leaving
out those of the most FLOP (larger than all measured)."""

ROUNDED_DIGITS = 7
"""A time with more digits than these is not met twice by chance."""


def leaving_out(rows: Rows, columns: Columns, seed: int) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Yield rows to leave out, and how: distinct layers "singly" in random folds, blocks of layers "alike", the "largest"."""
    from sklearn.cluster import KMeans

    shapes = [layer.with_tf32("none") for layer in rows.layers]  # a layer with and without TF32 stays on one side
    distinct = list(dict.fromkeys(shapes))
    index = {layer: i for i, layer in enumerate(distinct)}
    row_layer = np.array([index[x] for x in shapes])
    points = np.empty((len(distinct), positions(columns).shape[1]))
    points[row_layer] = positions(columns)
    block = KMeans(min(BLOCKS, len(distinct) // 2), n_init=4, random_state=seed).fit_predict(points)
    for how, codes in (("singly", random_folds(rows, seed)), ("alike", block[row_layer])):
        for code in np.unique(codes):
            yield how, codes == code
    ascending = np.argsort([layer.flop for layer in distinct], kind="stable")
    yield "largest", np.isin(row_layer, ascending[round(len(distinct) * (1 - LARGEST_FRAC)) :])


def random_folds(rows: Rows, seed: int) -> NDArray[np.int64]:
    """Return the fold [n] of each row, of `FOLDS`; all rows of a layer share one, with and without TF32."""
    number = numbers(rows)
    if not number.any():
        raise InputError(f"all {len(number)} rows are of one layer or carry one reading: measure layers one by one")
    fold: NDArray[np.int64] = np.random.default_rng(seed).permutation(number.max() + 1) % FOLDS
    return fold[number]


def numbers(rows: Rows) -> NDArray[np.int64]:
    """Number the layers [n] of `rows`: with and without TF32 a layer is one, and so are layers that share a reading."""
    return together([layer.with_tf32("none") for layer in rows.layers], rows.time_s, rows.power_w)


def together(shapes: Sequence[Layer], time_s: Array, power_w: Array) -> NDArray[np.int64]:
    """Number what must not be parted, by first appearance: rows [n] of one shape, and shapes that share a reading.

    Tables may carry one reading under several layers (IrEne: products of as many FLOP and bytes), which would stand on both
    sides. Times that are rounded to `ROUNDED_DIGITS` or fewer may be equal by chance and join nothing.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    keys: dict[object, int] = {}
    edges = []
    for i, (shape, *reading) in enumerate(zip(shapes, time_s.tolist(), power_w.tolist())):
        edges.append((i, len(shapes) + keys.setdefault(shape, len(keys))))
        if reading[0] != float(f"{reading[0]:.{ROUNDED_DIGITS}g}"):
            edges.append((i, len(shapes) + keys.setdefault(tuple(reading), len(keys))))
    size = len(shapes) + len(keys)
    places = np.array(edges, dtype=np.intp).reshape(-1, 2).T
    _, part = connected_components(coo_array((np.ones(len(edges)), tuple(places)), shape=(size, size)), directed=False)
    number: dict[int, int] = {}
    return np.array([number.setdefault(x, len(number)) for x in part[: len(shapes)].tolist()], dtype=np.int64)
