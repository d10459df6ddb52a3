"""Options that several commands share."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError


class Format(str, Enum):
    table = "table"
    json = "json"
    csv = "csv"
    html = "html"
    speedscope = "speedscope"
    perfetto = "perfetto"
    parquet = "parquet"


def written_as(format: Format, *known: Format) -> None:
    """Raise InputError where a command does not write `format`; `known` are those that it writes."""
    if format not in known:
        raise InputError(f"format {format.value!r} is not one of {', '.join(x.value for x in known)}")


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
    compiled = "compiled"


NetworkArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="resnet50, torchvision:…, timm:…, hf:…, path/to/file.py:factory")
]
HardwareOption = Annotated[str, typer.Option("--hardware", help="A device (`wattlayer hardware` lists them), or a model file.")]
BatchOption = Annotated[int, typer.Option("--batch", help="Samples in one forward pass.")]
ImageOption = Annotated[int | None, typer.Option("--image-size", help="Height and width of the input image.")]
SeqOption = Annotated[int | None, typer.Option("--seq-len", help="Tokens of the input text.")]
InputOption = Annotated[str | None, typer.Option("--input", help="Shape of the input, like 8x3x224x224.")]
DtypeOption = Annotated[Dtype, typer.Option("--dtype")]
Tf32Option = Annotated[Tf32, typer.Option("--tf32", help="Where float32 may run as TF32; conv is PyTorch's default.")]
FormatOption = Annotated[Format, typer.Option("--format")]
OutputOption = Annotated[Path | None, typer.Option("--output", help="Write the result here instead of to stdout.")]
