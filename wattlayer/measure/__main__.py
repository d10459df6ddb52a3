"""`python -m wattlayer.measure`: a campaign with plain progress lines; needs torch, numpy and a meter's library only."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import WattlayerError
from ..meter.choose import openers
from .run import Options, run_campaign
from .summary import Tick


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a campaign; return the exit code: 0, or 2 with one line on stderr."""
    given = vars(_parser().parse_args(arguments))
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items() if value is not None}
    try:
        summary = run_campaign(Options(**given), _print_tick, _print)
    except WattlayerError as error:
        print(f"wattlayer measure: {error}", file=sys.stderr)
        return 2
    if summary:
        _print(summary.describe())
        if summary.stopped_by == "device":
            cure = "run the same command with --resume: the layer that did it is left out"
            print(f"wattlayer measure: the device stopped answering; {cure}", file=sys.stderr)
            return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m wattlayer.measure", description="Measure the energy of layers on this machine.")
    add = parser.add_argument
    add("--output", type=Path, required=True, help="folder of the dataset, e.g. data/h100-sxm")
    add("--minutes", type=float, help="stop in time for this (default 25)")
    add("--resume", action="store_true", help="go on with the campaign in --output; begin one where there is none")
    add("--networks", nargs="+", metavar="MODEL", help="networks to take layers from, e.g. torchvision:resnet50")
    add("--dtypes", nargs="+", choices=("bfloat16", "float16", "float32"))
    add(
        "--layers",
        type=int,
        metavar="N",
        help="distinct layers to plan for (default 1100); those of whole networks are the least",
    )
    add("--model", type=Path, metavar="FILE", help="put 30 %% of the budget where this model is unsure")
    add("--meter", choices=("auto", *openers()))
    add("--assumed-power-w", type=float, metavar="W", help="with --meter assumed-power; its rows are labelled")
    add("--device", help="cuda, cuda:N or cpu")
    add("--hardware", metavar="NAME", help="what rows call this device (default: the registry's name, else its own)")
    add("--seed", type=int)
    add("--target-frac", type=float, metavar="X", help="half width of the 95 %% interval to reach (default 0.02)")
    add("--warm-up-s", type=float, metavar="S", help="load before the meter is characterised (default 45)")
    add("--dry-run", action="store_true", help="print the plan and its cost, measure nothing")
    return parser


def _print(text: str) -> None:
    print(text, flush=True)


def _print_tick(tick: Tick) -> None:
    error = f"±{100 * tick.interval_frac:.2f} %" if tick.interval_frac is not None else "no interval yet"
    times = f"ETA {_clock(tick.eta_s)}, stops in {_clock(tick.left_s)}"
    _print(f"[{tick.done}/{tick.total}] {tick.text}; {times}, {error}")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    return f"{minutes}:{rest:02d}"


if __name__ == "__main__":
    sys.exit(main())
