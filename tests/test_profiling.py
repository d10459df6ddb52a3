"""A run beside its prediction: with a meter, without one, under torch's profiler."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import wattlayer as wl
from wattlayer.errors import InputError, MeterError
from wattlayer.meter import Instrument
from wattlayer.meter.choose import AUTOMATIC
from wattlayer.profiling import ProfilerHook, _known_hardware, joules_by_operator, profile


class FakeClock:
    """Time that passes only when it is told to."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def now(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


class Counter:
    """An exact counter of `watts`; `power_j` made up."""

    name = "fake"

    def __init__(self, clock: FakeClock, watts: float = 50.0) -> None:
        self.clock, self.watts = clock, watts

    def energy_j(self) -> float:
        return 1000.0 + self.watts * self.clock.now_s


class Slow(nn.Module):
    """Takes a stated time on the fake clock."""

    def __init__(self, clock: FakeClock, seconds: float = 0.5) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
        self.clock, self.seconds = clock, seconds

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not x.is_meta:
            self.clock.sleep(self.seconds)
        return self.net(x)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


INPUTS = (torch.zeros(2, 3, 8, 8),)


def test_a_measured_run_gives_joules_per_call_beside_the_prediction(model, clock):
    module = Slow(clock).eval()
    with profile(module, INPUTS, hardware=model, meter=Counter(clock), clock=clock) as p:
        assert p.measured is None
        for _ in range(4):
            module(*INPUTS)
    assert (p.measured.calls, p.measured.energy_j, p.measured.time_s) == (4, 25.0, 0.5)
    assert p.measured.power_w == 50.0
    assert p.measured.interval_frac == pytest.approx(0.1 / 2.0)
    assert p.predicted.energy_j == wl.predict(module, *INPUTS, hardware=model, mode="eager").energy_j
    total = p.to_frame().loc["total"]
    assert (total.measured_j, total.predicted_j) == (25.0, p.predicted.energy_j)
    assert math.isnan(p.to_frame().iloc[0].measured_j)
    assert f"predicted / measured = {p.predicted.energy_j / 25.0:.3g}" in str(p) and "over 4 calls" in str(p)


def test_one_input_needs_no_tuple(model, clock):
    module = Slow(clock).eval()
    with profile(module, INPUTS[0], hardware=model, meter=Counter(clock), clock=clock) as p:
        module(*INPUTS)
        module(*INPUTS)
    assert p.predicted.energy_j == wl.predict(module, *INPUTS, hardware=model, mode="eager").energy_j
    assert "other shapes" not in p.note


def test_a_run_too_short_for_its_counter_is_an_error_not_a_number(model, clock):
    module = Slow(clock, 0.01).eval()
    with (
        pytest.raises(MeterError, match=r"1 calls in 0\.01 s are too short"),
        profile(module, INPUTS, hardware=model, meter=Counter(clock), clock=clock),
    ):
        module(*INPUTS)
    with (
        pytest.raises(MeterError, match="too short"),
        profile(module, INPUTS, hardware=model, meter=Counter(clock, watts=0.0), clock=clock),
    ):
        [module(*INPUTS) for _ in range(100)]


def test_a_block_lasts_for_two_steps_of_its_counter_at_least(model, clock):
    with (
        pytest.raises(MeterError, match="too short"),
        profile(module := Slow(clock, 0.19).eval(), INPUTS, hardware=model, meter=Counter(clock), clock=clock),
    ):
        module(*INPUTS)
    clock.now_s, module.seconds = 0.0, 0.2
    with profile(module, INPUTS, hardware=model, meter=Counter(clock), clock=clock) as p:
        module(*INPUTS)
    assert (p.measured.energy_j, p.measured.interval_frac) == (10.0, 0.5)


def test_an_error_in_the_block_is_the_users_own(model, clock):
    module = Slow(clock).eval()
    with pytest.raises(ZeroDivisionError), profile(module, INPUTS, hardware=model, meter=Counter(clock), clock=clock):
        print(1 / 0)
    assert not module._forward_hooks


def test_no_call_and_other_shapes_are_said(model, clock):
    module = Slow(clock).eval()
    with profile(module, INPUTS, hardware=model, meter=Counter(clock), clock=clock) as p:
        pass
    assert p.measured is None and "was not called" in p.note and "not measured" in str(p)
    with profile(module, INPUTS, hardware=model, meter=Counter(clock), clock=clock) as p:
        module(*INPUTS)
        module(torch.zeros(1, 3, 8, 8))
    assert "1 of 2 calls had other shapes" in p.note


def test_without_a_meter_it_predicts_and_says_so(model, monkeypatch):
    monkeypatch.setitem(AUTOMATIC, "cpu", ())
    module = nn.Sequential(nn.Conv2d(3, 8, 3)).eval()
    with profile(module, INPUTS, hardware=model) as p:
        module(*INPUTS)
    assert p.measured is None and p.note.startswith("Predicted only: no meter")
    with pytest.raises(InputError, match="nvmll"):
        profile(module, INPUTS, hardware=model, meter="nvmll")
    with pytest.raises(MeterError, match="assumed power"):
        profile(module, INPUTS, hardware=model, meter="assumed-power", assumed_power_w=-1.0)


def test_the_device_at_hand_is_predicted_for_only_where_it_has_a_model_of_its_own(monkeypatch):
    for board, expected in (("Intel(R) Xeon(R) Gold 5120 CPU @ 2.20GHz", "xeon-gold-5120"), ("NVIDIA GeForce RTX 3090", "a30")):
        monkeypatch.setattr("wattlayer.hardware.detect.processor_name", lambda board=board: board)
        name, note = _known_hardware(nn.Linear(2, 2))
        assert name == expected and (f"No model of {board}: predicted for a30" in note) == (expected == "a30")


def test_an_assumed_power_is_called_by_its_name(model, clock, monkeypatch):
    monkeypatch.setattr("wattlayer.meter.SystemClock.now", lambda _: clock.now())
    module = Slow(clock).eval()
    with profile(module, INPUTS, hardware=model, meter="assumed-power", assumed_power_w=10.0) as p:
        module(*INPUTS)
    assert p.measured.meter == "assumed-power"
    assert p.measured.power_w == pytest.approx(10.0) and p.measured.time_s == pytest.approx(0.5)


def test_a_printed_profile_says_what_is_to_be_minded_of_its_prediction(model):
    with torch.device("meta"):
        module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Mish()).eval()
    run = profile(module, torch.empty(2, 3, 16, 16, device="meta"), hardware="h100-pcie", meter=None)
    assert {"nothing was", "100.0% of t"} <= {text[:11] for text in run.predicted.minds}
    assert str(run).splitlines()[1 : 1 + len(run.predicted.minds)] == list(run.predicted.minds)


def test_the_profiler_hook_puts_joules_beside_profiled_times(model):
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(288, 4)).eval()
    estimate = wl.predict(module, *INPUTS, hardware=model)
    hook = ProfilerHook(estimate)
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.inference_mode(), torch.profiler.profile(activities=activities, on_trace_ready=hook):
        for _ in range(3):
            module(*INPUTS)
    assert hook.frame is not None and list(hook.frame.calls_seen) == [3, 3, 3]
    assert set(hook.frame.index) == {"conv2d", "relu", "linear"}
    assert (hook.frame.profiled_time_s > 0).all()
    assert hook.frame.predicted_j.sum() == pytest.approx(estimate.energy_j)


def test_profiled_microseconds_are_of_the_device_where_it_was_profiled(model):
    estimate = wl.predict(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval(), *INPUTS, hardware=model)
    events = (
        ("aten::conv2d", 3, 0.0, 1500.0),
        ("aten::relu", 1, 20.0, 90.0),
        ("aten::relu_", 2, 5.0, 70.0),
        ("aten::add", 1, 1, 1),
    )
    seen = [SimpleNamespace(key=k, count=n, device_time_total=d, cpu_time_total=c) for k, n, d, c in events]
    frame = joules_by_operator(SimpleNamespace(key_averages=lambda: seen), estimate)
    assert dict(frame.calls_seen) == {"conv2d": 3, "relu": 3}
    assert dict(frame.profiled_time_s) == {"conv2d": pytest.approx(1.5e-3), "relu": pytest.approx(25e-6)}


def test_an_estimate_in_a_prompt_is_one_line(model):
    estimate = wl.predict(nn.Sequential(nn.Conv2d(3, 8, 3)).eval(), *INPUTS, hardware=model)
    assert repr(estimate).startswith("<Estimate Sequential on a30: ") and "\n" not in repr(estimate)


def test_a_notebook_shows_an_estimate_in_the_pages_own_colours(model):
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Mish()).eval()
    html = wl.predict(module, *INPUTS, hardware=model)._repr_html_()
    assert "conv2d" in html and "never measured" in html and "mish" in html and "%" in html
    assert "<script" not in html and "color:#" not in html
    [assumed] = wl.predict(module, *INPUTS, hardware="a30").assumptions
    assert assumed in wl.predict(module, *INPUTS, hardware="a30")._repr_html_()


def test_a_profile_that_is_entered_again_counts_anew_and_leaves_no_hook(model, clock):
    module, x = Slow(clock).eval(), torch.zeros(2, 3, 16, 16)
    run = profile(module, x, hardware=model, meter=Counter(clock), clock=clock)
    for _ in range(2):
        with run:
            module(x)
        assert run.measured.calls == 1 and run.measured.energy_j == pytest.approx(25.0)

    class Broken(Counter):
        def energy_j(self) -> float:
            raise MeterError("gone")

    with pytest.raises(MeterError, match="gone"), profile(module, x, hardware=model, meter=Broken(clock), clock=clock):
        pass
    assert not module._forward_hooks


def test_powers_are_no_counter_of_a_block(model, clock):
    power = Counter(clock)
    power.name, power.adds_up_powers = "nvml-power", True
    with pytest.raises(MeterError, match="nvml-power is a power and no energy counter"):
        profile(nn.Linear(4, 4), torch.zeros(1, 4), hardware=model, meter=Instrument("nvml", (power,)))
