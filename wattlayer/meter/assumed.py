"""A stated power times the time: for tests, and for people without a counter. Its rows say "assumed-power"."""

from __future__ import annotations

from . import Clock, Instrument, SystemClock, Unavailable


class AssumedPower:
    """Energy = `power_w` x time since the meter was made; not a measurement of energy."""

    name = "assumed-power"
    refresh_s = 0.0

    def __init__(self, power_w: float, clock: Clock | None = None) -> None:
        if not power_w > 0:
            raise Unavailable(f"the assumed power {power_w} W must be above 0: give it with --assumed-power-w")
        self.power_w = power_w
        self._clock = clock or SystemClock()
        self._start_s = self._clock.now()

    def energy_j(self) -> float:
        return self.power_w * (self._clock.now() - self._start_s)


def open_assumed(power_w: float | None, clock: Clock | None = None) -> Instrument:
    """Return the meter of a stated power; raise Unavailable where no power was stated."""
    if power_w is None:
        raise Unavailable("no power was stated: give the watts with --assumed-power-w (rows are labelled, not measured)")
    meter = AssumedPower(power_w, clock)
    return Instrument("assumed-power", (meter,), label="assumed-power", description={"assumed_power_w": power_w})
