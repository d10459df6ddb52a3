"""Shapes that no network of the list has: scrambled Sobol points in log2 space, for each group of kinds.

A group is a function from coordinates in [0, 1) to one operator call on meta tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import log2
from random import Random

import torch
from torch.nn import functional as F

from ..errors import InputError
from ..layer import Layer
from .record import meta, record
from .sample import LONGEST_DRAWN_S, SHARES, Roofline, stratify

COORDINATES = 8
OVERSAMPLED = 4
"""Points drawn for each layer wanted, so that rare cells of time and intensity are filled too."""

Unit = list[float]
Shape = Callable[["Point"], Layer]


class Point:
    """One Sobol point: each call of a method uses up its next coordinate."""

    def __init__(self, unit: Unit, dtype: str, tf32: str) -> None:
        self._unit: Iterator[float] = iter(unit)
        self.dtype, self.tf32 = dtype, tf32

    def size(self, low: int, high: int, multiple: int = 1) -> int:
        """A whole number from `low` to `high`, uniform in log2, rounded to a multiple."""
        exact = 2 ** (log2(low) + next(self._unit) * (log2(high) - log2(low)))
        return max(low, multiple * round(exact / multiple))

    def one_of(self, *values: int) -> int:
        return values[int(next(self._unit) * len(values))]

    def tensor(self, *shape: int) -> torch.Tensor:
        return meta(*shape, dtype=self.dtype)

    def record(self, function: Callable[..., object], *tensors: torch.Tensor) -> Layer:
        return record(function, *tensors, tf32=self.tf32)


def sobol_layers(count: int, dtypes: list[tuple[str, str]], roofline: Roofline, seed: int) -> list[Layer]:
    """Return about `count` distinct layers, by group as `sample.SHARES` says, spread over time decades and intensities.

    `dtypes` are (dtype, TF32 mode) pairs, taken in turn.
    """
    random, found = Random(seed), []
    for index, (group, share) in enumerate(SHARES.items()):
        wanted = round(count * share)
        engine = torch.quasirandom.SobolEngine(COORDINATES, scramble=True, seed=seed * 1000 + index)
        points = engine.draw(wanted * OVERSAMPLED).tolist() if wanted else []
        layers = dict.fromkeys(x for x in (_layer(group, unit, random.choice(dtypes), random) for unit in points) if x)
        found += stratify([x for x in layers if roofline.fits(x, LONGEST_DRAWN_S)], wanted, roofline)
    return found


def _layer(group: str, unit: Unit, dtype: tuple[str, str], random: Random) -> Layer | None:
    try:
        return random.choice(SHAPES[group])(Point(unit, *dtype))
    except InputError:  # a kernel larger than its input, and the like
        return None


def _conv(p: Point) -> Layer:
    kernel, stride = p.one_of(1, 3, 3, 5, 7), p.one_of(1, 1, 2)
    x = p.tensor(p.size(1, 64), p.size(8, 1024, 8), edge := p.size(7, 128), edge)
    weight = p.tensor(p.size(8, 1024, 8), x.shape[1], kernel, kernel)
    return p.record(lambda x, w: F.conv2d(x, w, stride=stride, padding=kernel // 2), x, weight)


def _conv_grouped(p: Point) -> Layer:
    kernel, stride, groups = p.one_of(3, 5, 7), p.one_of(1, 2), p.one_of(0, 0, 2, 8, 32)
    batch, channels, edge = p.size(1, 64), p.size(32, 1024, 32), p.size(7, 128)
    groups = groups or channels  # 0 stands for depthwise
    weight = p.tensor(channels, channels // groups, kernel, kernel)
    x = p.tensor(batch, channels, edge, edge)
    return p.record(lambda x, w: F.conv2d(x, w, stride=stride, padding=kernel // 2, groups=groups), x, weight)


def _conv_transposed(p: Point) -> Layer:
    kernel = p.one_of(2, 4)
    x = p.tensor(p.size(1, 32), p.size(16, 512, 8), edge := p.size(7, 64), edge)
    weight = p.tensor(x.shape[1], p.size(8, 256, 8), kernel, kernel)
    return p.record(lambda x, w: F.conv_transpose2d(x, w, stride=2, padding=kernel // 2 - 1), x, weight)


def _linear(p: Point) -> Layer:
    rows, features, outputs = p.size(1, 16384), p.size(64, 8192, 8), p.size(64, 16384, 8)
    return p.record(F.linear, p.tensor(rows, features), p.tensor(outputs, features))


def _bmm(p: Point) -> Layer:
    batches, m, k, n = p.size(1, 256), p.size(16, 2048, 8), p.size(16, 1024, 8), p.size(16, 2048, 8)
    return p.record(torch.bmm, p.tensor(batches, m, k), p.tensor(batches, k, n))


def _attention(p: Point) -> Layer:
    batch, groups, shared, head = p.size(1, 32), p.size(1, 16), p.one_of(1, 1, 4, 8), p.one_of(64, 64, 128)
    keys, decoding, causal = p.size(64, 4096, 8), p.one_of(0, 0, 1), p.one_of(0, 1)
    query = p.tensor(batch, groups * shared, 1 if decoding else keys, head)
    key = p.tensor(batch, groups, keys, head)

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=bool(causal and not decoding), enable_gqa=shared > 1)

    return p.record(attend, query, key, key.clone())


def _elementwise(p: Point) -> Layer:
    which, x = p.one_of(0, 1, 2, 3, 4, 5), p.tensor(p.size(1, 128), p.size(2**10, 2**21))
    if which < 2:
        return p.record((torch.add, torch.mul)[which], x, x.clone())
    return p.record((F.relu, F.gelu, F.silu, torch.sigmoid)[which - 2], x)


def _norm(p: Point) -> Layer:
    rows, width = p.size(1, 32768), p.size(64, 8192, 8)
    if p.one_of(0, 1):
        return p.record(lambda x, w: F.rms_norm(x, (width,), w), p.tensor(rows, width), p.tensor(width))
    return p.record(lambda x, w, b: F.layer_norm(x, (width,), w, b), p.tensor(rows, width), p.tensor(width), p.tensor(width))


def _norm_of_channels(p: Point) -> Layer:
    x = p.tensor(p.size(1, 64), p.size(32, 1024, 32), edge := p.size(7, 112), edge)
    scale = [p.tensor(x.shape[1]) for _ in range(4)]
    if p.one_of(0, 1):
        return p.record(lambda x, w, b: F.group_norm(x, 32, w, b), x, *scale[:2])
    return p.record(F.batch_norm, x, *scale)


def _copy(p: Point) -> Layer:
    rows, width, which = p.size(1, 16384), p.size(64, 8192, 8), p.one_of(0, 1, 2)
    x = p.tensor(rows, width)
    if which == 0:
        return p.record(lambda a, b: torch.cat([a, b], dim=1), x, x.clone())
    if which == 1:
        return p.record(lambda a: a.t().contiguous(), x)
    return p.record(lambda a: F.pad(a, (1, 1)), x)


def _pooling(p: Point) -> Layer:
    x = p.tensor(p.size(1, 64), p.size(16, 1024, 8), edge := p.size(7, 112), edge)
    which = p.one_of(0, 1, 2, 3)
    if which == 0:
        return p.record(lambda x: F.max_pool2d(x, 3, 2, 1), x)
    if which == 1:
        return p.record(lambda x: F.avg_pool2d(x, 2), x)
    return p.record((lambda x: F.adaptive_avg_pool2d(x, 1)) if which == 2 else (lambda x: x.mean((2, 3))), x)


def _softmax(p: Point) -> Layer:
    return p.record(lambda x: F.softmax(x, dim=-1), p.tensor(p.size(1, 65536), p.size(16, 32768, 8)))


def _embedding(p: Point) -> Layer:
    tokens = meta(p.size(1, 64), p.size(1, 2048), dtype="int64")
    return p.record(F.embedding, tokens, p.tensor(p.size(1000, 256000), p.size(64, 4096, 8)))


def _recurrent(p: Point) -> Layer:
    steps, batch, width, hidden = p.size(8, 128), p.size(1, 64), p.size(32, 1024, 8), p.size(64, 1024, 8)
    gates, run = p.one_of(3, 4), {3: torch.gru, 4: torch.lstm}
    weights = [p.tensor(gates * hidden, width), p.tensor(gates * hidden, hidden), *[p.tensor(gates * hidden)] * 2]
    state = p.tensor(1, batch, hidden)
    first = state if gates == 3 else (state, state.clone())

    def recur(x: torch.Tensor) -> object:
        return run[gates](x, first, weights, True, 1, 0.0, False, False, False)  # type: ignore[operator]

    return p.record(recur, p.tensor(steps, batch, width))


SHAPES: dict[str, tuple[Shape, ...]] = {
    "matmul": (_linear, _linear, _bmm),
    "conv": (_conv, _conv, _conv_grouped, _conv_transposed),
    "attention": (_attention,),
    "elementwise": (_elementwise,),
    "norm": (_norm, _norm_of_channels),
    "copy": (_copy,),
    "pooling": (_pooling,),
    "softmax": (_softmax,),
    "embedding": (_embedding,),
    "recurrent": (_recurrent,),
}
"""The calls of each group; to add one, add one function."""
