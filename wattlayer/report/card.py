"""The card of a model: what it was trained on, how good it is by split beside its baselines, and its limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..evaluate.scores import Evaluation, Score
from ..hardware import find_hardware
from ..model import EnergyModel
from ..model.intervals import LEVEL


@dataclass(frozen=True)
class Provenance:
    """What only a person knows of a model's data."""

    source: str
    """Authors, repository, commit and licence of the measurements."""
    meter: str
    limits: tuple[str, ...]


LAUNCHED = {
    True: "one layer after another, in loops: what a launch took there is in all times, in graph mode as well",
    False: "in CUDA graphs",
}
"""How measured layers were launched, by `Metadata.looped`."""


def model_card(model: EnergyModel, evaluation: Evaluation, provenance: Provenance) -> str:
    """Return the card as Markdown; every figure comes from `evaluation`."""
    m, device = model.metadata, find_hardware(model.hardware)
    kinds = ", ".join(f"`{kind}`" for kind in m.kinds)
    return "\n".join([
        f"# {m.name}: {device.title}", "",
        f"- **Source of the measurements**: {provenance.source}",
        f"- **Meter**: {provenance.meter}",
        *([] if device.kind == "cpu" else [f"- **Launched**: {LAUNCHED[m.looped]}"]),
        f"- **Rows**: {m.rows} of {m.layers} distinct layers, campaigns {', '.join(m.runs) or 'one'}; predictions are for the "
        f"board state of `{m.runs[0]}`",
        f"- **Kinds covered**: {kinds}. Every other kind gets the scaffold's cost{_taught(m.taught_by)} "
        "and lowers `covered_frac`.",
        f"- **Model**: feature version {m.features}, SHA-256 `{model.sha256[:16]}…`, data digest `{m.data_sha256[:16]}…`",
        "", "## Errors", "",
        f"Absolute percentage error of a layer's energy against each measured row of the {device.title}. "
        f"Intervals are meant to contain {LEVEL:.0%} of the rows. "
        "Every split except the first retrains the recipe without the rows that it is judged on. A row counts once for each "
        "family, campaign or task left out that it occurs in.",
        "", *_errors(evaluation.scores), "", "### By group of kinds", "", *_groups(evaluation.scores),
        *_networks(evaluation.scores), "", "## Limits", "",
        *(f"- {limit}" for limit in provenance.limits), "",
    ])  # fmt: skip


def _taught(names: Sequence[str]) -> str:
    return f" (at the rates of {', '.join(names)} where no kind of its group was measured here)" if names else ""


def _errors(scores: Sequence[Score]) -> list[str]:
    head = ["| split | predictor | rows | median | p90 | signed median | Spearman | Kendall | in the interval |",
            "|---|---|--:|--:|--:|--:|--:|--:|--:|"]  # fmt: skip
    rows = [_error_row(s) for s in scores if s.subset == "all" and s.unit == "layer"]
    floor = next((s.noise_floor_frac for s in scores if s.noise_floor_frac is not None), None)
    noise = "no layer was measured twice in one campaign" if floor is None else f"{floor:.2%}"
    told = f"Noise floor (median scatter of repeats within one campaign): {noise}."
    unseen = next((s for s in scores if (s.split, s.predictor, s.subset, s.unit) == ("layer", "wattlayer", "all", "layer")), None)
    if unseen and unseen.noise_of_error_frac is not None:
        told += f" That is {unseen.noise_of_error_frac:.0%} of the median error on unseen layers (`layer`)."
    return [*head, *rows, "", told]


def _error_row(s: Score) -> str:
    return f"| {s.split} | {_name(s)} | {s.rows} | {_errors_of(s)} | {_share(s.coverage_frac)} |"


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
    chosen = [s for s in scores if s.subset != "all" and s.unit == "layer" and s.split not in ("given", "training rows")]
    head = [
        "| split | group | rows | median | p90 | signed median | Spearman | Kendall | time, median | in the interval |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    return head + [
        f"| {s.split} | {s.subset} | {s.rows} | {_errors_of(s)} | {_share(s.time_mdape_frac)} | {_share(s.coverage_frac)} |"
        for s in chosen
    ]


def _networks(scores: Sequence[Score]) -> list[str]:
    """Whole networks, where they were measured."""
    rows = [
        f"| {s.split} | {s.subset} | {_name(s)} | {s.rows} | {_errors_of(s)} | {_share(s.time_mdape_frac)} | "
        f"{_share(s.coverage_frac)} |"
        for s in scores if s.unit == "network" and (s.predictor == "wattlayer" or s.subset != "all")
    ]  # fmt: skip
    head = [
        "| split | mode | predictor | passes | median | p90 | signed median | Spearman | Kendall | time, median | "
        "in the interval |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    told = (
        "Energy of a whole forward pass. For `network`, each network is predicted without the rows of its own layers and "
        "without any pass of that name. For `task`, it is predicted only from rows of layers that occur in networks of other "
        "tasks; groups of kinds that these lack come from other devices. For `given` nothing was left out. Baselines are sums "
        "over layers: none of them models the host."
    )
    return ["", "### Whole networks", "", told, "", *head, *rows] if rows else []


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
