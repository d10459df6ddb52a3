"""Estimates, traces, evaluations and hardware as rich tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ..estimate import Estimate, told_of_coverage
from ..evaluate.sampling import CONFIDENCE
from ..hardware import Hardware
from ..layer import format_shape
from ..model.intervals import LEVEL
from ..model.metadata import Metadata
from ..trace import Trace
from .quantities import between, large, small

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from ..evaluate.scores import Evaluation, Score


def estimate_tables(estimate: Estimate, top: int = 10, depth: int = 1) -> list[RenderableType]:
    """Return the answer for a terminal: totals, the costliest layers, energy by module and by kind, and what to mind."""
    return [_totals(estimate), _layers(estimate, top), _modules(estimate, depth), _kinds(estimate), *estimate_notes(estimate)]


def _totals(e: Estimate) -> RenderableType:
    from rich.text import Text

    low, high = e.interval_j
    flop = large(e.trace.flop, "FLOP")
    return Text.from_markup(
        f"[bold]{escaped(e.trace.network)}[/] on [bold]{e.model.hardware}[/] · {e.trace.dtype} · tf32 {e.trace.tf32} · "
        f"{inputs_of(e.trace)} · {e.mode} mode\n"
        f"energy  [bold]{small(e.energy_j, 'J')}[/] a batch  ({small(low, 'J')} to {small(high, 'J')} at {LEVEL:.0%}), "
        f"{small(e.energy_per_sample_j, 'J')} a sample\n"
        f"time    {small(e.time_s, 's')}   power {small(e.power_w, 'W')}   {flop}   {len(e.trace.layers)} layers\n",
        emoji=False,
    )


def inputs_of(trace: Trace) -> str:
    """Say the batch and the shapes of the inputs, which may be the network's own choice."""
    shapes = [format_shape(shape) for shape in trace.input_shapes if shape]
    more = f" and {len(shapes) - 3} more" if len(shapes) > 3 else ""
    return f"batch {trace.batch}" + (f" · input {', '.join(shapes[:3])}{more}" if shapes else "")


def _layers(e: Estimate, top: int) -> Table:
    order = sorted(range(len(e.trace.layers)), key=lambda i: -e.layer_energy_j[i])[:top]
    table = table_of(
        f"costliest {len(order)} layers", "#", "path", "kind", "output", "FLOP", "time", "energy", "interval", "share"
    )
    total = max(e.energy_j, 1e-300)
    for i in order:
        layer, energy = e.trace.layers[i], float(e.layer_energy_j[i])
        mark = ("" if e.covered[i] else " *") + (" †" if e.extrapolated[i] else "")
        shape = format_shape(layer.outputs[0].shape) if layer.outputs else ""
        interval = f"{small(float(e.layer_low_j[i]), 'J')} – {small(float(e.layer_high_j[i]), 'J')}"
        time_s = small(float(e.layer_time_s[i]), "s")
        cells = (escaped(e.trace.paths[i]), layer.kind + mark, shape, large(layer.flop, ""), time_s, small(energy, "J"), interval)
        table.add_row(str(i), *cells, f"{energy / total:.1%}")
    return table


def _modules(e: Estimate, depth: int) -> Table:
    return _grouped(f"by module (depth {depth})", "module", e.by_module(depth).itertuples())


def _kinds(e: Estimate) -> Table:
    return _grouped("by kind", "kind", e.by_kind().itertuples())


def _grouped(title: str, name: str, rows: Iterable[Any]) -> Table:
    table = table_of(title, name, "calls", "FLOP", "time", "energy", "share")
    for row in rows:
        table.add_row(
            escaped(str(row.Index)) or "(top level)", str(row.calls), large(row.flop, ""), small(row.time_s, "s"),
            small(row.energy_j, "J"), f"{row.energy_frac:.1%}",
        )  # fmt: skip
    return table


def estimate_notes(e: Estimate, marks: tuple[str, str] = ("* ", "† ")) -> list[RenderableType]:
    """Return what a reader must know before believing the total; `marks` are those of rows of kinds never measured and of rows
    far outside what was."""
    notes = [e.model.caveat] if e.model.caveat else []
    notes.append(source_of(e.model))
    if e.launch_gaps:
        notes.append(e.launch_gaps)
    if e.unfused is not None:
        plain = f"{small(e.unfused.energy_j, 'J')}, {small(e.unfused.time_s, 's')}, {len(e.unfused.trace.layers)} layers"
        notes.append(f"compiled as torch.compile fuses, by rule: {len(e.trace.layers)} layers; unfused, in graph mode: {plain}")
    return [escaped(note) for note in (*notes, *told_of_coverage(e, marks), *e.assumptions)]


def source_of(model: Metadata) -> str:
    """Say what a model rests on and what its energies are."""
    return f"model {model.name} ({model.rows} rows; {model.source or 'source not stated'}); energy is gross, idle included"


def gaps_of(e: Estimate) -> str:
    """Say what the gaps in the launch queue cost; what nobody could measure is none."""
    if e.gap_s < 1e-6 * e.time_s:
        return "no gaps in the launch queue: the host is always ahead"
    return f"gaps in the launch queue: {small(e.gap_s, 's')}, {small(e.gap_energy_j, 'J')}"


def table_of(title: str, *columns: str) -> Table:
    """Return an empty table with these columns; those of words are set left, those of numbers right."""
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    text = {"phase", "path", "kind", "output", "module", "split", "predictor", "rows of", "name", "title", "interval", "network",
            "hardware", "change", "mind", "row", "layer", "pass", "hint"}  # fmt: skip
    for column in columns:
        table.add_column(column, justify="left" if column in text else "right", overflow="fold")
    return table


def escaped(text: str) -> str:
    """Return text that rich takes as it is: names of modules may hold brackets."""
    from rich.markup import escape

    return escape(text)


def trace_table(trace: Trace) -> Table:
    """Return all layers of a trace for a terminal."""
    title = f"{escaped(trace.network)}: {len(trace.layers)} layers, {large(trace.flop, 'FLOP')}"
    table = table_of(title, "#", "path", "kind", "output", "FLOP", "read", "written")
    for i, (path, x) in enumerate(zip(trace.paths, trace.layers)):
        shape = format_shape(x.outputs[0].shape) if x.outputs else ""
        table.add_row(
            str(i), escaped(path), x.kind, shape, large(x.flop, ""), large(x.read_bytes, "B"), large(x.write_bytes, "B")
        )
    return table


def evaluation_table(evaluation: Evaluation) -> Table:
    """Return the scores for a terminal: each figure with its split, its rows and its baselines."""
    hardware = ", ".join(dict.fromkeys(s.hardware for s in evaluation.scores))
    title = f"model {escaped(evaluation.model)}, rows of {escaped(hardware)}: absolute percentage error of energy"
    table = table_of(title, "split", "predictor", "rows of", "n", "median", "p90", "signed", "Spearman", "Kendall",
                   "time", "noise", f"in {LEVEL:.0%}")  # fmt: skip
    for s in evaluation.scores:
        table.add_row(
            f"{s.split} ({s.unit})", s.predictor, s.subset, str(s.rows),
            _sampled(s.mdape_frac, s.mdape_low_frac, s.mdape_high_frac), _percent(s.p90_ape_frac),
            f"{s.signed_median_frac:+.1%}", _number(s.spearman), _number(s.kendall), _percent(s.time_mdape_frac),
            _noise(s), _sampled(s.coverage_frac, s.coverage_low_frac, s.coverage_high_frac),
        )  # fmt: skip
    table.caption = f"in brackets: bounds of the figure of all layers or networks like these, at {CONFIDENCE:.0%}"
    return table


def _noise(s: Score) -> str:
    """The noise floor, and what share of the median error it is."""
    share = "" if s.noise_of_error_frac is None else f" ({s.noise_of_error_frac:.0%})"
    return _percent(s.noise_floor_frac) + share


def _sampled(frac: float | None, low_frac: float | None, high_frac: float | None) -> str:
    """A figure, and on a line of their own its bounds where they are known, so that the column stays narrow."""
    told = between(low_frac, high_frac)
    return _percent(frac) + (f"\n({told})" if told else "")


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def hardware_table(devices: Sequence[Hardware], trained: Sequence[str]) -> Table:
    """Return the registry for a terminal, with the devices that a model is shipped for."""
    table = table_of("hardware", "name", "title", "float32", "float16", "DRAM", "limit", "trained")
    for d in devices:
        table.add_row(
            d.name, d.title, large(d.peak("float32"), "FLOP/s"), large(d.peak("float16"), "FLOP/s"),
            large(d.dram_bytes_per_s, "B/s"), small(d.max_w, "W"), "yes" if d.name in trained else "",
        )  # fmt: skip
    return table
