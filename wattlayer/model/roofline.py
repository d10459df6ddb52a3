"""The roofline that the scaffold fits: physical lower bounds of each layer (`Terms`), rates that multiply them, and the law.

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
background", performance guide DU-09799).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..features.columns import SMALLEST_TILE, SMALLEST_TILES, Array, Columns
from ..features.dimensions import GROUP_CODES

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
PLACES = {name: i for i, name in enumerate(RATES)}
COMPUTE = slice(PLACES["tile_128x128"], PLACES["vector"] + 1)

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
    beside_others = 2.0 * ~dense * (columns["copied_bytes"] + bias * columns["write_bytes"]) + columns.reread_bytes
    moved_bytes = reordered * columns.own_bytes + beside_others
    return Terms(
        host_s=np.full(len(m), LAUNCH_S), further=bias + columns["copies"] + turns - 1.0 + columns["further"] * (not on_cpu),
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
    compute_of = terms.work_s[:, 2:] * np.exp(log_rates[..., COMPUTE])
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
            result[:, PLACES[name]] = slope
        result[:, COMPUTE.start : COMPUTE.stop - 1] = (of_work * work_shares[:, 1])[:, None] * tile_share
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
