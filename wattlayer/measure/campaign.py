"""A campaign: warm up, characterise the meter, work through the queue, survive anything, and sum up.

Every attempt is on the disk before the next begins; a campaign that was killed at any moment goes on where it was.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import sqrt
from statistics import median
from threading import Event
from time import time

from ..errors import MeterError, first_line
from ..meter import Meter
from .characterise import Bench, Character, characterise, idle_powers, run
from .closure import closures
from .drift import correct_drift, repeatability
from .estimator import Noise
from .header import session_header
from .journal import Journal
from .plan import Plan, filler_layer, reference_item, reference_layer, spin_layer
from .rig import CannotRun, DeviceLost, Item, Rig
from .row import Session, to_measurement
from .summary import Summary, Tick
from .window import Gauge, Policy, Window, watch

RETRIED = frozenset({
    "counter_stuck", "counter_backwards", "too_few_steps", "not_stationary", "outlier_step", "foreign_process",
    "clock_changed", "gpu_not_busy", "thermal", "meter_error",
})  # fmt: skip
"""Flags that may come from a passing cause: such an attempt is repeated once, at the end."""
METER_ERRORS_ALLOWED = 5
"""In a row, before the meter is taken for lost."""
RESERVE_S = 3.0
"""Kept at the end of a session for the last reference and for summing up."""
SETUP_S = 60.0
"""Left of a session's time for characterising the meter and for measuring, before any of it goes into warming up."""
NETWORK_BUILD_S = 20.0
"""Allowed for building a network before any was built."""


@dataclass
class Campaign:
    """One session's work on a campaign."""

    rig: Rig
    plan: Plan
    journal: Journal
    policy: Policy = field(default_factory=Policy)
    warm_up_s: float = 45.0
    progress: Callable[[Tick], None] = lambda tick: None
    say: Callable[[str], None] = lambda text: None

    def __post_init__(self) -> None:
        self._dtype = "float16" if "graph" in self.rig.modes else "float32"
        self._planned = {(item.key, 1) for item in self.plan.items}
        self._stop = Event()
        self._noise = Noise()
        self._own_variances: list[float] = []
        self._slowest_s: dict[bool, float] = {True: NETWORK_BUILD_S, False: 0.0}
        self._meter_errors = 0
        self._spent: list[float] = []
        self._needed_s: float | None = None
        self._warmed_s: float | None = None
        """How long this session warmed up; None before."""

    def stop(self) -> None:
        """End the session after the measurement that is under way."""
        self._stop.set()

    def run(self, deadline_s: float) -> Summary:
        """Work until the queue is done, `deadline_s` on the rig's clock has come, or `stop` was called."""
        number = len(self.journal.headers) + 1
        self._deadline_s = deadline_s
        self._began_s, before = self.rig.clock.now(), len(self._planned & self.journal.attempts)
        with _signals(self.stop):
            if next(self._pending(), None) is None:
                stopped_by = "complete"
            elif not self._fits(None):
                stopped_by = "deadline"
            else:
                stopped_by = self._session_of(number)
        summary = self._finish(stopped_by)
        return replace(summary, needed_s=self._needed_s if summary.done == before else None)

    # --- a session

    def _session_of(self, number: int) -> str:
        """Begin a session and work through the queue; return what ended it."""
        try:
            self._begin(number)
        except CannotRun as error:
            raise MeterError(f"the reference layer does not run on {self.rig.hardware} ({error.flag}): {error}") from error
        except (DeviceLost, RuntimeError) as error:  # CUDA's errors are RuntimeErrors
            why = first_line(error) or "it answers no more"
            raise MeterError(
                f"{self.rig.hardware} failed before anything was measured ({why}): start anew, or see to it"
            ) from error
        return self._work(number)

    def _begin(self, number: int) -> None:
        """Warm the device up, characterise the meter and write the session's header."""
        deep_w = idle_powers(self.rig.instrument, self.rig.clock)
        reference = self.rig.prepare(self._reference(0))
        spin = self.rig.prepare(Item(spin_layer(), mode=self.rig.modes[0], source="spin"))
        bench = Bench(self.rig.instrument, self.rig.clock, reference, spin)
        try:
            reference.start()
            self._warmed_s = min(self.warm_up_s, max(0.0, self._left_s() - SETUP_S))
            run(reference, self.rig.clock, self._warmed_s)
            reference.stop()
            meter, character = characterise(bench, deep_w)
        finally:
            reference.close()
            spin.close()
        self._adopt(meter, character, number)

    def _adopt(self, meter: Meter, character: Character, number: int) -> None:
        self._meter = meter
        self._known = self._noise = character.meter.noise
        self._part_time = bool(character.meter.part_time)
        self.policy = self.policy.with_delay(character.meter.delay_s)
        if (others := (character.processes or 0) - 1) > 0:
            told = "another compute process is" if others == 1 else f"{others} other compute processes are"
            self.say(
                f"  {told} on the device: whatever it draws is measured as the layers' energy, so stop it before you measure"
            )
        epoch_s = time() - self.rig.clock.now()
        label = self.rig.instrument.label
        run, pause_w = f"{self.plan.run}/{number}", character.idle_hot_w or 0.0
        self._session = Session(self.rig.hardware, run, label, character.processes, pause_w=pause_w, epoch_s=epoch_s)
        self.journal.begin(session_header(self.rig, self._session, character, self.plan, self.policy))

    def _work(self, number: int) -> str:
        """Go through the queue; return what ended it."""
        turn = 10_000 * number  # above every turn that the queue plans
        try:
            self._attempt(self._reference(turn), 1)
            for item, attempt in self._pending():
                if self._stop.is_set():
                    return "signal"
                if not self._fits(item):
                    if self._left_s() > self.policy.longest_s:
                        self._attempt(self._reference(turn + 1), 1)
                    return "deadline"
                self._attempt(item, attempt)
                self._tell(item)
            self._attempt(self._reference(turn + 1), 1)
            return "complete"
        except DeviceLost:
            return "device"

    def _finish(self, stopped_by: str) -> Summary:
        rows = correct_drift(self.journal.rows)
        if rows != list(self.journal.rows):
            self.journal.rewrite(rows)
        done = len(self._planned & self.journal.attempts)
        flagged = sum(bool(row.flags) for row in rows)
        found = closures(self.plan.networks, rows)
        return Summary(
            self.plan.run, done, len(self._planned), len(rows), flagged, len(self.journal.failures),
            repeatability(rows), found, stopped_by,
        )  # fmt: skip

    # --- the queue

    def _pending(self) -> Iterator[tuple[Item, int]]:
        """Yield what has no attempt yet, then capped layers diluted, then one retry of what a passing cause may have spoilt."""
        attempts = self.journal.attempts
        yield from ((item, 1) for item in self.plan.items if (item.key, 1) not in attempts)
        capped = {row.key for row in self.journal.rows if "power_capped" in row.flags and row.attempt == 1}
        alone = (x for x in self.plan.items if x.layer and x.key in capped and x.regime == "cold" and not x.repeat)
        diluted = [replace(item, regime="diluted") for item in alone if item.mode == self.rig.modes[0]]
        yield from ((item, 1) for item in diluted if (item.key, 1) not in attempts)
        spoilt = {row.key for row in self.journal.rows if RETRIED & set(row.flags)}
        spoilt |= {key for (key, _), flags in self.journal.failures.items() if RETRIED & set(flags)}
        yield from ((x, 2) for x in self.plan.items if x.key in spoilt and not x.is_reference and (x.key, 2) not in attempts)

    def _reference(self, turn: int) -> Item:
        return reference_item(reference_layer(self._dtype), self.rig.modes[0], turn)

    # --- one attempt

    def _attempt(self, item: Item, attempt: int) -> None:
        """Measure `item` once and write down what came of it."""
        began_s = self.rig.clock.now()
        try:
            if not self._session.filler_w and (item.regime == "diluted" or (self._part_time and item.network)):
                self._measure_filler()
            self._measure(item, attempt)
            self._meter_errors = 0
        except CannotRun as error:
            self.journal.fail((item.key, attempt), (error.flag,), first_line(error), item.to_json())
        except MeterError as error:
            self._meter_errors += 1
            self.journal.fail((item.key, attempt), ("meter_error",), first_line(error), item.to_json())
            if self._meter_errors >= METER_ERRORS_ALLOWED:
                raise
        except (DeviceLost, RuntimeError) as error:  # CUDA reports what a kernel did wrong at whatever call comes next
            full = "out of memory" in str(error).lower()  # which leaves the device as it was
            flag = "out_of_memory" if full else "device_lost"
            self.journal.fail((item.key, attempt), (flag,), first_line(error), item.to_json())
            if not full:
                raise DeviceLost(first_line(error)) from error
        self._spent.append(self.rig.clock.now() - began_s)

    def _measure(self, item: Item, attempt: int) -> None:
        began_s = self.rig.clock.now()
        # a network's loop may beat with a part-time sensor, and no window cures that: a filler of varying length does
        run_as = replace(item, regime="diluted") if self._part_time and item.network else item
        workload = self.rig.prepare(run_as)
        build_s = self.rig.clock.now() - began_s
        self._slowest_s[item.layer is None] = max(self._slowest_s[item.layer is None], build_s)
        try:
            window = watch(workload, self._gauge(), self._policy_for(run_as), graph=item.mode == "graph")
            facts = workload.facts
        finally:
            workload.close()
        if window.power is None:
            self.journal.fail((item.key, attempt), window.flags, "the counter gave no power", item.to_json())
            return
        row = to_measurement(run_as, window, facts, self._session, attempt)
        self.journal.add(replace(row, key=item.key, duplicate_of=item.duplicate_of))
        if item.is_reference:
            self._learn(window)

    def _measure_filler(self) -> None:
        workload = self.rig.prepare(Item(filler_layer(self._dtype), mode=self.rig.modes[0], regime="hot", source="filler"))
        try:
            window = watch(workload, self._gauge(), replace(self.policy, target_frac=0.005))
        finally:
            workload.close()
        if window.power is None:
            raise CannotRun(window.flags[0], "the filler layer gave no power")
        self._session = replace(self._session, filler_w=window.power.power_w)

    def _policy_for(self, item: Item) -> Policy:
        """Subtracting a filler costs half of the precision or more; a host that launches eagerly must not sleep."""
        target_frac = self.policy.target_frac / 3 if item.regime == "diluted" else self.policy.target_frac
        return replace(self.policy, target_frac=target_frac, poll_s=0.0 if item.mode == "eager" else self.policy.poll_s)

    def _gauge(self) -> Gauge:
        return Gauge(self._meter, self.rig.instrument.board, self.rig.clock, self._noise)

    def _learn(self, window: Window) -> None:
        """Pool the reference layer's step noise into what is known of the meter."""
        if window.power is None or window.flags:
            return
        self._own_variances.append(window.power.own_variance)
        weight, each = self._known.weight, self.policy.min_steps - 1
        total = weight * self._known.sd_frac**2 + each * sum(self._own_variances)
        self._noise = replace(self._known, sd_frac=sqrt(total / (weight + each * len(self._own_variances))))

    # --- time

    def _left_s(self) -> float:
        return self._deadline_s - self.rig.clock.now()

    def _fits(self, item: Item | None) -> bool:
        """Whether `item` is sure to be finished before the deadline; keep what a session would need for it where it is not."""
        build_s = self._slowest_s[item.layer is None] if item else 0.0
        needed_s = self.policy.longest_s + 1.5 * build_s + RESERVE_S
        if self._left_s() > needed_s:
            return True
        # a longer session warms up longer, and one that did not begin has all of that before it
        spent_s = SETUP_S if self._warmed_s is None else self.rig.clock.now() - self._began_s - self._warmed_s
        self._needed_s = self.warm_up_s + max(spent_s, SETUP_S) + needed_s
        return False

    def _tell(self, item: Item) -> None:
        planned = self._planned
        done = len(planned & self.journal.attempts)
        each_s = sum(self._spent) / len(self._spent)
        intervals = [row.interval_frac for row in self.journal.rows if row.interval_frac is not None]
        last = self.journal.rows[-1] if self.journal.rows and self.journal.rows[-1].key == item.key else None
        name = item.layer.kind if item.layer else item.call.name
        took = f"{last.time_s * 1e3:.4g} ms, {last.energy_j:.4g} J" if last else "no energy"
        flags = f" [{' '.join(last.flags)}]" if last and last.flags else ""
        text = f"{name} {item.dtype} {item.mode}: {took}{flags}"
        interval = median(intervals) if intervals else None
        self.progress(Tick(done, len(planned), each_s * (len(planned) - done), self._left_s(), interval, text))


@contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[None]:
    """Turn SIGTERM and Ctrl-C into the end of the session after the present measurement."""
    kept = {}
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            kept[number] = signal.signal(number, lambda *_: stop())
    except ValueError:  # not the main thread: its owner calls stop()
        pass
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
