"""An estimate or a language model's request as one HTML page that works offline: no network request leaves it, and its content
security policy forbids any.

Charts are our own few hundred lines of script instead of a library: Vega or Plotly would add 1 to 4 MB of script to every
page, parse longer than the whole page takes to open, and the one chart that matters, an icicle of modules that can be
walked with the keyboard, is not among theirs in that form. The text is filled in by Jinja, which escapes every name.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..estimate import VERSION, Estimate, torch_version
from ..files import whole_file
from ..generation import Generation
from ..layer import format_shape
from ..model.intervals import LEVEL
from .accounting import J_PER_KWH, Assumptions, Range, account, inference, tokens
from .flop_shares import by_kind, by_pattern, misplaced_frac, with_rest
from .generation import by_phase
from .quantities import decimal, large, money, share, small
from .terminal import inputs_of

if TYPE_CHECKING:
    from markupsafe import Markup

SCRIPTS = ("format.js", "icicle.js", "layers.js")
COLOURS = 8
"""Kinds that have a colour of their own; the last is for all others."""
MISJUDGED = 10
"""Families of layers shown in the list of where FLOP misleads."""
POINTS = 200
"""Steps of a request in its chart."""


def estimate_page(estimate: Estimate | Generation, assumptions: Assumptions | None = None, path: str | Path | None = None) -> str:
    """Return the page, and write it to `path` where one is given.

    Raises InputError for a functional unit that this network cannot be counted in, and where `path` cannot be written.
    """
    if not isinstance(assumptions, Assumptions | None):
        raise InputError(f"assumptions {assumptions!r:.60} are none: state them as Assumptions(price_per_kwh=0.3)")
    if isinstance(estimate, Generation):
        page = _request_page(estimate, assumptions or Assumptions(functional_unit="1 request"))
    else:
        page = _pass_page(estimate, assumptions or Assumptions())
    if path is not None:
        with whole_file(Path(path)) as file:
            file.write(page)
    return page


def _pass_page(e: Estimate, stated: Assumptions) -> str:
    from markupsafe import Markup

    return _rendered(
        "page.html", e, stated, e.model_sha256, "".join(map(_part, SCRIPTS)), counted="inference",
        tokens=tokens(e.trace), kinds=with_rest(by_kind(e)), colours=_colours(e),
        misjudged=[x for x in by_pattern(e)[:MISJUDGED] if abs(x.gap_frac) >= 0.001],
        misplaced_frac=misplaced_frac(e), inputs=inputs_of(e.trace), data=Markup(_data(e)),
    )  # fmt: skip


def _request_page(g: Generation, stated: Assumptions) -> str:
    low, high = g.energy_per_token_interval_j
    kinds = [
        {"name": name, "prompt_j": prompt_j, "steps_j": steps_j, "energy_frac": (prompt_j + steps_j) / g.energy_j}
        for name, prompt_j, steps_j in by_phase(g)
    ]
    return _rendered(
        "request.html", g, stated, g.prefill.model_sha256, "", counted="request",
        token=Range(low, g.energy_per_token_j, high), phases=_phases(g), steps=_steps(g), kinds=kinds,
    )  # fmt: skip


def _phases(g: Generation) -> list[dict[str, Any]]:
    (low, high), prompt = g.prefill.interval_j, g.prefill
    rows = [{"name": "prompt", "passes": 1, "time_s": prompt.time_s, "energy_j": Range(low, prompt.energy_j, high)}]
    if g.new_tokens:
        low, high = g.decode_interval_j
        steps_s = float(g.step_time_s.sum())
        rows.append({"name": "steps", "passes": g.new_tokens, "time_s": steps_s, "energy_j": Range(low, g.decode_energy_j, high)})
    return rows


def _steps(g: Generation) -> dict[str, Any] | None:
    """The line of the chart of steps, in its 1,000 by 240 units, and both its ends; None of fewer than two steps."""
    if g.new_tokens < 2:
        return None
    energy_j, context = g.step_energy_j, g.context_tokens
    chosen = sorted({round(i * (g.new_tokens - 1) / (POINTS - 1)) for i in range(POINTS)})
    most_j, wide = 1.05 * float(energy_j.max()), g.new_tokens - 1
    points = " ".join(f"{1000 * i / wide:.1f},{240 * (1 - float(energy_j[i]) / most_j):.1f}" for i in chosen)
    ends = {"first_j": energy_j[0], "first_tokens": context[0], "last_j": energy_j[-1], "last_tokens": context[-1]}
    return {"points": points} | {name: value.item() for name, value in ends.items()}


def _rendered(name: str, e: Estimate | Generation, stated: Assumptions, model_sha256: str, script: str, **more: Any) -> str:
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FunctionLoader(_part), autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    environment.filters |= {"joules": _joules, "grams": _grams, "percent": share, "breakable": _breakable}
    environment.globals |= {"small": small, "large": large, "decimal": decimal, "money": money}
    style = _part("page.css")
    return environment.get_template(name).render(
        e=e, model=e.model, model_sha256=model_sha256, trace=e.trace, stated=stated, account=account(e, stated),
        one=inference(e), minds=e.minds, level=LEVEL, version=VERSION, torch_version=torch_version(), j_per_kwh=J_PER_KWH,
        style=Markup(style), script=Markup(script), style_hash=_hash(style), script_hash=_hash(script), **more,
    )  # fmt: skip


def _part(name: str) -> str:
    return (files(__package__) / "page" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """The hash by which a content security policy admits an inline style or script."""
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"


def _colours(e: Estimate) -> dict[str, str]:
    """Class of each kind's colour, by its rank in energy; the charts count in the same way."""
    return {kind.name: f"c{min(rank, COLOURS - 1)}" for rank, kind in enumerate(by_kind(e))}


def _data(e: Estimate) -> str:
    """What the charts and the table draw, as JSON that cannot end the element it stands in."""
    kinds = [family.name for family in by_kind(e)]
    ranks = {kind: i for i, kind in enumerate(kinds)}
    layers = [
        [path, ranks[x.kind], format_shape(x.outputs[0].shape) if x.outputs else "", x.flop, *_figures(e, i),
         2 * int(e.extrapolated[i]) + int(not e.covered[i])]
        for i, (path, x) in enumerate(zip(e.trace.paths, e.trace.layers))
    ]  # fmt: skip
    told: dict[str, Any] = {"network": e.trace.network, "kinds": kinds, "gap_j": e.gap_energy_j, "layers": layers}
    text = json.dumps(told, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _figures(e: Estimate, i: int) -> list[float]:
    """Time in s, energy and both ends of its interval in J, of six digits: more would be half of a long page."""
    return [float(f"{x[i]:.6g}") for x in (e.layer_time_s, e.layer_energy_j, e.layer_low_j, e.layer_high_j)]


def _joules(x: Range) -> str:
    return f"{small(x.low, 'J')} to {small(x.high, 'J')}"


def _grams(x: Range) -> str:
    return f"{small(x.low, 'g')} to {small(x.high, 'g')}"


def _breakable(path: str) -> Markup:
    """A path or a kind that may break behind its dots and underscores."""
    from markupsafe import Markup, escape

    return Markup("<wbr>").join(escape(part) for part in re.split(r"(?<=[._])", path))
