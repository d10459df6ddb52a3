"""`wattlayer compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError
from .app import app
from .options import (
    TABLES,
    Dtype,
    DtypeOption,
    Format,
    ImageOption,
    InputOption,
    Mode,
    ModeOption,
    OutputOption,
    SeqOption,
    Tf32,
    Tf32Option,
    formats,
    written_as,
)  # fmt: skip
from .output import apart, busy, narrow, plot_place, rendered, write
from .whatif import batches

TABLE_COLUMNS = 120
"""Columns that the table of all rows takes without folding much; below them there are lines."""


@app.command()
def compare(
    networks: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Networks as `wattlayer predict` takes them.")],
    hardware: Annotated[
        list[str] | None, typer.Option("--hardware", help="Devices or model files: a30,rtx2080ti, or repeated. Default a30.")
    ] = None,
    batch: Annotated[str | None, typer.Option("--batch", help="A number, 1,8,32, or 1..128: powers of two and the last.")] = None,
    image_size: ImageOption = None,
    seq_len: SeqOption = None,
    input: InputOption = None,
    dtype: DtypeOption = Dtype.float32,
    tf32: Tf32Option = Tf32.conv,
    mode: ModeOption = Mode.graph,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse layers of kinds never measured.")] = False,
    plot: Annotated[
        Path | None, typer.Option("--plot", callback=plot_place, help="Also draw it into this .png, .svg or .pdf.")
    ] = None,
    format: Annotated[Format | None, formats(*TABLES)] = None,
    output: OutputOption = None,
) -> None:
    """Networks side by side on several devices and batches, and where FLOP would order them otherwise."""
    from ..hardware import known_hardware
    from ..report.compare import comparison_list, comparison_tables
    from ..whatif.compare import compare as compared

    format = written_as(format, output, *TABLES)
    # `--hardware a30 mine.json`: what follows the first comes here as an argument
    known = [name for name in networks if name in known_hardware() or (name.endswith(".json") and ":" not in name)]
    if known and not hardware:
        raise InputError(f"{known[0]} is a device or a model, not a network: write --hardware {','.join(known)}")
    networks = [name for name in networks if name not in known]
    if not networks:
        raise InputError(f"{', '.join(known)} says where: name a network to compare there")
    devices = [name.strip() for text in [*(hardware or ["a30"]), *known] for name in text.split(",") if name.strip()]
    apart(output, *networks, *devices)
    sizes = batches(batch) if batch else ()
    with busy("comparing") as tell:
        result = compared(
            networks, devices, sizes, image_size, seq_len, input, dtype.value, tf32.value, mode.value, strict, tell
        )  # fmt: skip
    if plot is not None:
        from ..report.plots import comparison_figure

        comparison_figure(result, plot)
    if format is Format.json:
        text = json.dumps(result.to_json()) + "\n"
    elif format is Format.csv:
        text = result.to_frame().to_csv(index=False, lineterminator="\n")
    else:
        text = rendered(*(comparison_list if narrow(TABLE_COLUMNS) else comparison_tables)(result))
    write(text, output)
