"""Datasets as JSON lines: what is written is read, what is damaged is refused with its line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from errno import EBUSY
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest

from wattlayer.dataset import SCHEMA, Measurement, read_measurements, write_measurements
from wattlayer.errors import InputError
from wattlayer.files import whole_file
from wattlayer.layer import Layer, Operand

RELU = Layer("relu", (Operand("self", (2, 3), "float32"),), (Operand("output", (2, 3), "float32"),))
PLAIN = Measurement("a30", 2e-5, 3e-3, layer=RELU, input_shapes=((2, 3),))
NETWORK = Measurement("a30", 0.01, 1.5, network="resnet18", input_shapes=((8, 3, 224, 224),), tf32="all", mode="eager")
FULL = Measurement(
    "a30", 2e-5, 3e-3, layer=RELU, input_shapes=((2, 3),), dtype="float32", tf32="none", mode="compiled", run="r7",
    flags=("thermal", "ä\u2028"), meter="assumed-power", key="k1", attempt=2, duplicate_of="k0", energy_corrected_j=2.9e-3,
    interval_frac=0.01, step_powers_w=(150.0, 151.5), window_s=4.0, iterations=9, measured_at_s=1.7e9, regime="cold",
    rotated_bytes=1 << 30, distribution="normal", seed=3, temperatures_c=(50.0, 51.0), clock_hz=1.4e9, memory_clock_hz=1.2e9,
    capped_frac=0.5, kernels=2, source="resnet18",
)  # fmt: skip
HEADER = json.dumps({"wattlayer_data": SCHEMA})
GOOD = json.dumps(PLAIN.to_json())


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "rows.jsonl"


def test_every_field_survives_a_file(path):
    assert write_measurements(path, [PLAIN, NETWORK, FULL], {"driver": "1.2"}) == 3
    assert read_measurements(path) == [PLAIN, NETWORK, FULL]
    assert json.loads(path.read_text().splitlines()[0]) == {"wattlayer_data": SCHEMA, "driver": "1.2"}


def test_a_file_is_plain_json_with_the_columns_of_the_contract(path):
    write_measurements(path, [PLAIN])
    record = json.loads(path.read_text().splitlines()[1])
    assert {"hardware", "dtype", "tf32", "mode", "time_s", "power_w", "energy_j", "flags", "layer", "input_shapes"} <= set(record)
    assert record["power_w"] == pytest.approx(150.0)
    assert None not in record.values()


def test_a_row_knows_the_file_and_line_it_was_read_from_and_is_the_same_without(path):
    write_measurements(path, [PLAIN, NETWORK])
    found = read_measurements(path)
    assert [m.place for m in found] == [(str(path), 2), (str(path), 3)] and found == [PLAIN, NETWORK]
    assert "place" not in found[0].to_json() and hash(found[0]) == hash(PLAIN)
    assert Measurement.from_json(PLAIN.to_json() | {"place": "here"}).place is None, "an unknown key is ignored"


def test_an_empty_dataset_is_a_header(path):
    assert write_measurements(path, []) == 0
    assert read_measurements(path) == []


def test_nothing_is_left_behind_when_writing_fails(path):
    def failing() -> Iterator[Measurement]:
        yield PLAIN
        raise RuntimeError("the board fell off the bus")

    write_measurements(path, [NETWORK])
    with pytest.raises(RuntimeError, match="fell off"):
        write_measurements(path, failing())
    assert read_measurements(path) == [NETWORK]
    with pytest.raises(RuntimeError, match="fell off"):
        write_measurements(path.with_name("new.jsonl"), failing())
    assert [p.name for p in path.parent.iterdir()] == ["rows.jsonl"]


def test_of_several_writers_each_writes_a_whole_file(path):
    """The one that ends last wins; none takes, empties or removes the unfinished file of another."""

    def slow(inner: list[Measurement]) -> Iterator[Measurement]:
        yield PLAIN
        assert write_measurements(path, inner) == len(inner)
        yield PLAIN

    assert write_measurements(path, slow([])) == 2, "in one thread, within each other"
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda n: write_measurements(path, [PLAIN] * n), [1, 200] * 20)) == {1, 200}
    assert len(read_measurements(path)) in (1, 200)
    assert [p.name for p in path.parent.iterdir()] == ["rows.jsonl"]


def write(path: Path, *lines: str, end: str = "\n") -> Path:
    path.write_bytes(("\n".join(lines) + end).encode())
    return path


def test_unknown_keys_blank_lines_failures_and_further_headers_are_passed_over(path):
    new = json.dumps(PLAIN.to_json() | {"humidity_frac": 0.4})
    failed = json.dumps({"failed": ["meter-stuck"], "layer": None})
    assert read_measurements(write(path, HEADER, new, "", failed, HEADER, GOOD)) == [PLAIN, PLAIN]


def test_windows_line_ends_and_separators_within_text_are_no_line_ends(path):
    raw = json.dumps(FULL.to_json(), ensure_ascii=False)
    assert "\u2028" in raw
    assert read_measurements(write(path, HEADER, raw)) == [FULL]
    path.write_bytes(f"{HEADER}\r\n{GOOD}\r\n".encode())
    assert read_measurements(path) == [PLAIN]


@pytest.mark.parametrize("cut", [1, len(GOOD) // 2, len(GOOD) - 1])
def test_what_a_power_cut_leaves_is_dropped(path, cut):
    assert read_measurements(write(path, HEADER, GOOD, GOOD[:cut], end="")) == [PLAIN]


def test_a_last_line_that_only_lacks_its_end_is_kept(path):
    assert read_measurements(write(path, HEADER, GOOD, GOOD, end="")) == [PLAIN, PLAIN]


def test_a_deep_last_line_without_its_end_is_dropped_too(path):
    assert read_measurements(write(path, HEADER, GOOD, "[" * 100_000, end="")) == [PLAIN]


def row(**changes: Any) -> str:
    return json.dumps(PLAIN.to_json() | changes)


BAD_LINES = {
    "half a line": (GOOD[:40], "not JSON"),
    "deep nesting": ("[" * 100_000, "not JSON"),
    "list": ("[1]", "not a JSON object"),
    "no energy": (json.dumps({k: v for k, v in PLAIN.to_json().items() if k != "energy_j"}), "energy_j"),
    "no hardware": (json.dumps({k: v for k, v in PLAIN.to_json().items() if k != "hardware"}), "hardware"),
    **{
        f"energy {v}": (row(energy_j=v), "energy_j .* above 0")
        for v in (0, -1.5, float("nan"), float("inf"), None, "1.5", True, 10**400)
    },
    **{f"time {v}": (row(time_s=v), "time_s .* above 0") for v in (0.0, -2, float("nan"))},
    "corrected energy NaN": (row(energy_corrected_j=float("nan")), "energy_corrected_j .* above 0"),
    "neither layer nor network": (row(layer=None), "exactly one"),
    "both": (row(network="resnet18"), "exactly one"),
    "malformed layer": (row(layer={"kind": "relu"}), "not a layer record"),
    "unknown dtype in the layer": (row(layer=json.loads(json.dumps(RELU.to_json()).replace("float32", "float31"))), "float31"),
    **{
        f"a size {size}": (
            row(layer=json.loads(json.dumps(RELU.to_json()).replace('"shape": [2', f'"shape": [{size}', 1))),
            "are no sizes",
        )
        for size in (-1, 2**62, 10**400)
    },
    "a search of nothing": (
        row(layer={"kind": "searchsorted", "inputs": [], "outputs": [{"name": "output", "shape": [3], "dtype": "int64"}]}),
        "not a layer record",
    ),
    "a mode of no grid": (
        row(
            layer={
                "kind": "grid_sampler",
                "inputs": [{"name": "input", "shape": [1, 1, 4, 4], "dtype": "float32"}],
                "outputs": [{"name": "output", "shape": [1, 1, 4, 4], "dtype": "float32"}],
                "arguments": {"interpolation_mode": -1},
            }
        ),
        "not a layer record",
    ),
    "a shape past all memory": (
        row(layer=RELU.to_json() | {"outputs": [{"name": "output", "shape": [2**30, 2**30], "dtype": "float32"}]}),
        "no shape of",
    ),
    "no output": (row(layer=RELU.to_json() | {"outputs": []}), "no output"),
    "an empty output": (
        row(layer=RELU.to_json() | {"outputs": [{"name": "output", "shape": [0, 4], "dtype": "float32"}]}),
        "an empty one",
    ),
    "no device takes so long": (row(time_s=1e300, energy_j=1e302), "give seconds and joules"),
    "no device draws so much": (row(energy_j=1e12), "give seconds and joules"),
    "layer as text": (row(layer="relu"), "not a layer record"),
    "unknown mode": (row(mode="lazy"), "graph, eager, compiled"),
    "unknown tf32": (row(tf32=True), "none, conv, all"),
    "unknown meter": (row(meter="guessed"), "measured, assumed-power"),
    "hardware as a list": (row(hardware=["a30"]), "hardware .* not text"),
    "run as a number": (row(run=3), "run 3 is not text"),
    "shapes": (row(input_shapes=3), "not a measurement"),
    "step powers": (row(step_powers_w=["x"]), "not a measurement"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_is_named_with_its_file_and_number(path, name):
    line, reason = BAD_LINES[name]
    with pytest.raises(InputError, match=rf"rows\.jsonl, line 4: .*{reason}") as caught:
        read_measurements(write(path, HEADER, GOOD, "", line, GOOD))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a wattlayer dataset"),
        (b"\n\n", "not a wattlayer dataset"),
        (GOOD.encode(), "first line must be"),
        (b"hardware,time_s\na30,1\n", "not a wattlayer dataset"),
        (b"[" * 100_000, "not a wattlayer dataset"),
        (b'{"wattlayer_data": 2}\n', "schema 2, this wattlayer reads 1"),
        (b'{"wattlayer_data": "1"}\n', "schema 1, this"),
        (b"\x93NUMPY\xff\xfe", "not text"),
    ],
    ids=["empty", "blank", "no header", "csv", "deep", "newer", "version as text", "binary"],
)
def test_a_file_of_another_kind_is_refused(path, content, reason):
    path.write_bytes(content)
    with pytest.raises(InputError, match=reason) as caught:
        read_measurements(path)
    assert str(path) in str(caught.value)


def test_a_file_that_cannot_be_opened_is_named(path):
    with pytest.raises(InputError, match=r"rows\.jsonl cannot be read: No such file"):
        read_measurements(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_measurements(path.parent)


def test_a_measurement_is_of_one_thing():
    with pytest.raises(InputError, match="exactly one"):
        Measurement("a30", 1.0, 1.0)
    with pytest.raises(InputError, match="exactly one"):
        Measurement("a30", 1.0, 1.0, layer=RELU, network="resnet18")


def test_the_energy_that_counts_is_without_the_drift_where_that_is_known():
    assert (FULL.settled_j, PLAIN.settled_j) == (2.9e-3, 3e-3)


def test_a_file_that_nothing_can_take_the_place_of_is_written_at_the_end(path, monkeypatch):
    """One that is mounted by itself is busy; a half-written result never stands in it."""
    path.write_text("old\n")

    def busy(*_):
        raise OSError(EBUSY, "Device or resource busy")

    monkeypatch.setattr(os, "replace", busy)
    with whole_file(path) as file:
        file.write("new\n")
        assert path.read_text() == "old\n"
    assert path.read_text() == "new\n" and [p.name for p in path.parent.iterdir()] == [path.name]
    with pytest.raises(InputError, match="busy"), whole_file(path.with_name("other")):
        pass


def test_a_file_in_a_folder_that_takes_no_other_is_written_as_it_stands(path, monkeypatch):
    path.write_text("old and longer\n")
    monkeypatch.setattr(os, "access", lambda place, mode: Path(place) != path.parent)
    with whole_file(path) as file:
        file.write("new\n")
        assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert path.read_text() == "new\n"


def test_two_containers_with_equal_process_numbers_do_not_share_a_file(path, monkeypatch):
    monkeypatch.setattr("wattlayer.files._WRITERS", repeat(0))
    with whole_file(path) as one:
        one.write("one")
        with whole_file(path) as two:
            two.write("two")
            assert len(list(path.parent.iterdir())) == 2
        assert path.read_text() == "two"
    assert path.read_text() == "one" and list(path.parent.iterdir()) == [path]


def test_a_file_that_may_not_be_written_is_not_replaced(path, monkeypatch):
    path.write_text("old\n")
    monkeypatch.setattr(os, "access", lambda place, mode: Path(place) != path)
    with pytest.raises(InputError, match="Permission denied"), whole_file(path) as file:
        file.write("new\n")
    assert path.read_text() == "old\n"


def test_a_long_name_is_written(path):
    long = path.with_name("x" * 250)
    with whole_file(long) as file:
        file.write("new\n")
    assert long.read_text() == "new\n"
