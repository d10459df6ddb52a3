"""Changes and advice as rich tables and as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..estimate import LAUNCH_BOUND, LAUNCH_BOUND_FRAC, unseen_kinds, who_assumes
from ..model.intervals import LEVEL
from ..whatif import Change
from ..whatif.advise import Advice
from .quantities import small
from .terminal import escaped, table_of
from .text import csv_of

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from ..model.metadata import Metadata

MEASURED = "'measured' is the share of the energy afterwards in layers like those measured; the rest is extrapolated"


def change_table(changes: Sequence[Change], start: str) -> list[RenderableType]:
    """Return a table with one row a change, for a terminal; `start` says what they are changes of."""
    table = _table(_title(changes[0], start), "change")
    for x in changes:
        table.add_row(escaped(x.edit.describe()), *_figures(x))
    return [table, _note(), *_doubts(changes)]


def change_list(changes: Sequence[Change], start: str) -> list[RenderableType]:
    """Return the same as `change_table` in lines that fold well on a narrow terminal."""
    return [escaped(_title(changes[0], start)), *(escaped(_sentence(x)) for x in changes), _note(), *_doubts(changes)]


def advice_list(advice: Sequence[Advice], start: str) -> list[RenderableType]:
    """Return the same as `advice_table` in lines that fold well on a narrow terminal; of no advice tells `no_advice`."""
    lines = [escaped(f"{i}. {_sentence(x.change)}; {x.mind}") for i, x in enumerate(advice, 1)]
    return [escaped(_title(advice[0].change, start)), *lines, _note(), *_doubts([x.change for x in advice])]


def _sentence(x: Change) -> str:
    after, by, interval, measured = _figures(x)
    return f"{x.edit.describe()}: {after} a sample, {by} ({interval}), measured {measured}"


def _title(x: Change, start: str) -> str:
    before = x.before
    return f"{before.trace.network} on {before.model.hardware}, {start}: {small(before.energy_per_sample_j, 'J')} a sample"


def advice_table(advice: Sequence[Advice], start: str) -> list[RenderableType]:
    """Return the advice for a terminal, the largest saving first; of no advice tells `no_advice`."""
    table = _table(_title(advice[0].change, start), "#", "change", "mind")
    for i, x in enumerate(advice, 1):
        table.add_row(str(i), escaped(x.change.edit.describe()), escaped(x.mind), *_figures(x.change))
    return [table, _note(), *_doubts([x.change for x in advice])]


UNSURE = (
    "of all that was tried, either its interval reaches zero or most of the energy afterwards is in kinds never measured there"
)
UNMEASURED = (
    "no layer was measured on {}, so that all energy is in kinds never measured there: `wattlayer whatif` prices a change that "
    "you name, and a model calibrated with rows of `wattlayer measure --calibration` is advised on"
)


def no_advice(model: Metadata, start: str) -> list[RenderableType]:
    """Say why nothing is advised, and what there is to do where nothing could be."""
    return [escaped(f"{start}: no change is sure to save; {UNSURE if model.kinds else UNMEASURED.format(model.hardware)}")]


def _figures(x: Change) -> tuple[str, ...]:
    if x.unchanged:
        return small(x.after.energy_per_sample_j, "J"), "+0.0%", "no layer changes", f"{x.measured_frac:.0%}"
    low, high = (f"{'+' if value > 0 else ''}{small(value, 'J')}" for value in x.interval_j)
    return (
        small(x.after.energy_per_sample_j, "J"), f"{x.change_frac:+.1%}{'' if x.certain else ' ?'}", f"{low} to {high}",
        f"{x.measured_frac:.0%}",
    )  # fmt: skip


def _table(title: str, *text: str) -> Table:
    return table_of(escaped(title), *text, "a sample", "by", f"interval at {LEVEL:.0%}", "measured")


def _note() -> str:
    return escaped(f"energies per sample; ? where the interval reaches zero; {MEASURED}")


def _doubts(changes: Sequence[Change]) -> list[str]:
    """Say what the model rests on, which kinds it never saw, what is taken for granted before and after, and how much launches as
    they were measured are before, and after the change that leaves most of them."""
    names, sides = ["before", *(x.edit.describe() for x in changes)], [changes[0].before, *(x.after for x in changes)]
    model, assumed = changes[0].before.model, who_assumes(sides).items()
    everywhere, afterwards = [*range(len(names))], [*range(1, len(names))]
    told = [
        text if of == everywhere else f"{'after' if of == afterwards else '; '.join(names[i] for i in of)}: {text}"
        for text, of in assumed
    ]
    most = max(changes, key=lambda x: x.after.launch_bound_frac)
    before, after = most.before.launch_bound_frac, most.after.launch_bound_frac
    shares = f"{before:.0%} before, at most {after:.0%} after a change ({most.edit.describe()}),"
    launches = [LAUNCH_BOUND.format(shares)] if max(before, after) >= LAUNCH_BOUND_FRAC else []
    return [escaped(text) for text in (*(x for x in (model.caveat,) if x), *unseen_kinds(sides), *told, *launches)]


def change_csv(changes: Sequence[Change]) -> str:
    """Return one line a change with the columns of its JSON form; of a pair, the value before and the one after."""
    return csv_of([{name: _cell(value) for name, value in x.to_json().items()} for x in changes])


def _cell(value: Any) -> Any:
    """A value of JSON as the cell of a table: a pair as `before..after`, sentences one after another."""
    if not isinstance(value, list):
        return value
    return "..".join("; ".join(x) if isinstance(x, list) else str(x) for x in value)
