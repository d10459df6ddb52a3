"""The command line: arguments in, one result on stdout; errors are one line on stderr and exit code 2."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from .errors import InputError, MeterError, WattlayerError, first_line

if TYPE_CHECKING:
    from .dataset import Measurement
    from .estimate import Estimate
    from .measure.summary import Tick
    from .trace import Trace

app = typer.Typer(
    name="wattlayer", no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False, rich_markup_mode="rich",
    help="What a neural network's inference costs in joules, layer by layer, without running it.",
)  # fmt: skip

OVER_BUDGET, BAD_INPUT = 1, 2
"""Exit codes beside 0."""


class Format(str, Enum):
    table = "table"
    json = "json"
    csv = "csv"
    html = "html"


class Dtype(str, Enum):
    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"
    int8 = "int8"


class Tf32(str, Enum):
    none = "none"
    conv = "conv"
    all = "all"


class Mode(str, Enum):
    graph = "graph"
    eager = "eager"


NetworkArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="resnet50, torchvision:…, timm:…, hf:…, path/to/file.py:factory")
]
HardwareOption = Annotated[str, typer.Option("--hardware", help="Name of a trained device, or a model file.")]
BatchOption = Annotated[int, typer.Option("--batch", help="Samples in one forward pass.")]
ImageOption = Annotated[int | None, typer.Option("--image-size", help="Height and width of the input image.")]
SeqOption = Annotated[int | None, typer.Option("--seq-len", help="Tokens of the input text.")]
InputOption = Annotated[str | None, typer.Option("--input", help="Shape of the input, like 8x3x224x224.")]
DtypeOption = Annotated[Dtype, typer.Option("--dtype")]
Tf32Option = Annotated[Tf32, typer.Option("--tf32", help="Where float32 may run as TF32; conv is PyTorch's default.")]
FormatOption = Annotated[Format, typer.Option("--format")]
OutputOption = Annotated[Path | None, typer.Option("--output", help="Write the result here instead of to stdout.")]


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        from importlib.metadata import version as installed

        print(f"wattlayer {installed('wattlayer')}")
        raise typer.Exit()


@app.command()
def predict(
    network: NetworkArgument,
    hardware: HardwareOption = "a30",
    batch: BatchOption = 1,
    image_size: ImageOption = None,
    seq_len: SeqOption = None,
    input: InputOption = None,
    dtype: DtypeOption = Dtype.float32,
    tf32: Tf32Option = Tf32.conv,
    mode: Annotated[Mode, typer.Option("--mode", help="graph: no gaps between layers; eager: launched one by one.")] = Mode.graph,
    format: FormatOption = Format.table,
    output: OutputOption = None,
    depth: Annotated[int, typer.Option("--depth", help="Parts of a module's path to sum by.")] = 1,
    top: Annotated[int, typer.Option("--top", help="Costliest layers to show.")] = 10,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse layers of kinds never measured on the hardware.")] = False,
    budget_j: Annotated[float | None, typer.Option("--budget-j", help="Exit with 1 when one pass costs more joules.")] = None,
    check_flops: Annotated[bool, typer.Option("--check-flops", help="Also compare FLOP with fvcore, module by module.")] = False,
) -> None:
    """Joules of one forward pass of MODEL on --hardware, layer by layer, with intervals."""
    from .estimate import estimate
    from .model import load_model
    from .predict import load_network, trace_network

    if budget_j is not None and not budget_j > 0:
        raise InputError(f"budget-j {budget_j} must be above 0")
    if top < 1 or depth < 1:
        raise InputError(f"{'top' if top < 1 else 'depth'} {top if top < 1 else depth} must be at least 1")
    model = load_model(hardware)
    loaded = load_network(network, batch, image_size, seq_len, input, dtype.value)
    traced = trace_network(loaded, tf32.value)
    result = estimate(traced, model, mode=mode.value, strict=strict)
    _write(_estimate_text(result, format, top, depth), output)
    if check_flops:
        from .crosscheck import check_flops as compare

        print(compare(loaded, traced), file=sys.stderr)
    if budget_j is not None and result.energy_j > budget_j:
        print(f"wattlayer: {result.energy_j:.4g} J is over the budget of {budget_j:.4g} J", file=sys.stderr)
        raise typer.Exit(OVER_BUDGET)


def _estimate_text(result: Estimate, format: Format, top: int, depth: int) -> str:
    from .report import estimate_csv, estimate_tables

    if format is Format.json:
        return json.dumps(result.to_json()) + "\n"
    if format is Format.csv:
        return estimate_csv(result)
    if format is Format.html:
        raise InputError("format 'html' is not available yet: use table, json or csv")
    return _rendered(*estimate_tables(result, top, depth))


@app.command()
def trace(
    network: NetworkArgument,
    batch: BatchOption = 1,
    image_size: ImageOption = None,
    seq_len: SeqOption = None,
    input: InputOption = None,
    dtype: DtypeOption = Dtype.float32,
    tf32: Tf32Option = Tf32.conv,
    format: FormatOption = Format.table,
    output: OutputOption = None,
) -> None:
    """Layers of MODEL with shapes, FLOP and bytes; no prediction."""
    from .predict import load_network, trace_network
    from .report import trace_json, trace_table

    traced: Trace = trace_network(load_network(network, batch, image_size, seq_len, input, dtype.value), tf32.value)
    if format not in (Format.table, Format.json):
        raise InputError(f"format {format.value!r} is not one of table, json")
    _write(json.dumps(trace_json(traced)) + "\n" if format is Format.json else _rendered(trace_table(traced)), output)


@app.command("import")
def import_table(
    table: Annotated[
        Path, typer.Argument(metavar="TABLE", help="CSV, also gzipped, in a format of docs: measurements made elsewhere.")
    ],
    output: Annotated[Path, typer.Option("--output", help="Dataset to write, JSON lines.")],
    skip_bad_rows: Annotated[
        bool, typer.Option("--skip-bad-rows", help="Leave out rows that cannot be read, and count them.")
    ] = False,
) -> None:
    """Turn a table measured elsewhere into a dataset; on a bad row nothing is written."""
    from .dataset import write_measurements
    from .tables import read_table

    content = read_table(table, skip_bad_rows)
    count = _writing(output, lambda: write_measurements(output, content.measurements, {"source": table.name}))
    _skipped(table, content.bad_rows)
    print(f"{count} measurements written to {output}")


@app.command()
def train(
    data: Annotated[list[Path], typer.Argument(metavar="DATA...", help="Datasets (JSON lines) or import tables (CSV).")],
    output: Annotated[Path, typer.Option("--output", help="Model file to write, .json.")],
    hardware: Annotated[str | None, typer.Option("--hardware", help="Device to train on where the rows are of several.")] = None,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    skip_bad_rows: Annotated[bool, typer.Option("--skip-bad-rows")] = False,
    source: Annotated[str, typer.Option("--source", help="Where the rows come from, kept in the model.")] = "",
) -> None:
    """Train a model of one device on measured layers."""
    from .model import EnergyModel

    rows = _measurements(data, skip_bad_rows)
    name = output.name.removesuffix(".json")
    model = EnergyModel.train(rows, seed=seed, hardware=hardware, name=name, source=source)
    _writing(output, lambda: model.save(output))
    facts = model.metadata
    print(f"{output}: {facts.hardware}, {facts.rows} rows of {facts.layers} layers, kinds {', '.join(facts.kinds)}")


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name of a shipped model, or a model file.")],
    layers: Annotated[list[Path] | None, typer.Option("--layers", help="Measured layers (dataset or import table).")] = None,
    networks: Annotated[
        list[Path] | None, typer.Option("--networks", help="Measured networks (dataset or import table).")
    ] = None,
    split: Annotated[
        list[str] | None, typer.Option("--split", help="given, layer, family, size; default all that apply.")
    ] = None,
    baselines: Annotated[bool, typer.Option("--baselines/--no-baselines", help="Also fit and score the baselines.")] = True,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    skip_bad_rows: Annotated[bool, typer.Option("--skip-bad-rows")] = False,
    format: FormatOption = Format.table,
    output: OutputOption = None,
) -> None:
    """Errors of a model on measured rows, by split, beside the baselines."""
    from .evaluate import configuration
    from .evaluate import evaluate as score
    from .model import load_model
    from .report import evaluation_table

    if not layers and not networks:
        raise InputError("give measured rows: --layers FILE, --networks FILE, or both")
    loaded = load_model(model)
    rows = _measurements(layers or [], skip_bad_rows)
    measured = [m for m in _measurements(networks or [], skip_bad_rows) if m.hardware == loaded.hardware]
    known: dict[Any, frozenset[str]] = {}
    if rows and (split is None or "family" in split):
        from .adapters.families import families_of

        known = families_of((m.layer for m in rows if m.layer is not None), configuration, _progress)
    splits = split or ["given", "layer", "size", *(["family"] if known else [])]
    result = score(loaded, rows, [(m, _trace_of(m)) for m in measured], splits, known, baselines, seed, _progress)
    _progress("")
    text = json.dumps(result.to_json()) + "\n" if format is Format.json else _rendered(evaluation_table(result))
    _write(text, output)


@app.command()
def measure(
    output: Annotated[Path, typer.Option("--output", help="Folder of the dataset, e.g. data/h100-sxm.")],
    minutes: Annotated[float, typer.Option("--minutes", help="Stop in time for this.")] = 25.0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the campaign in --output; begin one where there is none.")
    ] = False,
    networks: Annotated[list[str] | None, typer.Option("--networks", help="Networks to take layers from.")] = None,
    dtypes: Annotated[list[str] | None, typer.Option("--dtypes", help="bfloat16, float16, float32.")] = None,
    layers: Annotated[int, typer.Option("--layers", help="Distinct layers to plan for.")] = 1100,
    model: Annotated[Path | None, typer.Option("--model", help="Put 30 % of the budget where this model is unsure.")] = None,
    meter: Annotated[str, typer.Option("--meter", help="auto, nvml, rapl, zeus or assumed-power.")] = "auto",
    assumed_power_w: Annotated[float | None, typer.Option("--assumed-power-w", help="With --meter assumed-power.")] = None,
    device: Annotated[str | None, typer.Option("--device", help="cuda, cuda:N or cpu.")] = None,
    name: Annotated[str | None, typer.Option("--hardware", help="What rows call this device.")] = None,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    target_frac: Annotated[float, typer.Option("--target-frac", help="Half width of the 95 % interval to reach.")] = 0.02,
    warm_up_s: Annotated[float, typer.Option("--warm-up-s", help="Load before the meter is characterised.")] = 45.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and its cost, measure nothing.")] = False,
) -> None:
    """Measure the energy of layers on the hardware at hand; resumable, and safe to kill at any moment."""
    from .measure.run import Options, run_campaign

    given: dict[str, Any] = {"networks": tuple(networks)} if networks else {}
    options = Options(
        output=output, minutes=minutes, resume=resume, dtypes=tuple(dtypes or ()), layers=layers, model=model, meter=meter,
        assumed_power_w=assumed_power_w, device=device, hardware=name, seed=seed, target_frac=target_frac,
        warm_up_s=warm_up_s, dry_run=dry_run, **given,
    )  # fmt: skip
    with _campaign_bar() as tick:
        summary = run_campaign(options, tick, print)
    if summary:
        print(summary.describe())
        if summary.stopped_by == "device":
            raise MeterError(
                "the device stopped answering; run the same command with --resume: the layer that did it is left out"
            )


@contextmanager
def _campaign_bar() -> Iterator[Callable[[Tick], None]]:
    """Show a campaign's progress on stderr: a bar with its ETA and the current interval."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("ETA {task.fields[eta]} · ±{task.fields[error]} · {task.description}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("starting", total=None, eta="–", error="–")

        def show(tick: Tick) -> None:
            if not sys.stderr.isatty():
                print(f"[{tick.done}/{tick.total}] {tick.text}; ETA {tick.eta_s:.0f} s", file=sys.stderr)
            error = "–" if tick.interval_frac is None else f"{tick.interval_frac:.1%}"
            bar.update(task, total=tick.total, completed=tick.done, description=tick.text, eta=f"{tick.eta_s:.0f} s", error=error)

        yield show


@app.command()
def hardware(name: Annotated[str | None, typer.Argument(help="One device.")] = None) -> None:
    """What is known of devices, and for which a model is trained."""
    from dataclasses import asdict

    from .hardware import HARDWARE, find_hardware
    from .model import shipped_models
    from .report import hardware_table

    if name is None:
        _write(_rendered(hardware_table(list(HARDWARE.values()), shipped_models())), None)
    else:
        facts = asdict(find_hardware(name)) | {"trained": name in shipped_models()}
        _write("".join(f"{key}: {value}\n" for key, value in facts.items()), None)


def _measurements(paths: list[Path], skip_bad_rows: bool) -> list[Measurement]:
    from .tables import read_table

    rows: list[Measurement] = []
    for path in paths:
        content = read_table(path, skip_bad_rows)
        _skipped(path, content.bad_rows)
        rows += content.measurements
    return rows


def _trace_of(measurement: Measurement) -> Trace:
    """Trace a measured network with the input it was measured on."""
    from .predict import load_network, trace_network

    assert measurement.network is not None
    first = measurement.input_shapes[0] if measurement.input_shapes else None
    text = first is not None and len(first) == 2
    size = {"batch": first[0], "seq_len": first[1]} if first and text else {"input": first}
    network = load_network(measurement.network, dtype=measurement.dtype, **size)
    return trace_network(network, measurement.tf32)


def _skipped(path: Path, bad_rows: tuple[tuple[int, str], ...]) -> None:
    if bad_rows:
        line, reason = bad_rows[0]
        print(f"{path}: skipped {len(bad_rows)} bad rows, the first at line {line}: {reason}", file=sys.stderr)


def _progress(text: str) -> None:
    """Show what is being done on one line of a terminal; nothing where stderr is a pipe."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def _rendered(*parts: Any) -> str:
    """Return rich renderables as text: styled on a terminal, plain in a pipe."""
    from rich.console import Console

    console = Console(soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else 200)
    with console.capture() as capture:
        for part in parts:
            console.print(part)
            console.print()
    return capture.get().rstrip() + "\n"


def _write(text: str, output: Path | None) -> None:
    if output is None:
        sys.stdout.write(text)
    else:
        _writing(output, lambda: output.write_text(text, encoding="utf-8"))


def _writing(path: Path, write: Any) -> Any:
    try:
        return write()
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from None


def main() -> None:
    """Run the command line; every error a user can cause ends in one line and exit code 2."""
    try:
        code = app(standalone_mode=False)
    except (WattlayerError, typer.Abort) as error:
        _fail(str(error) or "interrupted")
    except BrokenPipeError:  # the reader of a pipe left, as `head` does
        sys.stderr.close()
        sys.exit(0)
    except Exception as error:
        if not hasattr(error, "format_message"):  # a usage error of the click that this typer comes with
            raise
        _fail(error.format_message())
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str) -> NoReturn:
    print(f"wattlayer: {first_line(Exception(message), 1000)}", file=sys.stderr)
    sys.exit(BAD_INPUT)


if __name__ == "__main__":
    main()
