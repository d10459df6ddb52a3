"""Sweeps over libraries: outcomes, journals that go on, and samples of every zoo."""

from __future__ import annotations

import gc
import json
import signal
import time
from importlib.util import find_spec

import pytest
import torch
from conftest import needs_torchvision
from torch import nn

from wattlayer.cli.zoo import _text as cli_text
from wattlayer.errors import InputError
from wattlayer.kinds import KINDS
from wattlayer.trace import trace
from wattlayer.trace.unread import Reads
from wattlayer.zoo import Outcome, _alarm, _counted, sweep, visit, zoo_names

SMALL = ["torchvision:mobilenet_v3_small", "torchvision:quantized_resnet18"]


def needs(source: str) -> None:
    if find_spec({"hf": "transformers"}.get(source, source)) is None:
        pytest.skip(f"{source} is not installed")


@needs_torchvision
def test_a_sweep_tells_what_was_traced_and_why_the_rest_was_not():
    traced, refused = sweep(SMALL)
    assert traced.traced and traced.calls > 100 and traced.flop > 1e8
    assert not refused.traced and refused.calls is None and "int8 kernels" in refused.reason


@needs_torchvision
def test_what_a_sweep_could_hide_is_told():
    clip, llava = visit("torchvision:mobilenet_v3_small"), None
    assert clip.unread_frac == 0 and clip.unknown_bytes_frac == 0 and clip.unknown_kinds == ()
    if find_spec("transformers"):
        llava = visit("hf:llava")
        assert 0.04 < llava.unread_frac < 0.05  # its vision tower: the default input is text


def test_unread_parameters_are_those_no_operator_takes():
    module = nn.ModuleDict({"used": nn.Linear(3, 1, bias=False), "idle": nn.Linear(9, 1, bias=False)})
    with Reads() as reads:
        module["used"](torch.randn(2, 3).to(module["idle"].weight.dtype))
    assert reads.unread_frac(module) == 0.75
    assert Reads().unread_frac(nn.Identity()) == 0
    with Reads() as reads:
        torch.randn(2, 3) @ module["used"].weight.T
    assert reads.unread_frac(module) == 0.75


@needs_torchvision
def test_a_stopped_sweep_goes_on_where_it_was(tmp_path):
    journal = tmp_path / "zoo.jsonl"
    first = list(sweep(SMALL[:1], journal=journal))
    with journal.open("a") as file:
        file.write('{"network": "cut o')
    again = list(sweep(SMALL, journal=journal))
    assert again[:1] == first  # to the digit of its seconds: it was not traced again
    assert [json.loads(line)["network"] for line in journal.read_text().splitlines()] == SMALL


SHORT = '{"network": "x", "reason": null, "elapsed_s": 1.0, "cpu_s": 1.0}\n'
"""Lacks what a sweep always writes."""


@pytest.mark.parametrize("text", ["[]\n", "{}\n", "no\n", '{"network": 1}\n', SHORT])
def test_a_journal_of_something_else_is_refused_with_its_line(tmp_path, text):
    journal = tmp_path / "zoo.jsonl"
    journal.write_text(text)
    with pytest.raises(InputError, match="line 1 is no outcome"):
        list(sweep(SMALL, journal=journal))
    assert journal.read_text() == text


def outcome(network: str, **known) -> Outcome:
    return Outcome(network, None, 1.0, 0.5, calls=1, flop=1, **known)


def test_the_worst_kind_without_a_formula_is_named():
    mild = outcome("timm:a", unknown_kinds=("odd",), unknown_bytes_frac=0.001)
    worst = outcome("timm:b", unknown_kinds=("odder", "odd"), unknown_bytes_frac=0.02)
    assert "odder in timm:b, 2.0000% of its bytes" in cli_text([mild, worst], 1.0)
    assert "every kind of operator met has a FLOP formula" in cli_text([outcome("timm:c", unknown_bytes_frac=0.0)], 1.0)


def test_constructors_that_run_a_backbone_are_built():
    needs("timm")
    hybrid = visit("timm:vit_small_resnet26d_224")  # runs its backbone on zeros to learn how wide its output is
    assert hybrid.traced and hybrid.calls == 186, hybrid.reason


class Odd(nn.Module):
    """Two kinds of operators, one of which moves more."""

    def forward(self, x):
        return x.cumsum(1).cumsum(0) + x.flip(0)


def test_kinds_without_a_formula_are_ordered_by_their_bytes(monkeypatch):
    for kind in ("flip", "cumsum"):
        monkeypatch.delitem(KINDS, kind)
    counted = _counted(trace(Odd(), torch.ones(9, 5)), (1.0, 1.0), 0.0)
    assert counted.unknown_kinds == ("cumsum", "flip")
    assert counted.unknown_bytes_frac == pytest.approx(6 / 9)


@needs_torchvision
def test_the_command_prints_what_it_found(run, monkeypatch):
    only = ("zoo", "torchvision", "--match", "squeezenet1_1", "--jobs", "1")
    code, out, _ = run(*only, "--format", "json")
    (network,) = json.loads(out)["networks"]
    assert (code, network["network"], network["reason"]) == (0, "torchvision:squeezenet1_1", None) and network["cpu_s"] > 0
    assert "covered_frac" in run(*only)[1]
    monkeypatch.setattr("wattlayer.cli.output.narrow", lambda *_: True)
    slim = run(*only)[1].splitlines()[0]
    assert "refused" in slim and "covered_frac" not in slim


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("torch",), "no zoo 'torch'"),
        (("timm", "--match", "nothing like it"), "no network's name contains"),
        (("timm", "--jobs", "0"), "jobs 0"),
        (("timm", "--jobs", "-5"), "jobs -5"),
        (("timm", "--format", "csv"), "csv"),
        (("timm", "--match", "resnet18", "--journal", "no/such/folder.jsonl"), "no/such/folder.jsonl cannot be"),
    ],
)
def test_a_sweep_that_cannot_be_done_is_refused_in_one_line(run, arguments, told):
    needs("timm")
    code, out, err = run("zoo", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1) and told in err


@needs_torchvision
def test_the_share_of_energy_in_measured_kinds_is_told_where_hardware_is_named():
    outcome = visit(SMALL[0], hardware="a30")
    assert 0.5 < outcome.covered_frac <= 1 and (outcome.covered_frac == 1) == (not outcome.uncovered_kinds)


@needs_torchvision
def test_what_takes_too_long_is_refused_and_the_timer_is_gone():
    handler = signal.getsignal(signal.SIGPROF)
    outcome = visit(SMALL[0], time_limit_s=0.01)
    assert "not traced within 0.01 s of processor time" in outcome.reason
    assert signal.getsignal(signal.SIGPROF) == handler and signal.getitimer(signal.ITIMER_PROF)[0] == 0


def burn(cpu_s: float) -> None:
    end = time.process_time() + cpu_s
    while time.process_time() < end:
        pass


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("after_s", [0.0, 3.0])
def test_a_limit_that_passes_while_python_swallows_errors_still_holds(after_s):
    """As in callbacks of the garbage collector: what ends soon is refused at its end, what goes on is interrupted again."""
    started, reached = time.process_time(), []

    def collecting(phase: str, _: dict) -> None:
        if not reached:
            reached.append(phase)
            burn(0.2)

    gc.callbacks.append(collecting)
    try:
        with pytest.raises(InputError, match=r"not traced within 0\.05 s of processor time"), _alarm(0.05):
            gc.collect()
            burn(after_s)
    finally:
        gc.callbacks.remove(collecting)
    assert reached and time.process_time() - started < 2.5
    assert signal.getitimer(signal.ITIMER_PROF)[0] == 0


def test_an_unknown_zoo_is_refused():
    with pytest.raises(InputError, match="known: torchvision, timm, hf"):
        zoo_names("onnx")


@pytest.mark.parametrize(
    "name",
    ["bros", "glm_ocr_vision", "exaone4_5_vision", "glmasr_encoder", "canary", "qwen2_5_vl_vision", "whisper", "speech_to_text"],
)
def test_inputs_come_from_the_configuration(name):
    needs("hf")
    if f"hf:{name}" not in zoo_names("hf") and name.endswith("_vision"):
        pytest.skip("not part of this transformers")
    outcome = visit(f"hf:{name}")
    assert outcome.traced, outcome.reason


@pytest.mark.slow
@pytest.mark.parametrize(("source", "least_frac"), [("torchvision", 0.9), ("timm", 1.0), ("hf", 0.9)])
def test_whole_zoos(source, least_frac):
    needs(source)
    outcomes: list[Outcome] = list(sweep(zoo_names(source), n_jobs=-1))
    refused = {x.network: x.reason for x in outcomes if not x.traced}
    assert len(refused) <= (1 - least_frac) * len(outcomes), refused
