"""Budgets of energy for continuous integration: joules, or a share of a saved prediction, with JUnit and GitHub's annotations.

A saved prediction is what `wattlayer predict --format json` writes. The same model file gives the same answer for the same
network, so what lies between a prediction and its baseline is the change of the network, not noise of a measurement.
Whether the model can tell the two apart is another question: the interval of the difference (`whatif`) answers it.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from ..errors import InputError
from ..estimate import SCHEMA, VERSION, Estimate
from ..features.columns import Array
from ..kinds import group_of_kind
from ..layer import format_shape
from ..model.intervals import LEVEL
from .difference import difference_spread_j

if TYPE_CHECKING:
    from ..generation import Generation

ROUNDING_FRAC = 1e-6
"""Computers round the last digits differently; no budget turns on a millionth."""

FREE = frozenset({"network", "input", "wattlayer", "torch", "schema"})
"""What a prediction may state otherwise than its baseline; whatever else it states of itself is a condition of both."""

Call = tuple[str, float, float, float]
"""One call of a layer: its kind and shapes, and low, middle and high of its energy in joules."""

CURE = "save one with `wattlayer predict … --format json --output FILE`"


@dataclass(frozen=True)
class Verdict:
    """What a budget says of one prediction; energies in joules of one forward pass of the whole batch."""

    budget: str
    """The budget as on the command line, like "budget-j 0.5"."""
    network: str
    hardware: str
    energy_j: float
    limit_j: float
    says: str
    notes: tuple[str, ...] = ()
    """What does not decide, and a reader should know."""
    minds: tuple[str, ...] = ()
    """What a reader must know before believing the prediction (`Estimate.minds`)."""

    @property
    def over(self) -> bool:
        """Whether the prediction costs more than the budget."""
        return _over(self.energy_j, self.limit_j)


@dataclass(frozen=True)
class Budget:
    """The joules that one pass may cost."""

    energy_j: float

    def judge(self, estimate: Estimate | Generation) -> Verdict:
        """Return whether `estimate` keeps to the budget."""
        word = "over" if _over(estimate.energy_j, self.energy_j) else "within"
        spent, allowed = _apart(estimate.energy_j, self.energy_j)
        says = f"{spent} J is {word} the budget of {allowed} J"
        low, high = estimate.interval_j
        inside = f"the budget lies within the interval of the prediction, {low:.4g} to {high:.4g} J at {LEVEL:.0%}"
        notes = (inside,) if low < self.energy_j < high else ()
        return _verdict(f"budget-j {self.energy_j:.12g}", estimate, self.energy_j, says, notes)


@dataclass(frozen=True)
class Baseline:
    """A saved prediction of which `frac` may be spent."""

    path: Path
    frac: float
    energy_j: float
    facts: Mapping[str, Any]
    """The conditions, the network and the version that it states."""
    calls: tuple[Call, ...]
    gaps_j: tuple[float, float, float]
    """What waiting for the host costs, and the bounds that it lies between."""

    def judge(self, estimate: Estimate) -> Verdict:
        """Return whether `estimate` costs at most `frac` of the baseline; InputError where the two cannot be compared."""
        record = estimate.to_json()
        now = _facts(record)
        self._comparable(now)
        more_j, limit_j = estimate.energy_j - self.energy_j, self.energy_j * self.frac
        calls, gaps_j = _calls(record["layers"]), (estimate.gap_energy_j, *estimate.gap_interval_j)
        operators = [Counter(what.partition(" ")[0] for what, *_ in x) for x in (self.calls, calls)]
        of_one_network = self.facts.get("network") == now.get("network")
        below, above = difference_spread_j(
            estimate.model, *_differences(self.calls, calls), operators, (self.gaps_j, gaps_j), of_one_network
        )
        low, high = more_j - below, more_j + above
        word = "over" if _over(estimate.energy_j, limit_j) else "within"
        spent, allowed = _apart(estimate.energy_j / self.energy_j, self.frac)
        says = f"{estimate.energy_j:.4g} J is {spent} x {self.path.name} ({self.energy_j:.4g} J), {word} the budget of {allowed}"
        if abs(more_j) > ROUNDING_FRAC * self.energy_j:
            says += f"; the difference is {more_j:+.4g} J ({low:+.4g} to {high:+.4g} J)"
            says += ", and the model cannot tell it from no change" if low < 0 < high else ""
        return _verdict(f"budget-frac-of {self.path}={self.frac:.12g}", estimate, limit_j, says, self._notes(now))

    def _comparable(self, now: Mapping[str, Any]) -> None:
        pairs = {name: (self.facts.get(name, "not stated"), now.get(name, "not stated")) for name in {**now, **self.facts}}
        different = [
            f"{name} {was} against {is_now}" for name, (was, is_now) in pairs.items() if was != is_now and name not in FREE
        ]
        if different:
            raise InputError(
                f"baseline {self.path} cannot be compared: {', '.join(different)}; {CURE}, under the same conditions"
            )

    def _notes(self, now: Mapping[str, Any]) -> tuple[str, ...]:
        was, version = self.facts.get("network"), self.facts.get("wattlayer")
        notes = [] if was == now["network"] else [f"the baseline is another network: {was}"]
        read = self.facts.get("input", now["input"])
        notes += [] if read == now["input"] else [f"the baseline reads another input: {read} against {now['input']}"]
        notes += [] if version == VERSION else [f"the baseline was predicted by wattlayer {version}, this is {VERSION}"]
        traced, here = self.facts.get("torch", now["torch"]), now["torch"]
        notes += [] if traced == here else [f"the baseline was traced by torch {traced}, this by {here}"]
        return tuple(notes)


def budgets(budget_j: float | None, frac_of: str | None) -> list[Budget | Baseline]:
    """Return the budgets of the command line's options; InputError where one is no budget or no file holds a baseline.

    `frac_of` is `FILE` or `FILE=FRAC`, the share of the saved prediction that may be spent (1 where it is not said).
    """
    found: list[Budget | Baseline] = []
    if budget_j is not None:
        if not 0 < budget_j < math.inf:
            raise InputError(f"budget-j {budget_j} must be a finite number above 0")
        found.append(Budget(budget_j))
    if frac_of is not None:
        path, share = saved(frac_of)
        found.append(_baseline(path, _frac(share)))
    return found


def saved(frac_of: str) -> tuple[Path, str]:
    """Return the file and the share that `FILE` or `FILE=FRAC` names; a file of that whole name comes first."""
    name, sign, share = frac_of.rpartition("=")
    return (Path(name), share) if sign and not Path(frac_of).exists() else (Path(frac_of), "1")


def _apart(spent: float, allowed: float) -> tuple[str, str]:
    """Write two numbers with four digits, or with as many as it takes to tell them apart."""
    digits = 4
    while f"{spent:.{digits}g}" == f"{allowed:.{digits}g}" and abs(spent / allowed - 1) > ROUNDING_FRAC:
        digits += 1
    return f"{spent:.{digits}g}", f"{allowed:.{digits}g}"


def _over(energy_j: float, limit_j: float) -> bool:
    return energy_j > limit_j * (1 + ROUNDING_FRAC)


def _frac(text: str) -> float:
    try:
        frac = float(text)
    except ValueError:
        frac = math.nan
    if not 0 < frac < math.inf:
        raise InputError(f"budget-frac-of: {text!r} is no share above 0; write FILE=1.05")
    return frac


def _baseline(path: Path, frac: float) -> Baseline:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if "steps" in record:
            raise InputError(f"baseline {path} is of a request (--prefill, --decode) and not of a pass; {CURE}")
        energy_j, calls, facts = float(record["total"]["energy_j"]), _calls(record["layers"]), _facts(record)
        gap_j, low_j, high_j = (float(record["total"][name]) for name in ("gap_energy_j", "gap_low_j", "gap_high_j"))
        sound = record["schema"] == SCHEMA and 0 < energy_j < math.inf and 0 <= low_j <= gap_j <= high_j < math.inf
        sound = sound and all(0 < low <= middle <= high < math.inf for _, low, middle, high in calls)
        sound = sound and math.isclose(gap_j + sum(middle for _, _, middle, _ in calls), energy_j, rel_tol=1e-6)
    except OSError as error:
        raise InputError(f"baseline {path} cannot be read: {error.strerror}; {CURE}") from None
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
        sound = False
    if not sound:
        raise InputError(f"baseline {path} is no prediction of schema {SCHEMA}; {CURE}")
    return Baseline(path, frac, energy_j, facts, calls, (gap_j, low_j, high_j))


def _facts(record: Mapping[str, Any]) -> dict[str, str]:
    """What the JSON form of a prediction states of itself and its model file, as short texts."""
    model = record["model"]
    stated = {name: value for name, value in record.items() if not isinstance(value, dict | list)}
    stated |= {"model file": str(model["sha256"])[:12], "conditions": model.get("conditions") or "none"}
    if "input_shapes" in record:
        stated["input"] = ", ".join(format_shape(shape) for shape in record["input_shapes"])[:100]
    return {name: " ".join(str(value).split())[:100] for name, value in stated.items()}


def _calls(layers: Sequence[Mapping[str, Any]]) -> tuple[Call, ...]:
    names = ("energy_low_j", "energy_j", "energy_high_j")
    return tuple(
        (f"{x['kind']} {x['input_shapes']} {x['output_shapes']}", *(float(x[name]) for name in names))  # type: ignore[misc]
        for x in layers
    )


def _differences(before: Sequence[Call], after: Sequence[Call]) -> tuple[Array, Array, Array, list[str]]:
    """Per distinct layer of either: joules added, relative widths of its energy up and down, its group, as in `whatif`."""
    added: Counter[tuple[str, str]] = Counter()
    energies: dict[tuple[str, str], tuple[float, float, float]] = {}
    for sign, calls in ((-1, before), (1, after)):
        for what, low, middle, high in calls:
            key = what, f"{middle:.5g}"  # layers of equal shapes but other arguments have other energies
            energies[key] = low, middle, high
            added[key] += sign
    table = np.array([(added[key] * e, high / e - 1, 1 - low / e) for key, (low, e, high) in energies.items()]).reshape(-1, 3)
    groups = [group_of_kind(what.partition(" ")[0]) for what, _ in energies]
    return table[:, 0], table[:, 1], table[:, 2], groups


def _verdict(budget: str, e: Estimate | Generation, limit_j: float, says: str, notes: tuple[str, ...] = ()) -> Verdict:
    return Verdict(budget, e.trace.network, e.model.hardware, e.energy_j, limit_j, says, notes, e.minds)


def junit(verdicts: Sequence[Verdict]) -> str:
    """Return verdicts as JUnit XML: one test case a budget, a failure where it is exceeded."""
    counts = {"name": "wattlayer", "tests": str(len(verdicts)), "failures": str(sum(v.over for v in verdicts)), "errors": "0"}
    root = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(root, "testsuite", {**counts, "skipped": "0"})
    for v in verdicts:
        name = {"classname": _xml_text(f"{v.network} on {v.hardware}"), "name": _xml_text(v.budget)}
        case = ElementTree.SubElement(suite, "testcase", name)
        if v.over:
            ElementTree.SubElement(case, "failure", {"type": "OverBudget", "message": _xml_text(v.says)}).text = _xml_text(v.says)
        ElementTree.SubElement(case, "system-out").text = _xml_text("\n".join([v.says, *v.notes, *v.minds]))
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _xml_text(text: str) -> str:
    """Leave out what XML 1.0 has no way to write."""
    return re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "", text)


def github_commands(verdicts: Sequence[Verdict]) -> list[str]:
    """Return verdicts as GitHub's workflow commands, one a line: an error over a budget, a notice within, a warning a note, and
    once, whatever the number of budgets, one for each thing to mind of the prediction."""
    lines = []
    for v in verdicts:
        lines.append(_command("error" if v.over else "notice", f"{v.network} on {v.hardware}: {v.budget}", v.says))
        lines += [_command("warning", v.budget, note) for note in v.notes]
    minds = (_command("warning", f"{v.network} on {v.hardware}", text) for v in verdicts for text in v.minds)
    return [*lines, *dict.fromkeys(minds)]


def _command(level: str, title: str, text: str) -> str:
    """Escaped as the runner reads it: % and line ends everywhere, and in properties : and , too."""
    escaped = [x.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A") for x in (title, text)]
    return f"::{level} title={escaped[0].replace(':', '%3A').replace(',', '%2C')}::{escaped[1]}"
