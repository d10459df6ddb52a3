"""Where results, progress and refusals go: results to stdout or --output, everything else to stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from errno import EACCES, EISDIR
from io import TextIOBase, TextIOWrapper
from pathlib import Path
from shutil import get_terminal_size
from typing import Any, TextIO

from ..errors import InputError, writing
from ..files import whole_file

WIDE = 80
"""Columns below which lists are written instead of tables of many columns."""

ESSENTIAL = frozenset(
    {"path", "module", "kind", "energy", "share", "name", "title", "trained", "zoo", "traced", "refused"}
    | {"split", "predictor", "rows of", "n", "median", "p90", "row", "layer", "pass", "hint"}
    | {"phase", "tokens in the cache"}
)
"""Columns that tables keep on a narrow terminal."""


def progress(text: str) -> None:
    """Show what is being done on one line of a terminal; nothing where stderr is a pipe."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


@contextmanager
def busy(text: str) -> Iterator[Callable[..., None]]:
    """Show on a terminal's stderr what is being done, how much of it and for how long; nothing where stderr is a pipe.

    What a network prints meanwhile is no result and goes to stderr as well.
    Yields a function of a new text and, where they are known, how many steps are done and in all.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with (
        redirect_stdout(sys.stderr),
        _descriptor_as_stderr(),
        Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar,
    ):
        task = bar.add_task(text, total=None)

        def tell(text: str, done: int = 0, total: int | None = None) -> None:
            bar.update(task, description=text, completed=done, total=total)

        yield tell


@contextmanager
def _descriptor_as_stderr() -> Iterator[None]:
    """Let what programs that a network starts write to standard output go to stderr as well."""
    try:
        kept = os.dup(1)
    except OSError:  # closed
        yield
        return
    try:
        os.dup2(2, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def narrow(columns: int = WIDE) -> bool:
    """Whether results go to a terminal with fewer than `columns` columns: too few for a wide table."""
    return sys.stdout.isatty() and get_terminal_size().columns < columns


def rendered(*parts: Any) -> str:
    """Return rich renderables as text: styled on a terminal, plain in a pipe; on a narrow one tables keep what matters most."""
    from rich.console import Console

    slimmed = [_slimmed(part) for part in parts] if narrow() else []
    if any(slimmed):
        parts = (*parts, "a wider terminal shows more columns")
    # no emoji: what stands between colons is the name of a file and of its factory
    console = Console(emoji=False, soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else 200)
    with console.capture() as capture:
        for part in parts:
            console.print(part)
            console.print()
    return capture.get().rstrip() + "\n"


def _slimmed(part: Any) -> bool:
    """Leave a table of energies, devices, zoos or errors the columns of `ESSENTIAL`: nine in the width of three say nothing."""
    from rich.table import Table

    if not isinstance(part, Table) or not {"energy", "trained", "zoo", "p90"} & {column.header for column in part.columns}:
        return False
    part.columns = [column for column in part.columns if column.header in ESSENTIAL]
    return True


def write(result: str | bytes, output: Path | None) -> None:
    """Write a result to `output`, or a text to stdout; raise InputError where the file cannot be written or must be named."""
    if output is not None:
        with whole_file(output) as file:
            file.buffer.write(result if isinstance(result, bytes) else result.encode())
    elif isinstance(result, bytes):
        raise InputError("this format is binary: give --output FILE")
    else:
        with reader_may_leave(sys.stdout):
            sys.stdout.write(result)
            sys.stdout.flush()


def plot_place(path: Path | None) -> Path | None:
    """Return where a figure is to be drawn; raise InputError as `place` does, and where it cannot be drawn."""
    if (path := place(path)) is not None:
        from ..report.plots import check_plot

        check_plot(path)
    return path


def card_place(path: Path | None) -> Path | None:
    """Return where a card is to be written; raise InputError as `place` does, and for a name that is not of a Markdown file."""
    if (path := place(path)) is not None and path.suffix.lower() != ".md":
        raise InputError(f"the card {path} does not end in .md, as Markdown does: name it so")
    return path


def rows_place(path: Path | None) -> Path | None:
    """Return where judged rows are to be written; raise InputError as `place` does, and where its suffix names no format."""
    if (path := place(path)) is not None:
        from ..report.outliers import check_rows

        check_rows(path)
    return path


def place(path: Path | None) -> Path | None:
    """Return where a file is to be written; raise InputError, before the work is done, where none can be and for stdout (`-`)."""
    if path == Path("-"):
        raise InputError("this file is not written to stdout (-): name it")
    if path == Path():
        raise InputError("an empty name and the folder '.' cannot be written: name a file")
    if path is not None:
        with writing(path):
            if path.is_dir():
                raise IsADirectoryError(EISDIR, os.strerror(EISDIR))
            os.stat(f"{path.parent}{os.sep}")  # a folder, and there
            if not os.access(path if path.exists() else path.parent, os.W_OK):
                raise PermissionError(EACCES, os.strerror(EACCES))
    return path


def result_place(path: Path | None) -> Path | None:
    """Return where a result is to be written, as `place`; None, stdout, for `-`."""
    return None if path == Path("-") else place(path)


def named(output: Path | None) -> None:
    """Raise InputError where a page would be written to a terminal, which shows it as thousands of lines of source."""
    if output is None and sys.stdout.isatty():
        raise InputError("an HTML page on a terminal is unreadable: give --output report.html")


@contextmanager
def reader_may_leave(stream: TextIO) -> Iterator[None]:
    """Let the reader of stdout or stderr leave early, as `head` does: no error, and what is still to come goes nowhere."""
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def say(*lines: str) -> None:
    """Say `lines` on stderr, beside the result; whoever reads them may have left."""
    with reader_may_leave(sys.stderr):
        for line in lines:
            print(line, file=sys.stderr, flush=True)


def apart(output: Path | None, *inputs: Path | str, option: str = "output") -> None:
    """Raise InputError where `output`, of the option of that name, is one of `inputs`: what was measured or written is lost else.

    Inputs are files, or names of networks and models, which may be files (`net.py:factory`, `hf:config.json`, `hf:folder`).
    """
    files = [Path(text) for x in inputs for text in (str(x), str(x).rpartition(":")[0])]
    configurations = [Path(str(x).removeprefix("hf:")) for x in inputs if str(x).startswith("hf:")]
    files += [path for x in configurations for path in (x, x / "config.json")]
    if output is not None and any(one_file(output, x) for x in files if x.is_file()):
        raise InputError(f"--{option} {output} is a file that is read: name another, it would be lost")


def one_file(a: Path, b: Path) -> bool:
    """Whether two paths lead to one file, were they there."""
    return a.samefile(b) if a.exists() and b.exists() else os.path.realpath(a) == os.path.realpath(b)


def ready_streams() -> None:
    """Let neither a character that a console does not know nor a closed stream end a command.

    The one is written as its number, so that no two paths become one; messages to the other go nowhere, and a result that has
    nowhere to go is an error that says so.
    """
    if sys.stdout is None:
        sys.stdout = _Closed()
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  (to the end of the process)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class _Closed(TextIOBase):
    """A standard output that the command was started without."""

    def write(self, text: str) -> int:
        if text:
            raise OSError("there is no standard output: give --output FILE")
        return 0
