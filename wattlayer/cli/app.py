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
        lists = {name for option in self.params if getattr(option, "multiple", False) for name in option.opts}
        written: list[str] = []
        option, values, arguments = "", 0, 0
        for word in args:
            if word.startswith("-"):
                option, values = word, 0
            elif option in lists:
                written += [option] if values and (arguments or not self._takes_arguments) else []
                values += 1
            elif not option:
                arguments += 1
            written.append(word)
        return super().parse_args(ctx, written)

    @property
    def _takes_arguments(self) -> bool:
        return any(x.param_type_name == "argument" for x in self.params)


OVER_BUDGET, BAD_INPUT = 1, 2
"""Exit codes beside 0."""
