"""Tables measured elsewhere, as measurements: a format is recognised by its columns.

To add a format, write one module with `COLUMNS` (what must be there) and `measurement(row)` (one row as a
Measurement, raising InputError with the reason where it cannot be one), and name it in `FORMATS`. Where it also says
`COPIES = True`, rows that are equal in all that is read are one reading and count once. One that says `OPTIONAL` reads these
columns where they are there, and none may be `DECISIVE`.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median, quantiles
from typing import Any, TextIO

import numpy as np

from ...errors import InputError
from ...features.columns import Columns
from ...hardware import Hardware, find_hardware
from ...layer import Layer
from .. import Measurement, numbered_measurements
from . import getzner, irene, layers, networks, neurstruc

MOST_OF_LIMIT = 3.0
"""Times its power limit that a device may seem to draw; of seven measured devices one was seen at 1.46 times."""

LEAST_OF_IDLE = 0.05
"""Share of its idle power that a device seems to draw at least: idle powers are assumed where nobody measured them."""

MOST_OF_PEAK = 8.0
"""Times its highest peak rate that a device may seem to compute: transforms save three products of four, and of seven measured
devices one was seen at 3.4 times the rate of a dtype."""

MOST_OF_ROOFLINE, MOST_SPREAD, MOST_OF_REPEAT = 400.0, 300.0, 2.0
"""Beyond these the rows of a table are in doubt: the median of times over what data sheets allow (of seven measured devices 1.5
to 39), the same of its slowest tenth over its fastest (2 to 23), and the most over the least of repeats of one layer in one run,
in time and in energy (at most 1.33 and 1.39)."""
DECISIVE = ("flags", "regime", "energy_corrected_j", "mha_fastpath", "attempt")
"""What a dataset says of a row that decides whether it counts, or for how much: a table has no place for it."""
MOST_OVER_FRAC, MOST_BELOW_FRAC = 0.6, 0.01
"""Shares of rows above the power limit (by a twentieth) and below the idle power beyond which they are in doubt: of seven
measured devices at most 46 % (a maker's own board) and none."""
MIN_LAYERS = 10
"""Fewer rows of a device are not doubted together."""

FORMATS = (layers, networks, irene, getzner, neurstruc)


@dataclass(frozen=True)
class Table:
    """What a file held: its measurements, and each row that could not be one as (line number, reason)."""

    measurements: tuple[Measurement, ...]
    bad_rows: tuple[tuple[int, str], ...] = ()


def read_table(
    path: str | Path, skip_bad_rows: bool = False, check: Callable[[Measurement], object] = lambda measurement: None
) -> Table:
    """Read a table of measurements: CSV (also gzipped) in one of `FORMATS`, or our own JSON lines.

    Raises InputError for a file of no known format, naming the columns that are missing, and for the first bad
    row unless `skip_bad_rows` is set, which collects them in `bad_rows`. A row that `check` raises InputError for is bad as well.
    """
    path = Path(path)
    good: list[Measurement] = []
    bad: list[tuple[int, str]] = []
    for line, result in numbered_measurements(path) if path.suffix == ".jsonl" else _rows(path):
        try:
            if isinstance(result, str):
                raise InputError(result)
            check(_plausible(result))
            good.append(result)
        except InputError as error:
            bad.append((line, str(error)))
    if bad and not skip_bad_rows:
        more = f" (the first of {len(bad)} bad rows)" if len(bad) > 1 else ""
        raise InputError(f"{path}, line {bad[0][0]}: {bad[0][1]}{more}; mend it or skip such rows with --skip-bad-rows")
    if not good and (bad or path.suffix != ".jsonl"):  # a campaign that measured nothing yet is an empty dataset
        raise InputError(f"{path} holds no measurement that can be used")
    return Table(tuple(good), tuple(bad))


def _plausible(m: Measurement) -> Measurement:
    """Return `m`; raise InputError where its energy and time do not go together, by a slip of a unit: no device draws so much."""
    try:
        device = find_hardware(m.hardware)
    except InputError:
        return m  # a dataset may be of a device that is described elsewhere
    what = f"{m.energy_j:g} J in {m.time_s:g} s is {m.power_w:.4g} W, of a device"
    if m.power_w > MOST_OF_LIMIT * device.max_w:
        raise InputError(f"{what} limited to {device.max_w:g} W: check the units")
    if m.power_w < LEAST_OF_IDLE * device.idle_w:
        raise InputError(f"{what} that draws {device.idle_w:g} W idle: check the units (energy is all that the device draws)")
    if m.layer is not None:
        rate, peak = m.layer.flop / m.time_s, max(x for _, x in device.peak_flop_per_s)
        if rate > MOST_OF_PEAK * peak:
            what = f"{m.layer.flop:.3g} FLOP in {m.time_s:g} s are {rate:.3g} a second, of a device"
            raise InputError(f"{what} that computes {peak:.3g}: check the units")
    return m


def doubts(measurements: Iterable[Measurement]) -> list[str]:
    """Return what looks wrong of rows of layers taken together, in a line each; devices that are not described are left out."""
    measured: dict[str, list[tuple[Layer, float]]] = defaultdict(list)
    repeats: dict[tuple[Layer, str, str, str], list[Measurement]] = defaultdict(list)
    powers_w: dict[str, list[float]] = defaultdict(list)
    rows_of: Counter[Measurement] = Counter()
    for m in measurements:
        rows_of[m] += 1
        if m.layer is not None:
            repeats[m.layer, m.hardware, m.run, m.mode].append(m)
            measured[m.hardware].append((m.layer, m.time_s))
            powers_w[m.hardware].append(m.power_w)
    found = []
    if copies := sum(rows_of.values()) - len(rows_of):
        found.append(f"{copies} rows are copies of others, to the last digit: each counts as a measurement of its own")
    for name, rows in measured.items():
        slowness: list[float] = []
        with suppress(InputError):  # a dataset may be of a device that is described elsewhere
            slowness = _slowness(rows, find_hardware(name))
        if len(slowness) < MIN_LAYERS:
            continue
        found += _unlike_powers(powers_w[name], find_hardware(name))
        tenths = quantiles(slowness, n=10)
        if (typical := median(slowness)) > MOST_OF_ROOFLINE:
            found.append(f"layers take {typical:.3g} times (median) as long as the data sheet of {name} allows: check the units")
        if (spread := tenths[-1] / tenths[0]) > MOST_SPREAD:
            found.append(
                f"beside the data sheet of {name} the slowest tenth of layers takes {spread:.3g} times as long as the fastest: "
                "check that all rows have the same units"
            )
    return found + _contradictions(repeats)


def _unlike_powers(powers_w: Sequence[float], device: Hardware) -> Iterator[str]:
    """Yield what powers say that another device, or one without its idle power, would draw."""
    over, below = sum(w > 1.05 * device.max_w for w in powers_w), sum(w < device.idle_w for w in powers_w)
    if over > MOST_OVER_FRAC * len(powers_w):
        yield f"{over} of {len(powers_w)} rows draw more than the {device.max_w:g} W of {device.name}: check the device's name"
    if below > MOST_BELOW_FRAC * len(powers_w):
        yield (
            f"{below} of {len(powers_w)} rows draw less than {device.name} idle, {device.idle_w:g} W: energy is all that the "
            "device draws, idle included"
        )


def _contradictions(repeats: Mapping[tuple[Layer, str, str, str], Sequence[Measurement]]) -> list[str]:
    """Return what repeats of one layer in one run say against one another, of time and of energy."""
    found = []
    for what, unit in (("take more than {:g} times as long", "s"), ("cost more than {:g} times as much", "J")):
        values = [(layer, [m.time_s if unit == "s" else m.energy_j for m in rows]) for (layer, *_), rows in repeats.items()]
        apart = [(layer, own) for layer, own in values if max(own) > MOST_OF_REPEAT * min(own)]
        if apart:
            layer, own = apart[0]
            found.append(
                f"{len(apart)} of {len(repeats)} layers have repeats in one run that {what.format(MOST_OF_REPEAT)} as others "
                f"(a {layer.kind} of {layer.flop:.3g} FLOP {min(own):g} to {max(own):g} {unit}): their median is taken"
            )
    return found


def _slowness(rows: Sequence[tuple[Layer, float]], device: Hardware) -> list[float]:
    """Times of layers over what the data sheet allows: of arithmetic, of traffic or of a launch, whichever is longest."""
    columns = Columns([layer for layer, _ in rows], device)
    least_s = np.maximum(np.maximum(columns.compute_s(), columns.memory_s()), device.launch_s)
    return [time_s / float(least) for (_, time_s), least in zip(rows, least_s)]


def _rows(path: Path) -> Iterator[tuple[int, Measurement | str]]:
    if path.suffix == ".json":
        raise InputError(f"{path} is no table: measured rows are in CSV tables and in datasets (.jsonl)")
    try:
        with _open(path) as file:
            reader = csv.DictReader(file, strict=True)
            reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
            table = _format(path, tuple(reader.fieldnames))
            copies, seen = getattr(table, "COPIES", False), set()
            for row in reader:
                try:
                    measurement = table.measurement(_complete(row))
                    if not (copies and measurement in seen):
                        yield reader.line_num, replace(measurement, place=(str(path), reader.line_num))
                    seen.add(measurement)
                except InputError as error:
                    yield reader.line_num, str(error)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    except (UnicodeDecodeError, csv.Error, EOFError, zlib.error) as error:
        raise InputError(f"{path} is not a CSV table: {error}; write it as CSV in UTF-8") from None


def _open(path: Path) -> TextIO:
    opener = gzip.open if path.suffix == ".gz" else open
    return opener(path, "rt", encoding="utf-8-sig", newline="")


def _format(path: Path, columns: tuple[str, ...]):  # type: ignore[no-untyped-def]
    twice = [name for name in columns if name and columns.count(name) > 1]
    if twice:
        raise InputError(f"{path} has two columns {twice[0]}: leave one of them out")
    for table in FORMATS:
        if set(table.COLUMNS) <= set(columns):
            _refuse_unread(path, table, columns)
            return table
    header = ",".join(columns)
    mark = next((mark for mark in (";", "\t", "|") if header.count(mark) > header.count(",")), None)
    if mark:
        raise InputError(f"{path} has its columns separated by {mark!r}: write commas")
    closest = max(FORMATS, key=lambda table: len(set(table.COLUMNS) & set(columns)) / len(table.COLUMNS))
    missing = [c for c in closest.COLUMNS if c not in columns]
    alike = [f"{have} for {want}" for want in missing for have in columns if _is_in_another_unit(have, want)]
    hint = f"; it has {', '.join(alike)}: convert to SI units and name it so" if alike else ""
    if cased := [have for want in missing for have in columns if have.lower() == want]:
        hint = f"; it has {', '.join(cased)}: write names of columns in lower case"
    raise InputError(
        f"{path} has no column {', '.join(missing)} (a table of {closest.NAME} needs {', '.join(closest.COLUMNS)}){hint}"
    )


def _refuse_unread(path: Path, table: Any, columns: Iterable[str]) -> None:
    """Raise InputError for a decisive column that this format has no place for; others that it does not know are ignored."""
    optional = getattr(table, "OPTIONAL", None)
    cased = [name for name in columns if name != name.lower() and name.lower() in (*table.COLUMNS, *(optional or ()))]
    if cased:
        raise InputError(f"{path} has a column {cased[0]}: write names of columns in lower case")
    if optional is not None and (lost := [name for name in columns if name in DECISIVE]):
        raise InputError(
            f"{path} has a column {lost[0]}, which a table of {table.NAME} does not hold (beside what it needs: "
            f"{', '.join(optional)}): leave it out, or write a dataset (JSON lines)"
        )


def _is_in_another_unit(column: str, wanted: str) -> bool:
    """Whether a column is of what `wanted` is of, in another unit: `time_ms` for `time_s`."""
    return wanted.endswith(("_s", "_j")) and column.rpartition("_")[0].lower() == wanted[:-2].lower()


def _complete(row: dict[str, str | None]) -> dict[str, str]:
    if None in row or None in row.values():
        raise InputError("the row has another number of fields than the header")
    return {key: (value or "").strip() for key, value in row.items()}
