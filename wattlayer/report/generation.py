"""A language model's request as rich tables for a terminal, and its passes as CSV."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..estimate import GAPS
from ..generation import Generation
from ..model.intervals import LEVEL
from .quantities import small
from .terminal import escaped, source_of, table_of
from .text import csv_of

if TYPE_CHECKING:
    from rich.console import RenderableType

SHOWN = 5
"""Lengths of the cache in the table of steps."""


def generation_tables(generation: Generation) -> list[RenderableType]:
    """Return the answer for a terminal: a request, its two phases, some steps, energy by kind, and what to mind."""
    from rich.text import Text

    g, (low, high) = generation, generation.interval_j
    least, most = (small(x, "J") for x in g.energy_per_token_interval_j)
    token = "token written, prompt included" if g.new_tokens else "token of the prompt"
    head = Text.from_markup(
        f"[bold]{escaped(g.trace.network)}[/] on [bold]{g.model.hardware}[/] · {g.trace.dtype} · batch {g.batch} · "
        f"{g.prompt_tokens} + {g.new_tokens} tokens · {g.prefill.mode} mode\n"
        f"energy  [bold]{small(g.energy_per_request_j, 'J')}[/] a request, {small(g.energy_per_token_j, 'J')} "
        f"({least} to {most}) a {token}, {g.tokens_per_j:.3g} tokens a joule\n"
        f"batch   {small(g.energy_j, 'J')}  ({small(low, 'J')} to {small(high, 'J')} at {LEVEL:.0%})   {small(g.time_s, 's')}   "
        f"{g.tokens_per_s:.3g} tokens/s while decoding\n",
        emoji=False,
    )
    return [head, _phases(g), *([_steps(g)] if g.new_tokens else []), _kinds(g), *generation_notes(g)]


def _phases(g: Generation) -> RenderableType:
    table = table_of("phases", "phase", "tokens", "time", "energy", "interval", "share")
    decode = ("decode", g.new_tokens, float(g.step_time_s.sum()), g.decode_energy_j, g.decode_interval_j)
    for name, tokens, time_s, energy_j, (low, high) in (
        ("prefill", g.prompt_tokens, g.prefill.time_s, g.prefill.energy_j, g.prefill.interval_j), decode,
    ):  # fmt: skip
        interval = f"{small(low, 'J')} – {small(high, 'J')}"
        table.add_row(name, str(tokens), small(time_s, "s"), small(energy_j, "J"), interval, f"{energy_j / g.energy_j:.1%}")
    return table


def _steps(g: Generation) -> RenderableType:
    table = table_of("one step", "tokens in the cache", "time", "energy", "a sequence")
    for i in sorted({round(k * (g.new_tokens - 1) / (SHOWN - 1)) for k in range(SHOWN)}):
        energy_j = float(g.step_energy_j[i])
        cells = (small(float(g.step_time_s[i]), "s"), small(energy_j, "J"), small(energy_j / g.batch, "J"))
        table.add_row(str(int(g.context_tokens[i])), *cells)
    return table


def _kinds(g: Generation) -> RenderableType:
    table = table_of("by kind", "kind", "prefill", "decode", "share")
    for kind, prompt_j, steps_j in by_phase(g):
        table.add_row(kind, small(prompt_j, "J"), small(steps_j, "J"), f"{(prompt_j + steps_j) / g.energy_j:.1%}")
    return table


def by_phase(g: Generation) -> list[tuple[str, float, float]]:
    """Return every kind of layer with the joules of the prompt and of all steps in it, the costliest first; gaps are one."""
    prefill = {str(row.Index): float(row.energy_j) for row in g.prefill.by_kind().itertuples()}
    decode = g.decode_kinds_j | ({GAPS: g.gap_energy_j} if g.gap_energy_j else {})
    rows = [(kind, prefill.get(kind, 0.0), decode.get(kind, 0.0)) for kind in {**prefill, **decode}]
    return sorted(rows, key=lambda x: -(x[1] + x[2]))


def generation_notes(g: Generation) -> list[RenderableType]:
    """Return what a reader must know before believing the figures, and what the model rests on."""
    return [escaped(note) for note in (source_of(g.model), *g.minds)]


def generation_csv(generation: Generation) -> str:
    """Return a line of the prompt and one of each step: tokens in the cache, tokens that each sequence takes, time and energy of
    the whole batch; the lines add up to the request."""
    g, columns = generation, ("phase", "context_tokens", "tokens", "time_s", "energy_j")
    prompt = ("prefill", 0, g.prompt_tokens, g.prefill.time_s, g.prefill.energy_j)
    steps = zip(g.context_tokens, g.step_time_s, g.step_energy_j)
    decoded = (("decode", int(context), 1, float(time_s), float(energy_j)) for context, time_s, energy_j in steps)
    return csv_of([dict(zip(columns, row)) for row in (prompt, *decoded)])
