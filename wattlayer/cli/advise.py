"""`wattlayer advise`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from ..errors import InputError
from .app import app
from .options import (
    TABLES,
    BatchOption,
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
    SeqOption,
    Tf32,
    Tf32Option,
    batch_of,
    formats,
    written_as,
)  # fmt: skip
from .output import apart, busy, narrow, rendered, write
from .whatif import starting


@app.command()
def advise(
    network: NetworkArgument,
    hardware: HardwareOption = "a30",
    batch: BatchOption = 1,
    image_size: ImageOption = None,
    seq_len: SeqOption = None,
    input: InputOption = None,
    dtype: DtypeOption = Dtype.float32,
    tf32: Tf32Option = Tf32.conv,
    mode: ModeOption = Mode.graph,
    top: Annotated[int, typer.Option("--top", help="How many changes to show.")] = 10,
    format: Annotated[Format | None, formats(*TABLES)] = None,
    output: OutputOption = None,
) -> None:
    """Which changes to MODEL save most energy a sample, each priced with its interval; only what the model can price."""
    from ..model import load_model
    from ..predict import parse_shape
    from ..report.whatif import advice_list, advice_table, change_csv, no_advice
    from ..whatif.advise import advise as advice_of
    from ..whatif.subject import Setting, Subject

    if top < 1:
        raise InputError(f"top {top} must be at least 1")
    apart(output, network, hardware)
    format = written_as(format, output, *TABLES)
    shape = parse_shape(input) if input is not None else None
    setting = Setting(batch_of(shape, batch), image_size, seq_len, shape, dtype.value, tf32.value, mode.value)
    with busy(f"loading {network}") as tell:
        model = load_model(hardware)
        advice = advice_of(Subject(network, (), setting), model, tell)[:top]
    if format is Format.json:
        text = json.dumps([x.change.to_json() | {"mind": x.mind} for x in advice]) + "\n"
    elif format is Format.csv:
        text = change_csv([x.change for x in advice]) if advice else ""
    elif advice:
        text = rendered(*(advice_list if narrow() else advice_table)(advice, starting(setting)))
    else:
        text = rendered(*no_advice(model.metadata, f"{network}, {starting(setting)}"))
    write(text, output)
