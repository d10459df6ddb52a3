"""Where results, progress and refusals go: results to stdout or --output, everything else to stderr."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ..errors import InputError


def progress(text: str) -> None:
    """Show what is being done on one line of a terminal; nothing where stderr is a pipe."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def rendered(*parts: Any) -> str:
    """Return rich renderables as text: styled on a terminal, plain in a pipe."""
    from rich.console import Console

    console = Console(soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else 200)
    with console.capture() as capture:
        for part in parts:
            console.print(part)
            console.print()
    return capture.get().rstrip() + "\n"


def write(text: str, output: Path | None) -> None:
    """Write a result to `output`, or to stdout; raise InputError where the file cannot be written."""
    if output is None:
        sys.stdout.write(text)
    else:
        writing(output, lambda: output.write_text(text, encoding="utf-8"))


def writing(path: Path, write: Any) -> Any:
    """Call `write`; raise InputError naming `path` where it meets an operating system's error."""
    try:
        return write()
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from None
