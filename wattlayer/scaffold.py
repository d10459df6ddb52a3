"""The physical scaffold: a roofline whose rates are measured per cell of like layers, so that it extrapolates.

Time is a smooth maximum of five terms, each a physical lower bound times a rate fitted to measurements:

    t = (Σ_j (rate_j · term_j)^p)^(1/p)        p > 1, per cell

with the launch floor, traffic (bytes from L2 and from DRAM, each at its own rate), rows of a reduction, FLOP in whole
tiles and waves, and the serial time of one tile. Rates are bounded by physics, so that a cell measured on small layers
only cannot claim to compute or to stream faster than the device can. It extends the roofline (Williams et al., CACM
2009) by tile and wave quantisation (NVIDIA, "Matrix multiplication background", performance guide DU-09799) and leaves
to trees only what it cannot say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .features import Array, Columns
from .layer import Layer

TERMS = ("launch", "l2", "dram", "rows", "compute", "tile")

START = np.log(np.array([5.0, 0.6, 1.2, 0.1, 1.3, 0.3, 2.0]))
"""Where fitting starts: 5 us launch, DRAM at 83 % of peak, compute at 77 %, p = 3. It holds alone where nothing was measured."""

FASTEST = np.log(np.array([0.3, 0.02, 0.95, 1e-4, 0.95, 1e-3, 0.1]))
SLOWEST = np.log(np.array([3000.0, 0.95, 50.0, 1e3, 5000.0, 1e3, 12.0]))
"""Bounds of the rates. DRAM and compute may beat the data sheet by 5 % (boost clocks); L2 is never slower than DRAM. A kernel
on one core of 28 that uses none of its vector lanes computes a thousand times slower than the data sheet (max pooling does)."""

FEWER_FLOP = {"/3x3": 1 / 2.25, "/kxk": 0.2}
"""Algorithms that need fewer FLOP than the direct convolution that is counted: Winograd's F(2x2, 3x3) by 2.25 (Lavin and
Gray, 2016), FFT's by 5 for 5x5 and larger windows. They need stride 1 and do not run on tensor cores."""

SHRINKAGE = np.array([0.05, 0.05, 1.0, 0.05, 1.0, 0.05, 0.2])
"""Ridge weights on the distance (in log rate) from the prior: groups from `START`, cells from their group. What a data sheet
states (DRAM, compute) is known better beforehand than floors are."""

MIN_LAYERS = 5
"""A cell with fewer distinct layers takes the rates of its group, a group those of all layers."""

_TILE_M, _TILE_N, _TILE_K = 32.0, 32.0, 8.0
_ROW_S = 1e-9
_LAUNCH_S = 1e-6
_L2_EDGE, _L2_STEEPNESS = 1.4, 6.0
"""Working sets beyond ~1.4 x L2 stream from DRAM; the change is gradual (measured on A30 and RTX 2080 Ti element-wise layers)."""


_CONVOLUTIONS = np.array(["", "/grouped", "/1x1", "/strided", "/3x3", "/kxk"], dtype=object)
"""Algorithm classes: none, grouped, pointwise, strided, Winograd-capable (3x3) or other windows with stride 1."""


def cells(layers: Sequence[Layer], columns: Columns) -> list[str]:
    """Name the cell of each layer: its kind, for convolutions also the algorithm class, with /tc on tensor cores."""
    suffix = _CONVOLUTIONS[_algorithms(columns)] + _tensor_core(columns)
    names: list[str] = (columns.of_kind(lambda x: x.kind) + suffix).tolist()
    return names


def groups(layers: Sequence[Layer], columns: Columns) -> list[str]:
    """Name the wider class that lends its rates to a cell with few measurements."""
    names: list[str] = (columns.of_kind(lambda x: x.group) + _tensor_core(columns)).tolist()
    return names


def _is_conv(columns: Columns) -> NDArray[np.bool_]:
    return columns.of_kind(lambda x: x.group == "conv").astype(bool)


def _algorithms(columns: Columns) -> NDArray[np.intp]:
    """Return the place of each layer's class in `_CONVOLUTIONS`."""
    window = columns["window"]
    tests = [~_is_conv(columns), columns["batches"] > 1, window == 1, columns["stride"] > 1, window == 9]
    return np.select(tests, range(len(tests)), len(tests))


def _tensor_core(columns: Columns) -> NDArray[Any]:
    return np.where(_is_conv(columns) & (columns.tensor_core > 0), np.array("/tc", dtype=object), "")


def terms(columns: Columns) -> Array:
    """Return the six terms [n_layers, 6] in seconds, before their rates."""
    hardware, matrix = columns.hardware, columns.matrix_like
    memory = columns.memory_s()
    spill = np.maximum(columns.bytes_moved, 1.0) / (_L2_EDGE * hardware.l2_bytes)
    from_dram = 1.0 / (1.0 + spill**-_L2_STEEPNESS)
    padded_flop = (
        2.0 * columns["batches"]
        * np.ceil(columns["m"] / _TILE_M) * _TILE_M
        * np.ceil(columns["n"] / _TILE_N) * _TILE_N
        * np.ceil(columns["k"] / _TILE_K) * _TILE_K
    )  # fmt: skip
    tile_flop = 2.0 * _TILE_M * _TILE_M * columns["k"]
    return np.column_stack([
        np.full(len(memory), _LAUNCH_S),
        memory * (1.0 - from_dram),
        memory * from_dram,
        np.where(matrix, 0.0, columns["m"] * _ROW_S),
        np.where(matrix, padded_flop / columns.peak_flop_per_s, columns.compute_s()),
        np.where(matrix, tile_flop * hardware.units / columns.peak_flop_per_s, 0.0),
    ])  # fmt: skip


def _time(log_rates: Array, values: Array) -> Array:
    """Smooth maximum over the terms; the last log rate is log(p - 1)."""
    power = 1.0 + np.exp(log_rates[-1])
    rated = values * np.exp(log_rates[:-1])
    scaled = np.column_stack([rated[:, 0], rated[:, 1] + rated[:, 2], rated[:, 3:]])
    largest = scaled.max(axis=1, keepdims=True)
    total: Array = largest[:, 0] * ((scaled / largest) ** power).sum(axis=1) ** (1.0 / power)
    return total


@dataclass(frozen=True)
class Scaffold:
    """Fitted log rates per cell and per group, and under "*" for everything else."""

    log_rates: Mapping[str, tuple[float, ...]]

    def time_s(self, layers: Sequence[Layer], columns: Columns) -> Array:
        """Return the scaffold's time [n_layers] in seconds."""
        values = terms(columns)
        of_cell, of_group = cells(layers, columns), groups(layers, columns)
        codes = columns.alike * len(_CONVOLUTIONS) + _algorithms(columns)  # cell and group follow from these two
        result = np.empty(len(codes))
        for code, first in zip(*np.unique(codes, return_index=True)):
            chosen = codes == code
            result[chosen] = _time(np.array(self.log_rates[self._known(of_cell[first], of_group[first])]), values[chosen])
        return result

    def _known(self, cell: str, group: str) -> str:
        return next(name for name in (f"cell:{cell}", f"group:{group}", "*") if name in self.log_rates)

    @staticmethod
    def fit(layers: Sequence[Layer], columns: Columns, time_s: Array) -> Scaffold:
        """Fit rates to measured times [n_layers]: all layers first, then each group from them, then each cell from its group."""
        values, target = terms(columns), np.log(time_s)
        weight = per_layer(layers)
        rates: dict[str, Array] = {"*": fit_rates(START, values, target, weight, FASTEST)}
        of_group = np.array(groups(layers, columns))
        of_cell = np.array(cells(layers, columns))
        for names, prefix, prior in (
            (of_group, "group:", lambda i: rates["*"]),
            (of_cell, "cell:", lambda i: rates.get(f"group:{of_group[i]}", rates["*"]) + fewer_flop(str(of_cell[i]))),
        ):
            for name in sorted(set(names)):
                chosen = names == name
                if weight[chosen].sum() >= MIN_LAYERS - 1e-9:
                    start = prior(int(np.argmax(chosen)))
                    rates[prefix + name] = fit_rates(
                        start, values[chosen], target[chosen], weight[chosen], FASTEST + fewer_flop(name)
                    )
        return Scaffold({name: tuple(float(x) for x in row) for name, row in rates.items()})


def per_layer(layers: Sequence[Layer]) -> Array:
    """Return weights [n_layers] that let each distinct layer count once, however often it was measured."""
    counts: dict[Layer, int] = {}
    for layer in layers:
        counts[layer] = counts.get(layer, 0) + 1
    return np.array([1.0 / counts[layer] for layer in layers])


def fewer_flop(name: str) -> Array:
    """Return what the algorithms of a cell take off the prior and the lower bounds of its log rates."""
    shift = np.zeros(len(FASTEST))
    shift[TERMS.index("compute")] = next((np.log(frac) for end, frac in FEWER_FLOP.items() if name.endswith(end)), 0.0)
    return shift


def fit_rates(prior: Array, values: Array, target: Array, weight: Array, fastest: Array) -> Array:
    """Return the log rates [7] under which `values` [n, 6] in seconds come closest to `target` [n], log seconds.

    Least squares in log time, robust by pseudo-Huber loss at 14 % error, drawn towards `prior` and not below `fastest`.
    """
    from scipy.optimize import least_squares

    scale = 0.02

    def residuals(log_rates: Array) -> Any:
        error = np.log(_time(log_rates, values)) - target
        robust = np.sign(error) * np.sqrt(2 * scale * (np.sqrt(1 + error**2 / scale) - 1))
        return np.concatenate([np.sqrt(weight) * robust, np.sqrt(SHRINKAGE) * (log_rates - prior)])

    inside = np.clip(prior, fastest + 1e-6, SLOWEST - 1e-6)
    result: Array = least_squares(residuals, inside, bounds=(fastest, SLOWEST), max_nfev=60).x
    return result
