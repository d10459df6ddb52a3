"""The physical part of power: what each busy part of a device draws, on top of idling and below the board's limit.

    P = softmin(limit, P_idle + Σ_j W_j · u_j)        u_j = the share of the time that part j is busy

Utilisations are ideal traffic and FLOP, in whole tiles where there are tiles, at peak rates, over the time taken, so that
energy splits into idle power x time and joules per byte and per FLOP (the energy roofline of Choi et al., IPDPS 2013). Two are
of the chip as a whole: it is awake for a share of each kernel's time, and the traffic of norms and their like counts twice, as
bytes and as what their threads exchange or gather. A power that exceeds the board's limit is cut by its governor, which is why
the minimum is soft: clocks drop before the limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..features.columns import Array, Columns
from ..features.dimensions import GROUP_CODES
from ..hardware import Hardware
from .roofline import TABLE, from_dram_frac

CONSUMERS = ("idle", "awake", "l2", "dram", "exchange", "tensor_core", "matrix", "vector")
"""Parts of a device that draw power when busy; "idle" always does, "awake" whenever a kernel runs, and "exchange" in norms (those
of eval mode among them), softmax, pooling, reductions, embeddings and depthwise convolutions, which drew more for a byte than
element-wise kernels."""

START_FRAC = np.array([0.2, 0.3, 0.4, 0.3, 0.6, 0.6, 0.3])
"""Where fitting starts: busy parts draw these shares of the board's limit; idling (hot) 1.5 times the data sheet's idle power."""

SHRINKAGE = 0.09
"""Ridge weight on the distance (in log watts) from the start."""

WAKE_S = 10e-6
"""A device whose kernels are this short sleeps half of the time; of 2, 5, 10 and 20 µs what fits kinds left out best."""

UNUSED_FRAC = 1e-3
"""A part that no layer keeps busy for more than this share of its time was not measured."""

_EXCHANGING = [GROUP_CODES[group] for group in ("norm", "softmax", "pooling", "reduction", "embedding")]

_L2_EDGE = TABLE["l2_edge"].start

_SHARPNESS = 8.0
"""Exponent of the soft minimum: 8 % below the limit where the demand equals it."""


@dataclass(frozen=True)
class PowerScaffold:
    """Watts per consumer at full use, and the board's limit as it was observed."""

    consumers_w: tuple[float, ...]
    """In `CONSUMERS` order."""
    limit_w: float

    def power_w(self, columns: Columns, time_s: Array, shift: Array) -> Array:
        """Return mean board power [n_layers] in watts of layers that take `time_s` [n_layers].

        `shift` [n_layers] is the log ratio of a campaign's board power to the reference campaign's, below the limit.
        """
        return softmin(busy_frac(columns, time_s) @ np.array(self.consumers_w) * np.exp(shift), self.limit_w)

    def taught(self, consumers_w: Sequence[float], columns: Columns, time_s: Array) -> PowerScaffold:
        """Return these watts, with the `consumers_w` of other devices for parts that none of the measured layers kept busy."""
        busy = busy_frac(columns, time_s).max(axis=0) > UNUSED_FRAC
        return replace(self, consumers_w=tuple(float(w) for w in np.where(busy, self.consumers_w, consumers_w)))

    @staticmethod
    def fit(columns: Columns, time_s: Array, power_w: Array, shift: Array, weight: Array) -> PowerScaffold:
        """Fit watts to measured times, powers and shifts, each [n_layers]; the limit is the highest power seen."""
        from scipy.optimize import least_squares

        start, limit_w, use = _start(columns.hardware), float(power_w.max()), busy_frac(columns, time_s)

        def residuals(log_w: Array) -> Any:
            error = np.log(softmin(use @ np.exp(log_w) * np.exp(shift), limit_w) / power_w)
            robust = np.sign(error) * np.sqrt(2.0 * _CORNER * (np.sqrt(1 + error**2 / _CORNER) - 1))
            return np.concatenate([np.sqrt(weight) * robust, np.sqrt(SHRINKAGE) * (log_w - start)])

        log_w = least_squares(residuals, start, bounds=(start - _FURTHEST[0], start + _FURTHEST[1]), max_nfev=200).x
        return PowerScaffold(tuple(float(x) for x in np.exp(log_w)), limit_w)


_CORNER = 0.02
"""Square of the error in log power, of 14 %, from which pseudo-Huber loss grows with the error and not with its square."""
_FURTHEST = (4.0, 1.5)
"""How far (natural logarithm) watts are searched below and above where they start: from a fiftieth to four and a half times."""


def _start(hardware: Hardware) -> Array:
    start: Array = np.log(np.concatenate([[1.5 * hardware.idle_w], START_FRAC * hardware.max_w]))
    return start


def softmin(demand_w: Array, limit_w: float) -> Array:
    """Return the power [n] that a board held at `limit_w` grants of a demand [n], both in watts: never more than either."""
    result: Array = (demand_w**-_SHARPNESS + limit_w**-_SHARPNESS) ** (-1 / _SHARPNESS)
    return result


def busy_frac(columns: Columns, time_s: Array) -> Array:
    """Return the share of the time that each of `CONSUMERS` is busy, [n_layers, n_consumers].

    Units that compute are busy all of the time at most: transforms need fewer FLOP than the convolution that is counted, and
    clocks may exceed the data sheet's. Depthwise convolutions fill no tiles, and gather windows as poolings do; to count their
    few FLOP among those of element-wise kernels would leave these watts to them alone.
    """
    matrix, tensor, depthwise = columns.matrix_like, columns.tensor_core > 0, columns.depthwise
    tiled_s = columns.tiled_flop(*columns.smallest_tile) / columns.peak_flop_per_s
    compute = np.minimum(np.where(matrix & ~depthwise, tiled_s, columns.compute_s()) / time_s, 1.0)
    traffic = columns.memory_s() / time_s
    from_dram = from_dram_frac(columns.l2_share, _L2_EDGE)
    return np.column_stack([
        np.ones(len(time_s)), time_s / (time_s + WAKE_S), traffic * (1.0 - from_dram), traffic * from_dram,
        traffic * (np.isin(columns["group_code"], _EXCHANGING) | depthwise), compute * (matrix & tensor),
        compute * (matrix & ~tensor), compute * ~matrix,
    ])  # fmt: skip
