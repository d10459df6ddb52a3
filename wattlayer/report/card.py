"""The card of a model: what it was trained on, how good it is by split beside its baselines, and its limits."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from ..dataset import Measurement, session_headers
from ..evaluate.sampling import CONFIDENCE, MIN_CLUSTERS
from ..evaluate.scores import Evaluation, Score
from ..hardware import find_hardware
from ..model import EnergyModel
from ..model.intervals import LEVEL
from ..train.rows import digest
from .quantities import between


@dataclass(frozen=True)
class Provenance:
    """What only a person knows of a model's data."""

    source: str
    """Authors, repository, commit and licence of the measurements."""
    meter: str
    limits: tuple[str, ...] = ()


LAUNCHED = {
    True: "one layer after another, in loops: what a launch took there is in all times, in graph mode as well",
    False: "in CUDA graphs",
}
"""How measured layers were launched, by `Metadata.looped`."""


def model_card(model: EnergyModel, evaluation: Evaluation, provenance: Provenance | None = None) -> str:
    """Return the card as Markdown; every figure comes from `evaluation`.

    Without a `provenance`, the card tells what the model and the files of the judged rows say themselves.
    """
    device, told = find_hardware(model.hardware), provenance or stated(model, evaluation)
    return "\n".join([
        f"# {_plain(model.name)}: {device.title}", "",
        f"- **Source of the measurements**: {told.source}", f"- **Meter**: {told.meter}",
        *_facts(model),
        "", "## Errors", "", *_layers(evaluation.scores, device.title), *_networks(evaluation.scores), "", "## Limits", "",
        *(f"- {limit}" for limit in told.limits), "",
    ])  # fmt: skip


def _facts(model: EnergyModel) -> list[str]:
    """What the model says of its training; a data sheet's was trained on other devices' rows."""
    m = model.metadata
    file = f"- **Model**: feature version {m.features}, SHA-256 `{model.sha256[:16]}…`"
    if m.basis == "data sheet":
        return ["- **Rows**: none of this device; every kind gets the scaffold's cost and lowers `covered_frac`.", file]
    kinds = ", ".join(map(_code, m.kinds))
    launched = [] if find_hardware(model.hardware).kind == "cpu" else [f"- **Launched**: {LAUNCHED[m.looped]}"]
    return [
        *launched,
        f"- **Rows**: {m.rows} of {m.layers} distinct layers, campaigns {', '.join(map(_plain, m.runs)) or 'one'}; "
        f"predictions are for the board state of {_code(m.runs[0])}",
        f"- **Kinds covered**: {kinds}. Every other kind gets the scaffold's cost{_taught(m.taught_by)} "
        "and lowers `covered_frac`.",
        f"{file}, data digest `{m.data_sha256[:16]}…`",
    ]


def stated(model: EnergyModel, evaluation: Evaluation) -> Provenance:
    """Return what the model says of its data, and the judged rows and the headers of their files of how they were measured."""
    meters = "; ".join(_meters(evaluation)) or "not stated in the files of the rows"
    judged_own = digest([m for m in _rows(evaluation) if m.layer is not None]) == model.metadata.data_sha256
    others = "not stated: the model was not trained on exactly the rows judged here"
    if model.metadata.basis == "data sheet":
        others = "none: nothing was measured on this device"
    return Provenance(
        source=_plain(model.metadata.source) or "not stated (`wattlayer train --source` keeps it)",
        meter=meters if judged_own else others,
        limits=(*_limits(model, evaluation), *([] if judged_own else [f"Meter of the judged rows: {meters}."])),
    )


def _plain(text: str) -> str:
    """Text of a file as one line that Markdown shows as it is."""
    return re.sub(r"([\\`*\[\]|])", r"\\\1", escape(" ".join(text.split()), quote=False))


def _code(text: str) -> str:
    return f"`{' '.join(text.split()).replace('`', chr(39))}`"


def _rows(evaluation: Evaluation) -> list[Measurement]:
    """The judged rows, each once."""
    return list({id(x.measurement): x.measurement for x in evaluation.predicted}.values())


def _meters(evaluation: Evaluation) -> Iterator[str]:
    """What the headers of campaigns say they were measured with, once each."""
    files = {m.place[0]: None for m in _rows(evaluation) if m.place is not None}
    found = (_meter(header) for file in files for header in session_headers(Path(file)))
    yield from {text: None for text in found if text}


def _meter(header: dict[str, Any]) -> str:
    """One line on the board and the meter of a session's header (`data/README.md`); "" where it names none."""
    meter, character, device = (x if isinstance(x := header.get(key), dict) else {} for key in ("meter", "character", "device"))
    chosen, limit_w = character.get("meter"), meter.get("power_limit_w")
    parts = [
        ("{}", meter.get("name")), ("by {}", chosen.get("name") if isinstance(chosen, dict) else None),
        ("{}", meter.get("label")), ("power limit {} W", f"{limit_w:g}" if type(limit_w) in (int, float) else None),
        ("driver {}", meter.get("driver")), ("torch {}", device.get("torch")),
    ]  # fmt: skip
    return ", ".join(form.format(_plain(value)) for form, value in parts if isinstance(value, str)) if meter else ""


def _limits(model: EnergyModel, evaluation: Evaluation) -> Iterator[str]:
    """What the model and the rows it was judged on show of where it stops to be known."""
    facts, rows, left_out = model.metadata, _rows(evaluation), _left_out(evaluation.scores)
    if facts.caveat:
        yield f"It rests on: {_plain(facts.caveat)}."
    if left_out and (facts.calibrated or facts.basis == "data sheet"):
        basis = "calibrated" if facts.calibrated else "made from a data sheet"
        yield f"The model is {basis}: `given` alone judges it, every other split models trained anew on the judged rows."
    if not left_out:
        yield "No split above leaves rows out: what is unlike the rows that the model learned from is predicted worse."
    formats, passes = Counter(m.layer.dtype for m in rows if m.layer is not None), sum(m.network is not None for m in rows)
    judged = f"{formats.total()} rows of layers ({_counted(formats) or 'none'}) and {passes} passes of networks"
    yield f"Judged on {judged}, of {', '.join(_files(rows))}."
    if not passes:
        yield "No whole network was judged: gaps between kernels, and what layers do to each other, were not."
    labels = Counter(m.meter for m in rows)
    if set(labels) - {"measured"}:
        yield f"Energies of the judged rows: {_counted(labels)}. Only measured ones are ground truth."
    marks = Counter(_plain(mark) for m in rows for mark in m.flags)
    if marks:
        yield f"{sum(bool(m.flags) for m in rows)} of the judged rows were marked while they were measured: {_counted(marks)}."


def _files(rows: Sequence[Measurement]) -> list[str]:
    """The files of `rows`, by their names where these tell them apart, and "memory" for rows of none."""
    paths = sorted({m.place[0] for m in rows if m.place is not None})
    names = [Path(path).name for path in paths]
    shown = names if len(set(names)) == len(names) else paths
    return [*map(_plain, shown), *["memory"] * any(m.place is None for m in rows)]


def _counted(numbers: Counter[str]) -> str:
    return ", ".join(f"{name} ({number})" for name, number in numbers.most_common())


_NOTHING_LEFT_OUT = ("given", "training rows")


def _left_out(scores: Sequence[Score]) -> list[str]:
    """The splits that leave rows out."""
    return [split for split in dict.fromkeys(s.split for s in scores) if split not in _NOTHING_LEFT_OUT]


def _trained_anew(scores: Sequence[Score]) -> str:
    if not _left_out(scores):
        return "Nothing was left out."
    known = next((s.split for s in scores if s.split in _NOTHING_LEFT_OUT), None)
    spared = "" if known is None else " except the first" if scores[0].split == known else f" except `{known}`"
    told = f"Every split{spared} retrains the recipe without the rows that it is judged on."
    return f"{told} A row counts once for each family, campaign or task left out that it occurs in."


def _taught(names: Sequence[str]) -> str:
    return f" (at the rates of {', '.join(names)} where no kind of its group was measured here)" if names else ""


def _layers(scores: Sequence[Score], title: str) -> list[str]:
    own = [s for s in scores if s.unit == "layer"]
    if not own:
        return ["No layer was judged."]
    told = (
        f"Absolute percentage error of a layer's energy against each measured row of the {title}. "
        f"Intervals are meant to contain {LEVEL:.0%} of the rows. {_trained_anew(own)} The last two columns are {CONFIDENCE:.0%} "
        f"bounds of the median and of the share inside of all layers like these: rows of one layer err alike and count as one "
        f"(– of fewer than {MIN_CLUSTERS} layers). What other families, tasks and boards would show is not in them, nor what a "
        "model trained on other rows would say."
    )
    groups = _groups(scores)
    return [told, "", *_errors(scores), *(["", "### By group of kinds", "", *groups] if groups else [])]


def _errors(scores: Sequence[Score]) -> list[str]:
    head = [f"| split | predictor | rows | median | p90 | signed median | Spearman | Kendall | in the interval | {_SAMPLED}",
            "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|"]  # fmt: skip
    rows = [_error_row(s) for s in scores if s.subset == "all" and s.unit == "layer"]
    floor = next((s.noise_floor_frac for s in scores if s.noise_floor_frac is not None), None)
    noise = "no layer was measured twice in one campaign" if floor is None else f"{floor:.2%}"
    told = f"Noise floor (median scatter of repeats within one campaign): {noise}."
    unseen = next((s for s in scores if (s.split, s.predictor, s.subset, s.unit) == ("layer", "wattlayer", "all", "layer")), None)
    if unseen and unseen.noise_of_error_frac is not None:
        told += f" That is {unseen.noise_of_error_frac:.0%} of the median error on unseen layers (`layer`)."
    return [*head, *rows, "", told]


_SAMPLED = f"median, {CONFIDENCE:.0%} | in the interval, {CONFIDENCE:.0%} |"
"""The last two columns: bounds of these figures of all layers, or networks, like those judged (`evaluate.sampling`)."""


def _sampled(s: Score) -> str:
    """The cells under `_SAMPLED`."""
    figures = (s.mdape_low_frac, s.mdape_high_frac), (s.coverage_low_frac, s.coverage_high_frac)
    return " | ".join(between(*x) or "–" for x in figures)


def _error_row(s: Score) -> str:
    return f"| {s.split} | {_name(s)} | {s.rows} | {_errors_of(s)} | {_share(s.coverage_frac)} | {_sampled(s)} |"


def _errors_of(s: Score) -> str:
    figures = (
        f"{s.mdape_frac:.1%}",
        f"{s.p90_ape_frac:.1%}",
        f"{s.signed_median_frac:+.1%}",
        _number(s.spearman),
        _number(s.kendall),
    )
    return " | ".join(figures)


def _name(s: Score) -> str:
    return "**wattlayer**" if s.predictor == "wattlayer" else s.predictor


def _groups(scores: Sequence[Score]) -> list[str]:
    splits = _left_out(scores) or _NOTHING_LEFT_OUT
    chosen = [s for s in scores if s.subset != "all" and s.unit == "layer" and s.split in splits]
    head = [
        "| split | group | rows | median | p90 | signed median | Spearman | Kendall | time, median | in the interval | "
        + _SAMPLED,
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    return (
        []
        if not chosen
        else head
        + [
            f"| {s.split} | {s.subset} | {s.rows} | {_errors_of(s)} | {_share(s.time_mdape_frac)} | {_share(s.coverage_frac)} | "
            f"{_sampled(s)} |"
            for s in chosen
        ]
    )


def _networks(scores: Sequence[Score]) -> list[str]:
    """Whole networks, where they were measured."""
    rows = [
        f"| {s.split} | {s.subset} | {_name(s)} | {s.rows} | {_errors_of(s)} | {_share(s.time_mdape_frac)} | "
        f"{_share(s.coverage_frac)} | {_sampled(s)} |"
        for s in scores if s.unit == "network" and (s.predictor == "wattlayer" or s.subset != "all")
    ]  # fmt: skip
    head = [
        "| split | mode | predictor | passes | median | p90 | signed median | Spearman | Kendall | time, median | "
        f"in the interval | {_SAMPLED}",
        "|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    there = {s.split for s in scores if s.unit == "network"} | {"" for s in scores if s.predictor != "wattlayer"}
    told = " ".join(
        [
            "Energy of a whole forward pass; in the last two columns all passes of a network count as one.",
            *(text for name, text in _OF_NETWORKS.items() if name in there),
        ]
    )
    return ["", "### Whole networks", "", told, "", *head, *rows] if rows else []


_OF_NETWORKS = {
    "network": "For `network`, each network is predicted without the rows of its own layers and without any pass of that name.",
    "task": "For `task`, it is predicted only from rows of layers that occur in networks of other tasks; groups of kinds that "
    "these lack come from other devices.",
    "given": "For `given` nothing was left out.",
    "": "Baselines are sums over layers: none of them models the host.",
}
"""What is to be said of splits of networks, and of baselines."""


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
