"""One measurement: keep a workload running, watch the counter step, and stop as soon as the interval is narrow enough."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..meter import Board, BoardState, Clock, Meter
from .estimator import Edge, Noise, Power, mean_power
from .rig import Progress, Rig, Workload

CAPPED_LIMIT_FRAC = 0.05
"""Above this share of capped time a layer is flagged and measured again, diluted (measurement protocol)."""
CLOCK_LIMIT_FRAC = 0.05
"""A clock that moves by more within a window is another state of the board."""
GAP_LIMIT_FRAC = 0.02
"""Share of a graph's window that the device may spend between replays."""
LEAST_KERNEL_S = 3e-7
"""No kernel is over sooner: a graph whose calls are holds none of them."""


@dataclass(frozen=True)
class Policy:
    """How long and how well one thing is measured."""

    target_frac: float = 0.02
    """Half width of the 95 % interval at which a measurement stops."""
    settle_s: float = 0.15
    """Load before the first step counts; longer than the counter's delay (see `characterise`)."""
    min_steps: int = 4
    min_window_s: float = 0.35
    max_window_s: float = 3.0
    patience_s: float = 1.0
    """Beyond settling and the longest window: how long a counter that does not step is waited for."""
    poll_s: float = 0.001
    min_step_s: float = 0.019
    """Steps of a meter that counts continuously are at least this long."""

    @staticmethod
    def of(rig: Rig, target_frac: float = 0.02) -> Policy:
        """Return the policy for a rig: where the host itself is measured, it never sleeps between calls."""
        return Policy(target_frac, poll_s=Policy.poll_s if "graph" in rig.modes else 0.0)

    def with_delay(self, delay_s: float) -> Policy:
        """Return this policy for a counter that publishes `delay_s` late."""
        return replace(self, settle_s=max(self.settle_s, delay_s + 0.05))

    @property
    def longest_s(self) -> float:
        """The longest that one measurement can take."""
        return self.settle_s + self.max_window_s + self.patience_s


@dataclass(frozen=True)
class Window:
    """What one measurement saw; `power` is None where the counter gave too few steps."""

    power: Power | None
    begin: Progress
    end: Progress
    states: tuple[BoardState, BoardState]
    flags: tuple[str, ...] = ()
    elapsed_s: float = 0.0
    ended_s: float = 0.0
    """On the rig's clock."""

    @property
    def calls(self) -> int:
        return self.end.calls - self.begin.calls

    @property
    def time_s(self) -> float:
        """Device time per call, without the filler's."""
        return (self.end.time_s - self.begin.time_s - self.filler_s) / self.calls

    @property
    def filler_s(self) -> float:
        return self.end.filler_s - self.begin.filler_s

    def energy_j(self, between_w: float = 0.0) -> float:
        """Energy per call: mean power x device time, less what filler or pauses between calls took at `between_w`."""
        if self.power is None:
            raise ValueError("no power was measured")
        span_s = self.end.time_s - self.begin.time_s
        return (self.power.power_w * span_s - between_w * self.filler_s) / self.calls

    def interval_frac(self, between_w: float = 0.0) -> float:
        """Half width of the energy's interval; subtracting what ran between calls widens it."""
        if self.power is None:
            raise ValueError("no power was measured")
        gross_j = self.power.power_w * (self.end.time_s - self.begin.time_s)
        return self.power.interval_frac * gross_j / (self.energy_j(between_w) * self.calls)

    def share(self, before_s: float | None, after_s: float | None) -> float | None:
        """A cumulative time's share of the window; None where it was not read."""
        if before_s is None or after_s is None or self.power is None:
            return None
        return max(0.0, after_s - before_s) / self.power.window_s

    @property
    def capped_frac(self) -> float | None:
        return self.share(self.states[0].power_capped_s, self.states[1].power_capped_s)


class Watch:
    """Collects the steps of one meter from readings that somebody else times."""

    def __init__(self, meter: Meter, clock: Clock, refresh_s: float, min_step_s: float) -> None:
        self._meter, self._clock = meter, clock
        self._refresh_s, self._min_step_s = refresh_s, min_step_s
        self._last_j: float | None = None
        self._last_s = 0.0
        self.edges: list[Edge] = []
        self.backwards = False

    def read(self) -> bool:
        """Read the meter once; return whether it stepped."""
        energy_j = self._meter.energy_j()
        now_s = self._clock.now()
        last_j, gap_s = self._last_j, now_s - self._last_s
        self._last_j, self._last_s = energy_j, now_s
        if last_j is None or energy_j == last_j:
            return False
        self.backwards = self.backwards or energy_j < last_j
        # the step happened since the last read, but never longer ago than the counter takes to refresh
        unsure_s = min(gap_s, self._refresh_s)
        if self.edges and now_s - unsure_s / 2 - self.edges[-1].at_s < self._min_step_s:
            return False
        self.edges.append(Edge(now_s - unsure_s / 2, energy_j, unsure_s))
        return True


@dataclass(frozen=True)
class Gauge:
    """What a measurement reads: the meter, the device behind it, the clock, and what is known of the meter's noise."""

    meter: Meter
    board: Board
    clock: Clock
    noise: Noise


def watch(workload: Workload, gauge: Gauge, policy: Policy, *, graph: bool = False) -> Window:
    """Run `workload` until the interval is narrow enough or the longest window is over; always end, with flags.

    `graph` says that the device should be busy without gaps.
    """
    began_s = gauge.clock.now()
    workload.start()
    try:
        while gauge.clock.now() < began_s + policy.settle_s:
            workload.keep_busy()
            gauge.clock.sleep(policy.poll_s)
        window = _steps(workload, gauge, policy, began_s + policy.longest_s)
    finally:
        workload.stop()
    flags = window.flags or _flags(window, policy, graph)
    ended_s = gauge.clock.now()
    return replace(window, flags=flags, elapsed_s=ended_s - began_s, ended_s=ended_s)


def _steps(workload: Workload, gauge: Gauge, policy: Policy, until_s: float) -> Window:
    """Collect counter steps until there are enough of them or `until_s` has come."""
    seen = Watch(gauge.meter, gauge.clock, gauge.noise.refresh_s, policy.min_step_s)
    first = last = Progress()
    before = after = BoardState()
    power = None
    while gauge.clock.now() < until_s:
        gauge.clock.sleep(policy.poll_s)
        workload.keep_busy()
        stepped = seen.read()
        if seen.backwards:
            return Window(None, first, last, (before, after), ("counter_backwards",))
        if stepped and len(seen.edges) == 1:
            first, before = workload.progress(), gauge.board.state()
        elif stepped and len(seen.edges) > policy.min_steps:
            last, power = workload.progress(), mean_power(seen.edges, gauge.noise)
            if _enough(power, last.calls - first.calls, policy):
                after = gauge.board.state()
                break
    few = "counter_stuck" if len(seen.edges) < 2 else "too_few_steps"
    usable = power is not None and last.calls > first.calls
    return Window(power if usable else None, first, last, (before, after), () if usable else (few,))


def _enough(power: Power, calls: int, policy: Policy) -> bool:
    if power.window_s >= policy.max_window_s:
        return True
    return calls > 0 and power.window_s >= policy.min_window_s and power.interval_frac <= policy.target_frac


def _flags(window: Window, policy: Policy, graph: bool) -> tuple[str, ...]:
    if window.power is None:
        return ()
    before, after = window.states
    span_s = window.end.time_s - window.begin.time_s
    found = {
        "ci_not_reached": window.power.interval_frac > policy.target_frac,
        "power_capped": (window.capped_frac or 0.0) > CAPPED_LIMIT_FRAC,
        "thermal": (window.share(before.thermal_s, after.thermal_s) or 0.0) > CAPPED_LIMIT_FRAC,
        "clock_changed": _changed(before.clock_hz, after.clock_hz),
        "no_kernel": graph and window.time_s < LEAST_KERNEL_S,
        "gpu_not_busy": graph and window.end.busy_s - window.begin.busy_s < (1 - GAP_LIMIT_FRAC) * span_s,
    }
    return (*window.power.flags, *(flag for flag, is_so in found.items() if is_so))


def _changed(before_hz: float | None, after_hz: float | None) -> bool:
    return bool(before_hz and after_hz and abs(after_hz / before_hz - 1) > CLOCK_LIMIT_FRAC)
