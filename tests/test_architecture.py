"""What may import what, what a cold start may load, and the house rules that a machine can check."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "wattlayer"
SOURCES = sorted(PACKAGE.rglob("*.py"))

LEVELS: tuple[frozenset[str], ...] = tuple(
    frozenset(row.split())
    for row in (
        # level 0
        "errors quiet trace.flow kinds",
        "files layer meter trace.constants trace.composite",
        "hardware",
        # level 1a
        "features.dimensions dataset trace.meta trace.assumptions whatif.edits",
        "features.columns dataset.labels trace.call trace.hooks trace.unread",
        "features trace.results",
        # level 1b
        "trace.recorder model.cells model.roofline model.support model.folders",
        "model.scaffold model.intervals",
        "trace model.power model.kriging",
        "model.cliffs",
        "trace.folding model.residual model.launches",
        "trace.fusion",
        "trace.rewrite model.metadata model.regressor",
        "model.file",
        "model",
        # level 2
        "estimate train.transfer train.rows",
        "train.folds train.recipe dataset.tables crosscheck adapters generation.decoding",
        "train.left_out whatif.operating",
        "train train.pooling",
        "train.lessons",
        "train.calibration",
        "train.selection",
        # level 3
        "evaluate.baselines evaluate.sampling evaluate.families predict measure",
        "evaluate.scores",
        "evaluate.splits train.networks",
        "evaluate evaluate.unseen whatif.subject whatif.difference generation",
        "whatif profiling",
        "whatif.advise whatif.compare whatif.gate",
        # level 4
        "nas",
        "report",
        "zoo",
        # level 5
        "cli __init__",
        "__main__",
    )
)
"""Lowest first. A unit is a module or a whole package; it imports only from rows above its own in this list. Of a package whose
modules stand here, with a dot, each is a unit, and the package's name is its `__init__`."""

UNITS = set().union(*LEVELS)
OPEN = {unit.split(".")[0] for unit in UNITS if "." in unit}
"""Packages whose modules are units."""

UPWARD = {
    ("estimate", "report"): "Estimate.to_html is the documented call, and notebooks look their HTML up on the estimate itself",
    ("generation", "report"): "Generation.to_html is the documented call, as that of an estimate",
    ("estimate", "whatif.subject"): "what Estimate.whatif is made of",
    ("estimate", "whatif"): "Estimate.whatif is the documented call; it traces and estimates again",
    ("model", "train"): "EnergyModel.train is the documented call; a model that is only loaded needs no training",
    ("model", "train.networks"): "EnergyModel.train traces the measured networks among its rows",
    ("model", "train.transfer"): "load_model answers for every device by name; one without a model gets one from its data sheet",
}
"""Imports inside functions that go up, each with its reason."""

TORCH_AT_TOP = (
    {
        "adapters/detection",
        "adapters/scopes",
        "adapters/weightless",
        "crosscheck",
        "nas/modules",
        "trace/composite",
        "trace/constants",
        "trace/hooks",
        "trace/meta",
        "trace/call",
        "trace/unread",
        "trace/recorder",
        "trace/results",
        "whatif/edits",
    }
    | {f"adapters/pt2/{name}" for name in ("network", "program")}
    | {f"adapters/onnx/{name}" for name in ("compute", "contrib", "elementwise", "fold", "fuse", "graph", "layout", "network")}
    | {f"adapters/onnx/{name}" for name in ("operators", "tensors")}
    | {f"measure/{name}" for name in ("device", "launch", "llm", "materialise", "rebuild", "record", "shapes", "values")}
)

BANNED_WORDS = {"utils", "util", "common", "helper", "helpers", "base", "manager"}

RUNS_CODE = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal"}

UNIT = re.compile(r"(^|_)(j|s|w|c|hz|gco2|per_kwh|bytes|flop|flop_per_s|bytes_per_s|frac|octaves)$")

UNITLESS = {
    "Dimensions": "counts, codes and flags of a layer; what is in bytes ends in _bytes",
    "Recipe.learning_rate": "a share of each tree's answer",
    "Score.spearman": "rank correlation",
    "Score.kendall": "rank correlation",
    "Support.points": "cells of shape space, in octaves along every axis",
    "Metadata.support": "the same",
    "Metadata.own_support": "the same",
    "Conformal.widening": "factors on log energy",
    "Conformal.factors": "the same",
    "Conformal.never": "log energy",
    "Conformal.quantiles": "log energy",
    "Conformal.correlation": "correlation",
    "LeftOut.error": "log ratio of energies",
    "Prediction.half_width": "log energy",
    "Call.half_width": "the same",
    "Regressor.run_power_shift": "log ratio of powers",
    "Metadata.run_power_shift": "the same",
    "Scaffold.log_rates": "logarithms",
    "Lesson.log_rates": "the same",
    "Terms.l2_share": "working set over the capacity of L2",
    "Terms.further": "kernels",
    "Neighbours.lengths": "of the features that `features` names",
    "Neighbours.points": "the same",
    "Neighbours.variance": "of the target, a logarithm",
    "Neighbours.noise": "the same",
    "Neighbours.weights": "the same, over its variance",
    "Plateau.step": "of the target, a logarithm",
    "Plateau.above": "of the features that it names",
    "Plateau.up_to": "the same",
    "Metadata.log_rates": "the same",
    "MeterCharacter.ratio_to_power": "counter energy over integrated power",
    "Power.own_variance": "square of a relative deviation",
    "Range": "of the unit that the field which holds it names",
    "Account.inferences": "a count",
    "Options.minutes": "the unit is the name, as in `--minutes`",
    "Candidate.share": "of a network's time, 0..1",
    "NetworkPlan.layers": "calls and share of each layer, by digest",
}


@dataclass(frozen=True)
class Import:
    """One imported module, `wattlayer` left off where it is ours."""

    name: str
    ours: bool
    lazy: bool

    @property
    def unit(self) -> str:
        return unit_of_parts(self.name.split("."))


def unit_of_parts(parts: Sequence[str]) -> str:
    """Return the unit of a module, or of a name within a package's `__init__`."""
    inner = ".".join(parts[:2])
    return inner if parts[0] in OPEN and inner in UNITS else parts[0]


def unit_of(path: Path) -> str:
    """Return the unit that the file belongs to: in an open package each file but `__init__` is one."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:2]) if parts[0] in OPEN and parts[1] != "__init__" else parts[0]


def label(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").as_posix()


def imports(path: Path) -> Iterator[Import]:
    """Yield what runs at import (lazy False) or in a function; what only type checkers see is left out."""

    def visit(node: ast.AST, lazy: bool) -> Iterator[Import]:
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            return
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, alias.name.startswith("wattlayer"), lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from resolve(node, lazy)
        inside = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside)

    def resolve(node: ast.ImportFrom, lazy: bool) -> Iterator[Import]:
        if not node.level:
            yield Import(str(node.module), str(node.module).startswith("wattlayer"), lazy)
            return
        package = path.relative_to(PACKAGE).parts[:-1]
        root = package[: len(package) - node.level + 1]
        for name in [node.module] if node.module else [alias.name for alias in node.names]:
            yield Import(".".join((*root, name)), True, lazy)

    yield from visit(ast.parse(path.read_text()), False)


def level(unit: str) -> int:
    return next(i for i, row in enumerate(LEVELS) if unit in row)


def public(path: Path) -> Iterator[ast.ClassDef | ast.FunctionDef]:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            yield node


def test_every_module_has_its_level():
    assert {unit_of(p) for p in SOURCES} == UNITS
    assert sum(map(len, LEVELS)) == len(UNITS)


@pytest.mark.parametrize("path", SOURCES, ids=label)
def test_a_module_imports_only_from_below(path):
    own = unit_of(path)
    wrong = [
        x.name
        for x in imports(path)
        if x.ours and x.unit != own and level(x.unit) >= level(own) and not (x.lazy and (own, x.unit) in UPWARD)
    ]
    assert not wrong, f"{own} imports {wrong}"


def test_no_exception_is_left_over():
    upward = {(unit_of(p), x.unit) for p in SOURCES for x in imports(p) if x.ours and x.lazy}
    assert set(UPWARD) <= upward


def test_torch_is_imported_at_the_top_only_where_it_must_be():
    at_top = {label(p) for p in SOURCES for x in imports(p) if not x.lazy and x.name.split(".")[0] == "torch"}
    assert at_top == TORCH_AT_TOP


def test_no_module_imports_xgboost_at_the_top():
    assert not [label(p) for p in SOURCES for x in imports(p) if not x.lazy and x.name.split(".")[0] == "xgboost"]


@pytest.mark.parametrize(
    ("command", "never"),
    [
        (["-c", "import wattlayer"], {"torch", "xgboost", "pandas", "transformers", "timm", "torchvision"}),
        (["-m", "wattlayer.cli", "--help"], {"torch", "xgboost", "pandas", "transformers", "timm", "torchvision"}),
        (["-c", "import wattlayer; wattlayer.load_model('a30')"], {"torch"}),
    ],
    ids=["import", "help", "load_model"],
)
def test_a_cold_start_leaves_heavy_libraries_out(command, never):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *command], capture_output=True, text=True, cwd=PACKAGE.parent, check=True
    )
    loaded = {
        line.rsplit("|", 1)[-1].strip().split(".")[0] for line in done.stderr.splitlines() if line.startswith("import time:")
    }
    assert "wattlayer" in loaded
    assert not loaded & never


@pytest.mark.parametrize("path", SOURCES, ids=label)
def test_names_say_what_they_are(path):
    names = [path.stem, *(node.name for node in public(path))]
    words = {w for name in names for w in re.findall(r"[A-Z]?[a-z]+", name) if w.lower() in BANNED_WORDS}
    assert not words


def frozen_records(path: Path) -> Iterator[ast.ClassDef]:
    for node in public(path):
        if isinstance(node, ast.ClassDef) and any("frozen=True" in ast.unparse(d) for d in node.decorator_list):
            yield node


def float_fields() -> dict[str, str]:
    """Names of all fields that hold floats, as Record.field and as the field alone."""
    return {
        f"{record.name}.{field.target.id}": field.target.id
        for path in SOURCES
        for record in frozen_records(path)
        for field in record.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if re.search(r"\bfloat\b|\bArray\b", ast.unparse(field.annotation)) and "Callable" not in ast.unparse(field.annotation)
    }


def test_float_fields_carry_their_unit():
    found = float_fields()
    assert {"Measurement.energy_j", "Hardware.dram_bytes_per_s", "Estimate.layer_time_s"} <= set(found)
    bare = [full for full, name in found.items() if not UNIT.search(name)]
    assert not [full for full in bare if full not in UNITLESS and full.split(".")[0] not in UNITLESS]
    assert not [x for x in UNITLESS if not any(full == x or full.startswith(f"{x}.") for full in bare)]


@pytest.mark.parametrize("path", SOURCES, ids=label)
def test_public_names_are_documented(path):
    assert ast.get_docstring(ast.parse(path.read_text())), "the module itself"
    options = [node.name for node in public(path) if isinstance(node, ast.ClassDef) and "Enum" in map(ast.unparse, node.bases)]
    assert not [node.name for node in public(path) if not ast.get_docstring(node) and node.name not in options]


@pytest.mark.parametrize("path", SOURCES, ids=label)
def test_no_file_is_opened_in_a_way_that_runs_code(path):
    assert not [x.name for x in imports(path) if x.name.split(".")[0] in RUNS_CODE]
    calls = [ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    banned = {"eval", "exec", "compile", "torch.load", "torch.save", "joblib.load", "joblib.dump", "yaml.load"}
    assert not banned & set(calls)
    assert "allow_pickle" not in path.read_text()


@pytest.mark.parametrize("path", SOURCES, ids=label)
def test_no_setting_of_a_device_is_ever_changed(path):
    assert not re.findall(r"nvmlDevice(?:Set|Reset|Clear)\w*|nvmlSystemSet\w*", path.read_text())
