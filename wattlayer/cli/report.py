"""`wattlayer report`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .app import app
from .generation import priced
from .options import (
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
)
from .output import apart, busy, named, rendered, write

if TYPE_CHECKING:
    from ..estimate import Estimate
    from ..generation import Generation
    from ..report.accounting import Assumptions

STATED = "What you state: nothing is assumed for it"


@app.command()
def report(
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
    strict: Annotated[bool, typer.Option("--strict", help="Refuse layers of kinds never measured.")] = False,
    grid_gco2_per_kwh: Annotated[
        float | None, typer.Option(rich_help_panel=STATED, help="Carbon intensity of the electricity, in g of CO2e a kWh.")
    ] = None,
    price_per_kwh: Annotated[float | None, typer.Option(rich_help_panel=STATED, help="With --currency.")] = None,
    currency: Annotated[str | None, typer.Option(rich_help_panel=STATED, help="Like EUR.")] = None,
    embodied_gco2: Annotated[
        float | None, typer.Option(rich_help_panel=STATED, help="Embodied g of CO2e of the hardware per functional unit.")
    ] = None,
    functional_unit: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=STATED,
            show_default="1 inference, or 1 request",
            help="What cost and carbon are per: '1,000 inferences', '1,000,000 tokens'.",
        ),
    ] = None,
    format: Annotated[Format | None, formats(Format.html, *TEXTS, default="html")] = None,
    output: OutputOption = None,
) -> None:
    """What MODEL costs in energy, money and carbon: one HTML page that works offline, or the figures alone as a table or JSON."""
    from ..predict import predict
    from ..report.accounting import Assumptions

    of_request = prefill is not None or decode is not None
    format = written_as(format, output, Format.html, *TEXTS, default=Format.html)
    if functional_unit is None:
        functional_unit = "1 request" if of_request else "1 inference"
    stated = Assumptions(grid_gco2_per_kwh, price_per_kwh, currency, embodied_gco2, functional_unit)
    if format is Format.html:
        named(output)
    apart(output, network, hardware)
    options: dict[str, Any] = {"batch": batch, "dtype": dtype.value, "tf32": tf32.value, "mode": mode.value, "strict": strict}
    if of_request:
        others = {"image-size": image_size, "seq-len": seq_len, "input": input}
        request = priced(network, prefill, decode, others, hardware=hardware, **options)
        return write(_text(request, stated, format), output)
    with busy(f"predicting {network}"):
        result = predict(network, hardware=hardware, image_size=image_size, seq_len=seq_len, input=input, **options)
    write(_text(result, stated, format), output)


def _text(result: Estimate | Generation, stated: Assumptions, format: Format) -> str:
    from ..report.html import estimate_page
    from ..report.statement import statement_json, statement_lines

    if format is Format.html:
        return estimate_page(result, stated)
    if format is Format.json:
        return json.dumps(statement_json(result, stated)) + "\n"
    return rendered(*statement_lines(result, stated))
