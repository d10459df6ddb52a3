"""Which layers share their rates: cells of like layers, groups of cells, and where what was not measured takes its rates from."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..features.columns import Columns
from ..features.dimensions import KIND_CODES
from ..kinds import group_of_kind

_ALGORITHMS = (
    "", "/eval", "/depthwise/cudnn", "/depthwise", "/grouped", "/1x1/strided", "/1x1", "/direct", "/strided", "/3x3", "/kxk",
)  # fmt: skip
_NUMBERS, _LAYOUTS = ("", "/half"), ("", "/gathered")
SUFFIXES = np.array(
    [a + odd + tc + number + layout for layout in _LAYOUTS for number in _NUMBERS for tc in ("", "/tc")
     for odd in ("", "/odd") for a in _ALGORITHMS], dtype=object,
)  # fmt: skip


def cells(columns: Columns) -> list[str]:
    """Name the cell of each layer: its kind, for convolutions also what chooses the algorithm.

    GPUs have algorithms for windows and strides (a 1x1 window without stride is a plain product of matrices); oneDNN, which
    PyTorch convolves with on CPUs, has one, the direct convolution. /odd marks output planes that are no multiple of 16 bytes
    (vector loads lose their alignment in NCHW) and products whose rows are none on tensor cores, /tc tensor cores, /half numbers
    of two bytes or one, which other kernels work on, and /gathered operands that lie apart in memory.
    """
    names: list[str] = (columns.of_kind(lambda x: x.kind) + SUFFIXES[variants_of(columns)]).tolist()
    return names


def groups(columns: Columns) -> list[str]:
    """Name the wider class that lends its rates to a cell with few measurements."""
    names: list[str] = (columns.of_kind(lambda x: x.group) + GROUP_SUFFIXES[variants_of(columns)]).tolist()
    return names


@lru_cache(maxsize=1 << 10)
def _wider(name: str) -> list[str]:
    """Return `name` and the names of the cells or groups that lend it their rates: numbers and layouts left out in turn."""
    names = [name]
    for mark in (_LAYOUTS[1], _NUMBERS[1]):
        names += [names[-1].removesuffix(mark)] if names[-1].endswith(mark) else []
    return names


def lenders(group: str, cell: str = "", run: str = "") -> Iterator[str]:
    """Yield the names of the rates that stand in for those of a group, or of its cell in a campaign, the nearest first."""
    like = [(cell, group)]
    if "/odd" in group:  # odd products have a group of their own; where none was measured they are taken for the others
        like.append((cell.replace("/odd", ""), group.replace("/odd", "")))
    for its_cell, its_group in like:
        if cell:
            yield from (name for wide in _wider(its_cell) for name in (f"cell:{wide}@{run}", f"cell:{wide}"))
        yield from (f"group:{wide}" for wide in _wider(its_group))
    if "/eval" in group:  # a map of elements
        yield from (f"group:{wide}" for wide in _wider(group.replace("norm/eval", "elementwise")))
    yield "*"


def group_suffix(suffix: str) -> str:
    """Return what a cell's suffix, such as "/3x3/odd/tc", leaves in the name of its group: products tell /odd from others."""
    odd = "/odd" * suffix.startswith("/odd")
    return odd + "".join(part for part in ("/eval", "/depthwise", "/tc", "/half") if part in suffix)


def group_of_cell(cell: str) -> str:
    """Return the group (with /tc, /depthwise and the like) that a cell of the scaffold belongs to."""
    name, _, suffix = cell.partition("/")
    return group_of_kind(name) + group_suffix(f"/{suffix}")


def group_of(name: str) -> str:
    """Return the group that rates belong to, by their name: that of a cell ("cell:…") or of a group ("group:…")."""
    level, _, own = name.partition(":")
    return group_of_cell(own) if level == "cell" else own


GROUP_SUFFIXES = np.array([group_suffix(x) for x in SUFFIXES], dtype=object)


def variants_of(columns: Columns) -> NDArray[np.intp]:
    """Return the place of each layer's class in `SUFFIXES`."""
    window, conv, on_cpu = columns["window"], columns.is_conv, np.full(len(columns.alike), columns.hardware.kind == "cpu")
    grouped, point, strided = columns["batches"] > 1, window == 1, columns["stride"] > 1
    in_eval = (columns["kind_code"] == KIND_CODES["batch_norm"]) & (columns["train"] == 0)
    tests = [
        ~conv & ~in_eval, in_eval, _by_cudnn(columns), columns.depthwise, grouped,
        point & strided & ~on_cpu, point, on_cpu, strided, window == 9,
    ]  # fmt: skip
    algorithm = np.select(tests, range(len(tests)), len(tests))
    plain = conv & ~columns.depthwise
    odd = (plain & columns.odd_planes | columns.misaligned) & ~on_cpu
    half, gathered = columns["element_bytes"] < 4, (columns["strided"] > 0) & ~conv
    return algorithm + len(_ALGORITHMS) * (odd + 2 * (plain & (columns.tensor_core > 0)) + 4 * half + 8 * gathered)


def _by_cudnn(columns: Columns) -> NDArray[np.bool_]:
    """Whether ATen leaves a depthwise convolution to cuDNN, its own kernels being slower there: in channels-last layout, and in
    float16 by window, stride, channels and width (use_cudnn_depthwise and its heuristic for cuDNN 8.2 and later, in
    aten/src/ATen/native/Convolution.cpp), sequences without stride always; images and windows are taken to be square, 1x1 windows
    with stride to be ATen's."""
    if columns.hardware.kind == "cpu" or not columns.depthwise.any():
        return np.zeros(len(columns.alike), dtype=bool)
    window, stride, channels, width = (columns[x] for x in ("window", "stride", "in_channels", "in_positions"))
    width = np.sqrt(width)
    many = (channels >= 512) | (channels >= 256) & (width >= 28) | (columns["samples"] == 1)
    fits = np.isin(window, (1.0, 9.0, 25.0)) & (width >= 7) & ((stride == 1) | (stride == 2) & (window > 1) & many)
    fits &= columns.of_kind(lambda x: x.kind == "conv2d").astype(bool)
    fits |= columns.of_kind(lambda x: x.kind == "conv1d").astype(bool) & (stride == 1)
    fits &= columns.of_kind(lambda x: x.dtype == "float16").astype(bool) & (channels >= 32) & (columns["dilation"] == 1)
    return np.asarray(columns.depthwise & (fits | (columns["channels_last"] > 0) | (columns["transposed"] > 0)))
