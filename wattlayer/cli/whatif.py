"""`wattlayer whatif`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError
from .app import app
from .options import (
    TABLES,
    Dtype,
    Format,
    HardwareOption,
    InputOption,
    Mode,
    NetworkArgument,
    OutputOption,
    Tf32,
    batch_of,
    formats,
    written_as,
)
from .output import apart, busy, narrow, rendered, write

if TYPE_CHECKING:
    from ..whatif import Change
    from ..whatif.subject import Setting

START = "Where the comparison starts"


@app.command()
def whatif(
    network: NetworkArgument,
    hardware: HardwareOption = "a30",
    replace: Annotated[
        list[str] | None, typer.Option("--replace", help="PATTERN=RECIPE; recipes: depthwise, lowrank, relu. May be repeated.")
    ] = None,
    drop: Annotated[list[str] | None, typer.Option("--drop", help="Modules to leave out, by path or pattern.")] = None,
    dtype: Annotated[Dtype | None, typer.Option("--dtype")] = None,
    tf32: Annotated[Tf32 | None, typer.Option("--tf32")] = None,
    mode: Annotated[Mode | None, typer.Option("--mode")] = None,
    batch: Annotated[str | None, typer.Option("--batch", help="A number, 1,8,32, or 1..128: powers of two and the last.")] = None,
    image_size: Annotated[int | None, typer.Option("--image-size", help="Height and width.")] = None,
    seq_len: Annotated[int | None, typer.Option("--seq-len", help="Tokens.")] = None,
    align: Annotated[bool, typer.Option("--align", help="Pad channels to multiples of 8.")] = False,
    fuse_attention: Annotated[bool, typer.Option("--fuse-attention", help="Attention in one kernel.")] = False,
    fold_norm: Annotated[bool, typer.Option("--fold-norm", help="Batch norms folded into convolutions.")] = False,
    from_batch: Annotated[int, typer.Option("--from-batch", rich_help_panel=START)] = 1,
    from_image_size: Annotated[int | None, typer.Option("--from-image-size", rich_help_panel=START)] = None,
    from_seq_len: Annotated[int | None, typer.Option("--from-seq-len", rich_help_panel=START)] = None,
    from_dtype: Annotated[Dtype, typer.Option("--from-dtype", rich_help_panel=START)] = Dtype.float32,
    from_tf32: Annotated[Tf32, typer.Option("--from-tf32", rich_help_panel=START)] = Tf32.conv,
    from_mode: Annotated[Mode, typer.Option("--from-mode", rich_help_panel=START)] = Mode.graph,
    input: InputOption = None,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse layers of kinds never measured.")] = False,
    format: Annotated[Format | None, formats(*TABLES)] = None,
    output: OutputOption = None,
) -> None:
    """What a change does to the joules of a sample, with the interval of the difference; all changes are made together."""
    from ..model import load_model
    from ..predict import parse_shape
    from ..whatif import whatif as price
    from ..whatif.subject import Edit, Setting, Subject, replacements

    apart(output, network, hardware)
    format = written_as(format, output, *TABLES)
    shape = parse_shape(input) if input is not None else None
    start = Setting(
        batch_of(shape, from_batch, "from-batch"),
        from_image_size,
        from_seq_len,
        shape,
        from_dtype.value,
        from_tf32.value,
        from_mode.value,
    )
    edits = [
        Edit(
            replace=replacements(replace or ()), drop=tuple(drop or ()), dtype=dtype and dtype.value, tf32=tf32 and tf32.value,
            mode=mode and mode.value, batch=size, image_size=image_size, seq_len=seq_len, align=align,
            fuse_attention=fuse_attention, fold_norm=fold_norm,
        )
        for size in (batches(batch) if batch else (None,))
    ]  # fmt: skip
    if not edits[0].describe():
        raise InputError("nothing is changed: give --replace, --drop, --dtype, --batch or another change (see --help)")
    with busy(f"pricing changes of {network}") as tell:
        changes = price(Subject(network, (), start), edits, load_model(hardware), strict, tell)
    write(change_text(changes, format, starting(start)), output)


def batches(text: str) -> tuple[int, ...]:
    """Return the batch sizes that `32`, `1,8,32` or `1..128` (each power of two from the first, and the last) names."""
    if "," in text:
        return tuple(dict.fromkeys(size for part in text.split(",") for size in batches(part)))
    first, dots, last = text.partition("..")
    try:
        low, high = int(first), int(last if dots else first)
    except ValueError:
        raise InputError(f"batch {text!r} is neither a number, a list like 1,8,32 nor a range like 1..128") from None
    if not 1 <= low <= high:
        raise InputError(f"batch {text!r} must rise from at least 1")
    sizes = [low * 2**i for i in range(64) if low * 2**i <= high]
    return tuple(dict.fromkeys([*sizes, high]))


def starting(start: Setting) -> str:
    """Say where the comparison starts."""
    return f"from batch {start.batch}, {start.dtype or 'own dtype'}, tf32 {start.tf32}, {start.mode} mode"


def change_text(changes: list[Change], format: Format, start: str) -> str:
    """Return changes as a table, JSON or CSV."""
    from ..report.whatif import change_csv, change_list, change_table

    if format is Format.json:
        return json.dumps([x.to_json() for x in changes]) + "\n"
    if format is Format.csv:
        return change_csv(changes)
    return rendered(*(change_list if narrow() else change_table)(changes, start))
