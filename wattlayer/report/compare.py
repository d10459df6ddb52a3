"""Comparisons as rich tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..estimate import Estimate
from ..model.intervals import LEVEL
from ..whatif.compare import Comparison, Ranked, Swap
from .quantities import large, small
from .terminal import escaped, table_of

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

SWAPS = 10
"""Pairs that are shown; the others are counted."""


def comparison_tables(comparison: Comparison) -> list[RenderableType]:
    """Return a comparison for a terminal: all rows, energy per sample against batch, and where FLOP order otherwise."""
    parts: list[RenderableType] = [_rows(comparison)]
    if len({x.estimate.trace.batch for x in comparison.rows}) > 1:
        parts.append(_by_batch(comparison))
    return [*parts, *_swaps(comparison), *_notes(comparison)]


def comparison_list(comparison: Comparison) -> list[RenderableType]:
    """Return the same as `comparison_tables` in lines that fold well on a narrow terminal."""
    return [*(escaped(_sentence(x)) for x in comparison.rows), *_swaps(comparison), *_notes(comparison)]


def _rows(comparison: Comparison) -> Table:
    table = table_of("compared", "network", "hardware", "batch", "energy", "a sample", f"interval at {LEVEL:.0%}", "time", "FLOP",
                     "covered", "place", "by FLOP")  # fmt: skip
    for row in comparison.rows:
        e = row.estimate
        table.add_row(
            escaped(e.trace.network), escaped(e.model.where), str(e.trace.batch), small(e.energy_j, "J"),
            small(e.energy_per_sample_j, "J"), _interval(e), small(e.time_s, "s"), large(e.trace.flop, ""),
            f"{e.covered_frac:.0%}", _rank(row), str(row.by_flop),
        )  # fmt: skip
    return table


def _by_batch(comparison: Comparison) -> Table:
    batches = sorted({x.estimate.trace.batch for x in comparison.rows})
    table = table_of("energy a sample by batch", "network", "hardware", *map(str, batches))
    cells: dict[tuple[str, str], dict[int, str]] = {}
    for e in (row.estimate for row in comparison.rows):
        cells.setdefault((e.trace.network, e.model.where), {})[e.trace.batch] = small(e.energy_per_sample_j, "J")
    for (network, device), by_batch in cells.items():
        table.add_row(escaped(network), escaped(device), *(by_batch.get(batch, "") for batch in batches))
    return table


def _swaps(comparison: Comparison) -> list[RenderableType]:
    """One line a pair, and no claim that the intervals do not carry."""
    if len({x.estimate.trace.network for x in comparison.rows}) < 2:
        return []
    if not comparison.swaps:
        return ["FLOP and predicted energy order all networks alike"]
    lines = [f"[bold]fewer FLOP, yet more energy[/] ({len(comparison.swaps)} pairs)"]
    lines += [escaped(_swap(x)) for x in comparison.swaps[:SWAPS]]
    left_out = len(comparison.swaps) - SWAPS
    return ["\n".join([*lines, *([f"and {left_out} more: --format json lists them all"] if left_out > 0 else [])])]


def _swap(x: Swap) -> str:
    less, more, (low, high) = x.less_energy, x.fewer_flop, x.difference.interval_j
    words = "intervals overlap: not certain" if x.overlap else "intervals are apart"
    return (
        f"{more.trace.network} against {less.trace.network} on {more.model.where}, batch {more.trace.batch}: "
        f"{more.trace.flop / less.trace.flop:.2f} x the FLOP, {more.energy_j / less.energy_j:.2f} x the energy; {words}; "
        f"layers that both run cancelled, {_signed(x.difference.change_j)} a sample ({_signed(low)} to {_signed(high)})"
    )


def _sentence(row: Ranked) -> str:
    e = row.estimate
    return (
        f"{e.trace.network} on {e.model.where}, batch {e.trace.batch}: {small(e.energy_per_sample_j, 'J')} a sample "
        f"({_interval(e)}), {small(e.energy_j, 'J')} and {small(e.time_s, 's')} a pass, {large(e.trace.flop, 'FLOP')}, "
        f"{e.covered_frac:.0%} covered; place {_rank(row)}, by FLOP {row.by_flop}"
    )


def _notes(comparison: Comparison) -> list[RenderableType]:
    places = (
        "places are within one device and batch, 1 the least energy; in brackets those that overlapping intervals leave open; "
        "'covered' is the share of the energy in kinds of layers measured on the device; energy is gross, idle included"
    )
    return [escaped(text) for text in (places, *comparison.minds)]


def _rank(row: Ranked) -> str:
    return str(row.by_energy) if row.first == row.last else f"{row.by_energy} ({row.first}–{row.last})"


def _interval(e: Estimate) -> str:
    low, high = (x / e.trace.batch for x in e.interval_j)
    return f"{small(low, 'J')} – {small(high, 'J')}"


def _signed(energy_j: float) -> str:
    return f"{'+' if energy_j > 0 else ''}{small(energy_j, 'J')}"
