"""Whatever a file or an argument holds, it is read or refused in one line: no other exception, no evaluated text, no hang.

10,400 cases in an ordinary run; WATTLAYER_FUZZ_CASES sets how many each test takes (`WATTLAYER_FUZZ_CASES=13000` for 104,000).
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from math import prod
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from wattlayer.dataset import SCHEMA, Measurement, read_measurements
from wattlayer.dataset.tables import read_table
from wattlayer.dataset.tables.modules import layer_of
from wattlayer.dataset.tables.values import shapes
from wattlayer.errors import InputError
from wattlayer.layer import Layer
from wattlayer.model import EnergyModel
from wattlayer.predict import trace_name

CASES = int(os.environ.get("WATTLAYER_FUZZ_CASES", "1300"))
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


# --- networks in files

SHAPES = {"x": (2, 3, 8, 8), "w": (4, 3, 3, 3), "c": (2, 4, 6, 6), "r": (2, 4, 6, 6), "f": (2, 144), "m": (5, 144), "y": (2, 5)}


def exported_program() -> dict[str, Any]:
    """A convolution, its activation and a linear layer as torch.export writes them."""

    def tensor(name: str) -> dict[str, Any]:
        return {"as_tensor": {"name": name}}

    def call(target: str, result: str, **arguments: Any) -> dict[str, Any]:
        inputs = [{"name": name, "arg": value, "kind": 1} for name, value in arguments.items()]
        stack = {"nn_module_stack": f"L__self__,,net.Net;L__self___{result},part.{result},torch.nn.Module"}
        return {"target": f"torch.ops.aten.{target}", "inputs": inputs, "outputs": [tensor(result)], "metadata": stack}

    def meta(shape: tuple[int, ...]) -> dict[str, Any]:
        strides = [{"as_int": 1}] * len(shape)
        return {"dtype": 7, "sizes": [{"as_int": n} for n in shape], "strides": strides, "layout": 7}

    nodes = [
        call("conv2d.default", "c", input=tensor("x"), weight=tensor("w")),
        call("relu.default", "r", self=tensor("c")),
        call("flatten.using_ints", "f", self=tensor("r"), start_dim={"as_int": 1}),
        call("linear.default", "y", input=tensor("f"), weight=tensor("m")),
    ]
    specs = [{"parameter": {"arg": {"name": x}, "parameter_name": x}} for x in "wm"] + [{"user_input": {"arg": tensor("x")}}]
    graph = {"inputs": [tensor(x) for x in "wmx"], "outputs": [tensor("y")], "nodes": nodes}
    graph["tensor_values"] = {name: meta(shape) for name, shape in SHAPES.items()}
    return {"graph_module": {"graph": graph, "signature": {"input_specs": specs}}, "schema_version": {"major": 8, "minor": 1}}


def archive(program: Any) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        file.writestr("net/models/model.json", json.dumps(program))
    return content.getvalue()


PROGRAM = exported_program()


@st.composite
def damaged_bytes(draw: st.DrawFn, whole: bytes) -> bytes:
    """A valid file cut off, or with a few bytes replaced or slipped in."""
    start = draw(st.integers(0, len(whole)))
    end = draw(st.integers(start, min(len(whole), start + 8)))
    return whole[:start] + draw(st.binary(max_size=8)) + (whole[end:] if draw(st.booleans()) else b"")


def test_the_undamaged_networks_are_read(tmp_path):
    (tmp_path / "net.pt2").write_bytes(archive(PROGRAM))
    (tmp_path / "net.onnx").write_bytes(onnx_model().SerializeToString())
    for name in ("net.pt2", "net.onnx"):
        assert [x.kind for x in trace_name(str(tmp_path / name)).layers] == ["conv2d", "relu", "linear"]


@hostile
@given(damaged(PROGRAM).map(archive) | damaged_bytes(archive(PROGRAM)))
def test_exported_programs(tmp_path, content):
    path = tmp_path / "net.pt2"
    path.write_bytes(content)
    reads_or_refuses(lambda: trace_name(str(path)))


def onnx_model() -> Any:
    helper = pytest.importorskip("onnx").helper
    steps = [("Conv", "xw", "c"), ("Relu", "c", "r"), ("Flatten", "r", "f"), ("Gemm", "fm", "y")]
    nodes = [helper.make_node(op, list(a), [b], **({"transB": 1} if op == "Gemm" else {})) for op, a, b in steps]
    weights = [helper.make_tensor(x, 1, SHAPES[x], b"\0" * 4 * prod(SHAPES[x]), raw=True) for x in "wm"]
    sizes = helper.make_tensor("s", 7, [2], [2, -1])
    shown = {x: helper.make_tensor_value_info(x, 1, SHAPES[x]) for x in "xcy"}
    graph = helper.make_graph(nodes, "net", [shown["x"]], [shown["y"]], [*weights, sizes], value_info=[shown["c"]])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("own", 1)])


ATTRIBUTES = (
    "axis", "axes", "perm", "shape", "split", "pads", "strides", "group", "to", "mode", "starts", "ends", "transB", "k", "p",
    "value",
)  # fmt: skip


@st.composite
def damaged_onnx(draw: st.DrawFn) -> bytes:
    """A valid model with other operators, names, attributes, sizes or bytes."""
    from wattlayer.adapters.onnx.operators import OPERATORS

    model = onnx_model()
    names = st.sampled_from([*"xwcrfmys", "", "nowhere", BOMB])
    sizes = st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 9)
    for _ in range(draw(st.integers(1, 3))):
        node = draw(st.sampled_from(list(model.graph.node)))
        part = draw(st.sampled_from(["operator", "inputs", "outputs", "attribute", "sizes", "dims", "domain"]))
        if part == "operator":
            node.op_type = draw(st.sampled_from([*sorted(OPERATORS), "If", "Loop", "SplitToSequence", BOMB]))
        elif part in ("inputs", "outputs"):
            kept = getattr(node, part[:-1])
            kept[:] = draw(st.lists(names, max_size=5))
        elif part == "attribute":
            name = draw(st.sampled_from(ATTRIBUTES))
            one = node.attribute.add(name=name, type=draw(st.integers(0, 14)), i=draw(sizes), s=draw(st.binary(max_size=9)))
            one.ints.extend(draw(st.lists(sizes, max_size=9)))
        elif part == "sizes":
            model.graph.initializer[2].int64_data[:] = draw(st.lists(sizes, max_size=4))
        elif part == "dims":
            draw(st.sampled_from(list(model.graph.initializer))).dims[:] = draw(st.lists(sizes, max_size=5))
        else:
            node.domain = draw(st.sampled_from(["own", "ai.onnx", "wattlayer", BOMB]))
    return model.SerializeToString()


@hostile
@given(st.data())
def test_onnx_models(tmp_path, data):
    path = tmp_path / "net.onnx"
    whole = onnx_model().SerializeToString()
    path.write_bytes(data.draw(damaged_onnx() | damaged_bytes(whole) | st.binary(max_size=60)))
    reads_or_refuses(lambda: trace_name(str(path)))
