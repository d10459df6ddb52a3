"""Networks read from files: what is exported costs what the module itself costs, and what cannot be read is refused."""

from __future__ import annotations

import json
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from wattlayer.adapters import InputSize, resolve
from wattlayer.errors import InputError
from wattlayer.predict import trace_name
from wattlayer.trace import trace


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


def test_open_sizes_of_an_exported_program_follow_the_options(small, tmp_path):
    path = tmp_path / "open.pt2"
    shapes = {"x": {0: torch.export.Dim("batch")}}
    torch.export.save(torch.export.export(small, (IMAGE,), dynamic_shapes=shapes), path)
    traced = trace_name(str(path), batch=7)
    assert traced.layers == trace(small, torch.zeros(7, 3, 32, 32)).layers
    assert trace_name(str(path)).batch == 1
    assert trace_name(str(path), input="5x3x32x32").batch == 5


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


@pytest.mark.parametrize("name", ["net.pt", "net.ts", "net.torchscript", "net.pth"])
def test_pickles_and_torchscript_are_refused_with_the_cure(name):
    with pytest.raises(InputError, match=r"code or pickled weights; export it with torch.onnx.export"):
        resolve(name, InputSize())


def test_a_missing_file_is_named():
    with pytest.raises(InputError, match=r"nowhere.pt2: there is no such file"):
        resolve("nowhere.pt2", InputSize())
