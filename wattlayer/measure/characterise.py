"""What a meter is like, found out before every campaign; a counter that contradicts integrated power is refused.

Steps of the measurement protocol: refresh period, quantum and cost of a call; delay of the step response; counter over
integrated instantaneous power; a square wave at ten phases; three idle powers; the choice of the source.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import reduce
from itertools import pairwise
from math import gcd, sqrt
from statistics import median
from typing import Any

from ..errors import MeterError
from ..meter import Clock, Instrument, Meter
from .estimator import FLOOR_FRAC, Edge, Noise, mean_power
from .rig import Workload
from .window import Policy, Watch

RATIO_LOW, RATIO_HIGH = 0.97, 1.03
"""Counter over integrated power must lie within: larger differences are faults, not noise (zeus issue 181: 1/6, 0.5)."""
PART_TIME_SPREAD_FRAC = 0.3
"""Spread of a square wave's mean power over ten phases above which the sensor samples part of the time only."""
PHASES = 10
CONTINUOUS_S = 0.010
"""A counter that refreshes faster than this is read as continuous; its sampling needs no square wave."""
EDGES_WANTED = 20
SETTLE_S = 0.15
"""After a change of load, before a source that publishes at once shows nothing but the new load."""


@dataclass(frozen=True)
class MeterCharacter:
    """What one source turned out to be like."""

    name: str
    refresh_s: float
    quantum_j: float
    read_cost_s: float
    delay_s: float
    step_sd_frac: float
    ratio_to_power: float | None = None
    """This source over integrated instantaneous power; None where there is nothing to compare with."""
    square_wave_spread_frac: float | None = None

    @property
    def part_time(self) -> bool | None:
        """Whether the sensor samples only part of the time; None where that was not tested."""
        spread = self.square_wave_spread_frac
        return None if spread is None else spread > PART_TIME_SPREAD_FRAC

    @property
    def noise(self) -> Noise:
        return Noise(max(self.step_sd_frac, FLOOR_FRAC), quantum_j=self.quantum_j, refresh_s=self.refresh_s)


@dataclass(frozen=True)
class Character:
    """The chosen source, what it is like, the idle powers around it and why other sources were passed over."""

    meter: MeterCharacter
    idle_deep_w: float | None
    idle_hot_w: float | None
    idle_spinning_w: float | None
    refused: tuple[str, ...]
    processes: int | None
    """Compute processes seen before the campaign, ours included."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"part_time": self.meter.part_time}


@dataclass(frozen=True)
class Bench:
    """What a characterisation works with: the instrument, the clock, a steady load and a load of empty calls."""

    instrument: Instrument
    clock: Clock
    load: Workload
    spin: Workload | None = None
    longest_s: float = 4.0
    """How long steps of a slow source are waited for."""


def idle_powers(instrument: Instrument, clock: Clock, seconds: float = 1.0) -> dict[str, float | None]:
    """Power of the idle device by each source; deep idle if nothing ran before. None where a source hardly steps."""
    if instrument.label != "measured":  # a stated power is the same at any load
        return {}
    return {meter.name: _idle_or_none(clock, meter, seconds) for meter in instrument.meters}


def _idle_or_none(clock: Clock, meter: Meter, seconds: float) -> float | None:
    try:
        return _idle(clock, meter, seconds)
    except MeterError:  # one source of several that does not answer is passed over when they are examined
        return None


def characterise(bench: Bench, deep_w: Mapping[str, float | None]) -> tuple[Meter, Character]:
    """Return the source to measure with and its character; raise MeterError naming why every source was refused.

    `deep_w` are the `idle_powers` from before the device was warmed up.
    """
    refused: list[str] = []
    for meter in bench.instrument.meters:
        try:
            found = _examine(bench, meter)
        except MeterError as error:
            refused.append(f"{meter.name}: {error}")
            continue
        hot_w, spinning_w = _other_idles(bench, meter, found.delay_s)
        processes = bench.instrument.board.state().processes
        return meter, Character(found, deep_w.get(meter.name), hot_w, spinning_w, tuple(refused), processes)
    raise MeterError("no energy source of this device can be trusted: " + "; ".join(refused))


def _examine(bench: Bench, meter: Meter) -> MeterCharacter:
    if bench.instrument.label != "measured":  # a stated power has no delay and no noise to find out about
        return _steady(bench, meter)
    delay_s = _delay(bench, meter)
    found = replace(_steady(bench, meter), delay_s=delay_s)
    ratio = found.ratio_to_power
    if ratio is not None and not RATIO_LOW <= ratio <= RATIO_HIGH:
        raise MeterError(
            f"it reads {ratio:.3f} of the integrated instantaneous power, outside {RATIO_LOW}-{RATIO_HIGH}; "
            "a known fault of some drivers: update the driver"
        )
    if found.refresh_s < CONTINUOUS_S:
        return found
    return replace(found, square_wave_spread_frac=_square_wave(bench, meter, found.refresh_s))


def _steady(bench: Bench, meter: Meter) -> MeterCharacter:
    """Refresh period, quantum, cost of a call, step noise and the ratio to integrated power, under a steady load."""
    seen, other = Watch(meter, bench.clock, 1.0, 0.0), None
    if bench.instrument.power is not None and bench.instrument.power is not meter:
        other = Watch(bench.instrument.power, bench.clock, 1.0, 0.0)
    bench.load.start()
    run(bench.load, bench.clock, 0.5)
    cost_s = _cost(bench, meter)
    until_s = bench.clock.now() + bench.longest_s
    while bench.clock.now() < until_s and not (_enough(seen) and (other is None or _enough(other))):
        bench.load.keep_busy()
        seen.read()
        if other:
            other.read()
        bench.clock.sleep(0.0005)
    bench.load.stop()
    if seen.backwards:
        raise MeterError("it ran backwards under a steady load")
    if len(seen.edges) < 5:
        raise MeterError(f"it stepped {len(seen.edges)} times in {bench.longest_s:g} s of steady load: stuck or not counting")
    ratio = _slope(seen.edges) / _slope(other.edges) if other and len(other.edges) >= 5 else None
    return _character(meter.name, seen.edges, cost_s, ratio)


def _enough(seen: Watch) -> bool:
    """Enough steps, over long enough a stretch to compare two sources within a per cent."""
    edges = seen.edges
    return len(edges) > EDGES_WANTED and edges[-1].at_s - edges[0].at_s > 1.5


def _character(name: str, edges: list[Edge], cost_s: float, ratio: float | None) -> MeterCharacter:
    gaps_s = [b.at_s - a.at_s for a, b in pairwise(edges)]
    refresh_s = median(gaps_s)
    quantum_j = reduce(gcd, (round((b.energy_j - a.energy_j) * 1e6) for a, b in pairwise(edges))) * 1e-6
    quantum_j = max(quantum_j, 1e-6)
    # noise is taken from stretches of 0.1 s, where the instants of reading matter less, and scaled back to one step
    every, step = max(1, round(0.1 / refresh_s)), max(1, round(Policy.min_step_s / refresh_s))
    coarse = [replace(x, uncertainty_s=min(x.uncertainty_s, refresh_s)) for x in edges[::every]]
    known = Noise(quantum_j=quantum_j, refresh_s=refresh_s)
    power = mean_power(coarse, known) if len(coarse) > 2 else None
    if power is None or power.power_w <= 0:
        raise MeterError("its counter did not advance under load")
    return MeterCharacter(name, refresh_s, quantum_j, cost_s, 0.0, sqrt(power.own_variance * every / step), ratio)


def _cost(bench: Bench, meter: Meter, reads: int = 10) -> float:
    began_s = bench.clock.now()
    for _ in range(reads):
        meter.energy_j()
    bench.load.keep_busy()
    return (bench.clock.now() - began_s) / reads


def _slope(edges: list[Edge]) -> float:
    return (edges[-1].energy_j - edges[0].energy_j) / (edges[-1].at_s - edges[0].at_s)


def _delay(bench: Bench, meter: Meter) -> float:
    """Seconds by which the counter's line under load starts later than the load did."""
    idle = _edges_while(bench.clock, meter, lambda: None, 1.0)
    began_s = bench.clock.now()
    bench.load.start()
    loaded = _edges_while(bench.clock, meter, bench.load.keep_busy, 1.5)
    bench.load.stop()
    steady = [x for x in loaded if x.at_s > began_s + 0.6]
    if len(steady) < 3:
        raise MeterError(f"it stepped {len(idle) + len(loaded)} times in 2.5 s: stuck, or too slow to measure with")
    if len(idle) < 3:  # a power reading may well stand still while the device idles
        return max(0.0, loaded[0].at_s - began_s)
    idle_w, load_w = _slope(idle), _slope(steady)
    if load_w < 1.02 * idle_w:  # a device whose power does not depend on the load has no response to time
        return 0.0
    # idle line and load line cross at the instant that the counter takes for the begin of the load
    cross_s = (idle[-1].energy_j - idle_w * idle[-1].at_s - steady[0].energy_j + load_w * steady[0].at_s) / (load_w - idle_w)
    return max(0.0, cross_s - began_s)


def _edges_while(clock: Clock, meter: Meter, keep_busy: Callable[[], None], seconds: float) -> list[Edge]:
    seen = Watch(meter, clock, 1.0, 0.0)
    until_s = clock.now() + seconds
    while clock.now() < until_s:
        keep_busy()
        seen.read()
        clock.sleep(0.001)
    return seen.edges


def _square_wave(bench: Bench, meter: Meter, period_s: float) -> float:
    """Spread of mean power, largest less smallest over mean, of a 50 % square wave at ten phases of the refresh."""
    powers_w = [_one_phase(bench, meter, period_s, phase / PHASES) for phase in range(PHASES)]
    return (max(powers_w) - min(powers_w)) / (sum(powers_w) / PHASES)


def _one_phase(bench: Bench, meter: Meter, period_s: float, phase: float, cycles: int = 5) -> float:
    clock, seen = bench.clock, Watch(meter, bench.clock, period_s, 0.0)
    _wait_for_step(bench, meter, period_s)
    clock.sleep(phase * period_s)
    began_s = clock.now()
    for cycle in range(cycles + 1):
        bench.load.burst(period_s / 2)
        while clock.now() < began_s + (cycle + 1) * period_s:
            if seen.read() and cycle == 0:
                seen.edges.clear()  # the first cycle still holds what was before the wave
            clock.sleep(0.001)
    if len(seen.edges) < 2:
        raise MeterError("it did not step during a square wave of load")
    return _slope(seen.edges)


def _wait_for_step(bench: Bench, meter: Meter, period_s: float) -> None:
    seen, until_s = Watch(meter, bench.clock, 1.0, 0.0), bench.clock.now() + 3 * period_s
    while not seen.read() and bench.clock.now() < until_s:
        bench.clock.sleep(0.0005)


def _idle(clock: Clock, meter: Meter, seconds: float) -> float | None:
    """Mean power with nothing running; None where the counter hardly steps while idle."""
    edges = _edges_while(clock, meter, lambda: None, seconds)
    return _slope(edges) if len(edges) > 2 else None


def _other_idles(bench: Bench, meter: Meter, delay_s: float) -> tuple[float | None, float | None]:
    """Power right after load, and while only launching empty kernels."""
    if bench.instrument.label != "measured":
        return None, None
    bench.clock.sleep(delay_s + SETTLE_S)
    return _idle(bench.clock, meter, 0.6), _loaded(bench, meter, bench.spin) if bench.spin else None


def _loaded(bench: Bench, meter: Meter, load: Workload, seconds: float = 0.8) -> float | None:
    load.start()
    run(load, bench.clock, SETTLE_S)
    edges = _edges_while(bench.clock, meter, load.keep_busy, seconds)
    load.stop()
    return _slope(edges) if len(edges) > 2 else None


def run(load: Workload, clock: Clock, seconds: float) -> None:
    """Keep a started workload running."""
    until_s = clock.now() + seconds
    while clock.now() < until_s:
        load.keep_busy()
        clock.sleep(0.005)
