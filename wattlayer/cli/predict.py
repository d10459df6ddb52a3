"""`wattlayer predict` and `wattlayer trace`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError
from .app import app
from .gate import BudgetOption, FracOption, GithubOption, JunitOption, budgets_of, enforce
from .generation import generation_text, priced
from .options import (
    TABLES,
    TEXTS,
    BatchOption,
    DecodeOption,
    Dtype,
    DtypeOption,
    Format,
    HardwareOption,
    ImageOption,
    InputOption,
    Mode,
    ModeOption,
    NetworkArgument,
    OutputOption,
    PrefillOption,
    SeqOption,
    Tf32,
    Tf32Option,
    formats,
    written_as,
)  # fmt: skip
from .output import apart, busy, named, rendered, say, write

if TYPE_CHECKING:
    from ..estimate import Estimate
    from ..trace import Trace


@app.command()
def predict(
    network: NetworkArgument,
    hardware: HardwareOption = "a30",
    batch: BatchOption = 1,
    image_size: ImageOption = None,
    seq_len: SeqOption = None,
    input: InputOption = None,
    prefill: PrefillOption = None,
    decode: DecodeOption = None,
    dtype: DtypeOption = Dtype.float32,
    tf32: Tf32Option = Tf32.conv,
    mode: ModeOption = Mode.graph,
    format: Annotated[Format | None, formats(*Format)] = None,
    output: OutputOption = None,
    depth: Annotated[int | None, typer.Option("--depth", help="Parts of a module's path to sum by. Default 1.")] = None,
    top: Annotated[int | None, typer.Option("--top", help="Costliest layers to show. Default 10.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse layers of kinds never measured on the hardware.")] = False,
    budget_j: BudgetOption = None,
    budget_frac_of: FracOption = None,
    junit: JunitOption = None,
    github: GithubOption = False,
    power_limit_w: Annotated[
        float | None, typer.Option("--power-limit-w", help="The board held at this limit (physics only).")
    ] = None,
    clock_mhz: Annotated[float | None, typer.Option("--clock-mhz", help="The cores held at this clock (physics only).")] = None,
    check_flops: Annotated[bool, typer.Option("--check-flops", help="Also compare FLOP with fvcore, module by module.")] = False,
) -> None:
    """Joules of one forward pass of MODEL on --hardware, layer by layer, with intervals."""
    from ..estimate import estimate
    from ..model import load_model
    from ..predict import load_network, trace_network
    from ..whatif.gate import Budget
    from ..whatif.operating import operated

    of_request = prefill is not None or decode is not None
    format = written_as(format, output, *(TABLES if of_request else Format))
    budgets = budgets_of(budget_j or [], budget_frac_of or [], junit, github, of_request, output, network, hardware)
    for name, value in (("top", top), ("depth", depth)):
        if value is not None and value < 1:
            raise InputError(f"{name} {value} must be at least 1")
    model = operated(load_model(hardware), power_limit_w, clock_mhz)
    if of_request:
        others = {"image-size": image_size, "seq-len": seq_len, "input": input, "check-flops": check_flops or None,
                  "top": top, "depth": depth}  # fmt: skip
        request = priced(network, prefill, decode, others, batch=batch, hardware=model, dtype=dtype.value, tf32=tf32.value,
                         mode=mode.value, strict=strict)  # fmt: skip
        write(generation_text(request, format), output)
        return enforce([x.judge(request) for x in budgets if isinstance(x, Budget)], junit, github)
    with busy(f"predicting {network}"):
        loaded = load_network(network, batch, image_size, seq_len, input, dtype.value)
        traced = trace_network(loaded, tf32.value)
        result = estimate(traced, model, mode=mode.value, strict=strict)
    verdicts = [budget.judge(result) for budget in budgets]
    write(_estimate_text(result, format, top or 10, depth or 1, output), output)
    if check_flops:
        from ..crosscheck import check_flops as compare

        with busy("counting with fvcore"):
            told = compare(loaded, traced)
        say(str(told))
    enforce(verdicts, junit, github)


def _estimate_text(result: Estimate, format: Format, top: int, depth: int, output: Path | None) -> str | bytes:
    from ..report import estimate_csv, estimate_tables, export

    if format is Format.json:
        return json.dumps(result.to_json()) + "\n"
    if format is Format.csv:
        say(*(f"wattlayer: {text}" for text in (result.model.caveat, *result.assumptions) if text))
        return estimate_csv(result)
    if format is Format.speedscope:
        return json.dumps(export.speedscope(result)) + "\n"
    if format is Format.perfetto:
        return json.dumps(export.perfetto(result)) + "\n"
    if format is Format.parquet:
        return export.parquet(result)
    if format is Format.html:
        from ..report.html import estimate_page

        named(output)
        return estimate_page(result)
    return rendered(*estimate_tables(result, top, depth))


@app.command()
def trace(
    network: NetworkArgument,
    batch: BatchOption = 1,
    image_size: ImageOption = None,
    seq_len: SeqOption = None,
    input: InputOption = None,
    dtype: DtypeOption = Dtype.float32,
    tf32: Tf32Option = Tf32.conv,
    format: Annotated[Format | None, formats(*TEXTS)] = None,
    output: OutputOption = None,
) -> None:
    """Layers of MODEL with shapes, FLOP and bytes; no prediction."""
    from ..predict import load_network, trace_network
    from ..report import trace_json, trace_table

    format = written_as(format, output, *TEXTS)
    apart(output, network)
    with busy(f"tracing {network}"):
        traced: Trace = trace_network(load_network(network, batch, image_size, seq_len, input, dtype.value), tf32.value)
    write(json.dumps(trace_json(traced)) + "\n" if format is Format.json else rendered(trace_table(traced)), output)
