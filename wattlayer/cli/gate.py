"""Options and exit of a budget: `--budget-j`, `--budget-frac-of`, `--junit` and `--github` of `wattlayer predict`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError, writing
from .app import OVER_BUDGET
from .output import apart, one_file, place, say, write

if TYPE_CHECKING:
    from ..whatif.gate import Baseline, Budget, Verdict

GATE = "Budget: exit code 1 when it is exceeded"

BudgetOption = Annotated[
    list[float] | None, typer.Option("--budget-j", rich_help_panel=GATE, help="Joules that one pass may cost.")
]
FracOption = Annotated[
    list[str] | None,
    typer.Option("--budget-frac-of", metavar="FILE[=FRAC]", rich_help_panel=GATE,
                 help="Share of a saved `--format json` that may be spent; 1 where FRAC is not said."),
]  # fmt: skip
JunitOption = Annotated[
    Path | None, typer.Option("--junit", callback=place, rich_help_panel=GATE, help="Also write the verdicts as JUnit XML.")
]
GithubOption = Annotated[
    bool, typer.Option("--github", rich_help_panel=GATE, help="Also annotate the run on GitHub (on stderr).")
]


def budgets_of(
    budgets_j: list[float], fracs_of: list[str], junit: Path | None, github: bool, of_request: bool, output: Path | None,
    *inputs: str,
) -> list[Budget | Baseline]:  # fmt: skip
    """Return the budgets that options name; InputError for one that is none, for reports without a budget, for a baseline of a
    request, and for an `output` or a report that would take the place of a baseline or of one of `inputs`."""
    from ..whatif.gate import budgets, saved

    read: tuple[Path | str, ...] = (*inputs, *(saved(frac_of)[0] for frac_of in fracs_of))
    apart(output, *read)
    apart(junit, *read, option="junit")
    if junit is not None and output is not None and one_file(junit, output):
        raise InputError(f"--junit {junit} is where --output goes: name another")
    if junit is not None and junit.is_file() and not junit.is_symlink():
        with writing(junit):  # what an earlier run reported is no verdict on this one, should it be refused
            junit.unlink()
    if of_request and fracs_of:
        raise InputError(f"budget-frac-of {fracs_of[0]} does not go with --prefill and --decode: give --budget-j")
    found = [x for budget_j in budgets_j for x in budgets(budget_j, None)] + [x for frac in fracs_of for x in budgets(None, frac)]
    if not found and (junit is not None or github):
        raise InputError("there is no budget to report: give --budget-j or --budget-frac-of")
    return found


def enforce(verdicts: list[Verdict], junit: Path | None, github: bool) -> None:
    """Report `verdicts` where that was asked for, say them on stderr, and leave with exit code 1 if any is."""
    from ..whatif.gate import github_commands
    from ..whatif.gate import junit as junit_xml

    if junit is not None:
        write(junit_xml(verdicts), junit)
    lines = [f"wattlayer: {text}" for verdict in verdicts for text in (verdict.says, *verdict.notes)]
    say(*lines, *(github_commands(verdicts) if github else ()))
    if any(verdict.over for verdict in verdicts):
        raise typer.Exit(OVER_BUDGET)
