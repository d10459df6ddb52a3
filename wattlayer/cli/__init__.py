"""The command line: arguments in, one result on stdout; errors are one line on stderr and exit code 2.

To add a command, add a file here and name it in the import below.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Annotated, Any, NoReturn

import typer

from ..errors import WattlayerError, first_line

from . import predict, report, compare, whatif, advise, data, measure, train, calibrate, hardware, zoo  # isort: skip  (the order of `wattlayer --help`)
from .app import BAD_INPUT, app
from .output import reader_may_leave, ready_streams, say

__all__ = ["advise", "calibrate", "compare", "data", "hardware", "main", "measure", "predict", "report", "train", "whatif", "zoo"]


INTERRUPTED = 130
"""What typer returns after Ctrl-C, as shells do: 128 + SIGINT."""


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False
) -> None:
    if version:
        from importlib.metadata import version as installed

        print(f"wattlayer {installed('wattlayer')}")
        raise typer.Exit()
    if context.invoked_subcommand is None:
        print(context.get_help())


def main() -> None:
    """Run the command line; every error a user can cause ends in one line and exit code 2."""
    code = None
    ready_streams()
    try:
        with reader_may_leave(sys.stdout):
            code = app(standalone_mode=False)
            sys.stdout.flush()
    except (WattlayerError, typer.Abort) as error:
        _fail(str(error) or "interrupted")
    except OSError as error:  # files have told their own: what is left is a full disk behind stdout, or none
        told = f"{error.filename} cannot be used" if error.filename else "the result cannot be written"
        _fail(f"{told}: {error.strerror or error}")
    except SystemExit as stop:  # with 1 typer and rich say that the reader of a pipe left; budgets come back as `code`
        sys.exit(0 if stop.code == 1 else stop.code)
    except Exception as error:
        if not hasattr(error, "format_message"):  # a usage error of the click that this typer comes with
            raise
        _fail(_told(error))
    if code == INTERRUPTED:
        _fail("interrupted", INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)


def _told(error: Any) -> str:
    """Say what is wrong with an option and name its value, which the validation behind newer typers leaves out."""
    message: str = error.format_message().rstrip(".")
    found = error.__cause__.errors()[:1] if hasattr(error.__cause__, "errors") else []
    told = ": ".join([message, *(repr(x["input"]) for x in found if repr(x["input"]) not in message)])
    command = getattr(getattr(error, "ctx", None), "command_path", "")
    return f"{told} (see `{command} --help`)" if command else told


def _fail(message: str, code: int = BAD_INPUT) -> NoReturn:
    with suppress(OSError):
        say(f"wattlayer: {first_line(Exception(message), 1000)}")
    sys.exit(code)
