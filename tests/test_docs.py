"""The documentation builds without a warning, and everything in it that can be typed does what it says."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SyntheticDevice, draw_layers, needs_torchvision
from torch import nn

import wattlayer as wl
from wattlayer.model.power import CONSUMERS
from wattlayer.report.quantities import between

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```", re.DOTALL | re.MULTILINE)

PARSED_ONLY = ("on the device", "takes minutes")
"""Titles of blocks whose commands are not run: they need a meter, or more time than a test has."""

NOT_RUN = ("pip install", "git clone")
"""Installing is tried in an empty environment, apart."""


@dataclass(frozen=True)
class Block:
    """A code block with its language and what stands behind it."""

    language: str
    info: str
    code: str

    @property
    def parsed_only(self) -> bool:
        """Whether its commands are not run."""
        return self.title in PARSED_ONLY

    @property
    def title(self) -> str | None:
        found = re.search(r'title="([^"]+)"', self.info)
        return found[1] if found else None


def blocks(page: Path) -> list[Block]:
    return [Block(*match.groups()) for match in FENCE.finditer(page.read_text())]


def commands(block: Block) -> Iterator[list[str]]:
    for line in block.code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield words


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with what a reader has: a network of their own, and layers measured elsewhere (here: a synthetic device's)."""
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "path" / "to" / "net.py"
    source.parent.mkdir(parents=True)
    source.write_text("from torch import nn\n\n\ndef factory():\n    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())\n")
    header = "hardware,layer_repr,input_shape,dtype,tf32,time_s,energy_j\n"
    (tmp_path / "measured.csv").write_text(header + "".join(_rows()))
    return tmp_path


def _rows() -> Iterator[str]:
    for m in SyntheticDevice().measure(draw_layers(60)):
        layer = m.layer
        assert layer is not None
        weight, x = layer.operand("weight"), layer.inputs[0].shape
        if layer.kind == "conv2d" and weight is not None:
            text = f"Conv2d({x[1]}, {weight.shape[0]}, kernel_size=({weight.shape[2]}, {weight.shape[3]}), stride=(1, 1))"
        elif layer.kind == "linear" and weight is not None:
            text = f"Linear(in_features={x[-1]}, out_features={weight.shape[0]}, bias=True)"
        else:
            text = "ReLU()"
        yield f'a30,"{text}",{"x".join(map(str, x))},float32,conv,{m.time_s},{m.energy_j}\n'


def test_pages_and_commands_are_found():
    found = [words for page in PAGES for b in blocks(page) if b.language == "sh" for words in commands(b)]
    assert {"predict", "whatif", "advise", "train", "measure"} <= {words[1] for words in found if words[0] == "wattlayer"}
    assert len(PAGES) >= 8


QUICK = ("index", "report", "gate", "measuring", "method", "limits", "api")


@needs_torchvision
@pytest.mark.parametrize(
    "page", [p if p.stem in QUICK else pytest.param(p, marks=pytest.mark.slow) for p in PAGES], ids=lambda page: page.stem
)
def test_what_a_page_says_can_be_typed(page, workplace, run):
    """Blocks run from top to bottom in one folder, Python in one namespace."""
    names = {"module": nn.Sequential(nn.Conv2d(3, 8, 3)).eval(), "inputs": (torch.zeros(1, 3, 16, 16),), "wl": wl}
    for block in blocks(page):
        if block.title:
            (workplace / block.title).parent.mkdir(parents=True, exist_ok=True)
            (workplace / block.title).write_text(block.code)
        elif block.language == "python":
            exec(compile(block.code, f"{page.name}", "exec"), names)
        elif block.language == "sh" and not any(text in block.code for text in NOT_RUN):
            for words in commands(block):
                _type(words, block, run)


def _type(words: list[str], block: Block, run) -> None:
    assert words[0] in ("wattlayer", "python", "mkdocs"), f"{words}: what is this command?"
    if words[0] != "wattlayer":
        return
    if block.parsed_only:
        code, _, err = run(words[1], "--help")
    elif "--show-completion" in words:
        code, err = subprocess.run([sys.executable, "-m", "wattlayer.cli", *words[1:]], check=False).returncode, ""
        code = 0 if code in (0, 1) else code  # 1: no shell is found around a test
    else:
        code, _, err = run(*words[1:])
    allowed = (0, 1) if any(word.startswith("--budget") for word in words) else (0,)
    assert code in allowed, f"{shlex.join(words)}: {err}"


def test_every_option_of_a_command_for_a_device_exists(run):
    for page in PAGES:
        for block in blocks(page):
            if block.language == "sh" and block.parsed_only:
                for words in commands(block):
                    shown = run(words[1], "--help")[1]
                    assert not [w for w in words if w.startswith("--") and w not in shown], words


def test_the_documentation_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # a fence that the site's own dialect does not take for one swallows all up to the next
    assert not [page for page in (tmp_path / "site").rglob("*.html") if "```" in page.read_text()]
    text = (tmp_path / "site" / "api" / "index.html").read_text()
    missing = [name for name in wl.__all__ if f">{name}<" not in text and f'.{name}"' not in text]
    assert not missing


def test_what_the_python_page_lists_is_there():
    """A name that moved is left out of the page without a word."""
    page = (ROOT / "docs" / "api.md").read_text()
    listed = re.findall(r"^::: (\S+)\n    options:\n      members: \[(.*)\]\n", page, re.MULTILINE)
    assert len(listed) > 20
    for place, members in listed:
        module = import_module(place)
        for name in members.split(", "):
            own = getattr(getattr(module, name), "__module__", place) == place
            assert own or name in module.__all__, f"{place}.{name}"


@pytest.mark.parametrize("notebook", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda x: x.stem)
def test_what_a_notebook_imports_is_there(notebook):
    """Notebooks are run in the slow tests alone."""
    cells = json.loads(notebook.read_text())["cells"]
    code = "".join("".join(cell["source"]) + "\n" for cell in cells if cell["cell_type"] == "code")
    for module, names in re.findall(r"^from (wattlayer[\w.]*) import ([\w, ]+)$", code, re.MULTILINE):
        assert not [name for name in names.split(", ") if not hasattr(import_module(module), name)], module


def test_every_public_name_says_what_it_is():
    bare = []
    for name in wl.__all__:
        value = getattr(wl, name)
        if callable(value) and not (value.__doc__ or "").strip():
            bare.append(name)
    assert not bare


def test_every_member_of_a_public_class_says_what_it_is():
    bare = []
    for name in wl.__all__:
        members = vars(getattr(wl, name)).items() if inspect.isclass(getattr(wl, name)) else ()
        bare += [f"{name}.{member}" for member, value in members if not member.startswith("_") and _undocumented(value)]
    assert not bare


def _undocumented(value: object) -> bool:
    kinds = (property, cached_property, staticmethod, classmethod)
    return (isinstance(value, kinds) or inspect.isfunction(value)) and not (inspect.getdoc(value) or "").strip()


PROMISED = (
    "estimate.py", "whatif/*.py", "report/export.py", "trace/rewrite.py", "trace/folding.py", "profiling.py", "model/__init__.py",
)  # fmt: skip


def test_public_methods_are_documented_or_plain_properties():
    """Methods that take arguments say what they do; a property of few words says it by its name and unit."""
    bare = []
    promised = [sorted((ROOT / "wattlayer").glob(name)) for name in PROMISED]
    assert all(promised)
    for path in chain(*promised):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                methods = [m for m in node.body if isinstance(m, ast.FunctionDef) and not m.name.startswith("_")]
                bare += [
                    f"{node.name}.{m.name}"
                    for m in methods
                    if not ast.get_docstring(m) and not m.decorator_list and m.name != "forward"
                ]
    assert not bare


# --- terminals


def typed(words: list[str], columns: int) -> str:
    """Return what a command shows on a real pseudo-terminal of this width, without colours; refuse a colour."""
    pexpect = pytest.importorskip("pexpect")
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm-256color", "NO_COLOR": "1"}
    child = pexpect.spawn(
        sys.executable, ["-m", "wattlayer.cli", *words], env=environment, dimensions=(50, columns), timeout=60, encoding="utf-8"
    )
    text = child.read()
    assert not re.search(r"\x1b\[(?:\d+;)*(?:3[0-8]|4[0-8]|9[0-7])[;m]", text), "a colour"
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)


@pytest.mark.parametrize(
    ("command", "shown", "columns"),
    [
        (["whatif", "--batch", "4..8"], "--batch 8", 40),
        (["whatif", "--batch", "4..8"], "--batch 8", 80),
        (["compare", "--batch", "4,8"], "batch 8", 40),
    ],
)
def test_narrow_terminals_fold_and_no_colour_means_none(command, shown, columns, workplace):
    net = f"{workplace / 'path' / 'to' / 'net.py'}:factory"
    text = typed([command[0], net, "--input", "4x3x64x64", *command[1:]], columns)
    assert shown in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= columns


def test_a_narrow_table_keeps_whole_energies(workplace):
    text = typed(["predict", f"{workplace / 'path' / 'to' / 'net.py'}:factory", "--input", "4x3x64x64"], 40)
    assert re.search(r"^0 +conv2d.* [\d.]+ [mµ]J +[\d.]+%", text, re.MULTILINE), text
    assert "a wider terminal shows more columns" in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 40


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["hardware"], 0),
        (["predict", "NET", "--hardware", "h200-sxm", "--format", "csv", "--budget-j", "1e-9"], 1),
        (["predict", "NET", "--hardware", "nowhere"], 2),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else str(x),
)
def test_the_reader_of_a_pipe_may_leave_and_the_exit_code_stays(arguments, code, tmp_path):
    net = tmp_path / "net.py"
    net.write_text("from torch import nn\n\n\ndef net():\n    return nn.Sequential(*(nn.Conv2d(3, 3, 3) for _ in range(30)))\n")
    words = [x.replace("NET", f"{net}:net") for x in arguments] + ["--input", "1x3x99x99"] * ("NET" in arguments)
    typed_words = [sys.executable, "-m", "wattlayer.cli", *words]
    both = subprocess.Popen(typed_words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    command = subprocess.Popen(typed_words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert both.stdout is not None and command.stdout is not None and command.stderr is not None
    both.stdout.close()  # before the first byte is written
    command.stdout.close()
    err = command.stderr.read()
    command.stderr.close()
    assert (command.wait(), both.wait()) == (code, code)
    assert "Traceback" not in err and "Exception ignored" not in err and "Broken pipe" not in err
    assert err.count("\n") == (0 if code == 0 else 1)


def test_a_reader_of_stderr_that_leaves_does_not_change_the_exit_code(tmp_path):
    """A small network on the A30 says that launches are most of it, beside its CSV, before its budget is judged."""
    net = tmp_path / "net.py"
    net.write_text("from torch import nn\n\n\ndef net():\n    return nn.Conv2d(3, 3, 3)\n")
    words = ["predict", f"{net}:net", "--input", "1x3x99x99", "--hardware", "a30", "--format", "csv", "--budget-j", "1e-9"]
    command = subprocess.Popen([sys.executable, "-m", "wattlayer.cli", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert command.stdout is not None and command.stderr is not None
    command.stderr.close()
    assert command.stdout.read().startswith(b"index,") and command.wait() == 1
    command.stdout.close()


def test_a_shell_completes_commands_options_and_formats():
    def completed(words: str, position: int) -> list[str]:
        asked = {"_WATTLAYER_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(position)}
        command = [sys.executable, "-c", "import sys; sys.argv = ['wattlayer']; from wattlayer.cli import main; main()"]
        return subprocess.run(command, env={**os.environ, **asked}, capture_output=True, text=True, check=True).stdout.split()

    assert completed("wattlayer com", 1) == ["compare"]
    assert completed("wattlayer predict --budget-f", 2) == ["--budget-frac-of"]
    assert "speedscope" in completed("wattlayer predict --format ", 3)


def test_a_pipe_gets_plain_text():
    done = subprocess.run([sys.executable, "-m", "wattlayer.cli", "hardware"], capture_output=True, text=True, check=True)
    assert "\x1b" not in done.stdout and done.stderr == ""


def test_figures_in_the_readme_are_those_of_the_evaluation_that_the_card_was_written_from():
    """Those of the table are written by models/build.py; these stand in sentences."""
    scores = json.loads((ROOT / "models" / "evaluations" / "h200-sxm.json").read_text())["scores"]
    at = {(s["split"], s["subset"], s["predictor"]): s["mdape_frac"] for s in scores if s["unit"] == "network"}
    text = " ".join((ROOT / "README.md").read_text().split())
    for predictor, joined in (
        ("wattlayer", "{:.1f} % in graph mode and {:.1f} % in eager"),
        ("XGBoost, raw shapes", "{:.1f} and {:.1f} %"),
    ):
        told = [joined.format(*(100 * at["task", mode, predictor] for mode in ("graph", "eager")))]
        told.append(
            "unseen networks: {:.1f} and {:.1f} %".format(*(100 * at["network", mode, predictor] for mode in ("graph", "eager")))
        )
        for figure in told:
            assert figure in text, figure
    (floor,) = {s["noise_floor_frac"] for s in scores if s["split"] == "layer"}
    assert f"scatter by {floor:.1%} ".replace("%", " %") in text


def test_pages_tell_of_coverage_and_correlation_what_models_and_evaluations_say():
    scores = json.loads((ROOT / "models" / "evaluations" / "h200-sxm.json").read_text())["scores"]
    inside = {
        (s["split"], s["subset"]): f"{100 * s['coverage_frac']:.0f}"
        for s in scores
        if s["unit"] == "network" and s["predictor"] == "wattlayer"
    }
    graph, eager, *of_tasks = (inside[split, mode] for split in ("network", "task") for mode in ("graph", "eager"))
    limits, method = (" ".join((ROOT / "docs" / f"{name}.md").read_text().split()) for name in ("limits", "method"))
    tasks = f"and {of_tasks[0]} and {of_tasks[1]} % of those of an unseen task"
    assert f"cover {graph} % of the passes of unseen networks in graph mode and {eager} % in eager mode, {tasks}" in limits
    assert (
        f"{graph} % of the passes of unseen networks in graphs and {eager} % in eager mode lie in their intervals, {tasks}"
        in method
    )
    shipped = [x.stem for x in (ROOT / "models" / "evaluations").glob("*.json")]
    rho = {name: f"{wl.load_model(name).metadata.conformal.correlation:.2f}" for name in shipped}
    assert (
        f"0.13 on the H200, and is now {rho['h200-sxm']} (A30 0.04, now {rho['a30']}; 2080 Ti 0.03, {rho['rtx2080ti']};" in method
    )
    assert f"GTX 1080 Ti 0.45, {rho['gtx1080ti']}; GTX 1070 0.50, {rho['gtx1070']};" in method
    assert f"Xeon 0.53, {rho['xeon-gold-5120']}; Jetson 0.08, {rho['jetson-nano']})" in method
    assert f"and is {wl.load_model('h100-sxm').metadata.conformal.correlation:.2f}. By device alone it was 0.03" in method
    matrix_w = wl.load_model("h200-sxm").metadata.consumers_w[CONSUMERS.index("matrix")]
    assert f"for matrix products: 143 W then, {matrix_w:.0f} W now" in method


def test_pages_tell_of_bounds_what_evaluations_say():
    records = {x.stem: json.loads(x.read_text())["scores"] for x in (ROOT / "models" / "evaluations").glob("*.json")}
    ours = {
        (name, s["unit"], s["split"], s["subset"]): s
        for name, own in records.items()
        for s in own
        if s["predictor"] == "wattlayer"
    }
    shares = [
        (key, s) for key, s in ours.items()
        if key[1] == "layer" and key[2] in ("layer", "family", "campaign", "size") and key[3] == "all"
    ]  # fmt: skip
    outside = [(key, s) for key, s in shares if not 0.87 <= s["coverage_frac"] <= 0.93]
    apart = [(key, s) for key, s in outside if s["coverage_low_frac"] > 0.93 or s["coverage_high_frac"] < 0.87]
    method, training = (" ".join((ROOT / "docs" / f"{name}.md").read_text().split()) for name in ("method", "training"))
    assert f"The cards give {len(shares)} shares" in method
    assert f"Of these, {len(shares) - len(outside)} lie within 87 to 93 %." in method
    assert f"bounds of {len(outside) - len(apart)} of the others reach into that range" in method
    (((name, _, split, _), one),) = apart
    bounds = between(one["coverage_low_frac"], one["coverage_high_frac"]).replace("–", " to ").replace("%", " %")
    assert (name, split) == ("gtx1080ti", "campaign") and f"GTX 1080 Ti's campaigns ({bounds}) do not" in method
    graph, layer = ours["h200-sxm", "network", "network", "graph"], ours["h200-sxm", "layer", "layer", "embedding"]
    percent = {x: [f"{100 * s[f'mdape{x}_frac']:.1f}" for s in (graph, layer)] for x in ("", "_low", "_high")}
    told = (
        f"in graphs, {percent[''][0]} %, is known within {percent['_low'][0]} and {percent['_high'][0]} %: {graph['rows']} passes"
    )
    assert told in method
    told = f"{layer['rows']} rows of embeddings, for instance, are {percent[''][1]} % off as unseen layers, within bounds of"
    assert f"{told} {percent['_low'][1]} and {percent['_high'][1]} %" in training


def test_pages_tell_of_launches_what_models_say():
    limits, method, hardware = (
        " ".join((ROOT / "docs" / f"{x}.md").read_text().split()) for x in ("limits", "method", "hardware")
    )
    h200, sheet = wl.load_model("h200-sxm").launches, wl.load_model("h100-sxm").launches
    assert f"(on the H200 a = {h200.displaced_time_frac:.2f}, b = {h200.displaced_energy_frac:.2f})" in method
    assert f"take {100 * h200.displaced_time_frac:.0f} % longer in a network" in limits
    assert f"host fitted to the others ({100 * h200.mode_spread_frac:.1f} % on the H200" in method
    assert h200.sum_spread_frac == 0 and "On the H200 r is 0 " in method
    least, most = (1e6 * f(sheet.host_s.values()) for f in (min, max))
    assert f"{least:.0f} to {most:.0f} µs an operator, by group of kinds. It may be three times as slow" in limits
    assert f"{least:.0f} to {most:.0f} us per operator. Its interval allows for a host three times as slow" in hardware
    assert round(1 + sheet.spread_frac) == 3
    floors_us = {
        name: {cell: float(np.exp(rates[0])) for cell, rates in wl.load_model(name).metadata.log_rates.items() if "@" not in cell}
        for name in ("a30", "rtx2080ti")
    }
    lowest, norm = min(floors_us["a30"].values()), floors_us["rtx2080ti"]["cell:batch_norm"]
    assert f"({lowest:.0f} us for the lowest kind on the A30, {norm:.0f} us for batch norm on the RTX 2080 Ti)" in hardware
    *mostly, _ = sorted(floor for cell, floor in floors_us["a30"].items() if cell.startswith("cell:conv2d"))
    assert f"convolutions on the A30: mostly {mostly[0]:.0f} to {mostly[-1]:.0f} µs" in limits


def test_the_readme_tells_of_data_sheets_what_the_page_of_hardware_tells():
    page, text = (ROOT / "docs" / "hardware.md").read_text(), " ".join((ROOT / "README.md").read_text().split())
    told = dict(re.findall(r"^\| ([^|]+?) \| [\d,]+ \| ([\d.]+ %) \| [\d.]+ % \|$", page, re.MULTILINE))
    assert len(told) == 7
    for name, error in told.items():
        found = f"of the {name.removesuffix(', layers')} of {error}" if name.startswith(("RTX", "GTX")) else error
        assert found in text, name
