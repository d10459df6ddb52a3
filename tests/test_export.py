"""Profiles whose time is joules: what the viewers' formats demand, slices that nest, and sums that are the estimate's."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tarfile
from functools import cache
from pathlib import Path

import jsonschema
import pytest
import torch
from test_cli import network, one_line  # noqa: F401  (fixtures)
from torch import nn

import wattlayer as wl
from wattlayer.report.export import GAPS, edges, parquet, perfetto, speedscope

EVENT = {
    "type": "object", "required": ["type", "frame", "at"], "additionalProperties": False,
    "properties": {"type": {"enum": ["O", "C"]}, "frame": {"type": "integer", "minimum": 0}, "at": {"type": "number"}},
}  # fmt: skip
SPEEDSCOPE = {
    "type": "object", "required": ["$schema", "profiles", "shared"],
    "properties": {
        "$schema": {"const": "https://www.speedscope.app/file-format-schema.json"},
        "shared": {"type": "object", "required": ["frames"], "properties": {
            "frames": {"type": "array", "items": {"type": "object", "required": ["name"]}}}},
        "profiles": {"type": "array", "minItems": 1, "items": {
            "type": "object", "required": ["type", "name", "unit", "startValue", "endValue", "events"],
            "properties": {
                "type": {"const": "evented"}, "unit": {"const": "none"}, "events": {"type": "array", "items": EVENT}}}},
    },
}  # fmt: skip
"""What the format demands of an evented profile, and that the unit is none: joules are not among speedscope's units."""

TRACE = {
    "type": "object", "required": ["traceEvents"],
    "properties": {
        "displayTimeUnit": {"enum": ["ms", "ns"]},
        "traceEvents": {"type": "array", "items": {
            "type": "object", "required": ["ph", "name", "ts", "pid", "tid"],
            "properties": {"ph": {"enum": ["B", "E", "M"]}, "name": {"type": "string"}, "ts": {"type": "number", "minimum": 0},
                           "pid": {"type": "integer"}, "tid": {"type": "integer"}, "args": {"type": "object"}}}},
    },
}  # fmt: skip
"""What "Trace Event Format" demands of events with a beginning and an end, and of metadata."""


class Block(nn.Module):
    """Two modules and an operator of its own, so that paths come and go."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.act = nn.ReLU()

    def forward(self, x):
        return self.act(self.conv(x)) + x


@cache
def estimated(mode: str = "graph") -> wl.Estimate:
    with torch.device("meta"):
        module = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Sequential(Block(), Block()), nn.Flatten(), nn.Linear(8 * 256, 10))
    return wl.predict(module.eval(), torch.empty(2, 3, 16, 16, device="meta"), mode=mode)


@pytest.fixture(params=["graph", "eager"])
def estimate(request):
    return estimated(request.param)


def slices(events: list[tuple[bool, str, float]]) -> list[tuple[tuple[str, ...], float, float]]:
    """Replay events as a viewer does; return (stack, begin, end) of each slice, refusing what does not nest."""
    open_slices: list[tuple[str, float]] = []
    found, last = [], 0.0
    for begins, name, at in events:
        assert at >= last, "events go forward"
        last = at
        if begins:
            open_slices.append((name, at))
        else:
            opened, begin = open_slices.pop()
            assert opened == name, "the innermost slice ends first"
            found.append(((*(x for x, _ in open_slices), name), begin, at))
    assert not open_slices
    return found


def speedscope_events(file) -> list[tuple[bool, str, float]]:
    frames = [frame["name"] for frame in file["shared"]["frames"]]
    return [(x["type"] == "O", frames[x["frame"]], x["at"]) for x in file["profiles"][0]["events"]]


def perfetto_events(file) -> list[tuple[bool, str, float]]:
    return [(x["ph"] == "B", x["name"], x["ts"]) for x in file["traceEvents"] if x["ph"] != "M"]


BOTH = [(speedscope, SPEEDSCOPE, speedscope_events), (perfetto, TRACE, perfetto_events)]


@pytest.mark.parametrize(("make", "schema", "events"), BOTH, ids=["speedscope", "perfetto"])
def test_a_profile_keeps_to_its_format_and_nests_by_module(estimate, make, schema, events):
    file = json.loads(json.dumps(make(estimate), allow_nan=False))
    jsonschema.validate(file, schema)
    found = slices(events(file))
    root = estimate.trace.network
    for path, layer in zip(estimate.trace.paths, estimate.trace.layers):
        parts = path.split(".")
        assert (root, *(".".join(parts[: n + 1]) for n in range(len(parts)) if path), layer.kind) in [x for x, _, _ in found]
    assert found[-1][0] == (root,), "the network ends last"


@pytest.mark.parametrize(("make", "schema", "events"), BOTH, ids=["speedscope", "perfetto"])
def test_the_axis_is_energy_in_microjoules(estimate, make, schema, events):
    found = slices(events(make(estimate)))
    leaves = [end - begin for stack, begin, end in found if stack[-1] in {x.kind for x in estimate.trace.layers}]
    assert leaves == pytest.approx(list(estimate.layer_energy_j * 1e6), abs=2e-3)  # 1 nJ at either end
    assert found[-1][2] == pytest.approx(estimate.energy_j * 1e6, abs=2e-3)
    modules = estimate.by_module(depth=1)["energy_j"]
    block = sum(end - begin for stack, begin, end in found if stack == (estimate.trace.network, "1"))
    assert block == pytest.approx(modules["1"] * 1e6, abs=2e-3)
    gaps = [end - begin for stack, begin, end in found if stack[-1] == GAPS]
    assert gaps == pytest.approx([estimate.gap_energy_j * 1e6] * bool(estimate.gap_energy_j), abs=2e-3)


def test_both_say_in_words_what_their_numbers_are():
    estimate = estimated()
    assert "microjoules" in speedscope(estimate)["profiles"][0]["name"]
    names = [x["args"]["name"] for x in perfetto(estimate)["traceEvents"] if x["ph"] == "M"]
    assert any("1 s on the axis is 1 J" in name for name in names)
    layers = [x for x in perfetto(estimate)["traceEvents"] if x.get("cat") == "layer"]
    assert [x["args"]["energy_j"] for x in layers] == list(estimate.layer_energy_j)
    assert layers[0]["args"]["input_shapes"].startswith("2x3x16x16;8x3x1x1")


def test_a_module_that_is_called_again_later_is_a_slice_each_time():
    shared = nn.Linear(8, 8, device="meta")

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.other = shared, nn.Linear(8, 8, device="meta")

        def forward(self, x):
            return self.first(self.other(self.first(x)))

    estimate = wl.predict(Twice().eval(), torch.empty(4, 8, device="meta"))
    begun = [x.name for x in edges(estimate) if x.begins and x.layer is None]
    assert begun == ["Twice", "first", "other", "first"]


def test_parquet_holds_the_layers_with_their_gaps_and_the_rest_of_the_json_form(estimate, tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "layers.parquet").write_bytes(parquet(estimate))
    table = pq.read_table(tmp_path / "layers.parquet")
    record = estimate.to_json()
    assert table.to_pylist() == estimate.rows()
    assert table.to_pylist()[: len(record["layers"])] == record["layers"]
    assert json.loads(table.schema.metadata[b"wattlayer"])["total"] == record["total"]


@pytest.mark.parametrize("format", ["speedscope", "perfetto", "parquet"])
def test_predict_writes_it_to_a_file(run, network, tmp_path, format):  # noqa: F811
    if format == "parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / "profile"
    code, out, err = run("predict", network, "--input", "4x3x64x64", "--format", format, "--output", path)
    assert (code, out, err) == (0, "", "")
    assert path.read_bytes()[:4] == b"PAR1" if format == "parquet" else json.loads(path.read_text())


def test_a_binary_format_needs_a_file_and_other_commands_refuse_profiles(run, network):  # noqa: F811
    pytest.importorskip("pyarrow")
    one_line(run("predict", network, "--input", "4x3x64x64", "--format", "parquet"), "--output")
    for command in (["trace", network], ["whatif", network, "--batch", "2"], ["advise", network], ["compare", network]):
        one_line(run(*command, "--format", "speedscope"), "speedscope", "table, json")
    one_line(run("evaluate", "a30", "--layers", "x.jsonl", "--format", "csv"), "csv", "table, json")


# --- the viewer's own word


@pytest.fixture(scope="module")
def viewer(tmp_path_factory) -> Path:
    """The published package of speedscope, with its schema and its page."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    folder = tmp_path_factory.mktemp("speedscope")
    packed = subprocess.run(["npm", "pack", "speedscope", "--silent"], cwd=folder, capture_output=True, text=True, check=False)
    if packed.returncode:
        pytest.skip("npm gave no speedscope")
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        archive.extractall(folder, filter="data")
    return folder / "package" / "dist" / "release"


@pytest.mark.slow
def test_speedscope_accepts_it_by_its_own_schema(viewer, estimate):
    schema = json.loads((viewer / "file-format-schema.json").read_text())
    jsonschema.validate(speedscope(estimate), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**speedscope(estimate), "profiles": [{"type": "evented"}]}, schema)


@pytest.mark.slow
@pytest.mark.parametrize(("make", "named"), [(speedscope, "microjoules"), (perfetto, "1 s on the axis is 1 J")])
def test_speedscope_opens_both_in_a_browser(viewer, tmp_path, make, named):
    """Speedscope reads Chrome traces too; the page names the profile that it shows."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("there is no browser")
    data = base64.b64encode(json.dumps(make(estimated())).encode()).decode()
    script = tmp_path / "profile.js"
    script.write_text(f"speedscope.loadFileFromBase64('profile.json', '{data}')")
    page = f"{(viewer / 'index.html').as_uri()}#localProfilePath={script}"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader", "--allow-file-access-from-files"]
    shown = subprocess.run(
        [browser, *flags, f"--user-data-dir={tmp_path}", "--virtual-time-budget=8000", "--dump-dom", page],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert named in shown.stdout, shown.stderr[-500:]
