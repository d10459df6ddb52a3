"""The application that every command joins, and its exit codes."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand

app = typer.Typer(
    name="wattlayer", add_completion=True, pretty_exceptions_enable=False, rich_markup_mode="rich",
    help="What a neural network's inference costs in joules, layer by layer, without running it.",
)  # fmt: skip


class SeveralValues(TyperCommand):
    """A command whose repeatable options take several values at once, `--layers a.csv b.csv`, after its first argument."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Write each further value as the option said again."""
        options = {name: option for option in self.params for name in (*option.opts, *option.secondary_opts)}
        written: list[str] = []
        option, wanted, arguments = "", 0, not any(x.param_type_name == "argument" for x in self.params)
        for word in args:
            if word.startswith("-") and len(word) > 1:
                option, assigned, _ = word.partition("=")
                known = options.get(option)
                wanted = 0 if assigned or known is None or getattr(known, "is_flag", False) else 1
            elif wanted:
                wanted = 0
            elif arguments and getattr(options.get(option), "multiple", False):
                written.append(option)
            else:
                arguments, option = True, ""
            written.append(word)
        return super().parse_args(ctx, written)


OVER_BUDGET, BAD_INPUT = 1, 2
"""Exit codes beside 0."""
