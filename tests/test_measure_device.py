"""Running layers: rebuilt from their records on this CPU, launched in graphs on a fake CUDA, and on a GPU where there is one."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from math import ceil
from pathlib import Path
from weakref import ref

import pytest
import torch
from conftest import needs_torchvision
from fake_cuda import FakeCuda, install
from filelock import FileLock
from torch import nn

from wattlayer.dataset import read_measurements
from wattlayer.errors import InputError, MeterError
from wattlayer.kinds import PLACED
from wattlayer.layer import Layer, Operand
from wattlayer.measure import Options, device, measure, propose, run_campaign
from wattlayer.measure.__main__ import main
from wattlayer.measure.device import DeviceRig, cache_bytes, hardware_name, set_tf32
from wattlayer.measure.launch import CudaWorkload, HostWorkload, calls_per_graph, eager_launch, graph_launch
from wattlayer.measure.materialise import with_weights
from wattlayer.measure.plan import DEFAULT_NETWORKS, Wanted, linear, reference_layer
from wattlayer.measure.rebuild import MOST_COPIES, bind, has_nan, rebuild, rotated, shapes_of, try_run
from wattlayer.measure.rig import CannotRun, Facts, Item
from wattlayer.measure.values import fill_operand
from wattlayer.measure.window import Policy
from wattlayer.meter import rapl
from wattlayer.meter.assumed import AssumedPower
from wattlayer.trace import trace

CUDA = torch.device("cuda")
QUICK = Policy(min_steps=2, min_window_s=0.04, max_window_s=0.2, settle_s=0.01, poll_s=0.0)


@pytest.fixture(autouse=True)
def _one_thread():
    """Timings of a few milliseconds need no pool of threads, and a busy machine spoils them with one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Zoo(nn.Module):
    """One of most sorts of layer, small."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.norm, self.group = nn.BatchNorm2d(16), nn.GroupNorm(4, 8)
        self.pool = nn.MaxPool2d(2)
        self.linear, self.layer_norm = nn.Linear(8, 32), nn.LayerNorm(32)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.lstm = nn.LSTM(32, 16, batch_first=True)
        self.embedding = nn.Embedding(100, 32)

    def forward(self, image: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        x = torch.relu_(self.norm(self.conv(image)))
        x = nn.functional.silu(self.depthwise(x)) * 0.5 + x
        x = self.group(self.up(x))
        x = nn.functional.interpolate(self.pool(x), scale_factor=2, mode="bilinear")
        x = torch.cat([x, x.clone()], dim=0)[:1].flatten(2).transpose(1, 2).contiguous()
        x = self.layer_norm(self.linear(x)) + self.embedding(tokens)
        x, _ = self.attention(x, x, x, need_weights=False)
        x, _ = self.lstm(torch.where(x > 0, x, x.sqrt()))
        q = x.unflatten(-1, (2, 8)).transpose(1, 2)
        x = nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True).transpose(1, 2).flatten(2)
        picked = x[:, torch.tensor([0, 2, 5])]
        x = picked.mean((1,)).softmax(-1).clamp(min=1e-3).log().to(torch.float16)
        return torch.einsum("bi,bj->bij", x, x).pow(2).sum(-1)


@pytest.fixture(scope="module")
def zoo():
    tokens = torch.zeros(1, 64, dtype=torch.int64)
    return trace(Zoo().eval(), torch.zeros(1, 3, 8, 8), tokens)


def test_every_layer_of_a_network_runs_from_its_record_alone(zoo):
    assert len(zoo.unique()) > 25
    kinds = Counter(layer.kind for layer in zoo.unique())
    assert {"conv2d", "conv_transpose2d", "lstm", "embedding", "scaled_dot_product_attention", "cat", "index"} <= set(kinds)
    for layer in zoo.unique():
        assert not has_nan(try_run(rebuild(layer, "cpu"))), layer.kind


def test_rows_of_a_cpu_do_not_get_the_name_of_a_gpu():
    with pytest.raises(
        InputError, match="--hardware a30 is a gpu, and --device cpu is measured on: name another device, or say its kind in"
    ):
        DeviceRig.open("cpu", meter="assumed-power", assumed_power_w=65.0, hardware="a30")
    for name in ("xeon-gold-5120", "a-board-of-mine"):
        assert DeviceRig.open("cpu", meter="assumed-power", assumed_power_w=65.0, hardware=name).hardware == name


@pytest.mark.parametrize(
    ("model", "name"), [("Intel(R) Xeon(R) Gold 5120 CPU @ 2.20GHz", "xeon-gold-5120"), ("Tomorrow's", "cpu-")]
)
def test_a_processor_is_named_as_the_registry_knows_it(monkeypatch, model, name):
    monkeypatch.setattr("wattlayer.hardware.detect.processor_name", lambda: model)
    assert hardware_name(torch.device("cpu")).startswith(name)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell])
def test_recurrent_cells_are_rebuilt_on_processors_as_these_run_them(cell, bias):
    """A trace has one kernel after the products, which processors do not have: the same numbers come of its parts."""
    torch.manual_seed(0)
    module, x, state = cell(6, 4, bias=bias), torch.randn(3, 6), [torch.randn(3, 4) for _ in range(2)]
    layer = trace(module, x, tuple(state) if cell is nn.LSTMCell else state[0]).layers[-1]
    gates = x @ module.weight_ih.T, state[0] @ module.weight_hh.T
    held = state[1] if cell is nn.LSTMCell else state[0]
    function, arguments = bind(layer, [*gates, held, *((module.bias_ih, module.bias_hh) if bias else ())])
    ran = function(**arguments)
    real = module(x, tuple(state)) if cell is nn.LSTMCell else (module(x, state[0]),)
    for ours, theirs in zip(ran, real):
        assert torch.allclose(ours, theirs, atol=1e-6)
    assert shapes_of(rebuild(layer, "cpu").run()) == [y.shape for y in layer.outputs]


def test_a_put_along_a_later_axis_is_rebuilt_along_it():
    class Puts(nn.Module):
        def forward(self, x, i):
            x = x.clone()
            x[:, i, 1:] = 0.0
            x[i, :, i] = 1.0
            return x

    puts = [x for x in trace(Puts(), torch.zeros(6, 4, 5), torch.arange(3)).layers if x.kind == "index_put"]
    generator = torch.Generator().manual_seed(0)
    for layer, gaps in zip(puts, ([True, False], [False, True, False]), strict=True):
        tensors = [fill_operand(layer, i, generator, False) for i in range(len(layer.inputs))]
        _, arguments = bind(layer, tensors)
        assert [x is None for x in arguments["indices"]] == gaps
        assert not has_nan(try_run(rebuild(layer, "cpu")))


WRITES = {
    "index_add": lambda x, i, y, suffix: getattr(x, f"index_add{suffix}")(0, i, y),
    "index_copy": lambda x, i, y, suffix: getattr(x, f"index_copy{suffix}")(0, i, y),
    "index_fill": lambda x, i, y, suffix: getattr(x, f"index_fill{suffix}")(0, i, 1.0),
    "index_reduce": lambda x, i, y, suffix: getattr(x, f"index_reduce{suffix}")(0, i, y, "amax"),
    "index_put": lambda x, i, y, suffix: getattr(x, f"index_put{suffix}")((i,), y),
    "put": lambda x, i, y, suffix: getattr(x, f"put{suffix}")(i, y[:, 0]),
    "scatter": lambda x, i, y, suffix: getattr(x, f"scatter{suffix}")(0, i[:, None], y),
    "scatter_add": lambda x, i, y, suffix: getattr(x, f"scatter_add{suffix}")(0, i[:, None], y),
    "scatter_reduce": lambda x, i, y, suffix: getattr(x, f"scatter_reduce{suffix}")(0, i[:, None], y, "sum"),
}


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize("kind", [x for x in PLACED if not x.startswith("_")])
def test_a_write_by_index_is_rebuilt_as_it_was_called(kind, copied):
    class Writes(nn.Module):
        def forward(self, x, i, y):
            return WRITES[kind](x, i, y, "" if copied else "_")

    (layer,) = (x for x in trace(Writes(), torch.zeros(6, 4), torch.arange(3), torch.ones(3, 4)).layers if x.kind == kind)
    generator = torch.Generator().manual_seed(0)
    overload, _ = bind(layer, [fill_operand(layer, i, generator, False) for i in range(len(layer.inputs))])
    assert overload._schema.is_mutable is not copied
    assert not has_nan(try_run(rebuild(layer, "cpu")))


def test_rebuilt_outputs_have_the_recorded_shapes_or_the_layer_is_refused():
    right = linear(4, 8, 16, "float32")
    try_run(rebuild(right, "cpu"))
    wrong = Layer("linear", right.inputs, (Operand("output", (4, 17), "float32"),))
    with pytest.raises(CannotRun, match=r"linear returned \[\(4, 16\)\], recorded were \[\(4, 17\)\]") as raised:
        try_run(rebuild(wrong, "cpu"))
    assert raised.value.flag == "cannot_rebuild"


@pytest.mark.parametrize("kind", ["no_such_operator", "nowhere::relu"])
def test_an_operator_that_is_not_there_is_refused_with_its_name(kind):
    operand = Operand("self", (4,), "float32")
    with pytest.raises(CannotRun, match=f"no overload of {kind} takes self"):
        rebuild(Layer(kind, (operand,), (operand,)), "cpu")


def test_weights_rotate_and_activations_do_not():
    layer = linear(4, 256, 256, "float32")
    call = rebuild(layer, "cpu", cold_bytes=10 * 256 * 256 * 4)
    assert call.copied_bytes == 256 * 256 * 4 and call.copies == 10
    assert len({x["weight"].data_ptr() for x in call.arguments}) == 10
    assert len({x["input"].data_ptr() for x in call.arguments}) == 1
    assert all(torch.equal(x["weight"], call.arguments[0]["weight"]) for x in call.arguments)
    assert call.run(3).data_ptr() != call.run(13).data_ptr() and torch.equal(call.run(3), call.run(13))
    assert rebuild(layer, "cpu").copies == 1  # hot
    assert rebuild(linear(1, 8, 8, "float32"), "cpu", cold_bytes=1e9).copies == MOST_COPIES
    big = linear(40_000, 256, 256, "float32")  # its own activations push the weights out
    assert rebuild(big, "cpu", cold_bytes=10 * 256 * 256 * 4).copies == 1


def test_a_decodes_cache_is_cold_and_a_prefills_is_warm():
    def attention(queries: int) -> Layer:
        sizes = {"query": (1, 4, queries, 8), "key": (1, 4, 64, 8), "value": (1, 4, 64, 8)}
        operands = tuple(Operand(name, shape, "float32") for name, shape in sizes.items())
        return Layer("scaled_dot_product_attention", operands, (Operand("output", sizes["query"], "float32"),))

    assert rotated(attention(1)) == (False, True, True)
    assert rotated(attention(64)) == (False, False, False)


def test_data_is_realistic_and_repeatable():
    def filled(layer: Layer, index: int = 0, rectified: bool = False, seed: int = 0) -> torch.Tensor:
        return fill_operand(layer, index, torch.Generator().manual_seed(seed), rectified)

    layer = linear(512, 1024, 256, "float32")
    x = filled(layer)
    assert abs(float(x.mean())) < 0.02 and float(x.std()) == pytest.approx(1.0, abs=0.02)
    assert torch.equal(x, filled(layer)) and not torch.equal(x, filled(layer, seed=1))
    assert float((filled(layer, rectified=True) == 0).float().mean()) == pytest.approx(0.5, abs=0.02)
    assert float(filled(layer, 1).std()) == pytest.approx(1 / 32, rel=0.05)  # 1 / sqrt(fan-in)
    tokens = Operand("indices", (4000,), "int64")
    table = Layer("embedding", (Operand("weight", (50, 8), "float32"), tokens), (Operand("output", (4000, 8), "float32"),))
    ids = filled(table, 1)
    assert int(ids.min()) == 0 and int(ids.max()) == 49
    strided = Operand("self", (4, 6), "float32", (1, 4))
    assert filled(Layer("relu", (strided,), (strided,))).stride() == (1, 4)
    expanded = Operand("self", (4, 6), "float32", (0, 1))
    assert filled(Layer("relu", (expanded,), (expanded,))).untyped_storage().nbytes() == 6 * 4


# --- CPU, for real


def assumed() -> AssumedPower:
    return AssumedPower(40.0)


def test_measure_on_this_cpu_with_a_stated_power():
    layer = linear(64, 256, 256, "float32")
    # a busy machine may take the processor away between reading the meter and the clock: long beside such a pause
    row = measure(layer, assumed(), device="cpu", policy=replace(QUICK, min_window_s=0.5, max_window_s=1.0))
    assert row.meter == "assumed-power" and row.mode == "eager" and row.hardware.startswith("cpu")
    assert row.power_w == pytest.approx(40.0, rel=0.2)
    assert row.energy_j == pytest.approx(row.power_w * row.time_s, rel=1e-9) and row.iterations > 10
    weight_bytes, others_bytes = 256 * 256 * 4, 2 * 64 * 256 * 4
    cold_bytes = 3 * cache_bytes(torch.device("cpu")) - others_bytes
    assert row.rotated_bytes == min(ceil(cold_bytes / weight_bytes), MOST_COPIES) * weight_bytes
    assert measure(layer, assumed(), device="cpu", policy=QUICK, regime="hot").rotated_bytes == 256 * 256 * 4


@pytest.mark.parametrize(("name", "value"), [("mode", "graph"), ("mode", "compiled"), ("regime", "diluted"), ("regime", "warm")])
def test_a_row_never_tells_of_a_mode_or_regime_that_did_not_run(name, value):
    with pytest.raises(InputError, match=f"{name} '{value}' is not one of"):
        measure(linear(1, 8, 8, "float32"), assumed(), device="cpu", policy=QUICK, **{name: value})


def test_a_meter_may_be_named():
    with pytest.raises(MeterError, match="no power was stated"):
        measure(linear(1, 8, 8, "float32"), "assumed-power", device="cpu", policy=QUICK)


def test_a_larger_layer_takes_longer():
    small, large = (measure(linear(n, 256, 256, "float32"), assumed(), device="cpu", policy=QUICK) for n in (1, 4096))
    assert large.time_s > 5 * small.time_s


def test_layers_that_cannot_be_measured_are_refused_with_the_reason():
    operand = Operand("self", (4,), "float32")
    with pytest.raises(MeterError, match=r"bad_kind cannot be measured \(cannot_rebuild\)"):
        measure(Layer("bad_kind", (operand,), (operand,)), assumed(), device="cpu", policy=QUICK)
    with pytest.raises(InputError, match="is not one of cuda"):
        measure(linear(1, 8, 8, "float32"), assumed(), device="gpu")
    with pytest.raises(InputError, match="cannot be measured on: use cuda or cpu"):
        measure(linear(1, 8, 8, "float32"), assumed(), device="meta")


def test_what_has_no_operands_is_made_on_the_device():
    made = Layer("arange", (), (Operand("output", (8,), "int64"),), (("end", 8),))
    function, arguments = bind(made, [], "meta")
    assert function(**arguments).device.type == "meta"


def test_nan_outputs_are_flagged():
    operand = Operand("self", (64,), "float32")
    layer = Layer("atanh", (operand,), (Operand("output", (64,), "float32"),))
    assert measure(layer, assumed(), device="cpu", policy=QUICK).flags[0] == "nan_output"


def test_tf32_modes_are_set_as_asked():
    for mode, conv, matmul in (("none", False, False), ("conv", True, False), ("all", True, True)):
        set_tf32(mode)
        assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == (conv, matmul)
    set_tf32("conv")


def test_a_host_workload_counts_calls_and_their_time(monkeypatch):
    now_s, calls = 0.0, []

    def step(call: int) -> None:
        nonlocal now_s
        calls.append(call)
        now_s += 0.002

    monkeypatch.setattr(sys.modules[HostWorkload.__module__], "perf_counter", lambda: now_s)
    work = HostWorkload(step, Facts())
    work.start()
    for chunks in (1, 2):
        work.keep_busy()  # 5 ms: three calls
        done = work.progress()
        assert done.calls == len(calls) == 3 * chunks
        assert done.time_s == done.busy_s == pytest.approx(0.006 * chunks) and done.filler_s == 0.0
    assert calls == list(range(6))


def tiny_resolve(name, size):
    from wattlayer.adapters import Network

    if name != "test:tiny":
        raise InputError(f"{name}: there is no such network")
    with torch.device("meta"):
        module = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.BatchNorm1d(128), nn.Linear(128, 10)).eval()
        return Network(name, module, (torch.empty(size.batch, 64),))


def quick_options(folder: Path, **changed: object) -> Options:
    options = {
        "output": folder, "networks": ("test:tiny", DEFAULT_NETWORKS[0]), "layers": 3, "meter": "assumed-power",
        "assumed_power_w": 30.0, "device": "cpu", "minutes": 5.0, "warm_up_s": 0.1, "target_frac": 0.5,
    }  # fmt: skip
    return Options(**(options | changed))


def test_a_whole_campaign_on_this_cpu(tmp_path, monkeypatch):
    monkeypatch.setattr(propose, "sobol_layers", lambda *_: [])
    monkeypatch.setattr(propose, "llm_items", lambda *_: [])
    monkeypatch.setattr(device, "load_real_network", tiny_network)
    said: list[str] = []
    summary = run_campaign(quick_options(tmp_path), say=said.append, resolve=tiny_resolve)
    assert summary.stopped_by == "complete" and summary.done == summary.total
    assert DEFAULT_NETWORKS[0] in said[0] and "left out" in said[0]
    (path,) = tmp_path.glob("*.jsonl")
    rows = read_measurements(path)
    assert {row.meter for row in rows} == {"assumed-power"} and {row.mode for row in rows} == {"eager"}
    calls = propose.network_calls(Wanted(("test:tiny",), ("float32",)), cuda=False)
    assert sum(row.network == "test:tiny" for row in rows) == len(calls)
    with (
        FileLock(tmp_path / "campaign.lock"),
        pytest.raises(InputError, match=r"campaign\.lock: another session measures into this folder: wait for its end"),
    ):
        run_campaign(quick_options(tmp_path, resume=True), resolve=tiny_resolve)
    with pytest.raises(InputError, match="is a campaign already: add --resume"):
        run_campaign(quick_options(tmp_path), resolve=tiny_resolve)
    again = run_campaign(quick_options(tmp_path, resume=True), resolve=tiny_resolve)
    assert again.rows >= summary.rows and again.done == summary.total
    begun = path.read_bytes()
    for changed, said in (
        ({"assumed_power_w": 65.0}, "was begun with the meter assumed-power of 30 W, not assumed-power of 65 W: go on with that"),
        ({"layers": 60}, "was begun with --layers 3, not 60: leave it out, or give another --output"),
        (
            {"networks": ("torchvision:resnet18",)},
            f"with --networks test:tiny {DEFAULT_NETWORKS[0]}, not torchvision:resnet18: leave",
        ),
        ({"seed": 3}, "was begun with --seed 0, not 3"),
        ({"dtypes": ("float16",)}, "was begun with --dtypes float32, not float16"),
    ):
        with pytest.raises(InputError, match=said):
            run_campaign(quick_options(tmp_path, resume=True, **changed), resolve=tiny_resolve)
    assert path.read_bytes() == begun
    heard: list[str] = []
    run_campaign(quick_options(tmp_path, resume=True, model=tmp_path / "some.json"), say=heard.append, resolve=tiny_resolve)
    assert any("is planned already: --model changes nothing of it" in x for x in heard)
    unsaid = Options(tmp_path, resume=True, meter="assumed-power", assumed_power_w=30.0, device="cpu", warm_up_s=0.1)
    assert run_campaign(unsaid, resolve=tiny_resolve).done == summary.total, "defaults ask for nothing"


def tiny_network(call, where, seed):
    from wattlayer.adapters import InputSize
    from wattlayer.measure.materialise import RealNetwork

    network = tiny_resolve(call.name, InputSize(call.batch))
    module = with_weights(network.module, where, torch.Generator().manual_seed(seed))
    return RealNetwork(module, (torch.randn(call.batch, 64),), {})


def test_meta_modules_get_weights_of_the_usual_size_and_keep_their_ties():
    with torch.device("meta"):
        module = nn.Sequential(nn.Linear(256, 256), nn.BatchNorm1d(256), nn.Linear(256, 256))
    module[2].weight = module[0].weight
    real = with_weights(module, torch.device("cpu"), torch.Generator().manual_seed(0))
    assert real[2].weight is real[0].weight and not real.training
    assert float(real[0].weight.std()) == pytest.approx(1 / 16, rel=0.05)
    assert float(real[1].running_var.min()) > 0.5
    out = real(torch.randn(64, 256))
    assert 0.1 < float(out.std()) < 10


# --- the command


def test_with_no_meter_the_command_says_which_were_tried_and_exits_with_2(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(rapl.open_rapl, "__defaults__", (tmp_path,))
    assert main(["--output", str(tmp_path / "out"), "--device", "cpu"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert "no meter: rapl is unavailable, because" in err and "zeus is unavailable, because Zeus is not installed" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--minutes", "0"], "--minutes 0.0 must be above 0"),
        (["--minutes", "inf"], "--minutes inf must be above 0 and finite"),
        (["--warm-up-s", "nan"], "--warm-up-s nan must be 0 or more and finite"),
        (["--assumed-power-w", "inf"], "--assumed-power-w inf must be above 0 W and finite"),
        (["--hardware", ""], "--hardware '' must name the device"),
        (["--output", __file__], "is a file: name a folder for the campaign"),
        (["--target-frac", "2"], "--target-frac 2.0 must lie between 0 and 1"),
        (["--device", "tpu"], "device 'tpu' is not one of cuda"),
        (["--meter", "assumed-power"], "no power was stated"),
    ],
)
def test_bad_options_are_one_line_and_exit_2(arguments, words, tmp_path, capsys):
    assert main(["--output", str(tmp_path / "out"), *arguments]) == 2
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1


@needs_torchvision
def test_a_dry_run_prints_the_plan_and_its_cost_and_writes_nothing(tmp_path, capsys):
    arguments = ["--networks", "torchvision:resnet18", "--layers", "40", "--device", "cpu", "--dry-run"]
    assert main(["--output", str(tmp_path / "out"), *arguments, "--meter", "assumed-power", "--assumed-power-w", "30"]) == 0
    out = capsys.readouterr().out
    assert "distinct layers and 1 networks" in out and "by group:" in out and "minutes" in out
    assert not (tmp_path / "out").exists()


NEEDED = """
import sys
sys.modules.update(dict.fromkeys({names!r}))  # None there: importing it fails as if it were not installed
import wattlayer.measure
from wattlayer.measure.__main__ import main
assert "torch" not in sys.modules
sys.exit(main(sys.argv[1:]))
"""


def test_a_campaign_needs_neither_xgboost_nor_any_other_library_of_training(tmp_path):
    """`python -m wattlayer.measure` on a host that has torch and numpy only."""
    absent = {"xgboost", "pandas", "typer", "rich", "fvcore", "sklearn", "scipy", "joblib", "pyarrow", "matplotlib"}
    absent |= {"platformdirs"}
    options = ["--networks", "torchvision:resnet18", "--layers", "20", "--dry-run", "--device", "cpu"]
    options += ["--meter", "assumed-power", "--assumed-power-w", "9"]
    command = [sys.executable, "-c", NEEDED.format(names=absent), "--output", str(tmp_path), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "distinct layers" in done.stdout


def test_python_m_runs_without_a_warning():
    command = [sys.executable, "-W", "error", "-m", "wattlayer.measure", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "--resume" in done.stdout and done.stderr == ""


# --- launching, on a fake CUDA


@pytest.mark.parametrize(
    ("call_s", "copies", "calls"),
    [(1e-5, 1, 1200), (1e-5, 500, 1500), (1e-6, 1, 2000), (5e-3, 1, 3), (5e-3, 16, 12), (0.5, 3, 1), (1e-4, 50, 150)],
)
def test_calls_of_one_graph(call_s, copies, calls):
    """About 12 ms, whole rounds over the copies, never beyond 60 ms or 2,000 calls."""
    assert calls_per_graph(call_s, copies) == calls


@pytest.fixture
def cuda(monkeypatch):
    fake = FakeCuda()
    install(monkeypatch, fake)
    return fake


def busy_for(work: CudaWorkload, cuda: FakeCuda, seconds: float, poll_s: float = 0.001) -> None:
    until = cuda.host_s + seconds
    while cuda.host_s < until:
        work.keep_busy()
        cuda.host_s += poll_s


def test_a_graph_touches_every_copy_and_keeps_the_device_busy(cuda):
    touched: Counter[int] = Counter()

    def step(i: int) -> None:
        touched[i % 40] += cuda.capturing is not None
        cuda.kernel(3e-5)

    stream = torch.cuda.Stream()
    launch, copies = graph_launch(step, 40, stream)
    assert copies == 40 and set(touched) == set(range(40)) and launch.calls % 40 == 0
    assert launch.time_s == pytest.approx(launch.calls * 3e-5, rel=0.01) and 0.008 < launch.time_s < 0.03
    work = CudaWorkload(launch, stream, Facts())
    cuda.idle_s = 0.0
    work.start()
    busy_for(work, cuda, 0.5)
    begin = work.progress()
    busy_for(work, cuda, 0.5, poll_s=0.004)  # a slow meter
    end = work.progress()
    assert (end.time_s - begin.time_s) / (end.calls - begin.calls) == pytest.approx(3e-5, rel=1e-3)
    assert end.busy_s - begin.busy_s == pytest.approx(end.time_s - begin.time_s, rel=1e-3)
    assert cuda.idle_s < 1e-4 and cuda.events_made < 100  # events are used again
    work.stop()
    assert cuda.host_s >= cuda.free_s
    work.close()
    with pytest.raises(AssertionError, match="after its reset"):
        launch.run()


def test_a_graph_keeps_its_operands_until_it_is_given_up(cuda):
    """A captured graph holds addresses only: on a real GPU, memory without an owner is given to somebody else."""

    class Call:
        def run(self, copy):
            cuda.kernel(1e-5)

    call = Call()
    alive = ref(call)
    launch, _ = graph_launch(call.run, 1, torch.cuda.Stream())
    del call
    gc.collect()
    assert alive() is not None
    del launch
    gc.collect()
    assert alive() is None


def test_layers_faster_than_their_launch_are_timed_in_a_graph(cuda):
    cuda.launch_s = 2e-5
    launch, _ = graph_launch(lambda i: cuda.kernel(2e-6), 1, torch.cuda.Stream())
    assert launch.calls == 2000 and launch.time_s == pytest.approx(2000 * 2e-6, rel=0.5)


def test_a_network_that_the_host_issues_slowly_keeps_the_device_busy_in_a_graph(cuda):
    """600 kernels of 1.5 us that the host takes 12 ms to issue: taken for 12 ms of work, too few replays would be queued."""
    cuda.launch_s = 2e-5

    def network(i: int) -> None:
        for _ in range(600):
            cuda.kernel(1.5e-6)

    launch, _ = graph_launch(network, 1, stream := torch.cuda.Stream())
    assert launch.time_s == pytest.approx(launch.calls * 9e-4, rel=0.05) and launch.calls == 14
    work = CudaWorkload(launch, stream, Facts())
    work.start()
    busy_for(work, cuda, 0.5)
    begin, cuda.idle_s = work.progress(), 0.0
    busy_for(work, cuda, 0.5, poll_s=0.005)  # a slow meter
    end = work.progress()
    assert (end.time_s - begin.time_s) / (end.calls - begin.calls) == pytest.approx(9e-4, rel=1e-3)
    assert cuda.idle_s < 1e-4


def test_gaps_between_replays_show_in_the_progress(cuda):
    launch, _ = graph_launch(lambda i: cuda.kernel(1e-3), 1, stream := torch.cuda.Stream())
    work = CudaWorkload(launch, stream, Facts())
    work.start()
    busy_for(work, cuda, 3.0, poll_s=0.2)  # a host too slow to keep it busy
    assert work.progress().busy_s < 0.8 * work.progress().time_s


def test_a_filler_follows_each_launch_for_a_varying_time(cuda):
    stream = torch.cuda.Stream()
    launch, _ = graph_launch(lambda i: cuda.kernel(1e-3), 1, stream)
    filler, _ = graph_launch(lambda i: cuda.kernel(1e-3), 1, stream)
    work = CudaWorkload(launch, stream, Facts(), filler)
    work.start()
    busy_for(work, cuda, 2.0)
    work.stop()
    done = work.progress()
    assert done.filler_s == pytest.approx(2 * (done.time_s - done.filler_s), rel=0.15)
    assert (done.time_s - done.filler_s) / done.calls == pytest.approx(1e-3, rel=0.01)


def test_eager_launches_go_round_the_copies(cuda):
    seen: list[int] = []

    def step(i: int) -> None:
        seen.append(i)
        cuda.kernel(1e-4)

    launch = eager_launch(step, torch.cuda.Stream())
    seen.clear()
    launch.run(), launch.run()
    assert seen == list(range(2 * launch.calls)) and launch.calls > 50


def test_pauses_of_eager_mode_are_told_apart_from_its_calls(cuda):
    stream = torch.cuda.Stream()
    cuda.launch_s = 1e-4  # the host is the bottleneck
    launch = eager_launch(lambda i: cuda.kernel(2e-5), stream)
    work = CudaWorkload(launch, stream, Facts(), pauses=True)
    work.start()
    busy_for(work, cuda, 2.0, poll_s=0.003)
    work.stop()
    done = work.progress()
    assert done.filler_s > 0.05 * done.time_s
    assert (done.time_s - done.filler_s) / done.calls == pytest.approx(1e-4, rel=0.05)


def test_a_burst_is_as_long_as_asked(cuda):
    launch, _ = graph_launch(lambda i: cuda.kernel(1e-4), 1, stream := torch.cuda.Stream())
    work = CudaWorkload(launch, stream, Facts())
    began = cuda.free_s
    work.burst(0.05)
    assert cuda.free_s - max(began, 0.0) == pytest.approx(0.05, rel=0.25)


# --- a real GPU


@pytest.mark.gpu
def test_on_a_gpu_a_layer_is_measured_in_graphs_cold_and_hot_and_eager():
    layer = reference_layer("float16")
    rig = DeviceRig.open("cuda")
    cold = measure(layer, rig.instrument)
    hot = measure(layer, rig.instrument, regime="hot")
    eager = measure(layer, rig.instrument, mode="eager")
    for row in (cold, hot, eager):
        assert row.meter == "measured" and 1e-7 < row.time_s < 1e-2 and 10 < row.power_w < 2000
    assert cold.rotated_bytes >= 3 * cache_bytes(rig.device) - layer.read_bytes - layer.write_bytes
    assert cold.time_s > hot.time_s * 0.95 and eager.time_s > hot.time_s * 0.95
    assert not {"gpu_not_busy", "counter_stuck"} & set(cold.flags)


@pytest.mark.gpu
def test_on_a_gpu_every_layer_of_the_zoo_is_captured(zoo):
    rig, failed = DeviceRig.open("cuda"), []
    for layer in zoo.unique():
        try:
            rig.prepare(Item(layer)).close()
        except CannotRun as error:
            failed.append(f"{layer.kind}: {error.flag} {error}")
    assert not failed


@pytest.mark.gpu
def test_on_a_gpu_running_out_of_memory_is_a_flag_and_not_the_end():
    rig = DeviceRig.open("cuda")
    with pytest.raises(CannotRun) as raised:
        rig.prepare(Item(linear(2_000_000, 1_000_000, 8, "float16")))
    assert raised.value.flag == "out_of_memory"
    rig.prepare(Item(reference_layer("float16"))).close()
