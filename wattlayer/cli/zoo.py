"""`wattlayer zoo`: which networks of whole libraries can be traced."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError
from .app import app
from .options import TEXTS, Format, OutputOption, formats, written_as
from .output import busy, rendered, write

if TYPE_CHECKING:
    from rich.table import Table

    from ..zoo import Outcome


@app.command()
def zoo(
    sources: Annotated[
        list[str] | None, typer.Argument(metavar="[SOURCE]...", help="torchvision, timm, hf (all three by default) or diffusers.")
    ] = None,
    hardware: Annotated[str | None, typer.Option("--hardware", help="Also tell the share of energy in measured kinds.")] = None,
    jobs: Annotated[int, typer.Option("--jobs", help="Processes; -1 takes every core.")] = -1,
    journal: Annotated[Path | None, typer.Option("--journal", help="JSON lines file from which a stopped sweep goes on.")] = None,
    match: Annotated[str, typer.Option("--match", help="Only networks whose name contains this.")] = "",
    format: Annotated[Format | None, formats(*TEXTS)] = None,
    output: OutputOption = None,
) -> None:
    """Trace every network of whole libraries: how many go in, why the others do not, and how long it takes."""
    from ..zoo import ZOOS, sweep, zoo_names

    format = written_as(format, output, *TEXTS)
    if jobs < 1 and jobs != -1:
        raise InputError(f"jobs {jobs} must be at least 1, or -1 for every core")
    names = [name for source in dict.fromkeys(sources or ZOOS) for name in zoo_names(source) if match in name]
    if not names:
        raise InputError(f"no network's name contains {match!r}")
    started = time.perf_counter()
    outcomes: list[Outcome] = []
    with busy(f"tracing {len(names)} networks") as tell:
        for outcome in sweep(names, hardware, journal, jobs):
            outcomes.append(outcome)
            tell(outcome.network, len(outcomes), len(names))
    elapsed_s = time.perf_counter() - started
    if format is Format.json:
        write(json.dumps({"elapsed_s": elapsed_s, "networks": [asdict(x) for x in outcomes]}) + "\n", output)
    else:
        write(_text(outcomes, elapsed_s), output)


PARTLY_FRAC = 0.01
"""Share of parameters above which a network that ran in part is listed."""


def _text(outcomes: Sequence[Outcome], elapsed_s: float) -> str:
    columns = ("zoo", "networks", "traced", "refused", "traced_frac", "covered_frac", "least", "unknown_bytes_frac", "cpu_s")
    rows = (
        (source, *_row([x for x in outcomes if x.network.startswith(f"{source}:")]))
        for source in dict.fromkeys(x.network.partition(":")[0] for x in outcomes)
    )
    found = sorted(outcomes, key=lambda x: x.network)
    lists = (
        _table(("refused", "reason"), [(x.network, x.reason or "") for x in found if not x.traced]),
        _table(
            ("kinds without a formula in", "share of its bytes", "kinds"),
            [(x.network, f"{x.unknown_bytes_frac:.4%}", ", ".join(x.unknown_kinds)) for x in found if x.unknown_kinds],
        ),
        _table(
            ("runs in part", "parameters never read"),
            [(x.network, f"{x.unread_frac:.1%}") for x in found if (x.unread_frac or 0) > PARTLY_FRAC],
        ),
        _table(
            ("networks", "what was assumed of them"),
            [(str(count), text) for text, count in Counter(text for x in found for text in x.assumptions).most_common()],
        ),
    )
    note = (
        f"{elapsed_s:.1f} s of wall clock; cpu_s: processor time to build and trace, of earlier runs in the journal too;"
        " covered_frac: mean share of energy in measured kinds; least: the smallest of a network;"
        " unknown_bytes_frac: the largest share of a network's bytes in kinds without a FLOP formula"
    )
    return rendered(_table(columns, list(rows)), *(x for x in lists if x.row_count), _worst(outcomes), note)


def _worst(outcomes: Sequence[Outcome]) -> str:
    """Name the kind without a FLOP formula that weighs most in any network, that network and the share."""
    worst = max(outcomes, key=lambda x: x.unknown_bytes_frac or 0.0)
    if not worst.unknown_kinds:
        return "every kind of operator met has a FLOP formula"
    share = f"{worst.unknown_bytes_frac:.4%} of its bytes"
    return f"worst kind without a FLOP formula: {worst.unknown_kinds[0]} in {worst.network}, {share}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(*columns, box=None)
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def _row(outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    traced = sum(x.traced for x in outcomes)
    shares = [x.covered_frac for x in outcomes if x.covered_frac is not None]
    mean, least = (f"{sum(shares) / len(shares):.4f}", f"{min(shares):.4f}") if shares else ("", "")
    spent_s = sum(x.cpu_s for x in outcomes)
    counts = (len(outcomes), traced, len(outcomes) - traced)
    unknown = max((x.unknown_bytes_frac or 0.0 for x in outcomes), default=0.0)
    return *map(str, counts), f"{traced / len(outcomes):.4f}", mean, least, f"{unknown:.6f}", f"{spent_s:.1f}"
