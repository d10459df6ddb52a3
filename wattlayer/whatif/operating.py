"""A device below its data sheet: a lower power limit or a fixed clock, by physics alone.

Of each layer's time the share that waits for DRAM or for the launch stays, the rest follows the core clock. Of each layer's
energy idle power x time stays and so does what DRAM draws; what the cores switch follows the square of the clock, as
voltage does (P = C V² f with V ∝ f); being awake and exchanging count as switching. A power limit is held by the highest
clock that keeps to it. The one limit in the public tables, the A30's own, bears the power out but not the slow-down
(models/check_operating.py); no measurement at another limit or clock was at hand, and every prediction says so.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from numbers import Real

import numpy as np

from ..errors import InputError
from ..features.columns import Array, Columns
from ..hardware import find_hardware
from ..model import EnergyModel
from ..model.power import CONSUMERS, busy_frac
from ..model.regressor import Regressor

LOWEST_CLOCK_FRAC = 0.2
"""A governor goes no lower; where even this draws more than the limit, the limit is exceeded."""

_STEPS = 40
"""Halvings by which the clock that keeps a limit is searched: to one part in 1e12."""
_MOST_IDLE_FRAC = 0.95
"""Idle power is taken for no more than this share of a layer's power: some of it must follow the clock."""


@dataclass(frozen=True)
class Throttled(Regressor):
    """A regressor's answers at `clock_frac` of the usual clock and, where that is lower, the clock that holds `held_w`."""

    clock_frac: float = 1.0
    held_w: float = float("inf")

    def log_time_power(self, columns: Columns, kinds: frozenset[str], run: Array, beyond_octaves: Array) -> tuple[Array, Array]:
        """Return log time_s and log power_w, each [n_layers]."""
        log_time, log_power = super().log_time_power(columns, kinds, run, beyond_octaves)
        layers_at = _Layers.of(self, columns, np.exp(log_time), np.exp(log_power))
        low, high = np.full(len(log_time), LOWEST_CLOCK_FRAC), np.full(len(log_time), self.clock_frac)
        fits = layers_at.clock(high)[1] <= self.held_w
        low = np.where(fits, high, low)
        for _ in range(_STEPS):
            middle = (low + high) / 2
            fits = layers_at.clock(middle)[1] <= self.held_w
            low, high = np.where(fits, middle, low), np.where(fits, high, middle)
        slow_s, slow_w = layers_at.clock(low)
        return np.log(slow_s), np.log(slow_w)


@dataclass(frozen=True)
class _Layers:
    """What of each layer's time and energy does not follow the clock, all [n_layers]."""

    time_s: Array
    power_w: Array
    idle_w: Array
    waiting_s: Array
    dram_frac: Array
    """Share of the power above idle that DRAM draws."""

    @staticmethod
    def of(regressor: Regressor, columns: Columns, time_s: Array, power_w: Array) -> _Layers:
        drawn_w = busy_frac(columns, time_s) * np.array(regressor.drawn.consumers_w)
        above_idle_w = np.maximum(drawn_w.sum(axis=1) - drawn_w[:, CONSUMERS.index("idle")], 1e-9)
        return _Layers(
            time_s, power_w, np.minimum(columns.hardware.idle_w, _MOST_IDLE_FRAC * power_w),
            np.minimum(columns.memory_s() + columns.hardware.launch_s, time_s),
            drawn_w[:, CONSUMERS.index("dram")] / above_idle_w,
        )  # fmt: skip

    def clock(self, clock_frac: Array) -> tuple[Array, Array]:
        """Return time_s and power_w, each [n_layers], with the cores at `clock_frac` [n_layers]."""
        slow_s = self.waiting_s + (self.time_s - self.waiting_s) / clock_frac
        kept_frac = self.dram_frac + (1 - self.dram_frac) * clock_frac**2
        return slow_s, self.idle_w + (self.power_w - self.idle_w) * self.time_s * kept_frac / slow_s


def operated(model: EnergyModel, power_limit_w: float | None = None, clock_mhz: float | None = None) -> EnergyModel:
    """Return `model` for its device at a power limit in watts and a core clock in MHz; None leaves either as it is.

    Raises InputError for a limit not above idle power or more than the device has, and for a clock above its boost clock.
    """
    if power_limit_w is None and clock_mhz is None:
        return model
    for name, value, unit in (("power limit", power_limit_w, "watts"), ("clock", clock_mhz, "MHz")):
        if value is not None and (isinstance(value, bool) or not isinstance(value, Real)):
            raise InputError(f"{name} {value!r} is no number: give it in {unit}")
    device = find_hardware(model.hardware)
    most_w = max(device.max_w, model.metadata.limit_w)
    if power_limit_w is not None and not device.idle_w < power_limit_w <= most_w:
        raise InputError(
            f"power limit {power_limit_w:g} W does not fit {device.name}: give one above its idle {device.idle_w:g} W "
            f"and up to {most_w:g} W"
        )
    boost_mhz = device.clock_hz / 1e6
    if clock_mhz is not None and not LOWEST_CLOCK_FRAC * boost_mhz <= clock_mhz <= boost_mhz:
        raise InputError(
            f"clock {clock_mhz:g} MHz does not fit {device.name}: give one from "
            f"{LOWEST_CLOCK_FRAC * boost_mhz:.0f} to {boost_mhz:.0f} MHz"
        )
    said = [f"limited to {power_limit_w:g} W"] if power_limit_w is not None else []
    said += [f"clocked at {clock_mhz:g} MHz"] if clock_mhz is not None else []
    held_w = float("inf") if power_limit_w is None else power_limit_w
    clock_frac = 1.0 if clock_mhz is None else clock_mhz / boost_mhz
    learned = {f.name: getattr(model.regressor, f.name) for f in fields(Regressor)}
    throttled = Throttled(**learned, clock_frac=clock_frac, held_w=held_w)
    conditions = f"{device.name} {' and '.join(said)}: physics only, nobody measured it so"
    conditions += ", and exceeded where the lowest clock draws more" * (power_limit_w is not None)
    # what layers were off by is of the board as it was measured
    return replace(model, regressor=throttled, metadata=replace(model.metadata, conditions=conditions, left_out_mdape_frac=None))
