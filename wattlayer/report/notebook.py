"""An estimate as HTML for notebooks: the totals, energy by kind as bars, and the costliest layers. No script, no style sheet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from ..estimate import Estimate
from ..model.intervals import LEVEL
from . import large, small

TOP = 8
"""Kinds and layers that are shown; what is left out is counted."""

_BAR = "display:inline-block;height:.8em;background:currentColor;opacity:.45;width:{:.1f}em"
_CELL = "text-align:{};padding:1px 10px 1px 0"


def estimate_html(estimate: Estimate) -> str:
    """Return an estimate as an HTML fragment in the colours of the page around it (light or dark)."""
    low, high = estimate.interval_j
    head = (
        f"<b>{escape(estimate.trace.network)}</b> on <b>{escape(estimate.model.hardware)}</b>, {escape(estimate.trace.dtype)}, "
        f"batch {estimate.trace.batch}, {escape(estimate.mode)} mode: <b>{small(estimate.energy_j, 'J')}</b> "
        f"({small(low, 'J')} to {small(high, 'J')} at {LEVEL:.0%}), {small(estimate.energy_per_sample_j, 'J')} a sample, "
        f"{small(estimate.time_s, 's')}, {small(estimate.power_w, 'W')}, {large(estimate.trace.flop, 'FLOP')}"
    )
    return f"<div><p>{head}</p>{_kinds(estimate)}{_layers(estimate)}<p><small>{escape(_notes(estimate))}</small></p></div>"


def _kinds(e: Estimate) -> str:
    frame = e.by_kind()
    rows = [
        (str(row.Index), str(row.calls), small(row.energy_j, "J"), f"{row.energy_frac:.1%}", row.energy_frac)
        for row in frame.head(TOP).itertuples()
    ]
    return _table("by kind", ("kind", "calls", "energy", "share"), rows, len(frame) - len(rows))


def _layers(e: Estimate) -> str:
    total_j = max(e.energy_j, 1e-300)
    order = sorted(range(len(e.trace.layers)), key=lambda i: -e.layer_energy_j[i])[:TOP]
    rows = []
    for i in order:
        energy_j = float(e.layer_energy_j[i])
        name = f"{e.trace.paths[i] or '(top level)'} · {e.trace.layers[i].kind}"
        interval = f"{small(float(e.layer_low_j[i]), 'J')} – {small(float(e.layer_high_j[i]), 'J')}"
        rows.append((name, small(energy_j, "J"), interval, f"{energy_j / total_j:.1%}", energy_j / total_j))
    return _table("costliest layers", ("layer", "energy", "interval", "share"), rows, len(e.trace.layers) - len(rows))


def _table(title: str, columns: Sequence[str], rows: Iterable[tuple[str, str, str, str, float]], left_out: int) -> str:
    head = "".join(f'<th scope="col" style="{_style(i)}">{c}</th>' for i, c in enumerate(columns))
    body = "".join(_row(row) for row in rows)
    more = f"<p><small>and {left_out} more</small></p>" if left_out else ""
    caption = f'<caption style="text-align:left"><b>{title}</b></caption>'
    table = f"<table>{caption}<thead><tr>{head}<td></td></tr></thead><tbody>{body}</tbody></table>"
    return f'<div style="overflow-x:auto">{table}</div>{more}'


def _style(column: int) -> str:
    return _CELL.format("right" if column else "left")


def _row(row: tuple[str, str, str, str, float]) -> str:
    *cells, share = row
    texts = [f'<td style="{_style(i)}">{escape(str(x))}</td>' for i, x in enumerate(cells)]
    bar = f'<td style="{_style(0)}"><span style="{_BAR.format(12 * float(share))}"></span></td>'
    return f"<tr>{''.join(texts)}{bar}</tr>"


def _notes(e: Estimate) -> str:
    return "; ".join([f"model {e.model.name}, {e.model.rows} rows; energy is gross, idle included", *e.minds])
