"""`wattlayer calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError, writing
from .app import app
from .data import measurements_of
from .options import SeedOption, SkipOption
from .output import apart, place, say

if TYPE_CHECKING:
    from ..model.metadata import Metadata


@app.command()
def calibrate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A trained model, or a device to start from its data sheet.")],
    data: Annotated[list[Path], typer.Argument(metavar="DATA...", help="Datasets (JSON lines) or import tables (CSV).")],
    output: Annotated[
        Path | None,
        typer.Option("--output", callback=place, help="Model file to write; default: your models, by the device's name."),
    ] = None,
    hardware: Annotated[str | None, typer.Option("--hardware", help="Device where the rows are of several.")] = None,
    seed: SeedOption = 0,
    skip_bad_rows: SkipOption = False,
) -> None:
    """Adapt MODEL to a device with few measured layers (25 to 200; `wattlayer measure --calibration` picks and measures them)."""
    from ..dataset import check_one_board
    from ..train.calibration import calibrate as adapted

    apart(output, *data)
    model_file(output)
    check_one_board(data, hardware)
    rows = measurements_of(data, skip_bad_rows)
    fitted = adapted(model, rows, hardware=hardware, name=None if output is None else output.stem, seed=seed)
    if ignored := sum(m.network is not None for m in rows):
        say(f"left out {ignored} row{'s' * (ignored > 1)} of whole networks: layers alone calibrate")
    path = output or own_path(fitted.hardware)
    fitted.save(path)
    facts = fitted.metadata
    print(f"{path}: {facts.hardware}, {facts.source}, {facts.rows} rows")
    tell_left_out(facts)
    tell_shadowed(path)


def model_file(output: Path | None) -> None:
    """Raise InputError for an `output` that `--hardware` would not take for a file."""
    from ..model.folders import is_file_name

    if output is not None and not is_file_name(str(output)):
        raise InputError(f"--output {output} does not end in .json, by which model files are known: write {output}.json")


def tell_left_out(facts: Metadata) -> None:
    """Print how good a model of these `facts` is for layers that it does not know, and which campaign it predicts for."""
    print(f"layers left out in turn, energy: median error {facts.left_out_mdape_frac:.1%} (of layers like these)")
    if len(facts.runs) > 1:
        print(f"{len(facts.runs)} campaigns: predictions are for the board as in the one with the most layers, {facts.runs[0]}")


def tell_shadowed(path: Path) -> None:
    """Say where the model now at `path`, a user's own, takes the place of a shipped one."""
    from ..model.folders import shipped_models, user_models_folder

    if path.parent == user_models_folder() and path.stem in shipped_models():
        print(f"--hardware {path.stem} now means this model, not the shipped one: delete the file to go back")


def own_path(hardware: str) -> Path:
    """Return where this user's model of `hardware` lives, and make its folder."""
    from ..model.folders import user_models_folder

    folder = user_models_folder()
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{hardware}.json"
