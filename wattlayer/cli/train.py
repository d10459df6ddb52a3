"""`wattlayer train` and `wattlayer evaluate`."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError, writing
from ..files import whole_file
from .app import SeveralValues, app
from .calibrate import model_file, own_path, tell_left_out, tell_shadowed
from .data import measurements_of
from .options import TEXTS, Format, OutputOption, RunCodeOption, SeedOption, SkipOption, formats, written_as
from .output import apart, busy, card_place, one_file, place, plot_place, progress, rendered, rows_place, say, write

if TYPE_CHECKING:
    from ..dataset import Measurement
    from ..evaluate.scores import Evaluation
    from ..model import EnergyModel
    from ..trace import Trace


@app.command()
def train(
    data: Annotated[list[Path], typer.Argument(metavar="DATA...", help="Datasets (JSON lines) or import tables (CSV).")],
    output: Annotated[
        Path | None,
        typer.Option("--output", callback=place, help="Model file to write, .json; default: your models, by the device's name."),
    ] = None,
    hardware: Annotated[str | None, typer.Option("--hardware", help="Device to train on where the rows are of several.")] = None,
    seed: SeedOption = 0,
    skip_bad_rows: SkipOption = False,
    source: Annotated[str, typer.Option("--source", help="Where the rows come from, kept in the model.")] = "",
    run_code: RunCodeOption = True,
) -> None:
    """Train a model of one device on measured layers, and check it on whole networks measured there."""
    from ..dataset import check_one_board
    from ..model import EnergyModel
    from ..train.networks import Tracer, traced_networks

    apart(output, *data)
    model_file(output)
    check_one_board(data, hardware)
    with busy("reading measurements") as tell:
        tracer = Tracer(tell, run_code)  # a network that cannot be traced is refused before the work, not after
        rows = measurements_of(data, skip_bad_rows, lambda m: m.network and hardware in (None, m.hardware) and tracer(m))
        networks = traced_networks([m for m in rows if hardware in (None, m.hardware)], tracer=tracer)
    name = None if output is None else output.name.removesuffix(".json")
    with busy(f"training on {len(rows)} rows"):
        model = EnergyModel.train(rows, seed=seed, hardware=hardware, name=name, source=source, networks=networks)
    path = output or own_path(model.hardware)
    model.save(path)
    facts = model.metadata
    print(f"{path}: {facts.hardware}, {facts.rows} rows of {facts.layers} layers, kinds {', '.join(facts.kinds)}")
    tell_left_out(facts)
    tell_shadowed(path)
    _check(model, networks, path)


def _check(model: EnergyModel, networks: list[tuple[Measurement, Trace]], path: Path) -> None:
    """Print the errors on measured networks, and keep them beside the model at `path` for `wattlayer hardware`."""
    from ..evaluate import evaluate as score
    from ..report import evaluation_table

    if not networks:
        print("no whole network was measured: check the model with `wattlayer evaluate --networks` once there is one")
        return
    result = score(model, [], networks, progress=progress)
    progress("")
    print("whole networks measured there (no test: the model may have learned from them and from their layers):")
    print(rendered(evaluation_table(result)), end="")
    record = path.parent / "evaluations" / path.name
    with writing(record):
        record.parent.mkdir(exist_ok=True)
    with whole_file(record) as file:
        file.write(json.dumps(result.to_json()) + "\n")


@app.command(cls=SeveralValues)
def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name of a shipped model, or a model file.")],
    layers: Annotated[list[Path] | None, typer.Option("--layers", help="Measured layers (dataset or import table).")] = None,
    networks: Annotated[
        list[Path] | None, typer.Option("--networks", help="Measured networks (dataset or import table).")
    ] = None,
    split: Annotated[
        list[str] | None,
        typer.Option(
            "--split",
            help="given, layer, family, size, campaign, network, task, or hardware alone. "
            "Default: all that these rows allow but campaign and hardware.",
        ),
    ] = None,
    baselines: Annotated[bool, typer.Option("--baselines/--no-baselines", help="Also fit and score the baselines.")] = True,
    seed: SeedOption = 0,
    skip_bad_rows: SkipOption = False,
    plot: Annotated[
        Path | None, typer.Option("--plot", callback=plot_place, help="Also draw the errors into this .png, .svg or .pdf.")
    ] = None,
    rows_to: Annotated[
        Path | None,
        typer.Option("--rows", callback=rows_place, help="Also write every judged row into this .jsonl, .csv or .parquet."),
    ] = None,
    card: Annotated[
        Path | None,
        typer.Option(
            "--card", callback=card_place, help="Also write the model's card, with these errors, into this Markdown file."
        ),
    ] = None,
    run_code: RunCodeOption = True,
    format: Annotated[Format | None, formats(*TEXTS)] = None,
    output: OutputOption = None,
) -> None:
    """Errors of a model on measured rows, by split, beside the baselines, and the rows that it is farthest off on."""
    from ..dataset.labels import labels
    from ..evaluate import evaluate as score
    from ..model import load_model
    from ..model.folders import model_path
    from ..model.metadata import ASSUMED_POWER
    from ..report import evaluation_table
    from ..report.outliers import outlier_tables
    from ..train.networks import Tracer, traced_networks
    from ..train.rows import basis_of

    format = written_as(format, output, *TEXTS)
    if not layers and not networks:
        raise InputError("give measured rows: --layers FILE, --networks FILE, or both")
    results = {"output": output, "plot": plot, "rows": rows_to, "card": card}
    _check_places(results, *(layers or ()), *(networks or ()), model_path(model) or model)
    loaded = load_model(model)
    rows = measurements_of(layers or [], skip_bad_rows)
    if split and "hardware" in split:
        if len(split) > 1 or networks or any(x is not None for x in (plot, rows_to, card)):
            raise InputError("split 'hardware' judges other models than the rest: give it alone, with --layers")
        write(_unseen_hardware(loaded.hardware, rows, seed, format), output)
        return
    with busy("reading measurements") as tell:
        tracer = Tracer(tell, run_code)
        passes = measurements_of(
            networks or [], skip_bad_rows, lambda m: m.network and m.hardware == loaded.hardware and tracer(m)
        )
        measured = traced_networks([m for m in passes if m.hardware == loaded.hardware], tracer=tracer)
    _check_places(results, *{m.network for m in passes if m.network is not None})
    own = [m for m in labels(rows) if m.layer is not None and m.hardware == loaded.hardware]
    known: dict[Any, frozenset[str]] = {}
    if own and (split is None or "family" in split):  # takes a minute
        from ..evaluate.families import families_of

        known = families_of((m.layer for m in own if m.layer is not None), progress)
    splits = split or _every_split(own, known, measured)
    facts = loaded.metadata
    basis = "calibrated" if facts.calibrated else facts.basis
    if basis in ("calibrated", "data sheet") and set(splits) - {"given"}:
        say(f"{model} is {basis}: 'given' alone judges it, every other split trains anew on these rows")
    if basis_of([*own, *(m for m, _ in measured)]) == ASSUMED_POWER:
        say("the rows' energies are measured times a stated power: errors are beside that, not beside a meter")
    result = score(loaded, rows, measured, splits, known, baselines, seed, progress)
    progress("")
    if format is Format.json:
        write(json.dumps(result.to_json()) + "\n", output)
    else:
        write(rendered(evaluation_table(result), *outlier_tables(result)), output)
    _write_beside(loaded, result, plot, rows_to, card)


def _check_places(results: dict[str, Path | None], *inputs: Path | str) -> None:
    """Raise InputError where the file of an option is read, or is that of another option."""
    for option, path in results.items():
        apart(path, *inputs, option=option)
    for (_, a), (option, b) in combinations(results.items(), 2):
        if a is not None and b is not None and one_file(a, b):
            raise InputError(f"--{option} {b} is also the file of another result: name another")


def _write_beside(model: EnergyModel, result: Evaluation, plot: Path | None, rows_to: Path | None, card: Path | None) -> None:
    """Write what was asked for beside the errors."""
    if plot is not None:
        from ..report.plots import accuracy_figure

        accuracy_figure(result, plot)
    if rows_to is not None:
        from ..report.outliers import rows_file

        write(rows_file(result, rows_to), rows_to)
    if card is not None:
        from ..report.card import model_card

        write(model_card(model, result), card)


def _every_split(
    own: list[Measurement], families: dict[Any, frozenset[str]], networks: list[tuple[Measurement, Trace]]
) -> list[str]:
    """`given`, and of the other splits those that these rows and networks allow."""
    from ..evaluate.splits import feasible, layer_tasks

    tasks = layer_tasks(own, networks)
    more = ("layer", "size", "family", "network", "task")
    return ["given", *(x for x in more if feasible(x, own, tasks if x == "task" else families, networks))]


def _unseen_hardware(hardware: str, rows: list[Measurement], seed: int, format: Format) -> str:
    """Errors on `hardware` where only the other devices of `rows` were measured, and after few layers were."""
    from dataclasses import asdict

    from ..evaluate.unseen import curves, curves_table, leave_one_out

    points = curves(leave_one_out(rows, seed=seed, progress=progress, only=hardware))
    progress("")
    if format is Format.json:
        return json.dumps({"schema": 1, "split": "hardware", "curves": [asdict(point) for point in points]}) + "\n"
    return curves_table(points) + "\n"
