"""From a campaign on the simulated rig to a trained model that predicts networks it never saw, against the rig's exact truth."""

from __future__ import annotations

import statistics

import pytest
from rig import (
    BYTES_PER_S,
    LAUNCH_S,
    PEAK_FLOP_PER_S,
    Device,
    SimulatedRig,
    Thermals,
    layer_segment,
    simulated_measurements,
    true_energy_j,
)  # fmt: skip

from wattlayer import EnergyModel, estimate
from wattlayer.adapters import resolve
from wattlayer.hardware import HARDWARE, Hardware
from wattlayer.measure.plan import Wanted
from wattlayer.measure.propose import propose, traced_network
from wattlayer.measure.rig import NetworkCall

MEASURED = ("resnet50", "mobilenet_v2", "efficientnet_b0", "densenet121", "vgg16", "regnet_y_400mf", "vit_b_16", "swin_t")
UNSEEN = (
    "resnet18", "resnet34", "resnet101", "resnext50_32x4d", "wide_resnet50_2", "vgg11", "vgg13_bn", "vgg19", "densenet169",
    "mobilenet_v3_large", "mobilenet_v3_small", "mnasnet1_0", "efficientnet_b1", "efficientnet_b2", "regnet_x_800mf",
    "regnet_y_1_6gf", "shufflenet_v2_x1_0", "squeezenet1_1", "convnext_tiny", "googlenet",
)  # fmt: skip

SIMULATED = Hardware(
    "simulated", "the tests' rig", tuple(PEAK_FLOP_PER_S.items()), BYTES_PER_S, l2_bytes=40e6, units=100, clock_hz=1.7e9,
    idle_w=120.0, max_w=700.0, launch_s=LAUNCH_S, sources=("made up",),
)  # fmt: skip


@pytest.fixture
def _registered(monkeypatch):
    monkeypatch.setitem(HARDWARE, "simulated", SIMULATED)


@pytest.mark.slow
@pytest.mark.usefixtures("_registered")
def test_a_model_trained_on_400_measured_layers_predicts_20_unseen_networks(tmp_path, capsys):
    networks = tuple(f"torchvision:{name}" for name in MEASURED)
    rig = SimulatedRig(Device(thermals=Thermals(leak_w_per_k=0.1)))
    plan = propose(Wanted(networks, ("float16",), 400), rig, "end-to-end", resolve)
    rows = simulated_measurements(plan, rig, tmp_path / "rows.jsonl")
    assert len({row.layer for row in rows}) >= 380
    model = EnergyModel.train(rows, seed=0)
    errors = []
    for name in UNSEEN:
        trace = traced_network(NetworkCall(f"torchvision:{name}", 8, "float16", "none"), resolve)
        truth_j = true_energy_j([layer_segment(layer) for layer in trace.layers], rig.device)
        errors.append(abs(estimate(trace, model).energy_j / truth_j - 1))
    with capsys.disabled():
        print(f"\n20 unseen networks on the simulated rig: MdAPE {100 * statistics.median(errors):.1f} %")
    assert statistics.median(errors) <= 0.06
