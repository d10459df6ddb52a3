"""Whatever a file or an argument holds, it is read or refused in one line: no other exception, no evaluated text, no hang.

10,200 cases in an ordinary run; WATTLAYER_FUZZ_CASES sets how many each test takes (`WATTLAYER_FUZZ_CASES=17000` for 102,000).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from wattlayer.dataset import SCHEMA, Measurement, read_measurements
from wattlayer.errors import InputError
from wattlayer.layer import Layer
from wattlayer.model import EnergyModel
from wattlayer.tables import read_table
from wattlayer.tables.modules import layer_of
from wattlayer.tables.values import shapes

CASES = int(os.environ.get("WATTLAYER_FUZZ_CASES", "1700"))
hostile = settings(max_examples=CASES, deadline=10_000, suppress_health_check=[HealthCheck.function_scoped_fixture])
"""A case that takes 10 s (`deadline`, in ms) fails."""

LAYER = Layer.from_json(
    {
        "kind": "linear",
        "inputs": [
            {"name": "input", "shape": [4, 8], "dtype": "float32"},
            {"name": "weight", "shape": [2, 8], "dtype": "float32"},
        ],
        "outputs": [{"name": "output", "shape": [4, 2], "dtype": "float32"}],
    }
).to_json()
ROW = Measurement("a30", 2e-5, 3e-3, layer=Layer.from_json(LAYER), input_shapes=((4, 8),)).to_json()
HEADER_RECORD = {"wattlayer_data": SCHEMA}
HEADER = "hardware,layer_repr,input_shape,dtype,tf32,time_s,energy_j\n"
BOMB = "__import__('os').environ.__setitem__('WATTLAYER_EVALUATED', '1')"
"""Would leave a trace in this process if anything evaluated it."""

texts = st.one_of(
    st.text(max_size=60),
    st.sampled_from([BOMB, f"Linear({BOMB}, 2)", "9" * 5000, "1e999", "nan", "-0", "\x00", "(" * 3000, "[" * 3000, "1x" * 3000]),
)
scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | texts
values = st.recursive(scalars, lambda x: st.lists(x, max_size=4) | st.dictionaries(texts, x, max_size=4), max_leaves=8)


@pytest.fixture(autouse=True)
def nothing_was_evaluated():
    yield
    assert "WATTLAYER_EVALUATED" not in os.environ


def reads_or_refuses(read: Callable[[], Any]) -> None:
    try:
        read()
    except InputError as error:
        assert str(error)


@st.composite
def damaged(draw: st.DrawFn, whole: Any) -> Any:
    """A valid record with one part, at any depth, replaced, removed or joined by a stranger."""
    if isinstance(whole, dict) and whole and draw(st.integers(0, 3)):
        key = draw(st.sampled_from(sorted(whole)))
        if draw(st.booleans()):
            return {**whole, key: draw(damaged(whole[key]))}
        return {k: v for k, v in whole.items() if k != key}
    if isinstance(whole, list) and whole and draw(st.integers(0, 3)):
        index = draw(st.integers(0, len(whole) - 1))
        return [*whole[:index], draw(damaged(whole[index])), *whole[index + 1 :]]
    return draw(values)


@hostile
@given(texts)
@example("1" + "x" * 5000)
def test_shapes(text):
    reads_or_refuses(lambda: shapes(text))


calls = st.builds(
    "{}({})".format,
    st.sampled_from("Linear Conv2d LSTM Embedding BatchNorm2d Softmax MaxPool2d Upsample Sequential os.system eval".split()),  # noqa: SIM905
    st.lists(st.integers(-3, 2**40).map(str) | st.sampled_from(["kernel_size=(3, 3)", "bias=False", "stride=0", "x=1", BOMB]))
    .map(", ".join),
)  # fmt: skip


@hostile
@given(texts | calls, st.lists(st.integers(0, 2**40), max_size=5).map(tuple))
@example(f"Linear({BOMB}, 2)", (1, 2))
@example("(" * 20_000, (1, 2))
@example("Linear(" + "-" * 20_000 + "1, 2)", (1, 2))
@example("LSTM(365, 18530, 72173)", ())
@example("Transformer(8, 2, 100000)", (3, 5, 8))
def test_layer_reprs(text, shape):
    reads_or_refuses(lambda: layer_of(text, (shape,), "float32", "none", False))


@hostile
@given(damaged(LAYER))
def test_layers_as_json(record):
    reads_or_refuses(lambda: Layer.from_json(record))


@hostile
@given(st.lists(texts | calls | st.just("Linear(8, 2)"), min_size=1, max_size=9), st.booleans())
def test_tables(tmp_path, cells, skip):
    path = tmp_path / "table.csv"
    row = ",".join('"' + x.replace('"', '""') + '"' for x in cells)
    path.write_text(HEADER + row + "\n", encoding="utf-8", errors="surrogatepass")
    reads_or_refuses(lambda: read_table(path, skip))


@hostile
@given(st.binary(max_size=200), st.sampled_from(["table.csv", "table.csv.gz", "data.jsonl", "model.json"]))
@example(b"[" * 100_000, "model.json")
@example(b"[" * 100_000 + b"\n", "data.jsonl")
@example(b"{" + b'"a":{' * 50_000, "model.json")
@example(b"\x1f\x8b\x08\x00", "table.csv.gz")
def test_files_of_any_bytes(tmp_path, content, name):
    path = tmp_path / name
    path.write_bytes(content)
    reads_or_refuses(lambda: EnergyModel.load(path) if name == "model.json" else read_table(path))


@hostile
@given(st.data())
def test_datasets(tmp_path, data):
    path = tmp_path / "data.jsonl"
    lines = [HEADER_RECORD, data.draw(damaged(ROW))] if data.draw(st.booleans()) else [data.draw(damaged(HEADER_RECORD)), ROW]
    path.write_text("".join(json.dumps(x) + "\n" for x in lines), encoding="utf-8")
    reads_or_refuses(lambda: read_measurements(path))
