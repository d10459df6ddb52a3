"""The physical scaffold: a roofline whose rates are measured per cell of like layers, so that it extrapolates.

Each rate multiplies a physical lower bound (`Terms`); what a device does in turn is added, what it does at once takes as long
as the slowest part (max_p is the maximum that power means with exponent p make smooth):

    t       = max_p( host, latency + rows + beside + work )
    host    = the loop that issues the kernels; it and the latency count more for each further kernel, which adds a bias or
              copies an operand
    beside  = bytes that kernels beside a convolution's move: they copy or turn its images, or add its bias
    work    = max_q( traffic, compute, serial )
    traffic = bytes from L2 and from DRAM, each at its own rate, parted by how far the working set exceeds L2
    compute = on matrix units the fastest of several tile sizes, in whole tiles and waves, and for convolutions of
              Winograd's and Fourier's transforms; else FLOP
    serial  = the main loop of one tile, which no number of units makes shorter

It extends the roofline (Williams et al., CACM 2009) by tile and wave quantisation (NVIDIA, "Matrix multiplication
background", performance guide DU-09799). Rates are bounded by physics, so that a cell measured on small layers only cannot
claim to compute or to stream faster than the device can, and leave to trees only what a law cannot say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..features import GROUP_CODES, KIND_CODES, SMALLEST_TILE, SMALLEST_TILES, Array, Columns
from ..kinds import group_of_kind
from ..layer import Layer

TILES = ((128.0, 128.0), (128.0, 64.0), (64.0, 64.0))
"""Output tiles of matrix kernels beside the smallest; a layer takes about the time of the best for it."""


class Rate(NamedTuple):
    """A rate of the scaffold: where fitting starts, its physical bounds, and how far cells lie from their prior."""

    start: float
    least: float
    most: float
    sd: float
    """Expected distance (standard deviation in log rate) of a group from all, and of a cell from its group."""
    run_sd: float
    """The same of one campaign from its cell."""


TABLE = {
    "host": Rate(10.0, 0.3, 3000.0, 0.9, 0.3),
    "further": Rate(0.5, 0.05, 1.0, 0.3, 0.15),
    "latency": Rate(3.0, 0.05, 3000.0, 0.3, 0.15),
    "l2": Rate(0.6, 0.02, 1.5, 0.3, 0.15),
    "dram": Rate(1.2, 0.95, 20.0, 0.18, 0.3),
    "l2_edge": Rate(1.4, 0.3, 4.0, 0.18, 0.3),
    "rows": Rate(0.5, 0.003, 1e3, 1.2, 0.15),
    "beside": Rate(1.2, 0.3, 20.0, 0.3, 0.15),
    "serial": Rate(5.0, 0.1, 1e4, 0.9, 0.15),
    "tile_128x128": Rate(1.3, 0.9, 5000.0, 0.42, 0.1),
    "tile_128x64": Rate(1.35, 0.9, 5000.0, 0.42, 0.1),
    "tile_64x64": Rate(1.5, 0.9, 5000.0, 0.42, 0.1),
    "tile_smallest": Rate(2.0, 0.9, 5000.0, 0.42, 0.1),
    "split": Rate(2.5, 0.9, 5000.0, 0.42, 0.1),
    "winograd": Rate(1.2, 0.8, 5000.0, 0.25, 0.1),
    "fft": Rate(1.3, 0.6, 5000.0, 0.25, 0.1),
    "vector": Rate(8.0, 0.9, 5000.0, 0.9, 0.1),
    "work_power": Rate(1.5, 0.05, 8.0, 0.42, 0.1),
    "host_power": Rate(4.0, 0.05, 12.0, 0.6, 0.1),
}
"""Every rate: times over the data sheet's for traffic and compute, microseconds and nanoseconds for what no data sheet states
(`terms`), the edge in L2 capacities, powers of the two maxima less 1; a further kernel takes a share of a launch, all of it at
most. DRAM and compute may beat the data sheet (boost clocks) by 5 % and 10 %; transforms of convolutions, whose tiles and caches
differ, what is reckoned of them by 20 % and 40 %; what is moved beside a convolution may lie in L2, up to three times as fast. A
kernel on one core of 28 that uses none of its vector lanes computes a thousand times slower than the data sheet (max pooling
does), and alone fetches a twentieth of what its DRAM gives (some 12 of 230 GB/s). The deviations are the middle of three sets
tried on folds of A30 and RTX 2080 Ti layers, which these two are judged on as well (docs/method.md)."""

RATES = tuple(TABLE)
BLOCKS = {
    "launch": ("host", "latency"), "traffic": ("l2", "dram", "rows", "beside"),
    "compute": ("serial", "tile_128x128", "tile_128x64", "tile_64x64", "tile_smallest", "split", "winograd", "fft", "vector"),
}  # fmt: skip
"""Rates of times, by what they are times of: with all of them time doubles."""
START, FASTEST, SLOWEST = (np.log([getattr(rate, side) for rate in TABLE.values()]) for side in ("start", "least", "most"))
_AT = {name: i for i, name in enumerate(RATES)}
_COMPUTE = slice(_AT["tile_128x128"], _AT["vector"] + 1)

SD, RUN_SD = (np.array([getattr(rate, kind) for rate in TABLE.values()]) for kind in ("sd", "run_sd"))
ALL_SD = np.where(np.array(RATES) == "host", 2.0, 1e-4)
"""What all layers share is their host, and that alone: what slows the norms of a device does not slow its other kinds."""

NOISE_SD = 0.1
"""Scatter of log time that the priors are weighed against; errors beyond 14 % count less (pseudo-Huber)."""
_ROBUST = 0.02
_TIES_SD = 0.25
"""How far tile sizes of one cell are expected to part, in log efficiency: kernels of one family are alike."""
_BELOW_START = 2.0
"""The mean of a prior is at most this far (in log rate) below `START`: what is fast in one cell is unsure in the next."""

MIN_LAYERS, MIN_ROWS_OF_RUN = 5, 3
"""A cell with fewer distinct layers takes the rates of its group, a group the start and the host of all layers, a campaign
those of its cell."""

_TILE_SHARPNESS, _EDGE_STEEPNESS = 6.0, 6.0
"""How soft the choice of a tile is, and the change from L2 to DRAM (measured on A30 and RTX 2080 Ti element-wise layers)."""
_SPLIT_K = 256.0
"""Long products are cut into parts of this length where there are too few tiles to fill the device (split-K)."""
_REORDER = 100.0
"""On CPUs oneDNN copies the operands of a convolution to a blocked layout and its result back, but for channels-last ones, which
stay where they are (ONEDNN_VERBOSE=1 shows both), at about a hundredth of DRAM bandwidth (Xeon Gold 5120: 1.7 times as long)."""
_WINOGRAD_TILE, _WINOGRAD_OUTPUTS = 6.0, 4.0
"""Winograd's F(4x4, 3x3) makes tiles of 4x4 outputs from 6x6 products (Lavin and Gray, CVPR 2016)."""
_FFT_TILE = 32.0
"""Fourier's convolutions work on tiles of 32x32, half of whose spectrum determines the rest (Mathieu, Henaff and LeCun, ICLR
2014); a window of edge r leaves 33 - r outputs a side. Images of more than one tile are convolved directly, as they are on the
Jetson."""
_TRANSFORMED = ("float32", "float16", "bfloat16")
_ROWED = [GROUP_CODES[group] for group in ("norm", "softmax", "pooling", "reduction")]

_ALGORITHMS = (
    "", "/eval", "/depthwise/cudnn", "/depthwise", "/grouped", "/1x1/strided", "/1x1", "/direct", "/strided", "/3x3", "/kxk",
)  # fmt: skip
_NUMBERS, _LAYOUTS = ("", "/half"), ("", "/gathered")
_SUFFIXES = np.array(
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
    names: list[str] = (columns.of_kind(lambda x: x.kind) + _SUFFIXES[_variants(columns)]).tolist()
    return names


def groups(columns: Columns) -> list[str]:
    """Name the wider class that lends its rates to a cell with few measurements."""
    names: list[str] = (columns.of_kind(lambda x: x.group) + _OF_GROUP[_variants(columns)]).tolist()
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


_OF_GROUP = np.array([group_suffix(x) for x in _SUFFIXES], dtype=object)


def _variants(columns: Columns) -> NDArray[np.intp]:
    """Return the place of each layer's class in `_SUFFIXES`."""
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


@dataclass(frozen=True)
class Terms:
    """Physical lower bounds (of transforms estimates) [n_layers] in seconds, before rates; those of `work_s` in `RATES` order
    but for "beside". And how many kernels layers launch beside the first."""

    host_s: Array
    further: Array
    """Kernels that add a bias or copy an operand, and steps of recurrent layers after the first."""
    traffic_s: Array
    """All bytes at DRAM bandwidth; those that a CPU's convolutions copy `_REORDER` times, on GPUs what sectors bring along."""
    l2_share: Array
    """Working set over L2 capacity, dimensionless."""
    beside_s: Array
    """Bytes that kernels beside a convolution's move, which copy or turn its images or add its bias, at DRAM bandwidth."""
    work_s: Array
    """Rows, the serial main loop, each tile size, split products, transforms and vector FLOP [n_layers, 10]."""
    matrix: NDArray[np.bool_]
    """Whether matrix kernels do it."""

    def take(self, chosen: NDArray[Any]) -> Terms:
        return Terms(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))

    @staticmethod
    def join(parts: Sequence[Terms]) -> Terms:
        return Terms(*(np.concatenate([getattr(x, name) for x in parts]) for name in Terms.__dataclass_fields__))


def terms(columns: Columns) -> Terms:
    """Return the bounds of every layer; launches are in microseconds and rows and serial steps in nanoseconds each."""
    device, m, (_, _, k) = columns.hardware, columns["m"], columns.product
    matrix, bias = columns.matrix_like & ~columns.depthwise, columns.separate_bias
    per_unit = device.units / columns.peak_flop_per_s  # seconds that one unit takes for a FLOP
    # what is recurrent does one product after another
    turns = np.where(columns["group_code"] == GROUP_CODES["recurrent"], np.maximum(columns["batches"], 1.0), 1.0)

    def tiled_s(edge_m: float, edge_n: float) -> Array:
        return turns * np.ceil(columns.waves(edge_m, edge_n) / turns) * 2.0 * edge_m * edge_n * k * per_unit

    def split_s(edge_m: float, edge_n: float) -> Array:
        padded_s = columns.tiled_flop(edge_m, edge_n) / columns.peak_flop_per_s
        return np.maximum(padded_s, 2.0 * edge_m * edge_n * turns * np.minimum(k, _SPLIT_K) * per_unit)

    def smallest(times_s: Callable[[float, float], Array]) -> Array:
        """By the smallest tiles that the library has, whichever is the fastest."""
        square, *thin = (times_s(*edges) for edges in SMALLEST_TILES)
        return np.where(columns.by_blas, np.minimum.reduce([square, *thin]), square)

    tiled = (*(tiled_s(*edges) for edges in TILES), smallest(tiled_s))
    # for fewer queries than a tile holds, attention cuts its keys
    few = (columns["group_code"] == GROUP_CODES["attention"]) & (m < SMALLEST_TILE)
    steps = np.where(few, np.minimum(k, _SPLIT_K), turns * k)
    dense, on_cpu = columns.is_conv & ~columns.depthwise, device.kind == "cpu"
    # kernels for tensor cores take channels-last images: others are turned before and after, unless they can be left as they lie
    turned = dense & (columns.tensor_core > 0) & ~columns.channels_inmost & ~columns.as_it_lies & (not on_cpu)
    images_bytes = columns["read_bytes"] - columns["weight_bytes"] + columns["write_bytes"]
    beside_bytes = 2.0 * dense * (turned * images_bytes + bias * columns["write_bytes"] + columns["copied_bytes"])
    vector = columns["flop"] / device.peak("float32")
    reordered = np.where(columns.is_conv & (columns["channels_last"] == 0) & on_cpu, _REORDER, 1.0)
    moved_bytes = reordered * columns.own_bytes + 2.0 * ~dense * (columns["copied_bytes"] + bias * columns["write_bytes"])
    return Terms(
        host_s=np.full(len(m), LAUNCH_S), further=bias + columns["copies"] + turns - 1.0,
        traffic_s=(moved_bytes + (0.0 if on_cpu else columns["across_bytes"])) / device.dram_bytes_per_s,
        l2_share=columns.l2_share, beside_s=beside_bytes / device.dram_bytes_per_s,
        work_s=np.column_stack([
            _STEP_S * _rows(columns),
            *(np.where(matrix, x, 0.0) for x in (_STEP_S * steps, *tiled, smallest(split_s), *_transformed_s(columns))),
            np.where(matrix, 0.0, vector),
        ]),
        matrix=matrix,
    )  # fmt: skip


def _rows(columns: Columns) -> Array:
    """Return how many rows of a reduction [n_layers] layers take as long as, beside what they read and compute.

    One of a softmax, up to 1024 numbers that a warp and not a block takes (ATen's dispatch_softmax_forward), counts a quarter; an
    output that gathers a window, of a depthwise convolution or on GPUs, which have a thread for each, of a pooling, a thirtieth.
    On GPUs pooling that adapts to its output has a block for each plane, ten times as long as a row (two shapes on the A30 and
    the RTX 2080 Ti each, which their cards judge as well); the mean of whole planes is a reduction.
    """
    m, group, on_gpu = columns["m"], columns["group_code"], columns.hardware.kind != "cpu"
    pooling = (group == GROUP_CODES["pooling"]) & on_gpu
    adapts = columns.of_kind(lambda x: "adaptive" in x.kind).astype(bool)
    averages = columns.of_kind(lambda x: "adaptive_avg" in x.kind).astype(bool)
    planes = m / np.maximum(columns["out_positions"], 1.0)
    cases = [
        (columns.depthwise, 0.03 * columns["write_bytes"] / columns["element_bytes"]),
        (pooling & averages & (planes == m), m),
        (pooling & adapts, 10.0 * planes),
        (pooling, 0.03 * m),
        ((group == GROUP_CODES["softmax"]) & (columns["n"] <= 1024.0), 0.25 * m),
        (np.isin(group, _ROWED), m),
    ]
    tests, counts = zip(*cases)
    return np.asarray(np.select(tests, counts, 0.0))


def _transformed_s(columns: Columns) -> tuple[Array, Array]:
    """Return the times [n_layers] in seconds of convolving by Winograd's and Fourier's transforms; `NEVER_S` where one cannot.

    Filters, inputs and outputs are transformed, each a kernel that writes what the next one reads, and multiplied in between.
    Both are those of GPUs whose library has them, for dense conv2d with stride 1 and one group in numbers of two or four
    bytes that do not run on tensor cores and square windows; images are taken to be square.
    """
    device, window = columns.hardware, columns["window"]
    winograd, fft = np.full(len(window), NEVER_S), np.full(len(window), NEVER_S)
    if device.kind == "cpu" or not device.transforms:
        return winograd, fft
    can = (window >= 9) & (columns["stride"] == 1) & (columns["dilation"] == 1) & (columns["batches"] == 1)
    can &= (columns["square"] == 1) & (columns.tensor_core == 0) & (columns["channels_last"] == 0)
    can &= columns.of_kind(lambda x: x.kind == "conv2d" and x.dtype in _TRANSFORMED).astype(bool)

    def tiled_s(rows: NDArray[np.intp], outputs: Array | float, floats: float, flop: float) -> Array:
        m, n, k, positions, bytes_of_one = (columns[x][rows] for x in ("m", "n", "k", "out_positions", "element_bytes"))
        positions = np.maximum(positions, 1.0)
        inputs, tiles = k / window[rows], m / positions * np.ceil(np.sqrt(positions) / outputs - 1e-9) ** 2
        moved = columns.bytes_moved[rows] + 2.0 * bytes_of_one * floats * (inputs * n + (inputs + n) * tiles)
        result: Array = flop * inputs * n * tiles / columns.peak_flop_per_s[rows] + moved / device.dram_bytes_per_s
        return result

    # few layers can, and to reckon for all takes five times as long (174 layers of a ResNet-50)
    if len(rows := np.flatnonzero(can & (window == 9))):
        products = _WINOGRAD_TILE**2
        winograd[rows] = tiled_s(rows, _WINOGRAD_OUTPUTS, products, 2.0 * products)
    outputs = _FFT_TILE + 1.0 - np.sqrt(window)
    can &= (window > 9) & (window < _FFT_TILE**2) & (columns["out_positions"] <= outputs**2)
    if len(rows := np.flatnonzero(can)):
        frequencies = _FFT_TILE * (_FFT_TILE / 2.0 + 1.0)
        fft[rows] = tiled_s(rows, outputs[rows], 2.0 * frequencies, 8.0 * frequencies)
    return winograd, fft


def from_dram_frac(l2_share: Array, edge: Array | float) -> Array:
    """Return the share of the traffic that DRAM serves, for working sets in L2 capacities and the edge between both."""
    share: Array = 1.0 / (1.0 + (l2_share / edge) ** -_EDGE_STEEPNESS)
    return share


LAUNCH_S, _STEP_S, _TINY_S, NEVER_S = 1e-6, 1e-9, 1e-15, 1e6
"""What a rate of 1 means for launches, and for rows and serial steps; and times that stand for none and for never."""


def law(log_rates: Array, terms: Terms) -> tuple[Array, Callable[[], Array]]:
    """Return log time [n] under `log_rates` ([rates] or [n, rates]) and how to get its slopes by log rate, [n, rates]."""
    rate = dict(zip(RATES, np.moveaxis(np.exp(log_rates), -1, 0)))
    latency = LAUNCH_S * rate["latency"]
    from_dram = from_dram_frac(terms.l2_share, rate["l2_edge"])
    l2, dram = terms.traffic_s * (1.0 - from_dram) * rate["l2"], terms.traffic_s * from_dram * rate["dram"]
    beside = terms.beside_s * rate["beside"]
    rows, serial = terms.work_s[:, 0] * rate["rows"], terms.work_s[:, 1] * rate["serial"]
    compute_of = terms.work_s[:, 2:] * np.exp(log_rates[..., _COMPUTE])
    tiles = np.where(terms.matrix[:, None], np.maximum(compute_of[:, :-1], _TINY_S), 1.0)
    best = tiles.min(axis=1, keepdims=True)
    near = (best / tiles) ** _TILE_SHARPNESS
    compute = np.where(terms.matrix, best[:, 0] * near.sum(axis=1) ** (-1 / _TILE_SHARPNESS), compute_of[:, -1])
    work_power, host_power = 1.0 + rate["work_power"], 1.0 + rate["host_power"]
    log_work, work_shares, work_by_power = _soft_maximum(np.stack([l2 + dram, compute, serial], axis=1), work_power)
    work = np.exp(log_work)
    kernels = 1.0 + terms.further * rate["further"]
    host, latency = terms.host_s * rate["host"] * kernels, latency * kernels
    device = latency + rows + beside + work
    log_time, shares, by_power = _soft_maximum(np.stack([host, device], axis=1), host_power)

    def slopes() -> Array:
        result = np.zeros((len(log_time), len(RATES)))
        of_host, of_device = shares[:, 0] / host, shares[:, 1] / device
        of_work = of_device * work
        of_traffic = of_work * work_shares[:, 0] / np.maximum(l2 + dram, _TINY_S)
        moved = _EDGE_STEEPNESS * from_dram * (1.0 - from_dram) * terms.traffic_s * (rate["l2"] - rate["dram"])
        tile_share = np.where(terms.matrix[:, None], near / near.sum(axis=1, keepdims=True), 0.0)
        found = {
            "host": of_host * host, "further": (of_host * host + of_device * latency) * (1.0 - 1.0 / kernels),
            "latency": of_device * latency, "rows": of_device * rows, "beside": of_device * beside,
            "l2": of_traffic * l2, "dram": of_traffic * dram, "l2_edge": of_traffic * moved,
            "serial": of_work * work_shares[:, 2], "vector": of_work * work_shares[:, 1] * ~terms.matrix,
            "work_power": of_work * work_by_power * rate["work_power"], "host_power": by_power * rate["host_power"],
        }  # fmt: skip
        for name, slope in found.items():
            result[:, _AT[name]] = slope
        result[:, _COMPUTE.start : _COMPUTE.stop - 1] = (of_work * work_shares[:, 1])[:, None] * tile_share
        return result

    return log_time, slopes


def _soft_maximum(parts: Array, power: Array) -> tuple[Array, Array, Array]:
    """Log of the power mean's maximum of `parts` [n, m], the share of each part in it [n, m], and its slope by the power [n]."""
    logs = np.log(np.maximum(parts, _TINY_S))
    largest = logs.max(axis=1)
    scaled = np.exp(np.reshape(power, (-1, 1)) * (logs - largest[:, None]))
    total = scaled.sum(axis=1)
    shares = scaled / total[:, None]
    by_power = ((shares * (logs - largest[:, None])).sum(axis=1) - np.log(total) / power) / power
    return largest + np.log(total) / power, shares, by_power


@dataclass(frozen=True)
class Scaffold:
    """Fitted log rates per cell (and campaign, "cell:relu@run") and per group, and under "*", for everything else, `START` and
    the host of all layers."""

    log_rates: Mapping[str, tuple[float, ...]]
    runs: tuple[str, ...] = ()
    """Campaigns by their code."""

    def time_s(self, columns: Columns, run: Array | None = None) -> Array:
        """Return the scaffold's time [n_layers] in seconds, in the campaigns of codes `run` [n_layers] where they are given."""
        return np.exp(law(self._rates(columns, run), terms(columns))[0])

    def slopes(self, columns: Columns) -> Array:
        """Return how log time [n_layers, n_rates] follows each log rate."""
        return law(self._rates(columns, None), terms(columns))[1]()

    def _rates(self, columns: Columns, run: Array | None) -> Array:
        """Log rates [n_layers, n_rates]; all layers of one kind, variant and campaign share theirs."""
        of_run = np.full(len(columns.alike), len(self.runs)) if run is None or not self.runs else run.astype(np.intp)
        variants = _variants(columns)
        codes = (columns.alike * len(_SUFFIXES) + variants) * (len(self.runs) + 1) + of_run
        _, firsts, inverse = np.unique(codes, return_index=True, return_inverse=True)
        kinds, wide, names = columns.of_kind(lambda x: x.kind), columns.of_kind(lambda x: x.group), (*self.runs, "")
        table = []
        for i in firsts:
            cell, group = kinds[i] + _SUFFIXES[variants[i]], wide[i] + _OF_GROUP[variants[i]]
            table.append(self.log_rates[self._known(cell, group, names[of_run[i]])])
        return np.array(table).reshape(-1, len(RATES))[inverse]

    def _known(self, cell: str, group: str, run: str) -> str:
        return next(name for name in lenders(group, cell, run) if name in self.log_rates)

    def of_first_run(self) -> Scaffold:
        """Return the scaffold as it stands in the reference campaign, without campaigns."""
        plain = {name: row for name, row in self.log_rates.items() if "@" not in name}
        own = {name: self.log_rates.get(f"{name}@{self.runs[0]}", row) if self.runs else row for name, row in plain.items()}
        return Scaffold(own)

    def taught(self, law: Mapping[str, Sequence[float]]) -> Scaffold:
        """Return this scaffold with rates for groups of which none was measured here: those that other devices have in common
        by their `law`, else, under "*", what this device's own groups show: in the middle of those that tell of a rate, where
        these are of two kinds or more (convolutions alone say little of a norm).

        How long a kernel takes to be issued and to start is the device's own in both.
        """
        own = _common(self.log_rates["*"][_AT["host"]])
        names = [name for name in self.log_rates if name.startswith("group:")]
        groups = np.array([self.log_rates[name] for name in names]).reshape(-1, len(RATES))
        wide, telling = np.array([name.partition("/")[0] for name in names]), np.abs(groups - own) > _MOVED
        telling[:, _AT["host"]] = False
        for i, its in enumerate(telling.T):
            if len(set(wide[its])) > 1:
                own[i] = np.median(groups[its, i])
        rates = {**self.log_rates, "*": tuple(own.tolist())}
        for name, row in law.items():
            if name != "*" and next(x for x in lenders(group_of(name)) if x in self.log_rates) == "*":
                rates[name] = tuple(np.where(_STARTING, own, row).tolist())
        return replace(self, log_rates=rates)

    def without(self, kind: str, layers: Sequence[Layer], columns: Columns, time_s: Array) -> Scaffold:
        """Return what would be known of layers of `kind` had those of measured `layers` [n] not been: what their groups teach."""
        values, weight, of_group = terms(columns), per_layer(layers), np.array(groups(columns))
        own = columns.of_kind(lambda x: x.kind) == kind
        learned = {lender for group in set(of_group[own]) for lender in lenders(group)} - {"*"}
        measured = {f"group:{group}" for group in set(of_group) if weight[of_group == group].sum() >= MIN_LAYERS - 1e-9}
        rates = {name: row for name, row in self.log_rates.items() if name in measured - learned}
        rates["*"] = tuple(float(x) for x in _common(self.log_rates["*"][_AT["host"]]))
        for name in sorted(learned):
            others = (of_group == name.removeprefix("group:")) & ~own
            if weight[others].sum() >= MIN_LAYERS - 1e-9:
                drawn, start = _from_nearest(name.removeprefix("group:"), rates), self.log_rates.get(name)
                fitted = fit_rates(drawn, values.take(others), np.log(time_s[others]), weight[others], start)
                rates[name] = tuple(float(x) for x in fitted)
        return Scaffold(rates)

    @staticmethod
    def fit(
        layers: Sequence[Layer], columns: Columns, time_s: Array, runs: tuple[str, ...] = (), run: Array | None = None,
        like: Scaffold | None = None,
    ) -> Scaffold:  # fmt: skip
        """Fit rates to measured times [n_layers]; with campaigns `runs` and their codes `run` [n_layers], theirs as well.

        The search starts from the rates of `like` where it is given, which is faster.
        """
        values, target, weight = terms(columns), np.log(time_s), per_layer(layers)
        of_cell, starts = np.array(cells(columns)), like.log_rates if like else {}
        rates = fit_levels(values, np.array(groups(columns)), of_cell, target, lambda chosen: weight[chosen], starts)
        for code, name in enumerate(runs):
            for cell in sorted(set(of_cell[run == code])):
                chosen = (of_cell == cell) & (run == code)
                if (prior := rates.get(f"cell:{cell}")) is not None and np.count_nonzero(chosen) >= MIN_ROWS_OF_RUN:
                    own, drawn = values.take(chosen), Prior(prior, RUN_SD)
                    rates[f"cell:{cell}@{name}"] = fit_rates(drawn, own, target[chosen], np.ones(chosen.sum()), prior)
        return Scaffold({name: tuple(float(x) for x in row) for name, row in rates.items()}, runs)


_MOVED = 0.1
"""A log rate that lies no farther from `START` than this was hardly told by the layers of its group."""

_STARTING = np.isin(RATES, ("host", "latency"))


def _common(log_host: float) -> Array:
    """Log rates [rates] of all layers together: of these only the host is fitted."""
    rates: Array = START.copy()
    rates[_AT["host"]] = log_host
    return rates


def fit_levels(
    values: Terms, of_group: NDArray[Any], of_cell: NDArray[Any], target: Array, weigh: Callable[[NDArray[np.bool_]], Array],
    starts: Mapping[str, Sequence[float]] = MappingProxyType({}),
) -> dict[str, Array]:  # fmt: skip
    """Fit log rates to log seconds `target` [n]: the host of all layers first, each group from its nearest
    lender, each cell from its group.

    `weigh` returns the weights of the rows that a mask [n] chooses; a level needs a sum of `MIN_LAYERS`.
    """
    every = np.ones(len(target), dtype=bool)
    rates = {"*": fit_rates(Prior(START, ALL_SD), values, target, weigh(every), starts.get("*"))}
    for prefix, names in (("group:", of_group), ("cell:", of_cell)):
        for name in sorted(set(names)):
            chosen = names == name
            weight = weigh(chosen)
            if weight.sum() >= MIN_LAYERS - 1e-9:
                group = str(of_group[np.argmax(chosen)])
                drawn, start = _from_nearest(group, rates), starts.get(prefix + name)
                rates[prefix + name] = fit_rates(drawn, values.take(chosen), target[chosen], weight, start)
    return rates


def per_layer(layers: Sequence[Layer]) -> Array:
    """Return weights [n_layers] that let each distinct layer count once, however often it was measured."""
    counts: dict[Layer, int] = {}
    for layer in layers:
        counts[layer] = counts.get(layer, 0) + 1
    return np.array([1.0 / counts[layer] for layer in layers])


class Prior(NamedTuple):
    """Where log rates are expected and how far off (standard deviation), both [rates]."""

    mean: Array
    sd: Array


def _from_nearest(group: str, rates: Mapping[str, Sequence[float] | Array]) -> Prior:
    """Return where the rates of a group, or of its cells, are expected: at those of its nearest lender that is known."""
    return Prior(np.array(next(rates[name] for name in lenders(group) if name in rates)), SD)


def fit_rates(prior: Prior, values: Terms, target: Array, weight: Array, start: Sequence[float] | Array | None = None) -> Array:
    """Return the log rates [rates] under which `values` [n] come closest to `target` [n], log seconds.

    Least squares in log time, robust by pseudo-Huber loss, drawn towards the prior and within its bounds. The problem has
    local minima: without a `start` it is started from a fit that is not robust, from the prior and from `START`.
    """
    prior = prior._replace(mean=np.maximum(prior.mean, START - _BELOW_START))
    if start is not None:
        return _fit(prior, values, target, weight, np.array(start))[0]
    likely = np.where(prior.mean < START - 0.75 * _BELOW_START, START, prior.mean)
    plain, _ = _fit(prior, values, target, weight, likely, robust=1.0)
    tried = [_fit(prior, values, target, weight, x) for x in (plain, prior.mean, START)]
    return min(tried, key=lambda x: x[1])[0]


_TIED = slice(_COMPUTE.start + 1, _AT["split"] + 1)
_TIES = np.eye(len(RATES))[_TIED] - np.eye(len(RATES))[_COMPUTE.start]


def _fit(prior: Prior, values: Terms, target: Array, weight: Array, start: Array, robust: float = _ROBUST) -> tuple[Array, float]:
    """Return log rates and their cost by least squares from one start."""
    from scipy.optimize import least_squares

    ridge = np.vstack([np.diag(NOISE_SD / prior.sd), NOISE_SD / _TIES_SD * _TIES])
    root = np.sqrt(weight)

    def residuals(log_rates: Array) -> tuple[Array, Callable[[], Array]]:
        log_time, slopes = law(log_rates, values)
        error = log_time - target
        bent = np.sqrt(1.0 + error**2 / robust)
        huber = error * np.sqrt(2.0 / (bent + 1.0))  # = sign(e) sqrt(2 s (sqrt(1 + e²/s) - 1)), without cancellation

        def jacobian() -> Array:
            steepness = np.sqrt((bent + 1.0) / 2.0) / bent
            return np.vstack([(root * steepness)[:, None] * slopes(), ridge])

        return np.concatenate([root * huber, ridge @ (log_rates - prior.mean)]), jacobian

    latest: list[tuple[Array, Callable[[], Array]]] = []

    def value(log_rates: Array) -> Array:
        found, jacobian = residuals(log_rates)
        latest[:] = [(log_rates.copy(), jacobian)]
        return found

    def slopes_at(log_rates: Array) -> Array:
        if not latest or not np.array_equal(latest[0][0], log_rates):
            value(log_rates)
        return latest[0][1]()

    inside = np.clip(start, FASTEST + 1e-6, SLOWEST - 1e-6)
    found = least_squares(value, inside, jac=slopes_at, bounds=(FASTEST, SLOWEST), max_nfev=80, ftol=1e-5, xtol=1e-5)
    return found.x, float(found.cost)
