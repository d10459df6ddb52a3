"""Comparisons as rich tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..estimate import LAUNCH_BOUND, LAUNCH_BOUND_FRAC, Estimate, who_assumes
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
            escaped(e.trace.network), _device(e), str(e.trace.batch), small(e.energy_j, "J"), small(e.energy_per_sample_j, "J"),
            _interval(e), small(e.time_s, "s"), large(e.trace.flop, ""), f"{e.covered_frac:.0%}", _rank(row), str(row.by_flop),
        )  # fmt: skip
    return table


def _by_batch(comparison: Comparison) -> Table:
    batches = sorted({x.estimate.trace.batch for x in comparison.rows})
    table = table_of("energy a sample by batch", "network", "hardware", *map(str, batches))
    cells: dict[tuple[str, str], dict[int, str]] = {}
    for e in (row.estimate for row in comparison.rows):
        cells.setdefault((e.trace.network, _device(e)), {})[e.trace.batch] = small(e.energy_per_sample_j, "J")
    for (network, device), by_batch in cells.items():
        table.add_row(escaped(network), device, *(by_batch.get(batch, "") for batch in batches))
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
        f"{more.trace.network} against {less.trace.network} on {_device(more)}, batch {more.trace.batch}: "
        f"{more.trace.flop / less.trace.flop:.2f} x the FLOP, {more.energy_j / less.energy_j:.2f} x the energy; {words}; "
        f"layers that both run cancelled, {_signed(x.difference.change_j)} a sample ({_signed(low)} to {_signed(high)})"
    )


def _sentence(row: Ranked) -> str:
    e = row.estimate
    return (
        f"{e.trace.network} on {_device(e)}, batch {e.trace.batch}: {small(e.energy_per_sample_j, 'J')} a sample "
        f"({_interval(e)}), {small(e.energy_j, 'J')} and {small(e.time_s, 's')} a pass, {large(e.trace.flop, 'FLOP')}, "
        f"{e.covered_frac:.0%} covered; place {_rank(row)}, by FLOP {row.by_flop}"
    )


def _notes(comparison: Comparison) -> list[RenderableType]:
    caveats = dict.fromkeys(x.estimate.model.caveat for x in comparison.rows if x.estimate.model.caveat)
    notes = [
        "places are within one device and batch, 1 the least energy; in brackets those that overlapping intervals leave open; "
        "'covered' is the share of the energy in kinds of layers measured on the device; energy is gross, idle included"
    ]
    return [escaped(text) for text in (*notes, *caveats, *_assumed(comparison), *_launches(comparison))]


def _assumed(comparison: Comparison) -> Iterator[str]:
    """What is taken for granted, and of which rows, unless of all on the devices that it concerns."""
    rows = [row.estimate for row in comparison.rows]
    for text, places in who_assumes(rows).items():
        devices, own = {rows[i].model.hardware for i in places}, {id(rows[i]) for i in places}
        there = [e for e in rows if e.model.hardware in devices]
        labels: list[str] = []
        for network in dict.fromkeys(rows[i].trace.network for i in places):
            its = [e for e in there if e.trace.network == network]
            some = [e for e in its if id(e) in own]
            labels += [network] if len(some) == len(its) else map(_pass, some)
        yield text if len(there) == len(own) else f"{', '.join(labels)}: {text}"


def _pass(e: Estimate) -> str:
    return f"{e.trace.network} on {e.model.hardware}, batch {e.trace.batch}"


def _launches(comparison: Comparison) -> list[str]:
    """Of which rows launches as they were measured are much."""
    bound = [e for e in (row.estimate for row in comparison.rows) if e.launch_bound_frac >= LAUNCH_BOUND_FRAC]
    shares = "; ".join(f"{_pass(e)}: {e.launch_bound_frac:.0%}" for e in bound)
    return [f"{LAUNCH_BOUND.format('a share')} ({shares})"] if bound else []


def _rank(row: Ranked) -> str:
    return str(row.by_energy) if row.first == row.last else f"{row.by_energy} ({row.first}–{row.last})"


def _device(e: Estimate) -> str:
    return escaped(e.model.hardware if e.model.name == e.model.hardware else f"{e.model.hardware} ({e.model.name})")


def _interval(e: Estimate) -> str:
    low, high = (x / e.trace.batch for x in e.interval_j)
    return f"{small(low, 'J')} – {small(high, 'J')}"


def _signed(energy_j: float) -> str:
    return f"{'+' if energy_j > 0 else ''}{small(energy_j, 'J')}"
