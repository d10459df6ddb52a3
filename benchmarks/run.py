"""Measure wattlayer's speed and write a table of ratios: `python benchmarks/run.py [--output FILE] [--only GROUP...]`.

Needs the extras `benchmarks`, `torchvision` and `transformers`. Contenders alternate in one run and every ratio is a
median over rounds, so that a busy machine slows all of them alike; figures per CPU second are of one core.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Iterator
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import growth
import prediction
import torch
import tracing
from timing import Row

import wattlayer as wl

GROUPS = ("tracing", "prediction", "growth")


def measured(only: list[str], model: wl.EnergyModel, rounds: int) -> Iterator[Row]:
    """Yield every figure of the chosen groups."""
    if "tracing" in only:
        yield from tracing.rows(rounds)
    if "prediction" in only:
        yield from prediction.rows(model, rounds)
    if "growth" in only:
        yield from growth.rows(model, rounds)


def header() -> str:
    """Say what machine this is, how busy it was, and which versions ran."""
    tools = ", ".join(f"{x} {_version(x)}" for x in ("torch", "xgboost", "torchinfo", "fvcore", "ptflops", "calflops"))
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    return (
        f"# Benchmarks, {datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC\n\n{platform.processor() or platform.machine()}, "
        f"{os.cpu_count()} cores, load average at the end {load}; Python {platform.python_version()}, {tools}.\n\n"
        "A ratio below 1 means that wattlayer is faster, except for speed-ups.\n"
    )


def _version(name: str) -> str:
    """The version of a library; `--only prediction` does without the tools that tracing is compared with."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def table(rows: list[Row]) -> str:
    """Render rows as a Markdown table."""
    lines = ["| group | what | value | against | ratio | target |", "| --- | --- | ---: | --- | ---: | --- |"]
    for x in rows:
        ratio = "" if x.ratio is None else f"{x.ratio:.2f}"
        lines.append(f"| {x.group} | {x.what} | {x.value:,.3g} {x.unit} | {x.against} | {ratio} | {x.target} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print as it goes, write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("results.md"))
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--hardware", default="a30")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for row in measured(given.only, wl.load_model(given.hardware), given.rounds):
        rows.append(row)
        print(table([row]).splitlines()[-1], flush=True)
    given.output.write_text(f"{header()}\n{table(rows)}", encoding="utf-8")


if __name__ == "__main__":
    main()
