"""The application that every command joins, and its exit codes."""

from __future__ import annotations

import typer

app = typer.Typer(
    name="wattlayer", no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False, rich_markup_mode="rich",
    help="What a neural network's inference costs in joules, layer by layer, without running it.",
)  # fmt: skip

OVER_BUDGET, BAD_INPUT = 1, 2
"""Exit codes beside 0."""
