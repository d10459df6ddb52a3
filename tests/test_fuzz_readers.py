"""The files of a user's folder and of earlier runs: read, or refused in one line.

A quarter of the cases a test that test_fuzz takes: WATTLAYER_FUZZ_CASES.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import cache
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_fuzz import CASES, ROW, damaged, hostile, reads_or_refuses, texts

from wattlayer.cli.hardware import _evaluated
from wattlayer.dataset import SCHEMA, read_measurements
from wattlayer.errors import InputError
from wattlayer.estimate import estimate
from wattlayer.hardware.registry import read_devices, shipped_file, tomllib
from wattlayer.layer import Layer
from wattlayer.measure.journal import Journal
from wattlayer.measure.plan import PLAN_SCHEMA, Plan
from wattlayer.measure.rig import Item, NetworkCall
from wattlayer.model import EnergyModel, load_model
from wattlayer.model.file import checksum
from wattlayer.model.folders import models_folder
from wattlayer.trace import Trace
from wattlayer.whatif.gate import budgets
from wattlayer.zoo import Outcome, sweep

hostile = settings(hostile, max_examples=max(CASES // 4, 1))
DEEP = "[" * 100_000
DEVICE = tomllib.loads(shipped_file().read_text(encoding="utf-8"))["a30"]
OUTCOME = asdict(Outcome("timm:resnet18", None, 1.0, 0.5, calls=1, flop=1, unknown_kinds=("odd",), assumptions=("x",)))


def toml(value: Any) -> str:
    """Write a value as TOML, or as nearly as TOML can say it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(k))} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value)


@hostile
@given(damaged(DEVICE) | texts)
@example(float("inf"))
def test_registries_of_devices(tmp_path, record):
    path = tmp_path / "hardware.toml"
    lines = [f"{json.dumps(str(k))} = {toml(v)}" for k, v in record.items()] if isinstance(record, dict) else [str(record)]
    path.write_text("\n".join(["[mine]", *lines]) + "\n", encoding="utf-8", errors="surrogatepass")
    reads_or_refuses(lambda: read_devices(path))


def test_what_is_not_damaged_is_read(tmp_path):
    (tmp_path / "hardware.toml").write_text("[mine]\n" + "\n".join(f"{k} = {toml(v)}" for k, v in DEVICE.items()))
    assert read_devices(tmp_path / "hardware.toml")["mine"].units == 56
    for name, record in (("p.json", prediction()), ("plan.json", plan())):
        (tmp_path / name).write_text(json.dumps(record))
    assert budgets(None, str(tmp_path / "p.json=1.05"))[0].energy_j > 0
    assert Plan.load(tmp_path / "plan.json").run == "run"
    (tmp_path / "zoo.jsonl").write_text(json.dumps(OUTCOME) + "\n")
    assert next(sweep([OUTCOME["network"]], journal=tmp_path / "zoo.jsonl")).calls == 1


@pytest.mark.parametrize("name", ["hardware.toml", "p.json", "plan.json", "zoo.jsonl", "journal.jsonl"])
@pytest.mark.parametrize("content", [DEEP.encode(), b"\xff\xfe\x00", b"a = " + DEEP.encode(), b"{}\n", b"5\n", b""])
def test_bytes_of_any_kind(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    read = {
        "hardware.toml": lambda: read_devices(path),
        "p.json": lambda: budgets(None, str(path)),
        "plan.json": lambda: Plan.load(path),
        "zoo.jsonl": lambda: list(sweep([], journal=path)),
        "journal.jsonl": lambda: Journal(path),
    }[name]
    reads_or_refuses(read)


LAYER = Layer.from_json(ROW["layer"])


@cache
def prediction() -> Any:
    return estimate(Trace("net", (LAYER,), ("",)), load_model("a30")).to_json()


@hostile
@given(st.data())
def test_baselines(tmp_path, data):
    path = tmp_path / "baseline.json"
    path.write_text(json.dumps(data.draw(damaged(prediction()))), encoding="utf-8")
    reads_or_refuses(lambda: budgets(None, f"{path}=1.05"))


@cache
def plan() -> Any:
    networks = [{"call": asdict(NetworkCall("torchvision:resnet18")), "layers": {"k": [1, 0.5]}}]
    plain = {"wattlayer_plan": PLAN_SCHEMA, "run": "run", "seed": 0, "notes": [], "networks": networks}
    return json.loads(json.dumps(plain | {"items": [Item(layer=LAYER).to_json()]}))


@hostile
@given(st.data())
def test_plans_of_campaigns(tmp_path, data):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(data.draw(damaged(plan()))), encoding="utf-8")
    reads_or_refuses(lambda: Plan.load(path).describe())


@hostile
@given(st.data())
def test_journals(tmp_path, data):
    failed = {"failed": ["drift"], "key": "k", "attempt": 1, "reason": "", "item": {}}
    lines = [{"wattlayer_data": SCHEMA}, data.draw(damaged(failed) | damaged(ROW))]
    path = tmp_path / "journal.jsonl"
    path.write_text("".join(json.dumps(x) + "\n" for x in lines), encoding="utf-8")
    reads_or_refuses(lambda: Journal(path))
    (tmp_path / "zoo.jsonl").write_text(json.dumps(data.draw(damaged(OUTCOME))) + "\n", encoding="utf-8")
    reads_or_refuses(lambda: list(sweep([], journal=tmp_path / "zoo.jsonl")))


@cache
def shipped() -> Any:
    record = json.loads((models_folder() / "a30.json").read_text(encoding="utf-8"))
    return {key: value if key in ("wattlayer_model", "metadata") else {} for key, value in record.items() if key != "sha256"}


@hostile
@given(st.data())
def test_models_of_the_users_folder(tmp_path, data):
    path = tmp_path / "mine.json"
    record = data.draw(damaged(shipped()))
    if isinstance(record, dict) and data.draw(st.booleans()):
        record["sha256"] = checksum(record)  # damage that whoever made the file signed
    path.write_text(json.dumps(record), encoding="utf-8")
    reads_or_refuses(lambda: EnergyModel.load(path))


def test_a_dataset_of_endless_sizes_is_refused(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text(
        json.dumps({"wattlayer_data": SCHEMA}) + "\n" + json.dumps(ROW | {"input_shapes": [[float("inf"), 8]]}) + "\n"
    )
    with pytest.raises(InputError, match="line 2: not a measurement"):
        read_measurements(path)


EVALUATION = {
    "scores": [
        {
            "predictor": "wattlayer",
            "subset": "all",
            "unit": "layer",
            "split": "layer",
            "rows": 9,
            "mdape_frac": 0.1,
            "p90_ape_frac": 0.2,
            "coverage_frac": 0.9,
            "mdape_low_frac": 0.08,
            "mdape_high_frac": 0.13,
        }
    ]
}


@pytest.mark.parametrize("key", ["mdape_frac", "mdape_low_frac", "mdape_high_frac"])
@pytest.mark.parametrize("value", [10**400, float("nan"), -3.0])
def test_errors_that_are_none_are_refused(tmp_path, key, value):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"scores": [EVALUATION["scores"][0] | {key: value}]}), encoding="utf-8")
    with pytest.raises(InputError, match="is no evaluation of a model"):
        _evaluated(path)


@pytest.mark.parametrize(
    "changed",
    [
        {"mdape_low_frac": 0.5}, {"mdape_high_frac": None}, {"mdape_low_frac": None},
        {"mdape_frac": 1e307, "mdape_high_frac": 1e308}, {"coverage_low_frac": 0.8},
        {"coverage_low_frac": 0.95, "coverage_high_frac": 0.97}, {"coverage_frac": 7.0},
        {"coverage_low_frac": 0.8, "coverage_high_frac": 1.5},
    ],
)  # fmt: skip
def test_figures_outside_their_bounds_are_refused(tmp_path, changed):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"scores": [EVALUATION["scores"][0] | changed]}), encoding="utf-8")
    with pytest.raises(InputError, match="is no evaluation of a model"):
        _evaluated(path)


@hostile
@given(damaged(EVALUATION))
def test_evaluations(tmp_path, record):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(EVALUATION), encoding="utf-8")
    assert _evaluated(path)[0]["rows"] == 9
    path.write_text(json.dumps(record), encoding="utf-8")
    reads_or_refuses(lambda: _evaluated(path))
