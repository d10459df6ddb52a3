"""The rows that a model is farthest off on, with what may be wrong with each, and all rows as a file.

How far off a row is counts as a factor, of its energy or its time, whichever is farther: a right prediction errs by 90 % of an
energy that was written ten times too large, and by 900 % of one that is ten times too small.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from ..errors import InputError
from ..evaluate.scores import Evaluation, Judged
from ..layer import format_shape
from ..model.intervals import LEVEL
from .export import check_parquet, evaluation_parquet
from .quantities import small
from .terminal import escaped, table_of
from .text import evaluation_csv, evaluation_lines

if TYPE_CHECKING:
    from rich.table import Table

    from ..dataset import Measurement

SHOWN = 5
"""Rows that are shown of a split."""
FEW_LAYERS = 10
"""Fewer layers of a kind teach little of it."""
NOISY = 0.5
"""Share of an error that a row's distance from other readings of its layer must have to count as its cause."""
TOLD_SPLITS = ("layer", "network")
"""Splits whose rows are shown rather than those of others; those of `KNOWN_SPLITS` are the last."""
KNOWN_SPLITS = ("given", "training rows")
"""Splits of rows that the model may have learned with their mistakes."""
WRITERS: dict[str, Callable[[Evaluation], str | bytes]] = {
    ".jsonl": evaluation_lines,
    ".csv": evaluation_csv,
    ".parquet": evaluation_parquet,
}
"""What a file of rows is written as, by its suffix."""


def check_rows(path: Path) -> None:
    """Raise InputError, before the work is done, where no file of rows has that suffix or pyarrow is missing."""
    suffix = path.suffix.lower()
    if suffix not in WRITERS:
        raise InputError(f"the rows' file {path} does not end in {', '.join(WRITERS)}, by which its format is known: name it so")
    if suffix == ".parquet":
        check_parquet()


def rows_file(evaluation: Evaluation, path: Path) -> str | bytes:
    """Return what the file `path` of an evaluation's rows holds, by its suffix."""
    return WRITERS[path.suffix.lower()](evaluation)


def outliers(evaluation: Evaluation, unit: str, count: int = SHOWN) -> list[Judged]:
    """Return the rows of `unit` ("layer" or "network") that are farthest off by factor, the farthest first, each once.

    They are of the split that leaves single layers or networks out, else of the first that leaves anything out. Further readings
    of a layer or of a pass come behind the farthest of all others, which one of them would crowd out.
    """
    rows = [x for x in evaluation.predicted if x.unit == unit]
    splits = list(dict.fromkeys(x.split for x in rows))
    shown = min(splits, key=lambda x: (x not in TOLD_SPLITS, x in KNOWN_SPLITS), default=None)
    farthest = sorted((x for x in rows if x.split == shown), key=lambda x: -max(abs(log(_of(x))), abs(log(_time_of(x)))))
    once: dict[int, Judged] = {}
    for x in farthest:
        once.setdefault(id(x.measurement), x)
    seen: set[tuple[object, ...]] = set()
    first: list[Judged] = []
    again: list[Judged] = []
    for x in once.values():
        (again if _what_ran(x.measurement) in seen else first).append(x)
        seen.add(_what_ran(x.measurement))
    return [*first, *again][:count]


def outlier_tables(evaluation: Evaluation) -> list[Table]:
    """Return, of layers and of networks where they were judged, the farthest rows as a table for a terminal."""
    found = [outliers(evaluation, unit) for unit in ("layer", "network")]
    return [_table(rows, evaluation.predicted) for rows in found if rows]


def _table(rows: Sequence[Judged], every: Sequence[Judged]) -> Table:
    title = f"farthest off in the split {rows[0].split} ({rows[0].unit}), measured over predicted"
    what = "layer" if rows[0].unit == "layer" else "pass"
    table = table_of(title, "row", what, "measured", "predicted", "energy", "time", "power", f"in {LEVEL:.0%}", "hint")
    for row in rows:
        m = row.measurement
        energy, time = _of(row), _time_of(row)
        table.add_row(
            escaped(_place(row)), escaped(_what(row)), small(m.energy_j, "J"), small(row.predicted_energy_j, "J"),
            *(f"x{ratio:.3g}" for ratio in (energy, time, energy / time)), "yes" if row.inside else "no", _hint(row, every),
        )  # fmt: skip
    return table


def _of(row: Judged) -> float:
    return row.measurement.energy_j / row.predicted_energy_j


def _time_of(row: Judged) -> float:
    return row.measurement.time_s / row.predicted_time_s


def _place(row: Judged) -> str:
    m = row.measurement
    return f"{Path(m.place[0]).name}, line {m.place[1]}" if m.place else m.key or m.run or "–"


def _what(row: Judged) -> str:
    m, shape = row.measurement, format_shape(row.input_shapes[0]) if row.input_shapes else ""
    if m.layer is None:
        return f"{m.network} {shape} {m.dtype} {m.mode}"
    return f"{m.layer.kind} {shape} to {format_shape(m.layer.outputs[0].shape)} {'tf32' if m.layer.tf32 else m.layer.dtype}"


def _hint(row: Judged, every: Sequence[Judged]) -> str:
    """What may be the cause, as far as the rows tell: the measurement before what its model could not know."""
    told = [f"marked {', '.join(row.measurement.flags)}"] if row.measurement.flags else []
    others = [x.measurement.energy_j for x in every if x.split == row.split and _again(x.measurement, row.measurement)]
    apart, off = (log(row.measurement.energy_j / median(others)) if others else 0.0), log(_of(row))
    if apart * off > 0 and abs(apart) > NOISY * abs(off):
        told.append("its other readings are far from it: measure it again")
    elif abs(apart) > NOISY * abs(off):
        told.append("its other readings are farther off")
    elif others:
        told.append("its other readings agree")
    if row.covered_frac < 0.5:
        told.append("its kind was not measured")
    elif row.kind_layers is not None and row.kind_layers < FEW_LAYERS:
        told.append(f"only {row.kind_layers} layer{'s' * (row.kind_layers != 1)} of its kind to learn from")
    elif row.extrapolated_frac > 0.5:
        told.append("far outside what was measured")
    if not told and not row.inside:
        told.append("measured once: check it, or measure it again")
    return "; ".join(told)


def _what_ran(m: Measurement) -> tuple[object, ...]:
    return m.layer, m.network, m.input_shapes, m.mode, m.dtype, m.tf32


def _again(a: Measurement, b: Measurement) -> bool:
    """Whether `a` is another reading, in any campaign, of what `b` is of."""
    return _what_ran(a) == _what_ran(b) and a is not b
