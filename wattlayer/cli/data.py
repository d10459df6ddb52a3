"""Measured rows as files: `wattlayer import`, and what other commands read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .app import app
from .output import writing

if TYPE_CHECKING:
    from ..dataset import Measurement


@app.command("import")
def import_table(
    table: Annotated[
        Path, typer.Argument(metavar="TABLE", help="CSV, also gzipped, in a format of docs: measurements made elsewhere.")
    ],
    output: Annotated[Path, typer.Option("--output", help="Dataset to write, JSON lines.")],
    skip_bad_rows: Annotated[
        bool, typer.Option("--skip-bad-rows", help="Leave out rows that cannot be read, and count them.")
    ] = False,
) -> None:
    """Turn a table measured elsewhere into a dataset; on a bad row nothing is written."""
    from ..dataset import write_measurements
    from ..tables import read_table

    content = read_table(table, skip_bad_rows)
    count = writing(output, lambda: write_measurements(output, content.measurements, {"source": table.name}))
    report_skipped(table, content.bad_rows)
    print(f"{count} measurements written to {output}")


def measurements_of(paths: list[Path], skip_bad_rows: bool) -> list[Measurement]:
    """Read the measurements of all `paths`, datasets or import tables; raise InputError for a bad row."""
    from ..tables import read_table

    rows: list[Measurement] = []
    for path in paths:
        content = read_table(path, skip_bad_rows)
        report_skipped(path, content.bad_rows)
        rows += content.measurements
    return rows


def report_skipped(path: Path, bad_rows: tuple[tuple[int, str], ...]) -> None:
    """Say on stderr how many rows were left out, and why the first one was."""
    if bad_rows:
        line, reason = bad_rows[0]
        print(f"{path}: skipped {len(bad_rows)} bad rows, the first at line {line}: {reason}", file=sys.stderr)
