"""Shared fixtures: an exact synthetic device, so that models can be trained in seconds and judged against the truth."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy: parallel tests share the cores by processes

import numpy as np
import pytest
import torch
from torch import nn

from wattlayer import EnergyModel, Layer, Measurement, cli, trace
from wattlayer.features.columns import Columns
from wattlayer.hardware import find_hardware
from wattlayer.model.folders import models_folder

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


needs_torchvision = pytest.mark.skipif(find_spec("torchvision") is None, reason="torchvision is not installed")


@dataclass(frozen=True)
class SyntheticDevice:
    """Time and power by an exact law of FLOP and bytes, with a stated relative noise."""

    noise_frac: float = 0.02
    hardware: str = "a30"

    def truth(self, layers: list[Layer]) -> tuple[np.ndarray, np.ndarray]:
        columns = Columns(layers, find_hardware(self.hardware))
        time_s = 6e-6 + 1.3 * columns.compute_s() + 1.1 * columns.memory_s()
        return time_s, 60 + 100 * columns.compute_s() / time_s

    def measure(self, layers: list[Layer], seed: int = 0, run: str = "r1") -> list[Measurement]:
        time_s, power_w = self.truth(layers)
        noise = np.exp(self.noise_frac * np.random.default_rng(seed).standard_normal(len(layers)))
        return [
            Measurement(self.hardware, float(t * n), float(t * n * p), layer=x, run=run)
            for x, t, p, n in zip(layers, time_s, power_w, noise)
        ]


def draw_layers(count: int, seed: int = 0, scale: int = 1) -> list[Layer]:
    """Distinct convolutions, linear layers and ReLUs of random sizes."""
    rng = np.random.default_rng(seed)
    layers: dict[Layer, None] = {}
    while len(layers) < count:
        c, o, edge = int(rng.integers(8, 256)), int(rng.integers(8, 256)), int(rng.integers(4, 64))
        choices = (nn.Conv2d(c, o, int(rng.choice([1, 3])), device="meta"), nn.Linear(c, o, device="meta"), nn.ReLU())
        module = choices[len(layers) % 3]
        shape = (8 * scale, 64, c) if isinstance(module, nn.Linear) else (8 * scale, c, edge, edge)
        layers[trace(module.eval(), torch.empty(shape, device="meta")).layers[0]] = None
    return list(layers)


@pytest.fixture(scope="session")
def device() -> SyntheticDevice:
    return SyntheticDevice()


@pytest.fixture(scope="session")
def layers() -> list[Layer]:
    return draw_layers(150)


@pytest.fixture(scope="session")
def model(device: SyntheticDevice, layers: list[Layer]) -> EnergyModel:
    """A model of the synthetic device."""
    return EnergyModel.train(device.measure(layers), name="synthetic", source="tests/conftest.py")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The measured tables of public research, which lie beside the project and not in it."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"the measured tables are not at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """A user's folder of the test's own: no test sees or touches the models of whoever runs it."""
    folder = tmp_path / "home"
    monkeypatch.setenv("WATTLAYER_HOME", str(folder))
    return folder


@pytest.fixture
def run(capsys, monkeypatch):
    """Run a command in this process; return (exit code, stdout, stderr)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["wattlayer", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def models_script(name: str):
    """A script beside the models."""
    spec = spec_from_file_location(name, models_folder() / f"{name}.py")
    module = module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, name, module)  # dataclasses look their module up
        spec.loader.exec_module(module)
    return module
