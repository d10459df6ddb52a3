"""`wattlayer report`."""

from __future__ import annotations

from typing import Annotated

import typer

from .app import app
from .options import (
    BatchOption,
    Dtype,
    DtypeOption,
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
)
from .output import apart, busy, named, write

STATED = "What you state: nothing is assumed for it"


@app.command()
def report(
    network: NetworkArgument,
    hardware: HardwareOption = "a30",
    batch: BatchOption = 1,
    image_size: ImageOption = None,
    seq_len: SeqOption = None,
    input: InputOption = None,
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
        str, typer.Option(rich_help_panel=STATED, help="What cost and carbon are per: '1,000 inferences', '1,000,000 tokens'.")
    ] = "1 inference",
    output: OutputOption = None,
) -> None:
    """One HTML page on the energy of MODEL that works offline: where it goes, what it costs, how far to believe it."""
    from ..predict import predict
    from ..report.accounting import Assumptions
    from ..report.html import estimate_page

    stated = Assumptions(grid_gco2_per_kwh, price_per_kwh, currency, embodied_gco2, functional_unit)
    named(output)
    apart(output, network, hardware)
    with busy(f"predicting {network}"):
        result = predict(
            network, hardware=hardware, batch=batch, image_size=image_size, seq_len=seq_len, input=input, dtype=dtype.value,
            tf32=tf32.value, mode=mode.value, strict=strict,
        )  # fmt: skip
    write(estimate_page(result, stated), output)
