"""Networks read from files: what is exported costs what the module itself costs, and what cannot be read is refused."""

from __future__ import annotations

import copy
import json
import math
import re
import time
import warnings
import zipfile
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.fx.experimental.optimization import fuse as fold_batch_norm

import wattlayer as wl
from wattlayer.adapters import InputSize, resolve
from wattlayer.adapters.torchvision import import_torchvision
from wattlayer.errors import InputError
from wattlayer.predict import trace_name
from wattlayer.trace import trace
from wattlayer.trace.assumptions import UNKNOWN_ARITHMETIC
from wattlayer.trace.hooks import unfused_attention


class Small(nn.Module):
    """Convolution, norms, attention, a residual sum and a scalar product: what exporters take apart."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish())
        self.norm = nn.LayerNorm(16)
        self.qkv = nn.Linear(16, 48)
        self.mlp = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16), nn.Dropout(0.1))
        self.head = nn.Linear(16, 10, bias=False)
        for x in self.parameters():
            nn.init.normal_(x)  # an exporter leaves out what is all zeros

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        q, k, v = (t.unflatten(-1, (2, 8)).transpose(1, 2) for t in self.qkv(self.norm(x)).chunk(3, dim=-1))
        x = x + nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.head((x + 0.5 * self.mlp(x)).mean(1))


@pytest.fixture(scope="module")
def small() -> nn.Module:
    return Small().eval()


IMAGE = torch.zeros(4, 3, 32, 32)


@pytest.fixture(scope="module")
def pt2(small, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pt2") / "net.pt2"
    torch.export.save(torch.export.export(small, (IMAGE,)), path)
    return path


def rewritten(pt2: Path, path: Path, change) -> Path:
    """A copy of an archive whose graph `change` has altered; weights are left out, for nobody reads them."""
    with zipfile.ZipFile(pt2) as old, zipfile.ZipFile(path, "w") as new:
        name = next(x for x in old.namelist() if "models/" in x)
        model = json.loads(old.read(name))
        change(model)
        new.writestr(name, json.dumps(model))
    return path


# --- torch.export


def test_an_exported_program_costs_what_its_module_costs(small, pt2):
    module = trace(small, IMAGE)
    exported = trace_name(str(pt2))
    assert (exported.layers, exported.paths) == (module.layers, module.paths)
    assert exported.batch == 4


def test_an_exported_program_is_converted_to_another_dtype(small, pt2):
    assert trace_name(str(pt2), dtype="float16").layers == trace(small, IMAGE, dtype="float16").layers


@pytest.mark.parametrize("form", ["pt2", "onnx"])
def test_a_file_of_another_dtype_than_it_is_priced_in_says_so(small, tmp_path, form):
    path, halved, image = tmp_path / f"half.{form}", copy.deepcopy(small).half(), IMAGE.half()
    if form == "pt2":
        torch.export.save(torch.export.export(halved, (image,)), path)
    else:
        export(halved, path, (image,))
    (said,) = trace_name(str(path)).assumptions
    assert said == "the file computes in float16 and is priced in float32, as --dtype says"
    assert trace_name(str(path), dtype="float16").assumptions == ()


def test_open_sizes_of_an_exported_program_follow_the_options(small, tmp_path):
    path = tmp_path / "open.pt2"
    shapes = {"x": {0: torch.export.Dim("batch")}}
    torch.export.save(torch.export.export(small, (IMAGE,), dynamic_shapes=shapes), path)
    traced = trace_name(str(path), batch=7)
    assert traced.layers == trace(small, torch.zeros(7, 3, 32, 32)).layers
    assert trace_name(str(path)).batch == 1
    assert trace_name(str(path), input="5x3x32x32").batch == 5


def test_open_sizes_of_an_exported_program_follow_from_others(tmp_path):
    class Joined(nn.Module):
        def forward(self, a, b):
            return torch.cat((a, a))[1:] + b

    n = torch.export.Dim("n", min=3, max=99)
    shapes = ({0: n}, {0: 2 * n - 1})
    torch.export.save(
        torch.export.export(Joined(), (torch.zeros(6, 4), torch.zeros(11, 4)), dynamic_shapes=shapes), tmp_path / "n.pt2"
    )
    assert trace_name(str(tmp_path / "n.pt2"), input="8x4").layers[-1].outputs[0].shape == (15, 4)


def test_a_decomposed_program_keeps_its_flop(small, tmp_path):
    path = tmp_path / "core.pt2"
    torch.export.save(torch.export.export(small, (IMAGE,)).run_decompositions(), path)
    decomposed, module = trace_name(str(path)), trace(small, IMAGE)
    assert {"conv2d", "layer_norm", "batch_norm"} <= {x.kind for x in decomposed.layers if x.known}
    matrix = [sum(x.flop for x in t.layers if x.group in ("conv", "matmul", "attention")) for t in (decomposed, module)]
    assert matrix[0] == matrix[1]


@pytest.mark.parametrize(
    ("size", "match"),
    [
        (InputSize(batch=8), r"takes x of 4x3x32x32: 8 does not fit 4"),
        (InputSize(image_size=64), r"64 does not fit 32"),
        (InputSize(seq_len=5), r"seq-len 5 does not apply"),
        (InputSize(shape=(4, 3)), r"input 4x3 does not fit"),
    ],
)
def test_a_size_that_the_file_fixes_is_not_changed(pt2, size, match):
    with pytest.raises(InputError, match=match):
        resolve(str(pt2), size)


def test_an_operator_of_another_library_is_an_uncovered_layer(pt2, tmp_path):
    def foreign(model):
        node = next(x for x in model["graph_module"]["graph"]["nodes"] if "gelu" in x["target"])
        node["target"] = "torch.ops.elsewhere.gelu.default"

    traced = trace_name(str(rewritten(pt2, tmp_path / "net.pt2", foreign)))
    layer = next(x for x in traced.layers if x.kind == "elsewhere::gelu")
    assert not layer.known
    assert (layer.outputs[0].shape, layer.read_bytes) == ((4, 256, 64), 4 * 256 * 64 * 4)


def target(name: str):
    def change(model):
        model["graph_module"]["graph"]["nodes"][0].update(target=name, inputs=[])

    return change


def argument(**value):
    def change(model):
        model["graph_module"]["graph"]["nodes"][0]["inputs"][0]["arg"] = value

    return change


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (target("os.system"), r"os.system is not read"),
        (target("torch.ops.aten.from_file.default"), r"from_file.default is not an operator that runs on shapes alone"),
        (target("torch.ops.aten.save.default"), r"aten.save.default"),
        (target("torch.ops.aten.__class__.default"), r"has no operator"),
        (target("torch.ops.aten.nonzero.default"), r"depends on values"),
        (target("torch.ops.higher_order.cond"), r"is not read: control flow"),
        (argument(as_tensor={"name": "nowhere"}), r"reads 'nowhere', which nothing before it gives"),
        (argument(as_graph={}), r"control flow or foreign objects"),
        (argument(as_int=2**70), r"no 64-bit number"),
        (lambda model: model.update(schema_version={"major": 1}), r"has schema 1, 8 is read: export it again"),
        (lambda model: model.clear(), r"has schema None"),
        (
            lambda model: model["graph_module"]["graph"]["nodes"].extend([{}] * 50_000),
            r"operators; up to 40000",
        ),
        (lambda model: model["graph_module"]["signature"]["input_specs"].pop(), r"does not follow torch.export's schema"),
        (
            lambda model: model["graph_module"]["graph"]["tensor_values"]["x"].update(sizes=[{"as_int": 2**62}] * 4),
            r"no tensor can have the shape",
        ),
    ],
)
def test_a_hostile_program_is_refused(pt2, tmp_path, change, match):
    path = rewritten(pt2, tmp_path / "net.pt2", change)
    with pytest.raises(InputError, match=match):
        trace_name(str(path))


def test_an_archive_that_points_outside_itself_is_refused(tmp_path):
    path = tmp_path / "net.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../models/model.json", "{}")
    with pytest.raises(InputError, match="points outside the archive"):
        trace_name(str(path))


def test_a_graph_that_unpacks_to_gigabytes_is_refused(tmp_path):
    path = tmp_path / "net.pt2"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/models/model.json", b" " * (65 << 20))
    with pytest.raises(InputError, match="larger than 64 MiB"):
        trace_name(str(path))


# --- ONNX

EXPORTERS = {
    "torchscript": {"dynamo": False, "training": torch.onnx.TrainingMode.PRESERVE},
    "torchscript, opset 16": {"dynamo": False, "training": torch.onnx.TrainingMode.PRESERVE, "opset_version": 16},
    "unfolded": {"dynamo": False, "training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False},
    "plain dynamo": {"dynamo": True, "optimize": False, "verbose": False},
}
"""Ways to export that keep each batch norm apart, as the module has it."""


def export(module: nn.Module, path: Path, inputs: tuple[torch.Tensor, ...] = (IMAGE,), **options) -> Path:
    pytest.importorskip("onnx")
    if options.get("dynamo"):
        pytest.importorskip("onnxscript")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, inputs, path, **options)
    return path


@pytest.fixture(scope="module")
def onnx_file(small, tmp_path_factory) -> Path:
    return export(small, tmp_path_factory.mktemp("onnx") / "net.onnx", **EXPORTERS["torchscript"])


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_an_onnx_model_costs_what_its_module_costs(small, tmp_path, exporter):
    traced = trace_name(str(export(small, tmp_path / "net.onnx", **EXPORTERS[exporter])))
    module = trace(small, IMAGE)
    assert traced.layers == module.layers
    assert [p for p, x in zip(traced.paths, traced.layers) if x.group == "matmul"] == ["qkv", "mlp.0", "mlp.2", "head"]


class Causal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(64, 192)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = (y.unflatten(-1, (4, 16)).transpose(1, 2) for y in self.qkv(x).chunk(3, -1))
        return nn.functional.scaled_dot_product_attention(*heads, is_causal=True)


@pytest.mark.parametrize(("dynamo", "opset"), [(False, 16), (False, 18), (False, 20), (True, 18), (True, 20)])
@pytest.mark.parametrize(
    "module",
    [
        nn.GELU(), nn.GELU(approximate="tanh"), nn.SiLU(), nn.Mish(), nn.Hardswish(), nn.Softplus(), nn.LayerNorm(64), Causal(),
        nn.PReLU(), nn.ELU(),
    ],
    ids=repr,
)  # fmt: skip
def test_what_exporters_take_apart_by_opset_is_put_together(module, dynamo, opset, tmp_path):
    # a large causal mask is made by nodes, a small one folded: here, or by the newer exporter into a weight, which is never read
    lengths = {8, 200} - ({8} if dynamo else set()) if isinstance(module, Causal) else {8}
    for n in lengths:
        x = torch.zeros(2, n, 64)
        path = export(module.eval(), tmp_path / f"{n}.onnx", (x,), dynamo=dynamo, opset_version=opset)
        read, own = (
            [(y.kind, y.flop, y.argument("is_causal", None)) for y in traced.layers]
            for traced in (trace_name(str(path)), trace(module, x))
        )
        assert read == own


class Masked(nn.Module):
    """Attention under a mask that the network makes itself."""

    def __init__(self, diagonal: int, hidden: float, seen: float, of_input: bool = False) -> None:
        super().__init__()
        self.diagonal, self.hidden, self.seen, self.of_input = diagonal, hidden, seen, of_input

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n = x.shape[1]
        triangle = torch.tril(x[0, :, :n] if self.of_input else torch.ones(n, n), diagonal=self.diagonal)
        mask = torch.where(triangle == 0, self.hidden, self.seen)
        heads = x.unflatten(-1, (4, -1)).transpose(1, 2)
        return nn.functional.scaled_dot_product_attention(heads, heads, heads, mask)


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("n", [8, 200])
@pytest.mark.parametrize("mask", [(4, -math.inf, 0.0), (0, 0.0, -math.inf), (0, -1.0, 0.0), (0, -math.inf, 0.0, True)])
def test_a_mask_that_is_not_causal_stays_a_mask(mask, n, dynamo, tmp_path):
    path = export(Masked(*mask).eval(), tmp_path / "masked.onnx", (torch.zeros(2, n, 256),), dynamo=dynamo, opset_version=18)
    (attention,) = (x for x in trace_name(str(path)).layers if x.kind == "scaled_dot_product_attention")
    assert attention.operand("attn_mask") is not None and not attention.argument("is_causal", False)


def test_batch_norm_that_the_exporter_folds_is_gone(small, tmp_path):
    traced = trace_name(str(export(small, tmp_path / "net.onnx", dynamo=False)))
    folded = Small().eval()
    folded.stem[0] = nn.utils.fuse_conv_bn_eval(folded.stem[0], folded.stem[1])
    folded.stem[1] = nn.Identity()
    assert traced.layers == trace(folded, IMAGE).layers


def test_open_sizes_of_an_onnx_model_follow_the_options(small, tmp_path):
    options = {"input_names": ["x"], "dynamic_axes": {"x": {0: "batch", 2: "height", 3: "width"}}}
    path = str(export(small, tmp_path / "net.onnx", **EXPORTERS["torchscript"], **options))
    expected = trace(small, torch.zeros(7, 3, 48, 48)).layers
    assert trace_name(path, batch=7, image_size=48).layers == expected
    assert trace_name(path, input="7x3x48x48", dtype="float16").layers != expected
    assert trace_name(path, input="7x3x48x48").layers == expected
    with pytest.raises(InputError, match=r"leaves sizes open \(x batchx3xheightxwidth\): give --batch and --image-size"):
        trace_name(path, batch=7)
    with pytest.raises(InputError, match=r"takes x of batchx3xheightxwidth: 4 does not fit 3"):
        trace_name(path, input="7x4x48x48")


@pytest.mark.parametrize(
    ("shapes", "options", "priced"),
    [
        ([("2*n", "n", 64)], {"input": "n=3"}, [(6, 3, 64)]),
        ([("2*n", "n", 64)], {"input": (6, 3, 64)}, [(6, 3, 64)]),
        ([("2*n", "n", 64)], {"batch": 6, "seq_len": 3}, [(6, 3, 64)]),
        ([("b", "past + 1"), ("b", "past", 4)], {"input": "past=7,b=2"}, [(2, 8), (2, 7, 4)]),
        ([("b", "(b - 1) * 4 // 3")], {"batch": 3}, [(3, 2)]),
        ([("Mul(2, s0)", "s0")], {"input": "s0=3"}, [(6, 3)]),
        ([("2*n", 64)], {"input": "n=3"}, [(6, 64)]),
        ([("2*n", 64)], {"input": "2*n=4"}, [(4, 64)]),
        ([("2*n", 64)], {"batch": 5}, [(5, 64)]),
        ([("batch-size", "n.1")], {"input": "batch-size=2,n.1=3"}, [(2, 3)]),
        ([("batch-size", 3, "image-height", "image-width")], {"batch": 2, "image_size": 64}, [(2, 3, 64, 64)]),
        ([("batch-size", "enc-len"), ("batch-size", "dec-len")], {"batch": 2, "seq_len": 5}, [(2, 5), (2, 5)]),
        ([("batch-1", "batch-2")], {"batch": 2, "seq_len": 5}, [(2, 5)]),
        ([("dim(0)", "dim(1)")], {"batch": 2, "seq_len": 5}, [(2, 5)]),
        ([("2*n", "3*n")], {"batch": 4, "seq_len": 6}, [(4, 6)]),
        ([("m*n", "n")], {"batch": 4, "seq_len": 3}, [(4, 3)]),
        ([("image", "size"), ("image-size", 3)], {"batch": 4, "seq_len": 3}, [(4, 3), (4, 3)]),
        ([("image", "size"), ("image - size", 3)], {"input": "image=4,size=3"}, [(4, 3), (1, 3)]),
    ],
)  # fmt: skip
def test_a_size_that_is_an_expression_follows_from_its_names(tmp_path, shapes, options, priced):
    """Where all of them stand elsewhere or are given; else it is a name itself, as `batch-size` is."""
    names = [f"x{i}" for i in range(len(shapes))]
    inputs = [(name, FLOAT, shape) for name, shape in zip(names, shapes)]
    path = made(tmp_path / "net.onnx", [node("Relu", [x], [f"{x}y"]) for x in names], inputs, [f"{x}y" for x in names])
    assert [x.outputs[0].shape for x in trace_name(str(path), **options).layers] == priced


@pytest.mark.parametrize(
    ("shape", "options", "reason"),
    [
        (("2*n", "n", 64), {"input": (1, 3, 64)}, r"takes x of 2\*nxnx64: 1 does not fit 6 there"),
        (("2*n", "n", 64), {"batch": 5, "seq_len": 3}, "5 does not fit 6 there"),
        (("2*n", "n", 64), {}, r"leaves sizes open \(x 2\*nxnx64\): .*--input n=1"),
        (("2*n", "n", 64), {"input": "m=1"}, "leaves no size 'm' open; known: n"),
        (("b", "Max(1, b)"), {"batch": 3}, r"'Max\(1, b\)' cannot be worked out"),
        (("b", "b//0"), {"batch": 3}, "'b//0' cannot be worked out"),
        (("b", "b - 7"), {"batch": 3}, "no tensor can have the shape 3x-4"),
        (("2*3", "n"), {"batch": 5, "seq_len": 3}, "5 does not fit 6 there"),
    ],
)
def test_a_size_that_is_an_expression_is_refused_where_it_does_not_fit(tmp_path, shape, options, reason):
    path = made(tmp_path / "net.onnx", [node("Relu", ["x"], ["y"])], [("x", FLOAT, shape)])
    with pytest.raises(InputError, match=reason):
        trace_name(str(path), **options)


def test_a_declared_output_may_be_an_expression_of_sizes(tmp_path):
    foreign = node("Fancy", ["x"], ["y"], domain="own")
    path = made(tmp_path / "net.onnx", [foreign], [("x", FLOAT, ("n", 4))], values=[("y", FLOAT, ("2*n", 8))])
    assert trace_name(str(path), input="n=3").layers[0].outputs[0].shape == (6, 8)


def test_an_onnx_model_is_converted_to_another_dtype(small, onnx_file):
    assert trace_name(str(onnx_file), dtype="bfloat16").layers == trace(small, IMAGE, dtype="bfloat16").layers


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, 16)
        self.lstm = nn.LSTM(16, 24, bidirectional=True)
        self.norm = nn.GroupNorm(4, 48)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        y, _ = self.lstm(self.embedding(ids))
        y = nn.functional.pad(nn.functional.silu(self.norm(y.permute(1, 2, 0))), (1, 0))
        y = nn.functional.interpolate(y, scale_factor=2.0)
        y = torch.roll(y.unflatten(1, (6, 8)), (2, 3), (1, 3))
        return nn.functional.mish(y)[:, :, ::2].softmax(-1).amax(1).topk(3).values


def test_recurrent_layers_and_what_moves_data_are_read_as_well(tmp_path):
    module, ids = Recurrent().eval(), torch.zeros(9, 2, dtype=torch.int64)
    traced = trace_name(str(export(module, tmp_path / "net.onnx", (ids,), dynamo=False)))
    expected = trace(module, ids)
    kinds = {x.kind for x in expected.layers} - {"zeros"}
    assert kinds <= {x.kind for x in traced.layers}
    assert {"lstm", "embedding", "group_norm", "silu", "mish", "roll", "topk"} <= kinds
    flop = [sum(x.flop for x in t.layers if x.kind in kinds - {"clone"}) for t in (traced, expected)]
    assert flop[0] == flop[1]


FLOAT, INT64, BOOL = 1, 7, 9


def made(
    path: Path, nodes, inputs=(("x", FLOAT, (2, 4)),), outputs=("y",), values=(), weights=(), functions=(), opset=20
) -> Path:
    """An ONNX file of these nodes; `values` declares shapes, `weights` are (name, array)."""
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    infos = [helper.make_tensor_value_info(*x) for x in inputs]
    declared = [helper.make_tensor_value_info(*x) for x in values]
    tensors = [onnx.numpy_helper.from_array(x, name) if not hasattr(x, "dims") else x for name, x in weights]
    results = [helper.make_tensor_value_info(x, FLOAT, None) for x in outputs]
    graph = helper.make_graph(nodes, "net", infos, results, tensors, value_info=declared)
    domains = [helper.make_opsetid("", opset), helper.make_opsetid("own", 1)]
    model = helper.make_model(graph, opset_imports=domains, functions=list(functions), ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


def node(op, inputs, outputs, **attributes):
    return pytest.importorskip("onnx").helper.make_node(op, inputs, outputs, **attributes)


def test_a_choice_that_is_known_is_taken(tmp_path):
    helper = pytest.importorskip("onnx").helper
    value = [helper.make_tensor_value_info("r", FLOAT, None)]
    branches = {
        f"{x}_branch": helper.make_graph([node(op, ["x"], ["r"])], x, [], value)
        for x, op in (("then", "Relu"), ("else", "Sigmoid"))
    }
    nodes = [node("Shape", ["x"], ["s"]), node("ReduceProd", ["s"], ["n"], keepdims=0), node("Greater", ["n", "nine"], ["big"])]
    path = made(tmp_path / "net.onnx", [*nodes, node("If", ["big"], ["y"], **branches)], weights=[("nine", np.array(9))])
    assert [x.kind for x in trace_name(str(path)).layers] == ["sigmoid"]
    path = made(tmp_path / "net.onnx", [node("If", ["c"], ["y"], **branches)], [("x", FLOAT, (2, 4)), ("c", BOOL, ())])
    with pytest.raises(InputError, match="chooses by values that only running the network could give"):
        trace_name(str(path))


def test_an_operator_of_another_domain_is_an_uncovered_layer(tmp_path):
    foreign = node("Fancy", ["x"], ["h"], domain="own")
    path = made(tmp_path / "net.onnx", [foreign, node("Relu", ["h"], ["y"])], values=[("h", FLOAT, ("n", 8))], opset=20)
    with pytest.raises(InputError, match="has a size 'n' that only running the network could tell"):
        trace_name(str(path))
    path = made(tmp_path / "net.onnx", [foreign, node("Relu", ["h"], ["y"])], values=[("h", FLOAT, (2, 8))])
    first, second = trace_name(str(path)).layers
    assert (first.kind, first.known, first.read_bytes, first.write_bytes) == ("own::Fancy", False, 32, 64)
    assert second.inputs[0].shape == (2, 8)


@pytest.mark.parametrize("options", [{"dynamo": True}, {"dynamo": False, "do_constant_folding": False}], ids=["dynamo", "legacy"])
@pytest.mark.filterwarnings("ignore")
def test_weights_that_are_laid_out_anew_are_so_before_the_first_pass(tmp_path, options):
    """As exporters write it around an LSTM's weights, which a runtime folds when it loads the file."""
    if options["dynamo"]:
        pytest.importorskip("onnxscript")
    module = nn.LSTM(64, 128, bidirectional=True).eval()
    x = torch.zeros(5, 2, 64)
    torch.onnx.export(module, (x,), str(tmp_path / "net.onnx"), verbose=False, **options)
    exported, own = trace_name(str(tmp_path / "net.onnx"), input=(5, 2, 64)), wl.trace(module, x)
    kinds = [x.kind for x in exported.layers]
    assert "lstm" in kinds and not {"cat", "slice", "constant_pad_nd"} & set(kinds)
    read = [next(x.read_bytes for x in t.layers if x.kind == "lstm") for t in (exported, own)]
    assert read[0] == pytest.approx(read[1], rel=1e-3)


def test_arithmetic_on_weights_stays_whatever_lies_behind_it(tmp_path):
    weights = [("w", np.zeros((4, 2, 3, 3), np.float32)), ("g", np.zeros((4, 1, 1, 1), np.float32))]
    scaled, image = node("Mul", ["w", "g"], ["s"]), [("x", FLOAT, (1, 2, 8, 8))]
    flipped = [node("Transpose", ["s"], ["t"], perm=[0, 1, 3, 2]), node("Conv", ["x", "t"], ["y"])]
    for nodes in ([scaled, node("Conv", ["x", "s"], ["y"])], [scaled, *flipped]):
        path = made(tmp_path / "net.onnx", nodes, image, weights=weights)
        assert [x.kind for x in trace_name(str(path)).layers if x.kind != "clone"] == ["mul", "conv2d"]
    laid = [node("Transpose", ["w"], ["s"], perm=[0, 1, 3, 2]), flipped[0], node("Concat", ["t", "t"], ["c"], axis=0)]
    path = made(tmp_path / "net.onnx", [*laid, node("Conv", ["x", "c"], ["y"])], image, weights=weights)
    assert [(x.kind, x.outputs[0].shape) for x in trace_name(str(path)).layers] == [("conv2d", (1, 8, 6, 6))]
    path = made(
        tmp_path / "net.onnx", [node("Transpose", ["w"], ["y"]), node("Relu", ["x"], ["z"])], image, ["y", "z"], weights=weights
    )
    assert [x.kind for x in trace_name(str(path)).layers] == ["relu"], "what a network gives back of its weights alone too"


def test_what_another_domain_does_to_weights_is_done_in_each_pass_whatever_its_name(tmp_path):
    nodes, x = [node("Reshape", ["w"], ["h"], domain="own"), node("Add", ["x", "h"], ["y"])], [("x", FLOAT, (2, 4))]
    weights = [("w", np.ones((4, 2), np.float32))]
    layers = layers_of(tmp_path, nodes, x, weights, values=[("h", FLOAT, (2, 4))])
    assert [(layer.kind, layer.read_bytes) for layer in layers] == [("own::Reshape", 32), ("add", 64)]


@pytest.mark.filterwarnings("ignore")
def test_rows_that_a_file_transposes_are_one_product_as_runtimes_multiply_them(tmp_path):
    weights = [("w", np.zeros((8, 16), np.float32)), ("b", np.zeros(16, np.float32))]
    product = [node("MatMul", ["t", "w"], ["m"]), node("Add", ["m", "b"], ["y"])]
    for perm, kinds in (([1, 0, 2], ["clone", "linear"]), ([0, 1, 2], ["linear"])):
        nodes = [node("Transpose", ["x"], ["t"], perm=perm), *product]
        traced = trace_name(str(made(tmp_path / "net.onnx", nodes, [("x", FLOAT, (2, 5, 8))], weights=weights)))
        assert [x.kind for x in traced.layers] == kinds and traced.layers[-1].inputs[0].strides is None
    module = nn.MultiheadAttention(32, 4, batch_first=True).eval()
    x = torch.zeros(3, 6, 32)
    torch.onnx.export(module, (x, x, x), str(tmp_path / "net.onnx"), dynamo=False)
    exported = trace_name(str(tmp_path / "net.onnx"))
    assert all(layer.inputs[0].strides is None for layer in exported.layers if layer.kind == "linear")
    of_linear = [sum(x.flop for x in t.layers if x.kind == "linear") for t in (exported, wl.trace(module, x, x, x))]
    assert of_linear[0] == of_linear[1]


def test_an_operator_of_another_domain_takes_part_in_compiled_passes(tmp_path):
    nodes = [node("Fancy", ["x"], ["h"], domain="own"), node("Relu", ["h"], ["r"]), node("Sigmoid", ["r"], ["y"])]
    path = made(tmp_path / "net.onnx", nodes, values=[("h", FLOAT, (2, 8))])
    compiled = wl.predict(str(path), hardware="a30", mode="compiled")
    assert [x.kind for x in compiled.trace.layers] == ["own::Fancy", "fused"]


@pytest.mark.parametrize(
    ("domain", "cure"),
    [
        ("", "run onnx.shape_inference on the model"),
        ("own", "declare it in the model's value_info"),
        ("com.microsoft", "run onnxruntime.tools.symbolic_shape_infer on the model"),
        ("com.microsoft.nchwc", "as it was before it was optimised, or optimised up to ORT_ENABLE_EXTENDED"),
    ],
)
def test_the_cure_of_a_missing_shape_is_one_that_can_work(tmp_path, domain, cure):
    path = made(tmp_path / "net.onnx", [node("Fancy", ["x"], ["y"], domain=domain)])
    with pytest.raises(InputError, match=f"does not declare the shape of 'y': .*{cure}, or export it to .pt2"):
        trace_name(str(path))


@pytest.mark.parametrize("where", ["branch", "around"])
def test_a_branch_and_what_is_around_it_declare_the_shapes_of_its_outputs(tmp_path, where):
    onnx = pytest.importorskip("onnx")
    result = onnx.helper.make_tensor_value_info("r", FLOAT, (2, 8) if where == "branch" else None)
    graph = onnx.helper.make_graph([node("Fancy", ["x"], ["r"], domain="own")], "b", [], [result])
    choice = node("If", ["c"], ["h"], then_branch=graph, else_branch=graph)
    values = [("h", FLOAT, (2, 8))] if where == "around" else []
    path = made(tmp_path / "net.onnx", [choice, node("Relu", ["h"], ["y"])], values=values, weights=[("c", np.array(True))])
    assert [(x.kind, x.outputs[0].shape) for x in trace_name(str(path)).layers] == [("own::Fancy", (2, 8)), ("relu", (2, 8))]


def test_an_operator_whose_arithmetic_nobody_knows_is_told(tmp_path):
    foreign = node("Fancy", ["x"], ["y"], domain="own")
    path = made(tmp_path / "net.onnx", [foreign], values=[("y", FLOAT, (2, 8))])
    assert trace_name(str(path)).assumptions == (UNKNOWN_ARITHMETIC.format("own::Fancy"),)


def test_overloads_of_a_function_are_told_apart(tmp_path):
    helper = pytest.importorskip("onnx").helper
    functions, calls = [], []
    for overload, op, inputs in (("a", "Relu", ["x"]), ("b", "MatMul", ["x", "x"])):
        function = helper.make_function("own", "F", ["x"], ["y"], [node(op, inputs, ["y"])], [helper.make_opsetid("", 20)])
        function.overload = overload
        functions.append(function)
        calls.append(node("F", ["x" if overload == "a" else "h"], ["h" if overload == "a" else "y"], domain="own"))
        calls[-1].overload = overload
    path = made(tmp_path / "net.onnx", calls, [("x", FLOAT, (4, 4))], functions=functions)
    assert [x.kind for x in trace_name(str(path)).layers] == ["relu", "matmul"]


def out_shape(path: Path) -> tuple[int, ...]:
    return trace_name(str(path)).layers[-1].outputs[0].shape


IMAGES = [("x", FLOAT, (1, 3, 32, 48))]


@pytest.mark.parametrize(
    ("pads", "strides", "kernel"),
    [
        ([0, 0, 1, 1], [2, 2], [2, 2]),
        ([1, 0, 0, 1], [3, 2], [2, 3]),
        ([0, 0, 2, 2], [2, 3], [4, 3]),
        ([0, 1, 3, 2], [4, 4], [3, 5]),
    ],
)
def test_pooling_whose_size_is_rounded_up_begins_no_window_in_padding(tmp_path, pads, strides, kernel):
    """As onnx.shape_inference has it."""
    onnx = pytest.importorskip("onnx")
    pool = node("MaxPool", ["x"], ["y"], kernel_shape=kernel, strides=strides, pads=pads, ceil_mode=1)
    path = made(tmp_path / "net.onnx", [pool], IMAGES, opset=22)
    inferred = onnx.shape_inference.infer_shapes(onnx.load(str(path))).graph.output[0].type.tensor_type.shape.dim
    assert out_shape(path) == tuple(d.dim_value for d in inferred)


@pytest.mark.parametrize(
    ("attributes", "shape", "reason"),
    [
        ({"dilations": [0, 0]}, (4, 3, 3, 3), r"dilations \(0, 0\) must be at least 1"),
        ({"strides": [-1, 1]}, (4, 3, 3, 3), r"strides \(-1, 1\) must be at least 1"),
        ({"kernel_shape": [9, 9]}, (4, 3, 3, 3), r"kernel_shape .*9, 9.* must be that of its weight, \(3, 3\)"),
        ({}, (4, 3, 0, 0), r"its weight of \(4, 3, 0, 0\) is empty"),
        ({"auto_pad": "BOGUS"}, (4, 3, 3, 3), "auto_pad 'BOGUS' is none of NOTSET, VALID, SAME_UPPER, SAME_LOWER"),
    ],
)
@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_convolutions_that_onnx_does_not_know_are_refused(tmp_path, op, attributes, shape, reason):
    if op == "ConvTranspose":
        shape, reason = (3, 4, *shape[2:]), reason.replace("(4, 3,", "(3, 4,").replace(r"\(4, 3,", r"\(3, 4,")
    weights = [("w", np.zeros(shape, np.float32))]
    path = made(tmp_path / "net.onnx", [node(op, ["x", "w"], ["y"], **attributes)], IMAGES, weights=weights)
    with pytest.raises(InputError, match=reason):
        trace_name(str(path))


def int64(*values):
    return np.array(values, dtype=np.int64)


@pytest.mark.parametrize(
    ("op", "shape", "weights", "attributes", "kinds", "out"),
    [
        ("MaxPool", (1, 3, 33, 49), [], {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}, None,
         (1, 3, 17, 25)),
        ("Conv", (1, 3, 33, 49), [np.zeros((4, 3, 3, 3), np.float32)], {"dilations": [2, 2], "auto_pad": "SAME_LOWER"},
         ["conv2d"], (1, 4, 33, 49)),
        ("MaxPool", (1, 3, 33, 49), [], {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "VALID"}, None, (1, 3, 16, 24)),
        ("ConvTranspose", (1, 3, 32, 48), [np.zeros((3, 4, 3, 3), np.float32)], {"strides": [2, 2], "output_padding": [1, 1]},
         ["conv_transpose2d"], (1, 4, 66, 98)),
        ("GlobalMaxPool", (1, 3, 32, 48), [], {}, ["adaptive_max_pool2d"], (1, 3, 1, 1)),
        ("CumProd", (2, 4), [np.array(1)], {}, ["cumprod"], (2, 4)),
        ("SwiGLU", (2, 4), [np.zeros((2, 4), np.float32)], {}, ["silu", "mul"], (2, 4)),
        ("PRelu", (2, 8, 4, 6), [np.zeros((8, 1, 1), np.float32)], {}, ["prelu"], (2, 8, 4, 6)),
        ("PRelu", (2, 8, 4, 6), [np.zeros((8, 4, 6), np.float32)], {}, ["_prelu_kernel"], (2, 8, 4, 6)),
        ("PRelu", (2, 8, 4, 6), [np.zeros((1, 1, 6), np.float32)], {}, ["_prelu_kernel"], (2, 8, 4, 6)),
        ("LayerNormalization", (2, 4, 8), [np.zeros(8, np.float32)], {"axis": -2}, ["layer_norm"], (2, 4, 8)),
        ("LayerNormalization", (2, 4, 8), [np.zeros((4, 1), np.float32)] * 2, {"axis": 1}, ["layer_norm"], (2, 4, 8)),
        ("Gemm", (4, 2), [np.zeros((4, 5), np.float32)], {"transA": 1}, None, (2, 5)),
        ("Gemm", (4, 2), [np.zeros((5, 2), np.float32), np.zeros((4, 5), np.float32)], {"transB": 1}, ["addmm"], (4, 5)),
        ("Slice", (2, 48), [int64(-1), int64(-100), int64(1), int64(-5)], {}, ["flip"], (2, 10)),
        ("Slice", (2, 48), [int64(1), int64(48), int64(1), int64(5)], {}, [], (2, 10)),
        ("Unsqueeze", (2, 4), [int64(-1, 0)], {}, [], (1, 2, 4, 1)),
        ("Reshape", (1, 3, 32, 48), [int64(0, 0, -1)], {}, [], (1, 3, 1536)),
        ("Pad", (1, 3, 32, 48), [int64(0, 0, 1, 2, 0, 0, 3, 4)], {}, ["constant_pad_nd"], (1, 3, 36, 54)),
        ("DepthToSpace", (1, 12, 4, 4), [], {"blocksize": 2}, ["pixel_shuffle"], (1, 3, 8, 8)),
        ("SpaceToDepth", (1, 3, 8, 8), [], {"blocksize": 2}, ["pixel_unshuffle"], (1, 12, 4, 4)),
        ("Trilu", (4, 4), [], {}, ["triu"], (4, 4)),
        ("Trilu", (4, 4), [], {"upper": 0}, ["tril"], (4, 4)),
        ("Gather", (6, 4), [int64(1, 2, 3)], {}, ["index_select"], (3, 4)),
        ("Gather", (6, 4), [int64([1, 2, 3])], {}, ["embedding"], (1, 3, 4)),
        ("GatherND", (2, 4), [int64([0, 1], [1, 2], [1, 3])], {}, ["index"], (3,)),
        ("GatherND", (2, 4), [int64(1)], {}, ["index"], (4,)),
        ("ReduceSum", (1, 3, 32, 48), [int64(2, 3)], {}, ["sum"], (1, 3, 1, 1)),
        ("ReduceSum", (2, 4), [], {"keepdims": 0}, ["sum"], ()),
        ("ReduceSum", (2, 4), [], {"noop_with_empty_axes": 1}, [], (2, 4)),
        ("ReduceProd", (2, 4, 3), [], {"axes": [0, 1], "keepdims": 0}, ["prod", "prod"], (3,)),
        ("ArgMax", (2, 4), [], {}, ["argmax"], (1, 4)),
        ("TopK", (2, 4), [int64(2)], {}, ["topk"], (2, 2)),
        ("Clip", (2, 4), [], {}, [], (2, 4)),
    ],
    ids=lambda x: x if isinstance(x, str) else None,
)  # fmt: skip
def test_operators_follow_the_defaults_and_the_attributes_of_onnx(tmp_path, op, shape, weights, attributes, kinds, out):
    given = [(f"w{i}", x) for i, x in enumerate(weights)]
    outputs = ["h", "i"] if op == "TopK" else ["h"]
    nodes = [node(op, ["x", *(name for name, _ in given)], outputs, **attributes), node("Neg", ["h"], ["y"])]
    opset = 13 if op == "ReduceProd" else 20  # axes as an attribute
    layers = trace_name(str(made(tmp_path / "net.onnx", nodes, [("x", FLOAT, shape)], weights=given, opset=opset))).layers
    assert layers[-1].outputs[0].shape == out
    assert kinds is None or [x.kind for x in layers] == [*kinds, "neg"]


@pytest.mark.parametrize("pads", [{"pads": [2, 2, 2, 2]}, {"auto_pad": "SAME_UPPER"}], ids=["given", "same"])
@pytest.mark.parametrize("ceil", [0, 1])
def test_a_pool_padded_by_more_than_half_its_kernel_is_padded_before(tmp_path, pads, ceil):
    """ONNX counts gaps as part of the kernel, PyTorch does not and refuses such padding."""
    pool = node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3], dilations=[2, 2], ceil_mode=ceil, **pads)
    layers = trace_name(str(made(tmp_path / "net.onnx", [pool], [("x", FLOAT, (1, 3, 32, 32))]))).layers
    assert [x.kind for x in layers] == ["constant_pad_nd", "max_pool2d"] and layers[-1].outputs[0].shape == (1, 3, 32, 32)
    mean = node("AveragePool", ["x"], ["y"], kernel_shape=[2, 2], pads=[2, 2, 2, 2], ceil_mode=ceil)
    layers = trace_name(str(made(tmp_path / "net.onnx", [mean], [("x", FLOAT, (1, 3, 32, 32))]))).layers
    assert [x.kind for x in layers] == ["constant_pad_nd", "avg_pool2d"] and layers[-1].outputs[0].shape == (
        1,
        3,
        35 - ceil,
        35 - ceil,
    ), "where sizes are rounded up, no window begins behind the input"
    half = node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    assert [x.kind for x in trace_name(str(made(tmp_path / "net.onnx", [half], IMAGES))).layers] == ["max_pool2d"]


def test_a_split_without_sizes_rounds_up_and_a_sequence_ends_with_what_is_left(tmp_path):
    """Ten are four, four and two."""
    split = [node("Split", ["x"], ["a", "b", "c"], axis=1, num_outputs=3), node("Neg", ["c"], ["y"])]
    sequence = [
        node("SplitToSequence", ["x", "four"], ["s"], axis=1),
        node("SequenceAt", ["s", "two"], ["c"]),
        node("Neg", ["c"], ["y"]),
    ]
    weights = [("four", np.array(4)), ("two", np.array(2))]
    for nodes in (split, sequence):
        assert out_shape(made(tmp_path / "net.onnx", nodes, [("x", FLOAT, (3, 10))], weights=weights)) == (3, 2)


SEQUENCES = {
    "element from behind": ([("SplitToSequence", "c", "s", {"axis": 1}), ("SequenceAt", "sl", "h", {})], (1, 1, 6, 6)),
    "without its axis": ([("SplitToSequence", "c", "s", {"axis": 1, "keepdims": 0}), ("SequenceAt", "sl", "h", {})], (1, 6, 6)),
    "sizes": ([("SplitToSequence", "ct", "s", {"axis": 1, "keepdims": 0}), ("SequenceAt", "sl", "h", {})], (1, 2, 6, 6)),
    "made": ([("SequenceConstruct", "xc", "s", {}), ("Identity", "s", "r", {}), ("SequenceAt", "rl", "h", {})], (1, 4, 6, 6)),
    "joined": ([("SequenceConstruct", "ccc", "s", {}), ("ConcatFromSequence", "s", "h", {"axis": 1})], (1, 12, 6, 6)),
    "stacked": (
        [("SequenceConstruct", "ccc", "s", {}), ("ConcatFromSequence", "s", "h", {"axis": 1, "new_axis": 1})],
        (1, 3, 4, 6, 6),
    ),
    "length": (
        [("SplitToSequence", "c", "s", {"axis": 1}), ("SequenceLength", "s", "n", {}), ("Gather", "cn", "h", {"axis": 2})],
        (1, 4, 6),
    ),
}


@pytest.mark.parametrize("case", SEQUENCES)
def test_a_sequence_is_read_as_the_tensors_that_it_holds(tmp_path, case):
    rows, shape = SEQUENCES[case]
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        *(node(op, [*i], [o], **more) for op, i, o, more in rows),
        node("Neg", ["h"], ["y"]),
    ]
    weights = [("w", np.zeros((4, 3, 3, 3), np.float32)), ("l", np.array(-1)), ("t", np.array([2, 2]))]
    assert out_shape(made(tmp_path / "net.onnx", nodes, [("x", FLOAT, (1, 3, 8, 8))], weights=weights)) == shape


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([("SequenceConstruct", "xx", "s"), ("SequenceAt", "st", "y")], r"takes element \[2\] of a sequence of 2"),
        ([("SequenceConstruct", "xx", "s"), ("SequenceAt", "si", "y")], "needs values that only running the network could give"),
        (
            [("SequenceConstruct", "xx", "s"), ("SequenceInsert", "sx", "y")],
            "works on a sequence of tensors in a way that is not",
        ),
        ([("SequenceConstruct", "xx", "s"), ("Add", "xs", "y")], "works on a sequence of tensors in a way that is not read"),
        (
            [("SequenceConstruct", "xx", "s"), ("own.Identity", "s", "y")],
            "works on a sequence of tensors in a way that is not read",
        ),
        ([("SequenceEmpty", "", "s"), ("SequenceInsert", "sx", "y")], r"SequenceEmpty \(s\) works on a sequence .* is not read"),
        ([("SequenceConstruct", "xx", "s"), ("SequenceConstruct", "xs", "y")], "holds 's', which is no tensor"),
        ([("SequenceConstruct", "xx", "s"), ("Optional", "s", "y")], "works on a sequence of tensors in a way that is not read"),
        ([("Optional", "x", "o"), ("OptionalGetElement", "o", "y")], r"Optional \(o\) works on a tensor that may be missing"),
        ([("OptionalHasElement", "x", "y")], "works on a tensor that may be missing, which is not read"),
        ([("SplitToSequence", "x", "y")], "cuts 9999 into pieces of 1; up to 4096 pieces are read"),
    ],
)
def test_what_cannot_be_done_with_a_sequence_is_told(tmp_path, rows, reason):
    calls = [(*op.rpartition(".")[::2], inputs, output) for op, inputs, output in rows]
    nodes = [node(op, [*inputs], [output], domain=domain) for domain, op, inputs, output in calls]
    inputs, weights = [("x", FLOAT, (9999, 4)), ("i", INT64, ())], [("t", np.array(2))]
    with pytest.raises(InputError, match=reason):
        trace_name(str(made(tmp_path / "net.onnx", nodes, inputs, weights=weights)))


@pytest.mark.parametrize("last", [("SplitToSequence", "c"), ("SequenceConstruct", "cx")], ids=lambda x: x[0])
def test_what_leads_to_a_sequence_that_a_network_gives_is_priced(tmp_path, last):
    nodes, weights = (
        [node("Conv", ["x", "w"], ["c"]), node(last[0], [*last[1]], ["y"])],
        [("w", np.zeros((4, 3, 3, 3), np.float32))],
    )
    layers = trace_name(str(made(tmp_path / "net.onnx", nodes, [("x", FLOAT, (1, 3, 8, 8))], weights=weights))).layers
    assert [x.kind for x in layers] == ["conv2d"]


@pytest.mark.parametrize(
    ("outputs", "reason"),
    [
        (["h", "mu"], r"gives 'mu', an output of LayerNormalization \(h\) that is not read"),
        (["h", "nowhere"], "gives 'nowhere', which no node in it makes"),
        ([], "is no ONNX model, or one without outputs"),
    ],
)
def test_an_output_of_the_network_that_is_not_read_is_refused(tmp_path, outputs, reason):
    norm, weights = node("LayerNormalization", ["x", "w"], ["h", "mu"]), [("w", np.ones(4, np.float32))]
    with pytest.raises(InputError, match=reason):
        trace_name(str(made(tmp_path / "net.onnx", [norm], outputs=outputs, weights=weights)))


def test_a_node_that_nothing_follows_from_is_left_out_before_it_is_read(tmp_path):
    """Unless a branch takes it from around it."""
    helper = pytest.importorskip("onnx").helper
    (value,) = [helper.make_tensor_value_info("r", FLOAT, None)]
    inner = [helper.make_graph([node(op, ["h"], ["r"])], op, [], [value]) for op in ("Relu", "Neg")]
    outer = [helper.make_graph([node("If", ["c"], ["r"], then_branch=inner[0], else_branch=inner[1])], "g", [], [value])] * 2
    nodes = [node("NonZero", ["x"], ["i"]), node("QuantizeLinear", ["x", "c"], ["q"]), node("Abs", ["x"], ["h"])]
    path = made(
        tmp_path / "net.onnx", [*nodes, node("If", ["c"], ["y"], then_branch=outer[0], else_branch=outer[1])],
        weights=[("c", np.array(True))],
    )  # fmt: skip
    assert [x.kind for x in trace_name(str(path)).layers] == ["abs", "relu"]


def test_the_indices_of_known_ones_are_a_range(tmp_path):
    """As torch.onnx wrote `arange`."""
    one = pytest.importorskip("onnx").numpy_helper.from_array(np.array([1]))
    nodes = [
        node("Shape", ["x"], ["s"], start=1), node("ConstantOfShape", ["s"], ["o"], value=one), node("NonZero", ["o"], ["z"]),
        node("Squeeze", ["z", "zero"], ["p"]), node("Gather", ["w", "p"], ["e"]), node("Add", ["x", "e"], ["y"]),
    ]  # fmt: skip
    weights = [("w", np.zeros((32, 4), np.float32)), ("zero", int64(0))]
    layers = trace_name(str(made(tmp_path / "net.onnx", nodes, [("x", FLOAT, (4, 4))], weights=weights))).layers
    assert [(x.kind, x.outputs[0].shape) for x in layers] == [("index_select", (4, 4)), ("add", (4, 4))]


def test_sizes_are_those_from_start_to_end_and_scaled_ones_are_rounded_down(tmp_path):
    nodes = [node("Shape", ["x"], ["s"], start=1, end=2), node("Concat", ["s", "rest"], ["to"], axis=0)]
    nodes += [node("Reshape", ["x", "to"], ["h"]), node("Neg", ["h"], ["y"])]
    assert out_shape(made(tmp_path / "net.onnx", nodes, IMAGES, weights=[("rest", int64(-1))])) == (3, 1536)
    scales = [("scales", np.array([1, 1, 1.1, 1.1], dtype=np.float32))]
    resize = node("Resize", ["x", "", "scales"], ["y"], mode="linear")
    assert out_shape(made(tmp_path / "net.onnx", [resize], IMAGES, weights=scales)) == (1, 3, 35, 52), "35.2 and 52.8"


def test_whole_numbers_are_divided_into_whole_numbers_and_a_mean_is_divided(tmp_path):
    halves = made(tmp_path / "net.onnx", [node("Div", ["x", "z"], ["y"])], [("x", INT64, (2, 4)), ("z", INT64, (2, 4))])
    assert [x.outputs[0].dtype for x in trace_name(str(halves)).layers] == ["int64"]
    mean = made(tmp_path / "net.onnx", [node("Mean", ["x", "z"], ["y"])], [("x", FLOAT, (2, 4)), ("z", FLOAT, (2, 4))])
    assert [x.kind for x in trace_name(str(mean)).layers] == ["add", "div"]


def test_directions_of_a_recurrent_layer_come_before_its_batch(tmp_path):
    weights = [("w", np.zeros((2, 16, 8), np.float32)), ("r", np.zeros((2, 16, 4), np.float32))]
    nodes = [node("LSTM", ["x", "w", "r"], ["h"], hidden_size=4, direction="bidirectional"), node("Neg", ["h"], ["y"])]
    first, last = trace_name(str(made(tmp_path / "net.onnx", nodes, [("x", FLOAT, (5, 3, 8))], weights=weights))).layers[-2:]
    assert first.kind == "lstm" and last.outputs[0].shape == (5, 2, 3, 4), "time, directions, batch, size"
    assert first.flop == pytest.approx(2 * 2 * 5 * 3 * 16 * (8 + 4), rel=0.1), "two directions of products"


@pytest.mark.parametrize(
    "attributes",
    [
        {"strides": [2, 2], "pads": [0, 0, 1, 2]},
        {"strides": [2, 2], "pads": [2, 1, 1, 1]},
        {"strides": [2, 3], "auto_pad": "SAME_UPPER"},
        {"strides": [4, 2], "auto_pad": "SAME_LOWER"},
        {"strides": [2, 2], "output_shape": [64, 96]},
        {"strides": [2, 2], "output_shape": [66, 97], "output_padding": [1, 0]},
        {"strides": [3, 3], "output_shape": [96, 144], "dilations": [1, 2]},
    ],
)
def test_a_transposed_convolution_is_as_large_as_its_pads_leave_it(tmp_path, attributes):
    """As onnx.shape_inference has it, and with the products of the whole one."""
    onnx = pytest.importorskip("onnx")
    nodes = [node("ConvTranspose", ["x", "w"], ["h"], **attributes), node("Neg", ["h"], ["y"])]
    path = made(tmp_path / "net.onnx", nodes, IMAGES, weights=[("w", np.zeros((3, 4, 3, 3), np.float32))], opset=22)
    inferred = onnx.shape_inference.infer_shapes(onnx.load(str(path))).graph.output[0].type.tensor_type.shape.dim
    first, last = trace_name(str(path)).layers
    assert last.outputs[0].shape == tuple(d.dim_value for d in inferred)
    assert (first.kind, first.flop) == ("conv_transpose2d", 2 * 32 * 48 * 3 * 4 * 9)


@pytest.mark.parametrize(
    ("op", "index", "axis", "out", "read_bytes"),
    [
        ("Gather", (), 0, (8,), 4 * 8 + 8),
        ("Gather", (), 1, (32,), 4 * 32 + 8),
        ("GatherND", (1,), None, (8,), 4 * 8 + 8),
        ("GatherND", (2,), None, (), 4 + 2 * 8),
    ],
)
def test_one_entry_is_taken_by_an_index_that_the_network_is_given(tmp_path, op, index, axis, out, read_bytes):
    taken = node(op, ["w", "i"], ["h"], **({} if axis is None else {"axis": axis}))
    inputs, weights = [("i", INT64, index)], [("w", np.zeros((32, 8), np.float32))]
    path = made(tmp_path / "net.onnx", [taken, node("Neg", ["h"], ["y"])], inputs, weights=weights)
    first, last = trace_name(str(path)).layers
    assert (first.read_bytes, last.outputs[0].shape) == (read_bytes, out)


def test_slopes_and_scales_that_are_shared_are_read_once(tmp_path):
    for op, attributes in (("PRelu", {}), ("LayerNormalization", {"axis": -2}), ("RMSNormalization", {"axis": -2})):
        weights = [("w", np.zeros(8, np.float32))]
        path = made(
            tmp_path / "net.onnx",
            [node(op, ["x", "w"], ["y"], **attributes)],
            [("x", FLOAT, (2, 4, 8))],
            weights=weights,
            opset=23,
        )
        (layer,) = trace_name(str(path)).layers
        assert layer.read_bytes == 4 * (2 * 4 * 8 + 8) and layer.known


@pytest.mark.parametrize("shape", [(5, 2, 8, 4, 6), (8, 4, 3)])
def test_slopes_that_do_not_fit_are_refused(tmp_path, shape):
    """An operand of PRelu is never larger than what it is applied to."""
    weights = [("w", np.zeros(shape, np.float32))]
    path = made(tmp_path / "net.onnx", [node("PRelu", ["x", "w"], ["y"])], [("x", FLOAT, (2, 8, 4, 6))], weights=weights)
    with pytest.raises(InputError, match=r"^PRelu \(y\) cannot be: .*\[2, 8, 4, 6\]"):
        trace_name(str(path))


def test_attention_of_opset_24_counts_padded_keys_in_full(tmp_path):
    inputs = [*((name, FLOAT, (2, 4, 6, 8)) for name in "qkv"), ("n", INT64, (2,))]
    call = node("Attention", ["q", "k", "v", "", "", "", "n"], ["y"])
    (layer,) = trace_name(str(made(tmp_path / "net.onnx", [call], inputs, opset=24))).layers
    assert (layer.kind, layer.flop) == ("scaled_dot_product_attention", 2 * 2 * 4 * 6 * 6 * (8 + 8))


def test_attention_within_a_window_is_refused(tmp_path):
    inputs = [(name, FLOAT, (2, 4, 6, 8)) for name in "qkv"]
    whole, left = (node("Attention", [*"qkv"], ["y"], left_window_size=n, right_window_size=-1) for n in (4096, 2))
    (layer,) = trace_name(str(made(tmp_path / "net.onnx", [whole], inputs, opset=25))).layers
    assert layer.flop == 2 * 2 * 4 * 6 * 6 * (8 + 8)
    with pytest.raises(InputError, match=r"Attention \(y\) attends within a window \(2, -1\), which is not priced"):
        trace_name(str(made(tmp_path / "net.onnx", [left], inputs, opset=25)))


def test_attention_of_opset_23_knows_its_heads_and_what_came_before(tmp_path):
    shapes = [("q", FLOAT, (2, 6, 32)), ("k", FLOAT, (2, 6, 16)), ("v", FLOAT, (2, 6, 16))]
    heads = node("Attention", ["q", "k", "v"], ["y"], q_num_heads=4, kv_num_heads=2, is_causal=1)
    (layer,) = trace_name(str(made(tmp_path / "net.onnx", [heads], shapes, opset=23))).layers[:1]
    assert [x.shape for x in layer.inputs] == [(2, 4, 6, 8), (2, 2, 6, 8), (2, 2, 6, 8)]
    assert layer.argument("is_causal", False)
    apart = [(name, FLOAT, (2, 4, 1, 8)) for name in "qkv"] + [(name, FLOAT, (2, 4, 5, 8)) for name in ("pk", "pv")]
    step = node("Attention", ["q", "k", "v", "", "pk", "pv"], ["y", "nk", "nv"])
    layers = trace_name(str(made(tmp_path / "net.onnx", [step], apart, opset=23))).layers
    assert [x.kind for x in layers] == ["cat", "cat", "scaled_dot_product_attention"]
    assert layers[-1].inputs[1].shape == (2, 4, 6, 8), "five positions of before and this one"


def test_an_attribute_that_a_call_gives_goes_before_the_default_of_its_function(tmp_path):
    helper = pytest.importorskip("onnx").helper
    body = node("Softmax", ["a"], ["b"])
    body.attribute.append(pytest.importorskip("onnx").AttributeProto(name="axis", ref_attr_name="along", type=2))
    along, opsets = helper.make_attribute("along", 0), [helper.make_opsetid("", 20)]
    own = helper.make_function("own", "F", ["a"], ["b"], [body], opsets, [], [along])
    for given, axis in (({}, 0), ({"along": 1}, 1)):
        path = made(tmp_path / "net.onnx", [node("F", ["x"], ["y"], domain="own", **given)], functions=[own])
        assert trace_name(str(path)).layers[0].argument("dim") == axis


def test_average_pooling_with_gaps_is_refused(tmp_path):
    path = made(tmp_path / "net.onnx", [node("AveragePool", ["x"], ["y"], kernel_shape=[3, 3], dilations=[2, 2])], IMAGES)
    with pytest.raises(InputError, match="averages windows with gaps"):
        trace_name(str(path))


@pytest.mark.parametrize(
    ("sizes", "attributes", "shape"),
    [
        ([1, 3, 64, 64], {"keep_aspect_ratio_policy": "not_larger"}, (1, 3, 32, 48)),
        ([64, 64], {"axes": [2, 3], "keep_aspect_ratio_policy": "not_smaller"}, (1, 3, 64, 96)),
        ([64, 64], {"axes": [2, 3]}, (1, 3, 64, 64)),
        ([64, 64], {"axes": [-1, -2], "keep_aspect_ratio_policy": "not_larger"}, (1, 3, 43, 64)),
    ],
)
def test_resizing_follows_its_axes_and_keeps_the_aspect_where_asked(tmp_path, sizes, attributes, shape):
    resize = node("Resize", ["x", "", "", "sizes"], ["y"], mode="linear", **attributes)
    assert out_shape(made(tmp_path / "net.onnx", [resize], IMAGES, weights=[("sizes", np.array(sizes))])) == shape


def test_scales_may_be_of_some_axes(tmp_path):
    resize = node("Resize", ["x", "", "scales"], ["y"], mode="linear", axes=[2, 3])
    scales = [("scales", np.array([2.0, 0.5], dtype=np.float32))]
    assert out_shape(made(tmp_path / "net.onnx", [resize], IMAGES, weights=scales)) == (1, 3, 64, 24)


@pytest.mark.parametrize("module", [nn.ReflectionPad2d((2, 2, 0, 0)), nn.ReplicationPad2d((2, 2, 0, 0))])
@pytest.mark.parametrize("exporter", EXPORTERS)
def test_padding_of_the_last_axis_alone_is_read(module, tmp_path, exporter):
    x = torch.zeros(1, 8, 16, 16)
    file = export(module, tmp_path / "net.onnx", (x,), **EXPORTERS[exporter])
    assert [(x.kind, x.outputs[0].shape) for x in trace_name(str(file)).layers] == [
        (layer.kind, layer.outputs[0].shape) for layer in wl.trace(module, x).layers
    ]


class Hides(nn.Module):
    def forward(self, q: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return nn.functional.scaled_dot_product_attention(q, q, q, mask)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_attention_under_a_mask_of_switches_is_put_together(tmp_path, exporter):
    inputs = torch.zeros(2, 3, 16, 8), torch.ones(2, 1, 16, 16, dtype=torch.bool)
    file = export(Hides(), tmp_path / "net.onnx", inputs, **EXPORTERS[exporter])
    (layer,) = trace_name(str(file)).layers
    assert layer.kind == "scaled_dot_product_attention" and layer.operand("attn_mask").dtype == "bool"


def test_a_mask_of_several_attentions_stays_as_it_is_made(tmp_path):
    class Shares(nn.Module):
        def forward(self, q, k, v, m):
            mask = torch.where(m, 0.0, torch.finfo(torch.float32).min)
            hidden = nn.functional.scaled_dot_product_attention(q, k, v, mask)
            return nn.functional.scaled_dot_product_attention(hidden, k, v, mask)

    inputs = *(torch.zeros(2, 3, 16, 8) for _ in range(3)), torch.ones(2, 1, 16, 16, dtype=torch.bool)
    path = export(Shares(), tmp_path / "net.onnx", inputs, dynamo=True, optimize=False, verbose=False)
    layers = trace_name(str(path)).layers
    assert [x.kind for x in layers] == ["where", *["scaled_dot_product_attention"] * 2]
    assert {x.operand("attn_mask").dtype for x in layers[1:]} == {"float32"}


def test_an_output_that_is_not_read_is_named_where_it_is_needed(tmp_path):
    norm = node("LayerNormalization", ["x", "w"], ["h", "mu"], axis=-1)
    nodes, weights = [norm, node("Add", ["h", "mu"], ["y"])], [("w", np.ones(4, dtype=np.float32))]
    with pytest.raises(InputError, match=r"reads 'mu', an output of LayerNormalization \(h\) that is not read"):
        trace_name(str(made(tmp_path / "net.onnx", nodes, weights=weights)))


def test_a_rectified_recurrent_layer_is_one(tmp_path):
    file = export(nn.RNN(8, 4, nonlinearity="relu"), tmp_path / "net.onnx", (torch.zeros(5, 2, 8),), dynamo=False)
    assert "rnn_relu" in [x.kind for x in trace_name(str(file)).layers]


def test_a_recurrent_layer_of_another_activation_is_refused(tmp_path):
    weights = [(name, np.zeros((1, 4, n), dtype=np.float32)) for name, n in (("w", 8), ("r", 4))]
    rnn = node("RNN", ["x", "w", "r"], ["y"], hidden_size=4, activations=["Sigmoid"])
    with pytest.raises(InputError, match="activations sigmoid are not read: Tanh or Relu alone are"):
        trace_name(str(made(tmp_path / "net.onnx", [rnn], [("x", FLOAT, (5, 2, 8))], weights=weights)))


def test_a_block_without_gradients_names_its_cure(tmp_path):
    class Frozen(nn.Module):
        def forward(self, x):
            with torch.no_grad():
                y = x * 2
            return y + 1

    exported = torch.export.export(Frozen(), (torch.zeros(2, 3),))
    torch.export.save(exported, tmp_path / "net.pt2")
    with pytest.raises(InputError, match=r"block of torch.no_grad\(\).*run_decompositions"):
        trace_name(str(tmp_path / "net.pt2"))
    torch.export.save(exported.run_decompositions({}), tmp_path / "net.pt2")
    assert [x.kind for x in trace_name(str(tmp_path / "net.pt2")).layers] == ["mul", "add"]


def test_a_function_of_the_model_is_written_out(tmp_path):
    helper = pytest.importorskip("onnx").helper
    body = [node("Relu", ["a"], ["t"]), node("Add", ["t", "a"], ["b"])]
    own = helper.make_function("own", "Twice", ["a"], ["b"], body, [helper.make_opsetid("", 20)])
    calls = [node("Twice", ["x"], ["h"], domain="own"), node("Twice", ["h"], ["y"], domain="own")]
    path = made(tmp_path / "net.onnx", calls, functions=[own])
    assert [x.kind for x in trace_name(str(path)).layers] == ["relu", "add"] * 2


def outside(location: str):
    tensor = pytest.importorskip("onnx").TensorProto(name="w", data_type=FLOAT, dims=[4, 4], data_location=1)
    tensor.external_data.add(key="location", value=location)
    return tensor


def huge():
    return pytest.importorskip("onnx").TensorProto(name="w", data_type=FLOAT, dims=[2**62, 2**62])


HOSTILE = {
    "cycle": ([("Add", "xb", "a"), ("Relu", "a", "b"), ("Relu", "b", "y")], {}, "reads 'b', which nothing before it gives"),
    "missing": ([("MatMul", "xw", "y")], {}, "reads 'w', which nothing before it gives"),
    "twice": ([("Relu", "x", "y"), ("Exp", "x", "y")], {}, "gives 'y', which is there already"),
    "wrong shapes": ([("MatMul", "xx", "y")], {}, r"MatMul \(y\) cannot be"),
    "huge weight": ([("MatMul", "xw", "y")], {"weights": [("w", huge)]}, "no tensor can have the shape"),
    "huge input": ([("Relu", "x", "y")], {"inputs": [("x", FLOAT, (2**62, 2**62))]}, "no tensor can have the shape"),
    "outside": (
        [("MatMul", "xw", "y")],
        {"weights": [("w", lambda: outside("../../etc/passwd"))]},
        "lie outside the model's folder",
    ),
    "absolute": ([("MatMul", "xw", "y")], {"weights": [("w", lambda: outside("/etc/passwd"))]}, "lie outside the model's folder"),
    "loop": ([("Loop", "xx", "y")], {"values": [("y", FLOAT, (2, 4))]}, "repeats a graph as often as values say"),
    "nonzero": ([("NonZero", "x", "y")], {}, "how much comes out depends on values"),
    "quantised": ([("DequantizeLinear", "xx", "y")], {}, "not read: export the network before it is quantised"),
    "unknown": ([("Fancy", "x", "y")], {}, "operator Fancy is not known and the file does not declare the shape of 'y'"),
    "too new": ([("Relu", "x", "y")], {"opset": 99}, "uses opset 99; 7 to 28 are read: .*onnx.version_converter"),
    "too many": ([("Relu", "x", "y")] * 50_000, {}, "more than 40000 nodes"),
    "open": ([("Relu", "x", "y")], {"inputs": [("x", FLOAT, ("n", "m"))]}, "leaves sizes open"),
    "no shape": ([("Relu", "x", "y")], {"inputs": [("x", FLOAT, None)]}, "is no tensor of a declared shape"),
    "text": ([("Relu", "x", "y")], {"inputs": [("x", 8, (2, 4))]}, "its input 'x' is of ONNX type STRING, which is not read"),
    "int4": ([("Relu", "x", "y")], {"inputs": [("x", 22, (2, 4))]}, "its input 'x' is of ONNX type INT4, which is not read"),
    "minus one": (
        [("Relu", "x", "y")],
        {"inputs": [("x", FLOAT, (-1, 4))]},
        "its input 'x' has a dimension of -1: .*with a name",
    ),
    "values": ([("Reshape", "xx", "y")], {}, "needs values that only running the network could give"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_onnx_model_is_refused(tmp_path, case):
    rows, options, match = HOSTILE[case]
    weights = [(name, make()) for name, make in options.get("weights", ())]
    nodes = [node(op, list(inputs), list(outputs)) for op, inputs, outputs in rows]
    path = made(tmp_path / "net.onnx", nodes, **{**options, "weights": weights})
    started = time.monotonic()
    with pytest.raises(InputError, match=match):
        trace_name(str(path))
    assert time.monotonic() - started < 10


def test_the_newest_operator_set_changes_no_cost(tmp_path):
    nodes = [
        node("SpaceToDepth", ["x"], ["a"], blocksize=2, mode="CRD"),
        node("Celu", ["a"], ["b"]),
        node("Einsum", ["b", "b"], ["c"], equation="bchw,bchv->bcwv"),
        node("ReduceLogSumExp", ["c", "axis"], ["d"]),
        node("Mod", ["d", "d"], ["e"], fmod=1),
        node("Transpose", ["e"], ["f"], perm=[0, 1, 3, 2]),
        node("Pad", ["f", "pads"], ["g"]),
        node("Flatten", ["g"], ["h"]),
        node("TopK", ["h", "one"], ["i", ""]),
        node("Softmax", ["i"], ["y"]),
    ]
    weights = [("axis", int64(3)), ("pads", int64(0, 0, 0, 1, 0, 0, 0, 1)), ("one", int64(1))]
    old, new = (trace_name(str(made(tmp_path / "net.onnx", nodes, IMAGES, weights=weights, opset=n))).layers for n in (22, 28))
    assert old == new and [x.kind for x in new][:3] == ["pixel_unshuffle", "celu", "bmm"] and len(new) > 7


def test_new_operators_that_are_not_in_the_table_are_named():
    onnx = pytest.importorskip("onnx")
    from wattlayer.adapters.onnx import NEWEST_OPSET
    from wattlayer.adapters.onnx.operators import OPERATORS

    first: dict[str, int] = {}
    for x in onnx.defs.get_all_schemas_with_history():
        if not x.domain:
            first[x.name] = min(first.get(x.name, x.since_version), x.since_version)
    page = (Path(__file__).parents[1] / "docs" / "formats.md").read_text()
    named = set(re.findall(r"`(\w+)`", page.partition("new since opset 23")[2].partition(")")[0]))
    new = {name for name, version in first.items() if 23 <= version <= NEWEST_OPSET}
    assert new - OPERATORS.keys() == named


@pytest.mark.parametrize(("op", "size"), [("Expand", 2**40), ("Tile", 2**40), ("ConstantOfShape", 2**40), ("Expand", 2**62)])
def test_a_tensor_of_terabytes_takes_no_memory(tmp_path, op, size):
    weights = [("n", np.array([size, size // 4 if size == 2**62 else 1]))]
    inputs = ["n"] if op == "ConstantOfShape" else ["x", "n"]
    path = made(tmp_path / "net.onnx", [node(op, inputs, ["y"])], [("x", FLOAT, (1, 1))], weights=weights)
    if size == 2**62:
        with pytest.raises(InputError):
            trace_name(str(path))
    else:
        assert all(x.write_bytes >= 2**40 for x in trace_name(str(path)).layers)


def test_functions_that_double_or_call_themselves_are_stopped(tmp_path):
    helper = pytest.importorskip("onnx").helper
    opset = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]

    def twice(name, inner):
        body = [node(inner, ["a"], ["t"], domain="own"), node(inner, ["t"], ["b"], domain="own")]
        return helper.make_function("own", name, ["a"], ["b"], body, opset)

    last = helper.make_function("own", "F0", ["a"], ["b"], [node("Relu", ["a"], ["b"])], opset)
    doubling = [last, *(twice(f"F{i}", f"F{i - 1}") for i in range(1, 30))]
    for functions, called in ((doubling, "F29"), (doubling, "F15"), ([twice("Own", "Own")], "Own")):
        path = made(tmp_path / "net.onnx", [node(called, ["x"], ["y"], domain="own")], functions=functions)
        with pytest.raises(InputError, match=r"functions deep, or calls itself|more than 40000 nodes"):
            trace_name(str(path))


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00", b"no model", b"\x08\x07", b"\x3a\xff\xff\xff\xff\x0f", b"\x3a\x80", b"\xff" * 100, b"\x08\x01" * 500_000],
    ids=["empty", "zero", "text", "version only", "cut off", "no length", "ones", "many fields"],
)
def test_bytes_that_are_no_model_are_refused(tmp_path, content):
    pytest.importorskip("onnx")
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"net.onnx"):
        trace_name(str(path))


def test_a_model_that_is_cut_off_anywhere_is_read_or_refused(onnx_file, tmp_path):
    whole, path = onnx_file.read_bytes(), tmp_path / "net.onnx"
    for end in range(0, len(whole), max(1, len(whole) // 60)):
        path.write_bytes(whole[:end])
        with pytest.raises(InputError):
            trace_name(str(path))


def test_weights_are_never_loaded(tmp_path):
    """Neither those in the file, however long, nor those beside it, which are not even there."""
    onnx = pytest.importorskip("onnx")
    wide = nn.Linear(4096, 4096)
    path = export(wide, tmp_path / "net.onnx", (torch.zeros(1, 4096),), dynamo=False)
    assert path.stat().st_size > 60e6
    from wattlayer.adapters.onnx.wire import read_without_weights

    assert len(read_without_weights(path)) < 100_000
    expected = trace(wide, torch.zeros(1, 4096)).layers
    assert trace_name(str(path)).layers == expected
    model = onnx.load_model_from_string(read_without_weights(path))
    for tensor in model.graph.initializer:
        tensor.data_location = 1
        tensor.external_data.add(key="location", value="weights.bin")
    path.write_bytes(model.SerializeToString())
    assert trace_name(str(path)).layers == expected


# --- networks people have, priced for an A30 at batch 8

ORDINARY = ("squeezenet1_0", "mobilenet_v3_large", "shufflenet_v2_x1_0")
TEN = (
    *ORDINARY, "resnet50", "vit_b_16", "efficientnet_b0", "densenet121", "convnext_tiny", "regnet_y_400mf", "mnasnet1_0",
)  # fmt: skip


def each_network(check):
    slow = [pytest.param(name, marks=pytest.mark.slow) for name in TEN if name not in ORDINARY]
    return pytest.mark.parametrize("name", [*ORDINARY, *slow])(check)


@pytest.fixture(scope="module")
def a30() -> wl.EnergyModel:
    return wl.load_model("a30")


def network(name: str) -> nn.Module:
    if find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    module = import_torchvision().models.get_model(name, weights=None).eval()
    for x in module.parameters():
        nn.init.normal_(x, std=0.02)  # an exporter leaves out what is all zeros
    return module


def compare(file: Path, module: nn.Module, a30: wl.EnergyModel, within_frac: float = 0.02) -> None:
    read, own = trace_name(str(file), batch=8), trace(module, torch.empty(8, 3, 224, 224, device="meta"))
    assert read.flop == own.flop
    assert wl.estimate(read, a30).energy_j == pytest.approx(wl.estimate(own, a30).energy_j, rel=within_frac)


OPEN = {"dynamo": False, "input_names": ["x"], "dynamic_axes": {"x": {0: "batch"}}}


@each_network
def test_a_network_of_torchvision_costs_the_same_as_onnx(name, a30, tmp_path):
    """Exported with its batch norms, and with those folded, as exporters do unless told otherwise."""
    module, image = network(name), torch.zeros(1, 3, 224, 224)
    kept = export(module, tmp_path / "kept.onnx", (image,), training=torch.onnx.TrainingMode.PRESERVE, **OPEN)
    compare(kept, module, a30)
    compare(export(module, tmp_path / "folded.onnx", (image,), **OPEN), fold_batch_norm(module), a30)


@pytest.mark.parametrize("name", [ORDINARY[0], *(pytest.param(x, marks=pytest.mark.slow) for x in TEN[1:])])
def test_a_network_of_torchvision_costs_the_same_as_the_newer_exporter_writes_it(name, a30, tmp_path):
    module = network(name)
    path = export(module, tmp_path / "net.onnx", (torch.zeros(8, 3, 224, 224),), dynamo=True, verbose=False)
    compare(path, fold_batch_norm(module), a30)


@each_network
def test_a_network_of_torchvision_costs_the_same_as_pt2(name, a30, tmp_path):
    module, path = network(name), tmp_path / "net.pt2"
    torch.export.save(torch.export.export(module, (torch.zeros(8, 3, 224, 224),)), path)
    with unfused_attention():  # which is how an exporter writes it (docs/formats.md)
        compare(path, module, a30, within_frac=1e-9)


@pytest.mark.parametrize("name", ["net.pt", "net.ts", "net.torchscript", "net.pth"])
def test_pickles_and_torchscript_are_refused_with_the_cure(name):
    with pytest.raises(InputError, match=r"code or pickled weights; export it with torch.onnx.export"):
        resolve(name, InputSize())


def test_a_missing_file_is_named():
    with pytest.raises(InputError, match=r"nowhere.pt2: there is no such file"):
        resolve("nowhere.pt2", InputSize())


def test_the_page_on_formats_lists_every_operator():
    from wattlayer.adapters.onnx.operators import OPERATORS

    import_module("wattlayer.adapters.onnx")
    page = (Path(__file__).parents[1] / "docs" / "formats.md").read_text().partition("## ONNX operators")[2]
    page, _, of_runtime = page.partition("## ONNX Runtime's own operators")
    domain = "com.microsoft."
    own = {name.removeprefix(domain): OPERATORS[name] for name in OPERATORS if name.startswith(domain)}
    for text, (begin, middle), table in (
        (
            page,
            ("Operator sets 7 to 28:", "These are refused, each with its reason:"),
            {k: OPERATORS[k] for k in OPERATORS if "." not in k},
        ),
        (of_runtime, ("They are:", "what is quantised in other ways:"), own),
    ):
        priced, _, refused = text.partition(begin)[2].partition(middle)
        listed = [name for name, call in table.items() if (call.__doc__ or "").startswith("Refuse")]
        assert re.findall(r"`(\w+)`", refused) == sorted(listed) and len(listed) > 10
        assert re.findall(r"`(\w+)`", priced) == sorted(table.keys() - listed)
    assert all(name.startswith((domain, "wattlayer.")) for name in OPERATORS if "." in name)


# --- parts that only look like one operator


def layers_of(tmp_path, nodes, inputs, weights=(), outputs=("y",), **options):
    """The layers of a file of these nodes."""
    path = made(tmp_path / "net.onnx", nodes, inputs, list(outputs), weights=list(weights), **options)
    return trace_name(str(path)).layers


def test_parts_whose_inside_is_read_elsewhere_or_is_of_another_domain_stay_apart(tmp_path):
    x, swish = [("x", FLOAT, (2, 4))], [node("Sigmoid", ["x"], ["s"]), node("Mul", ["x", "s"], ["y"])]
    assert [layer.kind for layer in layers_of(tmp_path, swish, x)] == ["silu"]
    assert [layer.kind for layer in layers_of(tmp_path, swish, x, outputs=("y", "s"))] == ["sigmoid", "mul"]
    beside = [*swish, node("Relu", ["s"], ["z"])]
    assert [layer.kind for layer in layers_of(tmp_path, beside, x, outputs=("y", "z"))] == ["sigmoid", "mul", "relu"]
    foreign = [node("Sigmoid", ["x"], ["s"], domain="own"), node("Mul", ["x", "s"], ["y"])]
    kinds = [layer.kind for layer in layers_of(tmp_path, foreign, x, values=[("s", FLOAT, (2, 4))])]
    assert len(kinds) == 2 and kinds[1] == "mul"


def test_a_gelu_divides_by_one_number(tmp_path):
    nodes = [
        node("Div", ["x", "c"], ["a"]), node("Erf", ["a"], ["b"]), node("Add", ["b", "one"], ["d"]),
        node("Mul", ["x", "d"], ["e"]), node("Mul", ["e", "half"], ["y"]),
    ]  # fmt: skip
    ones = [("one", np.float32(1)), ("half", np.float32(0.5))]
    for c, kinds in ((np.float32(2**0.5), ["gelu"]), (np.full(4, 2**0.5, np.float32), ["div", "erf", "add", "mul", "mul"])):
        weights = [("c", c), *((name, np.array(value)) for name, value in ones)]
        weights[0] = ("c", np.array(c))
        assert [layer.kind for layer in layers_of(tmp_path, nodes, [("x", FLOAT, (2, 4))], weights)] == kinds


def test_a_product_is_a_linear_layer_with_a_bias_of_its_channels_alone(tmp_path):
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Add", ["h", "b"], ["y"])]
    for shape, kinds in (((5,), ["linear"]), ((2, 5), ["linear", "add"]), ((1,), ["linear", "add"])):
        weights = [("w", np.ones((4, 5), np.float32)), ("b", np.ones(shape, np.float32))]
        layers = layers_of(tmp_path, nodes, [("x", FLOAT, (2, 4))], weights)
        assert [layer.kind for layer in layers] == kinds and layers[0].flop == 2 * 2 * 4 * 5
    (layer,) = layers_of(tmp_path, nodes[:1], [("x", FLOAT, (4,))], weights[:1], outputs=("h",))
    assert layer.kind != "linear" and layer.flop == 2 * 4 * 5


def attention_nodes(mask=(), **softmax):
    """Attention as it is exported, of `q`, `k` that lies turned, and `v`; `mask` makes the tensor `m`."""
    scores = [node("Mul", ["q", "c"], ["a"]), node("Mul", ["k", "c"], ["b"]), node("MatMul", ["a", "b"], ["s"])]
    added = [*mask, node("Add", ["s", "m"], ["t"])] if mask else []
    last = "t" if mask else "s"
    return [*scores, *added, node("Softmax", [last], ["p"], **softmax), node("MatMul", ["p", "v"], ["y"])]


def heads(*before, n=6):
    return [("q", FLOAT, (*before, n, 8)), ("k", FLOAT, (*before, 8, n)), ("v", FLOAT, (*before, n, 8))]


SCALE = ("c", np.array(8**-0.25, np.float32))


def test_attention_is_put_together_where_its_softmax_is_along_the_last_of_three_axes_or_more(tmp_path):
    for before, axis, whole in (((2, 3), -1, True), ((2, 3), 3, True), ((3,), 2, True), ((2, 3), 2, False), ((), -1, False)):
        layers = layers_of(tmp_path, attention_nodes(axis=axis), heads(*before), [SCALE])
        assert ("scaled_dot_product_attention" in {layer.kind for layer in layers}) == whole


@pytest.mark.parametrize(("shown", "hidden", "dtype"), [(0, -np.inf, "bool"), (1, -np.inf, "float32"), (0, -1, "float32")])
def test_switches_of_a_mask_are_read_where_they_show_by_zero_and_hide_by_minus_infinity(tmp_path, shown, hidden, dtype):
    mask, switches = [node("Where", ["w", "shown", "hidden"], ["m"])], ("w", BOOL, (2, 1, 6, 6))
    numbers = [("shown", np.array(shown, np.float32)), ("hidden", np.array(hidden, np.float32))]
    layers = layers_of(tmp_path, attention_nodes(mask), [*heads(2, 3), switches], [SCALE, *numbers])
    assert layers[-1].kind == "scaled_dot_product_attention" and layers[-1].operand("attn_mask").dtype == dtype


@pytest.mark.parametrize(
    ("upper", "offset", "compared", "hidden", "causal"),
    [
        (0, 0, 0, -np.inf, True),
        (1, 0, 0, -np.inf, False),
        (0, 1, 0, -np.inf, False),
        (0, 0, 1, -np.inf, False),
        (0, 0, 0, -1, False),
    ],
)
def test_a_mask_is_causal_where_a_lower_triangle_from_the_diagonal_on_is_shown(tmp_path, upper, offset, compared, hidden, causal):
    mask = [
        node("Trilu", ["ones", "offset"], ["l"], upper=upper), node("Equal", ["l", "compared"], ["e"]),
        node("Where", ["e", "hidden", "zero"], ["m"]),
    ]  # fmt: skip
    numbers = {"compared": compared, "hidden": hidden, "zero": 0}
    n = 300
    weights = [SCALE, ("ones", np.ones((n, n), np.float32)), ("offset", np.array(offset))]
    weights += [(name, np.array(x, np.float32)) for name, x in numbers.items()]
    attention = layers_of(tmp_path, attention_nodes(mask), heads(2, 3, n=n), weights)[-1]
    assert attention.kind == "scaled_dot_product_attention"
    assert bool(attention.argument("is_causal", False)) == causal == (attention.operand("attn_mask") is None)


@pytest.mark.parametrize(("hidden", "causal"), [(-np.inf, True), (-65504, True), (-65503, False), (1, False)])
def test_a_small_mask_is_causal_where_what_it_hides_is_as_good_as_minus_infinity(tmp_path, hidden, causal):
    value = pytest.importorskip("onnx").numpy_helper.from_array(np.array([hidden], np.float32))
    mask = [node("ConstantOfShape", ["size"], ["f"], value=value), node("Trilu", ["f", "offset"], ["m"], upper=1)]
    weights = [SCALE, ("size", np.array([6, 6])), ("offset", np.array(1))]
    (*_, attention) = layers_of(tmp_path, attention_nodes(mask), heads(2, 3), weights)
    assert attention.kind == "scaled_dot_product_attention"
    assert bool(attention.argument("is_causal", False)) == causal == (attention.operand("attn_mask") is None)


@pytest.mark.parametrize(
    ("first", "second", "shift"),
    [
        ((3, 4), (0, 3), -3),
        ((1, 4), (0, 1), -1),
        ((-3, 4), (0, 1), -1),
        ((2, 4), (1, 3), None),
        ((0, 2), (2, 4), None),
        ((0, 1), (0, 3), None),
    ],
)
def test_slices_are_a_roll_where_they_change_places(tmp_path, first, second, shift):
    nodes = [node("Slice", ["x", "a", "b", "one"], ["s"]), node("Slice", ["x", "c", "d", "one"], ["t"])]
    nodes.append(node("Concat", ["s", "t"], ["y"], axis=1))
    bounds = dict(zip("abcd", (*first, *second))) | {"one": 1}
    layers = layers_of(tmp_path, nodes, [("x", FLOAT, (2, 4))], [(name, np.array([x])) for name, x in bounds.items()])
    found = [layer.argument("shifts") for layer in layers if layer.kind == "roll"]
    assert found == ([] if shift is None else [(shift,)])


def test_a_layer_norm_has_a_weight_for_each_of_what_it_normalises(tmp_path):
    nodes = [
        node("ReduceMean", ["x", "axes"], ["m"]), node("Sub", ["x", "m"], ["d"]), node("Pow", ["d", "two"], ["q"]),
        node("ReduceMean", ["q", "axes"], ["v"]), node("Add", ["v", "eps"], ["e"]), node("Sqrt", ["e"], ["r"]),
        node("Div", ["d", "r"], ["n"]), node("Mul", ["n", "w"], ["g"]), node("Add", ["g", "b"], ["y"]),
    ]  # fmt: skip
    numbers = [("axes", np.array([-1])), ("two", np.array(2, np.float32)), ("eps", np.array(1e-5, np.float32))]
    weights = [(name, np.ones(4, np.float32)) for name in "wb"]
    for width, whole in ((4, True), (1, False)):
        layers = layers_of(tmp_path, nodes, [("x", FLOAT, (2, width))], [*numbers, *weights])
        assert ([layer.kind for layer in layers] == ["layer_norm"]) == whole == ("layer_norm" in {x.kind for x in layers})


@pytest.mark.parametrize(
    "field", ["float_data", "int32_data", "string_data", "int64_data", "raw_data", "double_data", "uint64_data"]
)
def test_long_values_are_left_out_whichever_field_holds_them_and_short_ones_are_kept(tmp_path, field):
    onnx = pytest.importorskip("onnx")
    from wattlayer.adapters.onnx.wire import LARGEST_VALUES_BYTES, read_without_weights

    def read(count):
        value = {"raw_data": b"x" * count, "string_data": [b"x" * count]}.get(field, [1] * count)
        tensor = onnx.TensorProto(name="w", dims=[count], **{field: value})
        path = tmp_path / "net.onnx"
        path.write_bytes(onnx.ModelProto(graph=onnx.GraphProto(initializer=[tensor])).SerializeToString())
        (left,) = onnx.load_from_string(read_without_weights(path)).graph.initializer
        assert list(left.dims) == [count] and left.name == "w"
        return tensor == left

    assert read(200) and not read(LARGEST_VALUES_BYTES + 1)


@pytest.mark.parametrize("place", ["constant", "branch", "function", "deep"])
def test_weights_in_constants_are_left_out_wherever_these_stand(tmp_path, monkeypatch, place):
    onnx = pytest.importorskip("onnx")
    from wattlayer.adapters.onnx import wire

    monkeypatch.setattr(wire, "LARGEST_GRAPH_BYTES", 1 << 17)
    tensor = onnx.numpy_helper.from_array(np.ones((256, 1024), np.float32))
    constant, functions = node("Constant", [], ["w"], value=tensor), []
    for _ in range({"branch": 1, "deep": 25}.get(place, 0)):
        constant = node("If", ["c"], ["w"], then_branch=onnx.helper.make_graph([constant], "b", [], []))
    if place == "function":
        functions = [onnx.helper.make_function("own", "W", [], ["w"], [constant], [onnx.helper.make_opsetid("", 20)])]
        constant = node("W", [], ["w"], domain="own")
    path = made(
        tmp_path / "net.onnx", [constant, node("MatMul", ["x", "w"], ["y"])], [("x", FLOAT, (1, 256))], functions=functions
    )
    if place == "deep":  # more than any network is, and refused as such where it is not too long
        with pytest.raises(InputError, match="more than 0 MiB beside the weights"):
            wire.read_without_weights(path)
    else:
        left = onnx.load_from_string(wire.read_without_weights(path))
        assert left.ByteSize() < 2000 and [x.op_type for x in left.graph.node] == [constant.op_type, "MatMul"]


def test_constants_cost_what_initialisers_do(tmp_path):
    """As Paddle2ONNX writes weights."""
    weight, image = np.zeros((4, 2, 96, 96), np.float32), [("x", FLOAT, (1, 2, 99, 99))]
    held = node("Constant", [], ["w"], value=pytest.importorskip("onnx").numpy_helper.from_array(weight))
    nodes = [node("Concat", ["w", "w"], ["v"], axis=0), node("Conv", ["x", "v"], ["y"])]
    layers = layers_of(tmp_path, nodes, image, [("w", weight)])
    assert [x.kind for x in layers] == ["conv2d"] and layers_of(tmp_path, [held, *nodes], image) == layers


@pytest.mark.parametrize("longer", [None, 0, 1, 2], ids=["fits", "model", "graph", "tensor"])
def test_what_a_file_holds_beside_its_weights_is_bounded_wherever_it_lies(tmp_path, monkeypatch, longer):
    onnx = pytest.importorskip("onnx")
    from wattlayer.adapters.onnx import wire

    monkeypatch.setattr(wire, "LARGEST_GRAPH_BYTES", 1 << 20)
    # with the four bytes before each, its number and length, 300,000 + 300,000 + 448,576 = 2^20
    of_model, of_graph, of_tensor = ("n" * (size - 4 + (i == longer)) for i, size in enumerate((300_000, 300_000, 448_576)))
    tensor = onnx.TensorProto(name=of_tensor, raw_data=bytes(2 << 20))
    path = tmp_path / "net.onnx"
    graph = onnx.GraphProto(name=of_graph, initializer=[tensor])
    path.write_bytes(onnx.ModelProto(producer_name=of_model, graph=graph).SerializeToString())
    if longer is None:
        # the graph's and the tensor's own numbers and lengths come on top
        assert len(wire.read_without_weights(path)) == (1 << 20) + 2 * 4
    else:
        with pytest.raises(InputError, match="more than 1 MiB beside the weights"):
            wire.read_without_weights(path)


UNPACKED = b"\x3a\x10\x2a\x0e\x25\xff\xff\xff\xff\x51\xff\xff\xff\xff\xff\xff\xff\xff"
"""A graph (field 7, 16 bytes) with an initialiser (5, 14 bytes) of a float (4) and a double (10) that are not packed."""


@pytest.mark.parametrize("content", [b"\x38\x01", UNPACKED], ids=["a number where a graph would be", "unpacked"])
def test_what_is_no_weight_is_kept_byte_for_byte(tmp_path, content):
    pytest.importorskip("onnx")
    from wattlayer.adapters.onnx.wire import read_without_weights

    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    assert read_without_weights(path) == content


@pytest.mark.parametrize("content", [b"\x08\x01" * 4, UNPACKED], ids=["outside", "inside"])
def test_fields_are_counted_outside_the_graph_and_inside(tmp_path, monkeypatch, content):
    pytest.importorskip("onnx")
    from wattlayer.adapters.onnx import wire

    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    monkeypatch.setattr(wire, "MOST_FIELDS", 4)
    assert wire.read_without_weights(path) == content
    monkeypatch.setattr(wire, "MOST_FIELDS", 3)
    with pytest.raises(InputError, match="has more than 3 fields"):
        wire.read_without_weights(path)


def test_a_file_that_ends_amid_its_weights_is_cut_off(tmp_path):
    """Although what is left of it without them would be whole."""
    onnx = pytest.importorskip("onnx")
    from wattlayer.adapters.onnx.wire import LARGEST_VALUES_BYTES, read_without_weights

    tensor = onnx.TensorProto(name="w", dims=[LARGEST_VALUES_BYTES], raw_data=bytes(2 * LARGEST_VALUES_BYTES))
    whole, path = onnx.ModelProto(graph=onnx.GraphProto(initializer=[tensor])).SerializeToString(), tmp_path / "net.onnx"
    path.write_bytes(whole[:-1])
    with pytest.raises(InputError, match="is cut off"):
        read_without_weights(path)


def test_a_key_that_was_only_turned_with_its_dimensions_merged_is_read_as_it_was(tmp_path):
    turned = [node("Reshape", ["K", "merged"], ["r"]), node("Transpose", ["r"], ["t"], perm=[0, 2, 1])]
    nodes = [*turned, node("Reshape", ["t", "parted"], ["k"]), *attention_nodes()]
    sizes = [("parted", np.array([2, 3, 8, 6]))]
    for shape, merged, kinds in (((6, 8), [6, 6, 8], 1), ((8, 6), [6, 8, 6], 2)):
        inputs = [x if x[0] != "k" else ("K", FLOAT, (2, 3, *shape)) for x in heads(2, 3)]
        layers = layers_of(tmp_path, nodes, inputs, [SCALE, *sizes, ("merged", np.array(merged))])
        assert layers[-1].kind == "scaled_dot_product_attention" and len(layers) == kinds
        assert layers[-1].flop == 2 * 2 * 3 * 6 * 6 * (8 + 8)


def test_a_group_norm_leaves_the_shape_of_its_image(tmp_path):
    nodes = [
        node("Reshape", ["x", "folded"], ["r"]), node("InstanceNormalization", ["r", "scale", "shift"], ["i"]),
        node("Reshape", ["i", "back"], ["o"]), node("Mul", ["o", "w"], ["g"]), node("Add", ["g", "b"], ["y"]),
    ]  # fmt: skip
    groups = [(name, np.ones(4, np.float32)) for name in ("scale", "shift")]
    for back, whole in (([2, 8, 4, 4], True), ([2, 8, 16], False)):
        weights = [(name, np.ones((8, *[1] * (len(back) - 2)), np.float32)) for name in "wb"]
        sizes = [("folded", np.array([2, 4, -1])), ("back", np.array(back))]
        layers = layers_of(tmp_path, nodes, [("x", FLOAT, (2, 8, 4, 4))], [*groups, *weights, *sizes])
        assert ([layer.kind for layer in layers] == ["group_norm"]) == whole == ("group_norm" in {x.kind for x in layers})
