"""From a measured window to the row that is kept of it, and `measure` for one layer."""

from __future__ import annotations

from dataclasses import dataclass
from time import time
from typing import TYPE_CHECKING

from ..dataset import Measurement
from ..errors import InputError, MeterError
from ..layer import Layer
from ..meter import Instrument, Meter, UnknownBoard
from .estimator import Noise
from .rig import CannotRun, Facts, Item
from .window import Gauge, Policy, Window, watch

if TYPE_CHECKING:
    import torch


REGIMES = ("cold", "hot")
"""States of the caches that a layer is measured in on its own."""


@dataclass(frozen=True)
class Session:
    """What all rows of one run share."""

    hardware: str
    run: str
    label: str = "measured"
    processes: int | None = None
    """Compute processes on the device when the run began; more of them later are somebody else's."""
    filler_w: float = 0.0
    """Power of the filler layer alone, for diluted rows."""
    pause_w: float = 0.0
    """Power of the hot, idle device, for the pauses between rounds of eager calls."""
    epoch_s: float = 0.0
    """Seconds since the epoch at the zero of the rig's clock."""

    def between_w(self, regime: str | None) -> float:
        """Power of what runs between the calls of a workload in this regime."""
        return self.filler_w if regime == "diluted" else self.pause_w


def to_measurement(item: Item, window: Window, facts: Facts, session: Session, attempt: int = 1) -> Measurement:
    """Return the row of a window with a measured power; raise MeterError naming the flags where it has none."""
    between_w = session.between_w(item.regime)
    if window.power is None or window.energy_j(between_w) <= 0:
        raise MeterError(f"no energy was measured: {', '.join(window.flags) or 'not_positive'}")
    before, after = window.states
    temperatures_c = tuple(x.temperature_c for x in (before, after) if x.temperature_c is not None)
    return Measurement(
        hardware=session.hardware, run=session.run, meter=session.label,
        time_s=window.time_s, energy_j=window.energy_j(between_w),
        layer=item.layer, network=item.network.name if item.network else None,
        input_shapes=facts.input_shapes if item.network else (), dtype=item.dtype, tf32=item.tf32, mode=item.mode,
        flags=(*facts.flags, *window.flags, *_foreign(window, session)),
        key=item.key, attempt=attempt, duplicate_of=item.duplicate_of,
        interval_frac=window.interval_frac(between_w), step_powers_w=window.power.step_powers_w,
        window_s=window.power.window_s, iterations=window.calls,
        measured_at_s=session.epoch_s + window.ended_s - window.power.window_s / 2,
        regime=item.regime, rotated_bytes=facts.rotated_bytes, distribution=facts.distribution, seed=facts.seed,
        temperatures_c=temperatures_c, clock_hz=after.clock_hz, memory_clock_hz=after.memory_clock_hz,
        capped_frac=window.capped_frac, kernels=facts.kernels, source=item.source or None,
    )  # fmt: skip


def _foreign(window: Window, session: Session) -> tuple[str, ...]:
    seen = [x.processes for x in window.states if x.processes is not None]
    return ("foreign_process",) if session.processes is not None and seen and max(seen) > session.processes else ()


def measure(
    layer: Layer,
    meter: Meter | Instrument | str | None = None,
    *,
    device: str | torch.device | None = None,
    mode: str | None = None,
    regime: str = "cold",
    policy: Policy | None = None,
    noise: Noise | None = None,
    hardware: str | None = None,
) -> Measurement:
    """Measure what one call of `layer` takes on the device at hand.

    `device` is "cuda" or "cpu" (default: CUDA where there is one); `mode` is "graph" (CUDA only) or "eager"; weights are
    "cold" (rotated over at least three times the cache) or "hot". A `meter` may be named; without one the device's own is opened.
    A campaign, which characterises the meter and corrects for drift, is `run_campaign`.

    Raises MeterError when there is no meter or it gives no energy, InputError for a mode or regime that the device has not.
    """
    from .device import DeviceRig

    if isinstance(meter, str):
        rig = DeviceRig.open(device, meter=meter, hardware=hardware)
    else:
        rig = DeviceRig.open(device, instrument=_instrument(meter), hardware=hardware)
    item = Item(layer, mode=mode or rig.modes[0], regime=regime)
    for name, value, known in (("mode", item.mode, rig.modes), ("regime", regime, REGIMES)):
        if value not in known:
            raise InputError(f"{name} {value!r} is not one of {', '.join(known)}, which this device measures a layer in")
    try:
        workload = rig.prepare(item)
    except CannotRun as error:
        raise MeterError(f"{layer.kind} cannot be measured ({error.flag}): {error}") from error
    instrument = rig.instrument
    gauge = Gauge(instrument.meters[0], instrument.board, rig.clock, noise or Noise())
    try:
        window = watch(workload, gauge, policy or Policy.of(rig), graph=item.mode == "graph")
    finally:
        workload.close()
    session = Session(rig.hardware, "", instrument.label, epoch_s=time() - rig.clock.now())
    return to_measurement(item, window, workload.facts, session)


def _instrument(meter: Meter | Instrument | None) -> Instrument | None:
    if meter is None or isinstance(meter, Instrument):
        return meter
    label = "assumed-power" if meter.name == "assumed-power" else "measured"
    return Instrument(meter.name, (meter,), UnknownBoard(), label=label)
