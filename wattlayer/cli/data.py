"""Measured rows as files: `wattlayer import`, and what other commands read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError
from .app import app
from .options import SkipOption
from .output import apart, place, say

if TYPE_CHECKING:
    from ..dataset import Measurement

TOLD = 20
"""So many skipped rows are told one by one."""


@app.command("import")
def import_table(
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="CSV, also gzipped; docs/training.md lists its columns.")],
    output: Annotated[Path, typer.Option("--output", callback=place, help="Dataset to write, JSON lines.")],
    skip_bad_rows: SkipOption = False,
) -> None:
    """Turn a table measured elsewhere into a dataset; on a bad row nothing is written."""
    from ..dataset import write_measurements
    from ..dataset.tables import read_table

    apart(output, table)
    if output.suffix not in ("", ".jsonl"):  # pipes and devices have none
        written = output.with_suffix(".jsonl")
        raise InputError(f"--output {output} does not end in .jsonl, by which datasets are known: write {written}")
    content = read_table(table, skip_bad_rows)
    _report_doubts(table, content.measurements)
    count = write_measurements(output, content.measurements, {"source": table.name})
    report_skipped(table, content.bad_rows)
    print(f"{count} measurements written to {output}")


def measurements_of(
    paths: list[Path], skip_bad_rows: bool, check: Callable[[Measurement], object] = lambda measurement: None
) -> list[Measurement]:
    """Read the rows of all `paths`, datasets or tables; raise InputError for one that is bad or that `check` refuses."""
    from ..dataset.tables import read_table

    rows: list[Measurement] = []
    seen: set[Measurement] = set()
    for path in paths:
        content = read_table(path, skip_bad_rows, check)
        report_skipped(path, content.bad_rows)
        _report_idled(path, content.measurements)
        _report_doubts(path, content.measurements)
        if again := len(seen & set(content.measurements)):
            say(f"{path}: {again} of its rows are in a file before it as well: each counts twice")
        seen.update(content.measurements)
        rows += content.measurements
    return rows


def _report_idled(path: Path, rows: Sequence[Measurement]) -> None:
    """Say on stderr how many rows neither teach nor judge, because the device waited while they were measured."""
    from ..dataset.labels import idled

    if count := sum(idled(m) and (m.regime is not None or m.network is not None) for m in rows):
        say(
            f"{path}: left out {count} row{'s' * (count > 1)} of graphs that did not keep the device busy "
            "(gpu_not_busy, no_kernel): measure them again",
        )


def _report_doubts(path: Path, rows: Sequence[Measurement]) -> None:
    """Say on stderr what looks wrong of rows that could be read, such as times in other units."""
    from ..dataset.tables import doubts

    for doubt in doubts(rows):
        say(f"{path}: {doubt}")


def report_skipped(path: Path, bad_rows: tuple[tuple[int, str], ...]) -> None:
    """Say on stderr how many rows were left out, and of the first `TOLD` which and why."""
    if not bad_rows:
        return
    say(f"{path}: skipped {len(bad_rows)} bad row{'s' * (len(bad_rows) > 1)}")
    for line, reason in bad_rows[:TOLD]:
        say(f"{path}, line {line}: {reason}")
    if len(bad_rows) > TOLD:
        say(f"{path}: and {len(bad_rows) - TOLD} more")
