"""`run_campaign`: one call that plans, resumes, measures and sums up, for the command line and for scripts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..dataset import session_headers
from ..errors import InputError, writing
from ..hardware import known_hardware
from ..layer import Layer
from .campaign import Campaign
from .journal import Journal
from .plan import DEFAULT_NETWORKS, Plan, Wanted
from .rig import Rig
from .summary import Summary, Tick
from .window import Policy

if TYPE_CHECKING:
    from .propose import Resolve

SECONDS_EACH = 0.9
"""What one measurement takes with building its layer, until a campaign has timed its own."""


@dataclass(frozen=True)
class Options:
    """What a campaign is told; the names are those of the command line."""

    output: Path
    minutes: float = 25.0
    resume: bool = False
    networks: tuple[str, ...] = DEFAULT_NETWORKS
    dtypes: tuple[str, ...] = ()
    """Empty: bfloat16, float16 and float32 on CUDA, float32 on a CPU."""
    layers: int = 1100
    model: Path | None = None
    meter: str = "auto"
    assumed_power_w: float | None = None
    device: str | None = None
    hardware: str | None = None
    seed: int = 0
    target_frac: float = 0.02
    warm_up_s: float = 45.0
    dry_run: bool = False
    calibration: bool = False
    """Measure only the layers that tell `wattlayer calibrate` most."""

    def __post_init__(self) -> None:
        if not 0 < self.minutes < inf:
            raise InputError(f"--minutes {self.minutes} must be above 0 and finite")
        if not 0 <= self.warm_up_s < inf:
            raise InputError(f"--warm-up-s {self.warm_up_s} must be 0 or more and finite")
        if self.assumed_power_w is not None and not 0 < self.assumed_power_w < inf:
            raise InputError(f"--assumed-power-w {self.assumed_power_w} must be above 0 W and finite")
        if self.hardware is not None and not self.hardware.strip():
            raise InputError("--hardware '' must name the device, or be left out")
        if self.assumed_power_w is not None and self.meter != "assumed-power":
            raise InputError(f"--assumed-power-w {self.assumed_power_w:g} goes with --meter assumed-power, not {self.meter}")
        if self.output.exists() and not self.output.is_dir():
            raise InputError(f"--output {self.output} is a file: name a folder for the campaign")
        if not 0 < self.target_frac < 1:
            raise InputError(f"--target-frac {self.target_frac} must lie between 0 and 1, e.g. 0.02 for 2 %")
        if self.layers < 0:
            raise InputError(f"--layers {self.layers} must not be negative")
        unknown = set(self.dtypes) - {"bfloat16", "float16", "float32"}
        if unknown:
            raise InputError(f"--dtypes {', '.join(sorted(unknown))}: known are bfloat16, float16, float32")


def run_campaign(
    options: Options,
    progress: Callable[[Tick], None] = lambda tick: None,
    say: Callable[[str], None] = lambda text: None,
    rig: Rig | None = None,
    resolve: Resolve | None = None,
) -> Summary | None:
    """Plan and run a campaign, or go on with the one in `options.output`; None after a dry run.

    `progress` is called after every measurement, `say` with lines for people. Without a `rig` the device at hand and its
    meter are opened. Raises WattlayerError with one line for everything a user can cause.
    """
    rig = rig or open_rig(options)
    deadline_s = rig.clock.now() + 60 * options.minutes
    with _alone(options):
        return _run(options, rig, deadline_s, progress, say, resolve)


@contextmanager
def _alone(options: Options) -> Iterator[None]:
    """Keep other sessions out of the folder: two that write one journal lose rows. Raises InputError where another is in."""
    from filelock import FileLock, Timeout

    if options.dry_run:
        yield
        return
    with writing(options.output):
        options.output.mkdir(parents=True, exist_ok=True)
        path = options.output / "campaign.lock"
        lock = FileLock(path, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise InputError(
                f"{path}: another session measures into this folder: wait for its end, or remove the file if there is none"
            ) from None
    try:
        yield
    finally:
        lock.release()


def _run(
    options: Options, rig: Rig, deadline_s: float, progress: Callable[[Tick], None], say: Callable[[str], None],
    resolve: Resolve | None,
) -> Summary | None:  # fmt: skip
    plan_path = _plan_path(options, rig)
    begun = plan_path is not None
    plan = _begun(plan_path, options) if plan_path else _propose(options, rig, resolve)
    if not begun or options.dry_run:
        minutes = len(plan.items) * SECONDS_EACH / 60
        say(f"{plan.describe()}\n  about {minutes:.0f} minutes at {SECONDS_EACH} s each, and one to two more a session")
        if rig.hardware not in known_hardware():
            say(f"  {rig.hardware} is no device that wattlayer knows: to train on these rows describe it in hardware.toml, or "
                "name one with --hardware now")  # fmt: skip
        if rig.instrument.description.get("mig"):
            say("  the board is cut into instances (MIG): its counter holds what all of them do, so let the others rest")
    if begun and options.model is not None:
        say(f"  {plan_path} is planned already: --model changes nothing of it")
    if options.dry_run:
        return None
    if not begun:
        plan.save(options.output / f"{plan.run}.plan.json")
    journal = Journal(options.output / f"{plan.run}.jsonl")
    campaign = Campaign(rig, plan, journal, Policy.of(rig, options.target_frac), options.warm_up_s, progress, say)
    return campaign.run(deadline_s)


def open_rig(options: Options) -> Rig:
    """Open the device and the meter that `options` name."""
    from .device import DeviceRig

    return DeviceRig.open(
        options.device, meter=options.meter, assumed_power_w=options.assumed_power_w,
        hardware=options.hardware, seed=options.seed,
    )  # fmt: skip


def _plan_path(options: Options, rig: Rig) -> Path | None:
    """The plan to go on with; None to begin a new campaign."""
    found = sorted(options.output.glob("*.plan.json"))
    if found and options.resume:
        _check_hardware(found[-1], rig)
        return found[-1]
    if found and not options.dry_run:
        raise InputError(f"{found[-1]} is a campaign already: add --resume to go on with it, or give another --output")
    return None


def _begun(path: Path, options: Options) -> Plan:
    """Return the plan that was begun; raise InputError where `options` now ask for another. Defaults ask for nothing."""
    plan, defaults = Plan.load(path), Options(options.output)
    for name, before in asdict(plan.asked).items() if plan.asked else ():
        now = getattr(options, name)
        now = tuple(now) if isinstance(now, list) else now
        if now not in (before, getattr(defaults, name)):
            told = [" ".join(map(str, x)) if isinstance(x, tuple) else str(x) for x in (before, now)]
            raise InputError(f"{path} was begun with --{name} {told[0]}, not {told[1]}: leave it out, or give another --output")
    return plan


def _check_hardware(plan: Path, rig: Rig) -> None:
    headers = list(session_headers(plan.with_name(plan.name.replace(".plan.json", ".jsonl"))))
    boards = {header["meter"].get("board") for header in headers} - {None}
    here = rig.instrument.description.get("board")
    others = {header["hardware"] for header in headers} - {rig.hardware}
    if others or (boards and here and here not in boards):
        raise InputError(f"{plan} was begun on another board ({', '.join(others) or 'same name'}): give another --output")
    now = _meter_told({"name": rig.instrument.name, **rig.instrument.description})
    for before in (_meter_told(header["meter"]) for header in headers):
        if before != now:
            raise InputError(f"{plan} was begun with the meter {before}, not {now}: go on with that, or give another --output")


def _meter_told(meter: Mapping[str, Any]) -> str:
    """A meter's name, what it is of, and the power that it takes for granted."""
    stated_w, scope = meter.get("assumed_power_w"), meter.get("counter_scope")
    return str(meter["name"]) + (f" of the {scope}" if scope else "") + (f" of {stated_w:g} W" if stated_w else "")


def _propose(options: Options, rig: Rig, resolve: Resolve | None) -> Plan:
    from .propose import propose

    if resolve is None:
        from ..adapters import resolve as any_source

        resolve = any_source
    dtypes = options.dtypes or (("bfloat16", "float16", "float32") if "graph" in rig.modes else ("float32",))
    wanted = Wanted(options.networks, dtypes, options.layers, options.seed, options.calibration)
    date = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    run = f"{date}-{re.sub('[^a-z0-9]+', '-', rig.hardware.lower())}-{options.seed}"
    return propose(wanted, rig, run, resolve, _intervals(options.model) if options.model else None)


def _intervals(path: Path) -> Callable[[Sequence[Layer]], Sequence[float]]:
    """How unsure a trained model is of each layer, in joules."""
    try:
        from ..model import load_model
    except ImportError as error:
        raise InputError(f"--model needs {error.name}, which is not installed here: leave --model out, or install it") from None
    model = load_model(path)

    def widths(layers: Sequence[Layer]) -> Sequence[float]:
        predicted = model.predict(list(layers))
        return [float(high - low) for low, high in zip(predicted.energy_low_j, predicted.energy_high_j)]

    return widths
