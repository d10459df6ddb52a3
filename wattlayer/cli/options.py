"""Options that several commands share."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import MOST_SEED, InputError
from .output import result_place


class Format(str, Enum):
    table = "table"
    json = "json"
    csv = "csv"
    html = "html"
    speedscope = "speedscope"
    perfetto = "perfetto"
    parquet = "parquet"


TEXTS = (Format.table, Format.json)
TABLES = (*TEXTS, Format.csv)
"""What most commands write their result as."""


def formats(*known: Format, default: str = "table") -> Any:
    """Return the option of a command that writes its result as any of these; `default` says what it writes without one."""
    names = [x.value for x in known]

    def parsed(text: str) -> Format:
        if text not in names:
            raise InputError(f"format {text!r} is not one of {', '.join(names)}")
        return Format(text)

    return typer.Option(
        "--format", parser=parsed, metavar=f"[{'|'.join(names)}]", show_default=f"by the suffix of --output, else {default}"
    )


def written_as(format: Format | None, output: Path | None, *known: Format, default: Format = Format.table) -> Format:
    """Return `format`, or where none is given that of the suffix of `output`, else the `default`; raise InputError for one that
    a command does not write, which are those but `known`."""
    suffix = output.suffix.lower().removeprefix(".") if output else ""
    format = format or (Format(suffix) if suffix in Format.__members__ else default)
    if format not in known:
        of = f" of --output {output}" if suffix == format.value else ""
        raise InputError(f"format {format.value!r}{of} is not one of {', '.join(x.value for x in known)}")
    return format


class Dtype(str, Enum):
    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"
    int8 = "int8"
    int4 = "int4"


class Tf32(str, Enum):
    none = "none"
    conv = "conv"
    all = "all"


class Mode(str, Enum):
    graph = "graph"
    eager = "eager"
    compiled = "compiled"


def batch_of(shape: tuple[int, ...] | None, batch: int, option: str = "batch") -> int:
    """Return the batch of an input's `shape`, or `batch` without one; raise InputError where they say two."""
    if shape and batch not in (1, shape[0]):
        from ..layer import format_shape

        raise InputError(f"input {format_shape(shape)} says the batch: leave {option} {batch} out")
    return shape[0] if shape else batch


NetworkArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="resnet50, torchvision:…, timm:…, hf:…, path/to/file.py:factory, net.onnx, net.pt2")
]
HardwareOption = Annotated[str, typer.Option("--hardware", help="A device (`wattlayer hardware` lists them), or a model file.")]
PrefillOption = Annotated[int | None, typer.Option("--prefill", help="A language model's request: tokens of its prompt.")]
DecodeOption = Annotated[int | None, typer.Option("--decode", help="… and tokens it writes, one by one on a cache.")]
BatchOption = Annotated[int, typer.Option("--batch", help="Samples in one forward pass.")]
ImageOption = Annotated[int | None, typer.Option("--image-size", help="Height and width of the input image.")]
SeqOption = Annotated[int | None, typer.Option("--seq-len", help="Tokens of the input text.")]
InputOption = Annotated[str | None, typer.Option("--input", help="Shape of the input, like 8x3x224x224.")]
DtypeOption = Annotated[Dtype, typer.Option("--dtype")]
Tf32Option = Annotated[Tf32, typer.Option("--tf32", help="Where float32 may run as TF32; conv is PyTorch's default.")]
ModeOption = Annotated[Mode, typer.Option("--mode", help="graph: no gaps; eager: one by one; compiled: fused.")]
SeedOption = Annotated[int, typer.Option("--seed", min=0, max=MOST_SEED)]
SkipOption = Annotated[bool, typer.Option("--skip-bad-rows", help="Leave out rows that cannot be read, and count them.")]
RunCodeOption = Annotated[
    bool,
    typer.Option("--run-code/--no-run-code", help="Run Python files that measured rows name as networks (FILE.py:FACTORY)."),
]
OutputOption = Annotated[
    Path | None, typer.Option("--output", callback=result_place, help="Write the result here instead of to stdout (-).")
]
