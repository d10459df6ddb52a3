"""A simulated rig: a device with exact power waveforms and a meter with a meter's faults, on a virtual clock.

Rows measured on it carry `hardware: "simulated"`. Every figure here is made up for testing; none describes a real device.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wattlayer.dataset import Measurement, read_measurements
from wattlayer.layer import Layer
from wattlayer.measure.campaign import Campaign
from wattlayer.measure.journal import Journal
from wattlayer.measure.plan import Plan, filler_layer
from wattlayer.measure.rig import CannotRun, Facts, Item, Progress
from wattlayer.meter import BoardState, Instrument
from wattlayer.meter.nvml import NvmlPower

Segment = tuple[float, float]
"""Seconds and watts above hot idle."""


@dataclass(frozen=True)
class Sensor:
    """What stands between the device's true power and what is read of it."""

    period_s: float = 0.1
    window_s: float = 0.1
    """Averaged before each refresh; shorter than the period for a part-time sensor."""
    jitter_s: float = 0.0005
    noise_frac: float = 0.004
    gain: float = 1.0
    power_gain: float = 1.0
    quantum_j: float = 1e-3
    delay_s: float = 0.0
    read_cost_s: float = 0.0024


@dataclass(frozen=True)
class Thermals:
    """Idle powers, leakage and two thermal poles."""

    idle_hot_w: float = 120.0
    idle_deep_w: float = 75.0
    hot_for_s: float = 1.0
    leak_w_per_k: float = 0.45
    ambient_c: float = 32.0
    fast_k_per_w: float = 0.02
    slow_k_per_w: float = 0.05
    fast_s: float = 2.5
    slow_s: float = 70.0


class Device:
    """The device and its clock. Power = idle + leakage(temperature) + load + background."""

    def __init__(
        self,
        sensor: Sensor = Sensor(),
        seed: int = 0,
        thermals: Thermals = Thermals(),
        background: Callable[[float], float] | None = None,
    ) -> None:
        self.sensor, self.thermals, self.background = sensor, thermals, background
        self.random = random.Random(seed)
        self.t, self.energy_j = 0.0, 0.0
        self.fast_k = self.slow_k = 0.0
        self.segments: Sequence[Segment] = ()
        self.load_since = 0.0
        self.load_until = math.inf
        self.round_s = self.round_j = 0.0
        self.busy_until = -math.inf
        self.next_refresh = self.random.random() * min(sensor.period_s, 1.0)
        self.last_refresh = 0.0
        self.window_start_j = 0.0
        self.counter_j = 1234.5
        self.published: list[tuple[float, float, float]] = [(-1.0, self.counter_j, thermals.idle_deep_w)]
        if sensor.period_s > 1e6:
            self.next_refresh = math.inf

    # --- the clock
    def now(self) -> float:
        return self.t

    def sleep(self, seconds: float) -> None:
        end = self.t + max(seconds, 1e-6)
        while self.t < end - 1e-12:
            self._step(end)

    def _step(self, end: float) -> None:
        """Advance to the next instant at which something happens, at most 5 ms."""
        now, window_start = self.t + 1e-12, self.next_refresh - self.sensor.window_s
        until = min(end, self.t + 0.005)
        for stop in (self.next_refresh, window_start, self.load_until):
            if now < stop < until:
                until = stop
        h = until - self.t
        energy_j = self._base_w() * h + self._load_j(self.t, until)
        power_w = energy_j / h
        thermals = self.thermals
        self.fast_k += (power_w * thermals.fast_k_per_w - self.fast_k) * h / thermals.fast_s
        self.slow_k += (power_w * thermals.slow_k_per_w - self.slow_k) * h / thermals.slow_s
        self.energy_j += energy_j
        self.t = until
        if self.segments and self.t >= self.load_until:
            self.unload()
        if abs(self.t - window_start) < 1e-9:
            self.window_start_j = self.energy_j
        if self.t >= self.next_refresh - 1e-12:
            self._refresh()

    def _refresh(self) -> None:
        sensor, now = self.sensor, self.t
        window_s = min(sensor.window_s, now - self.last_refresh) if sensor.window_s >= sensor.period_s else sensor.window_s
        power_w = (self.energy_j - self.window_start_j) / max(window_s, 1e-6)
        seen_w = power_w * (1 + self.random.gauss(0, sensor.noise_frac))
        self.counter_j += seen_w * sensor.gain * (now - self.last_refresh)
        self.published.append((now + sensor.delay_s, self.counter_j, seen_w * sensor.power_gain))
        del self.published[:-40]
        self.last_refresh = now
        self.next_refresh = now + max(sensor.period_s / 2, sensor.period_s + self.random.gauss(0, sensor.jitter_s))
        if sensor.window_s >= sensor.period_s:
            self.window_start_j = self.energy_j

    def _base_w(self) -> float:
        hot = self.segments or self.t - self.busy_until < self.thermals.hot_for_s
        idle_w = self.thermals.idle_hot_w if hot else self.thermals.idle_deep_w
        extra_w = self.background(self.t) if self.background else 0.0
        return idle_w + self.leak_w + extra_w

    @property
    def leak_w(self) -> float:
        return self.thermals.leak_w_per_k * (self.fast_k + self.slow_k)

    def _load_j(self, begin: float, end: float) -> float:
        if len(self.segments) == 1:  # the commonest case, and the one worth being quick
            return self.segments[0][1] * (end - begin)
        if not self.segments:
            return 0.0
        return self._cumulative_j(end - self.load_since) - self._cumulative_j(begin - self.load_since)

    def _cumulative_j(self, x: float) -> float:
        rounds, rest_s = divmod(x, self.round_s)
        total_j = rounds * self.round_j
        for seconds, watts in self.segments:
            if rest_s <= seconds:
                return total_j + rest_s * watts
            total_j += seconds * watts
            rest_s -= seconds
        return total_j

    # --- load
    def load(self, segments: Sequence[Segment], seconds: float = math.inf) -> None:
        self.segments, self.load_since, self.load_until = segments, self.t, self.t + seconds
        self.round_s, self.round_j = sum(s for s, _ in segments), sum(s * w for s, w in segments)

    def unload(self) -> None:
        if self.segments:
            self.busy_until = self.t
        self.segments, self.load_until = (), math.inf

    # --- what a meter sees
    def read(self) -> tuple[float, float]:
        """Counter in joules and power in watts, as published by now; reading takes its time."""
        self.sleep(self.sensor.read_cost_s)
        _, counter_j, power_w = next(x for x in reversed(self.published) if x[0] <= self.t)
        return math.floor(counter_j / self.sensor.quantum_j) * self.sensor.quantum_j, power_w


class Counter:
    """The device's energy counter; `fault` may spoil a reading, given its number."""

    name = "simulated-counter"

    def __init__(self, device: Device, fault: Callable[[int, float], float] | None = None) -> None:
        self.device, self.fault, self.reads = device, fault, 0

    def energy_j(self) -> float:
        self.reads += 1
        value_j = self.device.read()[0]
        return self.fault(self.reads, value_j) if self.fault else value_j


class Board:
    """What the device tells of itself; tests change the attributes."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.capped_share = 0.0
        self.clock_hz = 1.7e9
        self.processes = 1

    def state(self) -> BoardState:
        device = self.device
        temperature_c = device.thermals.ambient_c + device.fast_k + device.slow_k
        capped_s = device.t * self.capped_share
        return BoardState(temperature_c, self.clock_hz, 2.6e9, capped_s, 0.0, self.processes)


# --- what layers take on the simulated device

LAUNCH_S = 2.2e-6
PEAK_FLOP_PER_S = {"float32": 50e12, "float16": 400e12, "bfloat16": 400e12}
BYTES_PER_S = 2e12
J_PER_FLOP = {"float32": 5e-12, "float16": 0.6e-12, "bfloat16": 0.6e-12}
J_PER_BYTE = 90e-12
GAP_S = 6e-6
"""Between two calls in eager mode."""
FILL_BYTES = 4e6
"""What a large layer loses to the ramps at its begin and end; small ones move at half of the bandwidth."""


EFFICIENCY = {"conv": 0.65, "matmul": 0.8, "attention": 0.5, "recurrent": 0.3}
TILE_ELEMENTS, UNITS = 128 * 128, 100


def _efficiency(layer: Layer) -> float:
    """Share of the peak: by group, less for grouped convolutions, and whole waves of tiles only."""
    if layer.group not in EFFICIENCY:
        return 0.05
    tiles = math.ceil(layer.outputs[0].elements / TILE_ELEMENTS)
    waves = tiles / UNITS / math.ceil(tiles / UNITS)
    grouped = 0.1 if layer.argument("groups", 1) > 1 else 1.0
    return EFFICIENCY[layer.group] * grouped * max(waves, 0.02)


def layer_time_s(layer: Layer) -> float:
    """A roofline with the roughness of a real device: small layers do not fill it, and tiles come in waves."""
    moved = layer.read_bytes + layer.write_bytes
    compute_s = layer.flop / PEAK_FLOP_PER_S.get(layer.dtype, 50e12) / _efficiency(layer)
    memory_s = (moved + FILL_BYTES * moved / (moved + FILL_BYTES)) / BYTES_PER_S
    return LAUNCH_S + max(compute_s, memory_s) + 0.2 * min(compute_s, memory_s)


def layer_dynamic_j(layer: Layer) -> float:
    """Energy above hot idle."""
    moved = layer.read_bytes + layer.write_bytes
    return layer.flop * J_PER_FLOP.get(layer.dtype, 5e-12) + moved * J_PER_BYTE + 2e-5 * LAUNCH_S / 1e-6


def layer_segment(layer: Layer) -> Segment:
    time_s = layer_time_s(layer)
    return time_s, min(layer_dynamic_j(layer) / time_s, 560.0)


def true_energy_j(segments: Sequence[Segment], device: Device) -> float:
    """Energy of one round of `segments` at the device's present temperature."""
    base_w = device.thermals.idle_hot_w + device.leak_w
    return sum(seconds * (watts + base_w) for seconds, watts in segments)


class SimulatedWorkload:
    """One item kept running: `segments` are one call; a filler of `filler_w` and varying length follows every 10 ms of them."""

    def __init__(
        self, device: Device, segments: Sequence[Segment], filler_w: float | None = None, facts: Facts | None = None
    ) -> None:
        self.device, self.call, self.facts = device, tuple(segments), facts or Facts()
        self.call_s = sum(s for s, _ in segments)
        if filler_w is None:
            self.per_round, self.filler_s, self.round = 1, 0.0, self.call
        else:
            together, lengths_s = max(1, round(0.01 / self.call_s)), [0.01 + 0.005 * random.Random(i).random() for i in range(12)]
            average = self.call if len(self.call) > 1 or together == 1 else ((self.call_s * together, self.call[0][1]),)
            times = together if len(self.call) > 1 else 1
            self.round = tuple(x for s in lengths_s for x in (*average * times, (s, filler_w)))
            self.per_round, self.filler_s = together * len(lengths_s), sum(lengths_s)
        self.round_s = sum(s for s, _ in self.round)
        self.begun_s = 0.0

    def start(self) -> None:
        self.begun_s = self.device.t
        self.device.load(self.round)

    def keep_busy(self) -> None:
        pass

    def progress(self) -> Progress:
        rounds = math.floor((self.device.t - self.begun_s) / self.round_s)
        time_s = rounds * self.round_s
        return Progress(rounds * self.per_round, time_s, time_s, rounds * self.filler_s)

    def stop(self) -> None:
        self.device.unload()

    def burst(self, seconds: float) -> None:
        self.device.load(self.round, seconds)

    def close(self) -> None:
        self.device.unload()


class SimulatedRig:
    """Everything that a campaign needs, made up."""

    hardware = "simulated"
    modes = ("graph", "eager")

    def __init__(
        self,
        device: Device | None = None,
        *,
        seed: int = 0,
        fault: Callable[[int, float], float] | None = None,
        build_s: float = 0.03,
        broken: frozenset[str] = frozenset(),
        networks: dict[str, Sequence[Layer]] | None = None,
        capped: frozenset[str] = frozenset(),
    ) -> None:
        self.device = device or Device(seed=seed)
        self.clock = self.device
        self.board = Board(self.device)
        power = NvmlPower(lambda: self.device.read()[1], self.device)
        self.instrument = Instrument(
            "simulated", (Counter(self.device, fault), power), self.board, power, description={"board": "sim"}
        )
        self.build_s, self.broken, self.networks, self.capped = build_s, broken, networks or {}, capped
        self.prepared = 0

    def prepare(self, item: Item) -> SimulatedWorkload:
        self.prepared += 1
        self.device.sleep(self.build_s)
        if item.digest in self.broken:
            raise CannotRun("out_of_memory", "the simulated device is full")
        self.board.capped_share = 0.5 if item.digest in self.capped and item.regime != "diluted" else 0.0
        segments = self.segments(item)
        filler_w = layer_segment(filler_layer(item.dtype))[1] if item.regime == "diluted" else None
        return SimulatedWorkload(self.device, segments, filler_w, Facts(seed=0, distribution="normal"))

    def segments(self, item: Item) -> list[Segment]:
        layers = [item.layer] if item.layer else list(self.networks[item.call.name])
        gaps = [(GAP_S, 0.0)] if item.mode == "eager" else []
        return [segment for layer in layers for segment in (layer_segment(layer), *gaps)]

    def describe(self) -> dict[str, Any]:
        return {"simulated": True}


def simulated_measurements(plan: Plan, rig: SimulatedRig, path: Path) -> list[Measurement]:
    """Run a plan's layers on the rig and return the rows to train on: launched in graphs, cold, without flags.

    Whole networks are left out. The rig's truth for any layer is `true_energy_j([layer_segment(layer)], rig.device)`.
    """
    items = tuple(item for item in plan.items if item.layer)
    Campaign(rig, replace(plan, items=items, networks=()), Journal(path), warm_up_s=60.0).run(math.inf)
    rows = read_measurements(path)
    return [row for row in rows if row.mode == "graph" and row.regime == "cold" and not row.flags]
