"""`wattlayer hardware`."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError, first_line
from .app import app
from .options import OutputOption
from .output import rendered, write

if TYPE_CHECKING:
    from ..hardware import Hardware


@app.command()
def hardware(
    name: Annotated[str | None, typer.Argument(help="One device.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    output: OutputOption = None,
) -> None:
    """What is known of devices, what is here, and what predictions for a device rest on."""
    write(_one(name, as_json) if name is not None else _all(as_json), output)


def _all(as_json: bool) -> str:
    from ..hardware import known_hardware, user_file
    from ..hardware.detect import detect
    from ..model.folders import shipped_models, user_models
    from ..report import hardware_table

    here, devices = detect(), list(known_hardware().values())
    if as_json:
        names = [{"name": d.name, "title": d.title, "basis": _basis(d.name)[0]} for d in devices]
        return json.dumps({"here": [vars(x) for x in here], "devices": names}) + "\n"
    lines = [f"here: {x.board} ({x.kind}), {_here(x.name)}" for x in here]
    table = rendered(hardware_table(devices, sorted({*shipped_models(), *user_models()})))
    return table + "\n" + "\n".join([*lines, f"devices of your own: {user_file()}"]) + "\n"


def _here(name: str | None) -> str:
    if name is None:
        return "not in the registry: `wattlayer measure` can measure it, and hardware.toml describes it"
    return f"{name}: predictions are {_basis(name)[1]}"


def _one(name: str, as_json: bool) -> str:
    from ..evaluate.unseen import older_features
    from ..hardware import find_hardware
    from ..model.folders import is_file_name

    if is_file_name(name):
        raise InputError(f"hardware {name!r} is a file: name a device; of a model file `wattlayer evaluate` prints the errors")
    device = find_hardware(name)
    basis, told = _basis(name)
    figures, features = _figures(name), _figures_features(basis)
    if as_json:
        facts = {f.name: getattr(device, f.name) for f in fields(device)}
        return json.dumps(facts | {"basis": basis, "figures": figures, "figures_features": features}) + "\n"
    lines = [
        *_facts(device),
        "",
        f"predictions: {told}",
        *(f"  {_sentence(x)}" for x in figures),
        *(f"  {x}" for x in older_features(features)),
    ]
    return "\n".join(lines if figures else [*lines, "  no error figure is at hand"]) + "\n"


def _facts(device: Hardware) -> list[str]:
    lines = [f"{device.name}: {device.title} ({device.kind})"]
    for field in fields(device):
        value, source = getattr(device, field.name), device.source_of(field.name)
        if source is not None:
            lines.append(f"{field.name}: {_told(value)}  [{source}]")
    return [*lines, 'sources: in brackets; one that begins with "assumed" is not the maker\'s figure']


def _told(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(f"{k} {v:.5g}" for k, v in value) if isinstance(value, tuple) else f"{value:.6g}"


def _basis(name: str) -> tuple[str, str]:
    """What predictions for a device rest on, as a word and as a sentence."""
    from ..hardware import find_hardware
    from ..model.file import read_metadata
    from ..model.folders import model_path

    path = model_path(name)
    if path is None:
        return (
            "data sheet",
            "from its data sheet only; `wattlayer calibrate` or `wattlayer train` does better with measured layers",
        )
    facts = read_metadata(path)
    if facts.calibrated:
        return facts.basis, f"of a calibrated model: {facts.caveat} ({path})"
    kind = "a measured model" if facts.basis == "measured" else f"a model of {facts.basis}"
    launched = ", launched one by one" if facts.looped and find_hardware(facts.hardware).kind != "cpu" else ""
    return facts.basis, f"of {kind}: {facts.rows} rows of {facts.layers} layers{launched} ({path})"


def _figures(name: str) -> list[dict[str, Any]]:
    """Error figures from the model's evaluation, from leaving out its own layers in turn, or from other devices left out."""
    from ..model.file import read_metadata
    from ..model.folders import model_path

    path = model_path(name)
    if path is None:
        from ..train.transfer import read_learned

        curves = read_learned()["curves"]
        return [_figure(f"unmeasured {x['hardware']}", x) for x in curves if x["predictor"] == "wattlayer, data sheet only"]
    facts = read_metadata(path)
    record = path.parent / "evaluations" / path.name
    figures = _evaluated(record) if record.is_file() and not facts.calibrated else []
    if any(x["unit"] == "layer" for x in figures) or facts.left_out_mdape_frac is None:
        return figures
    mdape_frac = facts.left_out_mdape_frac
    return [*figures, {"unit": "layer", "split": "layers left out in turn", "rows": facts.rows, "mdape_frac": mdape_frac}]


def _evaluated(record: Path) -> list[dict[str, Any]]:
    """Figures of a saved evaluation; raise InputError for a file that is none."""
    try:
        scores = json.loads(record.read_text(encoding="utf-8"))["scores"]
        ours = (x for x in scores if x["predictor"] == "wattlayer" and x["subset"] == "all")
        found = [{"unit": x["unit"]} | _figure(str(x["split"]), x) for x in ours]
        _ = [_sentence(x) for x in found]
        if not all(map(_plausible, found)):
            raise ValueError("an error is a share, and lies between its bounds")
    except (OSError, ValueError, OverflowError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{record} is no evaluation of a model ({first_line(error)}): write it again or remove it") from None
    return found


def _figures_features(basis: str) -> int:
    """The features version that error figures are of: those of other devices' curves take long and may be older than today's."""
    from ..features import FEATURES_VERSION
    from ..train.transfer import read_learned

    return int(read_learned()["curves_features"]) if basis == "data sheet" else FEATURES_VERSION


_MOST_FRAC = 1e9
"""Larger errors are no errors of a model."""
_BOUNDS = ("mdape_low_frac", "mdape_high_frac", "coverage_low_frac", "coverage_high_frac")


def _figure(split: str, score: dict[str, Any]) -> dict[str, Any]:
    bounds = {key: score[key] for key in _BOUNDS if score.get(key) is not None}
    return {"split": split} | {key: score[key] for key in ("rows", "mdape_frac", "p90_ape_frac", "coverage_frac")} | bounds


def _plausible(figure: dict[str, Any]) -> bool:
    """Whether the median error and the share inside are ones that can be, between their bounds; false of NaN."""
    for name, most in (("mdape", _MOST_FRAC), ("coverage", 1.0)):
        low, value, high = (figure.get(f"{name}_{end}frac") for end in ("low_", "", "high_"))
        if low is None and high is None:
            low = high = value
        if value is not None and not 0 <= low <= value <= high <= most:  # type: ignore[operator]  # one bound alone is none
            return False
    return True


def _sentence(figure: dict[str, Any]) -> str:
    unit = "whole networks, " if figure.get("unit") == "network" else ""
    median = f"{figure['mdape_frac']:.1%}{_bounds(figure, 'mdape')}"
    text = f"{unit}{figure['split']}: median error of energy {median} over {figure['rows']} rows"
    if figure.get("p90_ape_frac") is not None:
        text += f", 90 % of them within {figure['p90_ape_frac']:.1%}"
    if figure.get("coverage_frac") is not None:
        text += f", {figure['coverage_frac']:.0%}{_bounds(figure, 'coverage')} in the interval"
    return text


def _bounds(figure: dict[str, Any], name: str) -> str:
    """The bounds of a figure behind it, where they are known."""
    from ..evaluate.sampling import CONFIDENCE
    from ..report.quantities import between

    told = between(figure.get(f"{name}_low_frac"), figure.get(f"{name}_high_frac"))
    return f" ({CONFIDENCE:.0%} bounds {told})" if told else ""
