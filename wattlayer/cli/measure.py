"""`wattlayer measure`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import MeterError
from ..meter.choose import openers
from .app import SeveralValues, app
from .options import SeedOption
from .output import say

if TYPE_CHECKING:
    from ..measure.summary import Tick


@app.command(cls=SeveralValues)
def measure(
    output: Annotated[Path, typer.Option("--output", help="Folder of the dataset, e.g. data/h100-sxm.")],
    minutes: Annotated[float | None, typer.Option("--minutes", help="Stop in time for this; 25, or 5 to calibrate.")] = None,
    calibration: Annotated[
        bool, typer.Option("--calibration", help="Measure only the layers that tell `wattlayer calibrate` most.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the campaign in --output; begin one where there is none.")
    ] = False,
    networks: Annotated[list[str] | None, typer.Option("--networks", help="Networks to take layers from.")] = None,
    dtypes: Annotated[list[str] | None, typer.Option("--dtypes", help="bfloat16, float16, float32.")] = None,
    layers: Annotated[
        int | None,
        typer.Option("--layers", help="Distinct layers to plan for, 1100 or 200; those of whole networks are the least."),
    ] = None,
    model: Annotated[Path | None, typer.Option("--model", help="Put 30 % of the budget where this model is unsure.")] = None,
    meter: Annotated[str, typer.Option("--meter", help=f"auto, {', '.join(openers())}.")] = "auto",
    assumed_power_w: Annotated[float | None, typer.Option("--assumed-power-w", help="With --meter assumed-power.")] = None,
    device: Annotated[str | None, typer.Option("--device", help="cuda, cuda:N or cpu.")] = None,
    name: Annotated[str | None, typer.Option("--hardware", help="What rows call this device.")] = None,
    seed: SeedOption = 0,
    target_frac: Annotated[float, typer.Option("--target-frac", help="Half width of the 95 % interval to reach.")] = 0.02,
    warm_up_s: Annotated[float, typer.Option("--warm-up-s", help="Load before the meter is characterised.")] = 45.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and its cost, measure nothing.")] = False,
) -> None:
    """Measure the energy of layers on the hardware at hand; resumable, and safe to kill at any moment."""
    from ..measure.run import Options, run_campaign

    given: dict[str, Any] = {"networks": tuple(networks)} if networks else {}
    if minutes is None:
        minutes = 5.0 if calibration else 25.0
    if layers is None:
        layers = 200 if calibration else 1100
    options = Options(
        output=output, minutes=minutes, calibration=calibration, resume=resume, dtypes=tuple(dtypes or ()), layers=layers,
        model=model, meter=meter, assumed_power_w=assumed_power_w, device=device, hardware=name, seed=seed,
        target_frac=target_frac, warm_up_s=warm_up_s, dry_run=dry_run, **given,
    )  # fmt: skip
    with _campaign_bar() as tick:
        summary = run_campaign(options, tick, print)
    if summary:
        print(summary.describe())
        if summary.stopped_by == "device":
            raise MeterError(
                "the device stopped answering; run the same command with --resume: the layer that did it is left out"
            )


@contextmanager
def _campaign_bar() -> Iterator[Callable[[Tick], None]]:
    """Show a campaign's progress on stderr: a bar with its ETA and the current interval."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("ETA {task.fields[eta]} · ±{task.fields[error]} · {task.description}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("starting", total=None, eta="–", error="–")

        def show(tick: Tick) -> None:
            if not sys.stderr.isatty():
                say(f"[{tick.done}/{tick.total}] {tick.text}; ETA {tick.eta_s:.0f} s")
            error = "–" if tick.interval_frac is None else f"{tick.interval_frac:.1%}"
            bar.update(task, total=tick.total, completed=tick.done, description=tick.text, eta=f"{tick.eta_s:.0f} s", error=error)

        yield show
