"""What `trace` records, on small networks that are each a trap."""

from __future__ import annotations

import inspect
import json
import pickle
import subprocess
import sys
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import networks
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.attention.bias import CausalBias, causal_lower_right, causal_upper_left
from torch.nn.modules import activation
from torch.nn.modules import module as torch_modules
from torch.utils._pytree import tree_map_only

from wattlayer.adapters import Network
from wattlayer.crosscheck import count_with_torch, torch_counts
from wattlayer.errors import InputError
from wattlayer.kinds import KINDS
from wattlayer.layer import Layer
from wattlayer.trace import Trace, trace
from wattlayer.trace.assumptions import AUTOCAST, EVEN_CHOICES, SPARSE, UNKNOWN_ARITHMETIC, UNLIKE_DTYPES
from wattlayer.trace.composite import COMPOSITES
from wattlayer.trace.fusion import fuse
from wattlayer.trace.hooks import unfused_attention
from wattlayer.trace.meta import tensor_to_meta, to_meta


def counted_flop(traced: Trace) -> int:
    return sum(x.flop for x in traced.layers if torch_counts(x))


def torch_flop(module: nn.Module, *args: Any, **kwargs: Any) -> int:
    # on meta, for FlopCounterMode misses the attention kernel of CPUs
    args, kwargs = tree_map_only(torch.Tensor, tensor_to_meta, (args, kwargs))
    return count_with_torch(Network("", to_meta(module), args, kwargs))


def calls(traced: Trace) -> list[tuple[str, str]]:
    return [(path, layer.kind) for path, layer in zip(traced.paths, traced.layers)]


TRAPS: dict[str, tuple[nn.Module, tuple[Any, ...], dict[str, Any]]] = {
    "conv net": (networks.ConvNet(), (torch.randn(2, 3, 16, 16),), {}),
    "shared module": (networks.SharedModule(), (torch.randn(4, 16),), {}),
    "tied weights": (networks.TiedWeights(), (torch.randint(50, (2, 7)),), {}),
    "functional attention": (networks.FunctionalAttention(), (torch.randn(2, 6, 32),), {}),
    "in place": (networks.InPlace(), (torch.randn(3, 4),), {}),
    "nested": (
        networks.Nested(),
        ({"x": torch.randn(2, 8), "pair": (torch.randn(2, 8), [torch.ones(3)])},),
        {"scale": torch.randn(4)},
    ),
    "unused branch": (networks.UnusedBranch(), (torch.randn(2, 8),), {}),
    "unregistered": (networks.Unregistered(), (torch.randn(2, 8),), {}),
    "recurrent": (networks.Recurrent(), (torch.randn(5, 3, 16),), {}),
    "convolutions": (
        networks.Convolutions(),
        (torch.randn(2, 4, 9), torch.randn(2, 8, 12, 10), torch.randn(2, 2, 3, 8, 8)),
        {},
    ),
    "products": (networks.Products(), (torch.randn(3, 4, 5), torch.randn(3, 5, 6)), {}),
    "rarer products": (networks.RarerProducts(), (torch.randn(3, 48, 32), torch.randn(3, 64, 32)), {}),
    "multi-head attention": (
        nn.MultiheadAttention(16, 4, batch_first=True),
        (torch.randn(2, 5, 16), torch.randn(2, 7, 16), torch.randn(2, 7, 16)),
        {"need_weights": False},
    ),
    "encoder layer": (nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), (torch.randn(2, 5, 16),), {}),
    "decoder layer": (nn.TransformerDecoderLayer(16, 4, 32), (torch.randn(5, 2, 16), torch.randn(6, 2, 16)), {}),
    "asks for values": (networks.AsksForValues(), (torch.randn(2, 6, 4),), {"mask": torch.ones(2, 6, dtype=torch.bool)}),
    "catches": (networks.Catches(), (torch.randn(2, 8),), {}),
    "complex convolutions": (
        nn.Sequential(nn.Conv2d(3, 4, 3, dtype=torch.complex64), nn.ConvTranspose2d(4, 2, 3, 2, dtype=torch.complex64)),
        (torch.randn(1, 3, 8, 8, dtype=torch.complex64),),
        {},
    ),
    "unbatched convolution": (nn.Conv2d(3, 4, 3), (torch.randn(3, 8, 8),), {}),
    "grouped-query attention": (
        GroupedQuery := type(
            "GroupedQuery",
            (nn.Module,),
            {"forward": lambda self, q, k: nn.functional.scaled_dot_product_attention(q, k, k, enable_gqa=True)},
        )(),
        (torch.randn(2, 8, 5, 4), torch.randn(2, 2, 5, 4)),
        {},
    ),
}


@pytest.fixture(params=TRAPS, ids=str)
def trap(request: pytest.FixtureRequest) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    return TRAPS[request.param]


def test_flop_equals_flop_counter(trap: Any) -> None:
    module, args, kwargs = trap
    assert counted_flop(trace(module, *args, kwargs=kwargs)) == torch_flop(module, *args, **kwargs)


def test_rarer_products_are_counted_as_products() -> None:
    module, args, _ = TRAPS["rarer products"]
    found = [(x.kind, x.flop) for x in trace(module, *args).layers if x.group == "matmul"]
    products, norm_1 = 2 * 48 * 64 * 32, 3 * (3 * 48 * 64) * 32
    assert found == [
        ("_scaled_mm", products), ("_int_mm", products), ("matmul", products), ("addbmm", 3 * products),
        ("_trilinear", 2 * 48 * 8 * (32 * 16 + 16)), ("cdist", 3 * products), ("cdist", norm_1),
    ]  # fmt: skip


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_dynamically_quantised_linears_are_counted_with_their_packed_weights() -> None:
    quantised = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(32, 16)), {nn.Linear}, dtype=torch.qint8)
    (layer,) = trace(quantised, torch.randn(3, 32)).layers
    assert (layer.kind, layer.flop) == ("quantized::linear_dynamic", 2 * 3 * 32 * 16)
    assert layer.read_bytes == 4 * 3 * 32 + 32 * 16
    assert trace(quantised, torch.empty(3, 32, device="meta")).layers == (layer,), "no value is needed"
    for wrong in (torch.randn(3, 31), torch.empty(3, 31, device="meta")):
        with pytest.raises(InputError, match="3x31"):
            trace(quantised, wrong)
    deep = nn.Sequential(nn.Conv1d(4, 32, 1), nn.Linear(7, 16), nn.Tanh(), nn.Linear(16, 5))
    deep = torch.ao.quantization.quantize_dynamic(deep, {nn.Linear}, dtype=torch.qint8)
    traced = trace(deep, torch.empty(2, 4, 7, device="meta"))
    assert [x.outputs[0].shape for x in traced.layers if "dynamic" in x.kind] == [(2, 32, 16), (2, 32, 5)]


class PackedLinear(nn.Module):
    """A linear layer as torchao's kernels for GPUs hold it: two numbers of four bits a byte, in tiles of eight channels."""

    def __init__(self, features: int, channels: int, group: int = 32) -> None:
        super().__init__()
        self.weight = nn.Buffer(torch.empty(channels // 8, features // (2 * 16), 32, 1, dtype=torch.int32))
        self.scales = nn.Buffer(torch.empty(features // group, channels, 2, dtype=torch.bfloat16))
        self.group = group

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.aten._weight_int4pack_mm(x, self.weight, self.group, self.scales)


def test_products_with_weights_in_four_bits_are_counted_as_they_are_packed() -> None:
    (layer,) = trace(PackedLinear(64, 16), torch.empty(3, 64, dtype=torch.bfloat16)).layers
    assert (layer.kind, layer.known, layer.dtype) == ("_weight_int4pack_mm", True, "bfloat16")
    assert layer.flop == 2 * 3 * 64 * 16 and layer.outputs[0].shape == (3, 16)
    assert layer.read_bytes == 2 * 3 * 64 + 64 * 16 // 2 + 2 * 2 * 16 * 2
    with pytest.raises(InputError, match="3x64x1"):
        trace(PackedLinear(64, 16), torch.empty(3, 64, 1, dtype=torch.bfloat16))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_layers_in_int8_are_refused_and_not_priced_without_their_products(kind) -> None:
    quantised = torch.ao.quantization.quantize_dynamic(nn.Sequential(kind(8, 4)), {kind}, dtype=torch.qint8)
    with pytest.raises(InputError, match="price the network before it was quantised"):
        trace(quantised, torch.zeros(2, 5, 8))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("rectified", [False, True])
def test_dynamically_quantised_linears_in_halves_are_counted_with_weights_of_two_bytes(rectified: bool) -> None:
    quantised = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(32, 16)), {nn.Linear}, dtype=torch.float16)
    run = getattr(torch.ops.quantized, f"linear_{'relu_' * rectified}dynamic_fp16")
    packed = quantised[0]._packed_params._packed_params
    for device in ("cpu", "meta"):
        traced = trace(networks.Runs(lambda x: run(x, packed)) if rectified else quantised, torch.zeros(3, 32, device=device))
        (layer,) = traced.layers
        assert (layer.flop, layer.read_bytes, layer.known) == (2 * 3 * 32 * 16, 4 * 3 * 32 + 2 * 32 * 16, True)
        assert not traced.assumptions and not torch_counts(layer)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("layer", [nn.Linear(8, 8), nn.Conv1d(2, 2, 1), nn.EmbeddingBag(9, 8)], ids=lambda x: type(x).__name__)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_statically_quantised_layers_are_refused_with_the_cure(layer: nn.Module, device: str) -> None:
    ao, rows = torch.ao.quantization, isinstance(layer, nn.EmbeddingBag)
    module = nn.Sequential(layer) if rows else nn.Sequential(ao.QuantStub(), layer, ao.DeQuantStub())
    module.eval().qconfig = ao.float_qparams_weight_only_qconfig if rows else ao.default_qconfig
    x = torch.zeros(2, 8, dtype=torch.long) if rows else torch.zeros(1, 2, 8)
    prepared = ao.prepare(module)
    prepared(x)
    with pytest.raises(
        InputError, match=r"layers in int8 \(quantized::\w+\) are not read, price the network before it was quant"
    ):
        trace(ao.convert(prepared), x.to(device))


class Shown(torch.Tensor):
    """A wrapper as libraries write them: it shows one dtype and holds another."""

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> Any:
        return torch.Tensor._make_wrapper_subclass(cls, held.shape, dtype=torch.float32)

    def __init__(self, held: torch.Tensor) -> None:
        self.held = held

    def __tensor_flatten__(self) -> Any:
        return ["held"], None

    @staticmethod
    def __tensor_unflatten__(inner: Any, *_: Any) -> Any:
        return Shown(inner["held"])

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return Shown(args[0].held)  # to be detached, as parameters are


class Packed(nn.Parameter):
    """A parameter as libraries write them that pack two numbers into a byte."""


class Named(torch.Tensor):
    """A plain tensor under another name."""


def weighed(weight: torch.Tensor) -> nn.Module:
    module = nn.Linear(8, 8, bias=False)
    module.weight = weight if isinstance(weight, nn.Parameter) else nn.Parameter(weight, requires_grad=False)
    return module.eval()


@pytest.mark.parametrize(
    ("weight", "name"),
    [
        (Shown(torch.zeros(8, 8, dtype=torch.int8)), "Shown"),
        (Shown(torch.zeros(8, 8, dtype=torch.int8, device="meta")), "Shown"),
        (Packed(torch.zeros(8, 4, dtype=torch.uint8), requires_grad=False), "Packed"),
    ],
)
def test_weights_that_hold_other_numbers_than_they_show_are_refused(weight: torch.Tensor, name: str) -> None:
    told = rf"a tensor of class {name} is not traced: price the network before it was quantised, pruned or sharded"
    with pytest.raises(InputError, match=told):
        trace(weighed(weight), torch.zeros(2, 8))
    if name == "Shown":
        with pytest.raises(InputError, match=told):
            trace(nn.ReLU(), weight)


def test_tensors_that_only_have_another_class_are_traced() -> None:
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        fake = torch.zeros(8, 8)
    plain, x = trace(weighed(torch.zeros(8, 8)), torch.zeros(2, 8)), torch.zeros(2, 8).as_subclass(Named)
    for weight in (torch.zeros(8, 8).as_subclass(Named), Packed(torch.zeros(8, 8)), nn.Parameter(fake)):
        assert trace(weighed(weight), x) == plain


@pytest.fixture
def process_group() -> Iterator[None]:
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without it")
def test_networks_spread_over_devices_are_refused_with_what_to_give(process_group: None) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    x = torch.zeros(2, 8)
    copies = nn.parallel.DistributedDataParallel(nn.Linear(8, 8))
    for module in (copies, nn.Sequential(copies)):
        with pytest.raises(InputError, match=r"^DistributedDataParallel is not traced: give its \.module$"):
            trace(module, x)
    sharded = fully_shard(nn.Linear(8, 8), mesh=init_device_mesh("cpu", (2,)))
    with pytest.raises(InputError, match=r"^a tensor of class DTensor is not traced: price the network before it was "):
        trace(sharded, x)
    with pytest.raises(InputError, match="quantised, pruned or sharded"):
        trace(nn.ReLU(), sharded.weight)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_frozen_script_is_its_module() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3)).eval()
    frozen = torch.jit.freeze(torch.jit.script(module))
    assert [x.flop for x in trace(frozen, torch.zeros(1, 3, 8, 8)).layers] == [2 * 8 * 27 * 36]


def test_layer_survives_json(trap: Any) -> None:
    module, args, kwargs = trap
    for layer in trace(module, *args, kwargs=kwargs).unique():
        record = json.loads(json.dumps(layer.to_json()))
        assert Layer.from_json(record) == layer
        assert Layer.from_json(record).digest() == layer.digest()
        assert hash(pickle.loads(pickle.dumps(layer))) == hash(layer)


def test_every_kind_is_known(trap: Any) -> None:
    module, args, kwargs = trap
    assert {x.kind for x in trace(module, *args, kwargs=kwargs).layers if not x.known} == set()


def test_same_network_gives_the_same_trace(trap: Any) -> None:
    module, args, kwargs = trap
    assert trace(module, *args, kwargs=kwargs) == trace(module, *args, kwargs=kwargs)


def test_module_is_left_as_it_was(trap: Any) -> None:
    module, args, kwargs = trap
    module.train()
    before = {
        name: (x.data_ptr(), x.requires_grad, x.device, x._version) for name, x in module.state_dict(keep_vars=True).items()
    }
    trace(module, *args, kwargs=kwargs, dtype="float16")
    after = {name: (x.data_ptr(), x.requires_grad, x.device, x._version) for name, x in module.state_dict(keep_vars=True).items()}
    assert before == after
    assert all(m.training for m in module.modules())
    assert not torch_modules._global_forward_hooks and not torch_modules._global_forward_pre_hooks


def test_a_module_on_meta_is_left_as_it_was_too() -> None:
    with torch.device("meta"):
        module = networks.Remembers().eval()
    shape, module.run = module.scale.shape, module.block.forward
    first, *others = (trace(module, torch.randn(4, 8)) for _ in range(3))
    assert others == [first, first]
    assert sum(x.kind == "linear" for x in first.layers) == 2
    assert (module.past, module.steps, module.scale.shape) == ([], {"all": []}, shape)


def test_a_copy_on_meta_keeps_ties_and_classes() -> None:
    with torch.device("meta"):
        module = networks.SharedModule().eval()
    module.shapes = torch.Size([1]), OrderedDict(a=module.block)
    copied = to_meta(module)
    assert copied is not module and type(copied) is type(module)
    assert copied.alias is copied.block is copied.shapes[1]["a"] and copied.block is not module.block
    assert copied.block.weight is module.block.weight
    exported = torch.export.export(nn.Linear(3, 4), (torch.zeros(2, 3),)).module().to("meta")
    assert trace(exported, torch.zeros(2, 3)) == trace(exported, torch.zeros(2, 3))


# What the dispatcher shows under inference mode is behaviour, not a contract: these break when a torch release changes it.
GOLDEN = {
    "conv net": {"conv2d": 1, "batch_norm": 1, "relu": 1, "max_pool2d": 1, "adaptive_avg_pool2d": 1, "linear": 1},
    "functional attention": {"linear": 2, "scaled_dot_product_attention": 1},
    "encoder layer": {
        "linear": 4, "bmm": 2, "softmax": 1, "relu": 1, "add": 2, "layer_norm": 2, "clone": 2, "dropout": 0,
    },
    "recurrent": {"lstm": 1, "gru": 1},
    "convolutions": {
        "conv1d": 1, "conv_transpose1d": 1, "conv2d": 2, "conv_transpose2d": 1, "conv3d": 1, "conv_transpose3d": 1,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_kinds(name: str) -> None:
    module, args, kwargs = TRAPS[name]
    ignored = ("zeros", "copy", "clone", "transpose")  # states and layouts, which differ between releases
    kinds = Counter(x.kind for x in trace(module, *args, kwargs=kwargs).layers if x.kind not in ignored)
    assert kinds == {kind: count for kind, count in GOLDEN[name].items() if count and kind not in ignored}


def test_shared_module_is_recorded_at_each_call() -> None:
    traced = trace(networks.SharedModule(), torch.randn(4, 16))
    assert calls(traced) == [("block", "linear"), ("block", "linear")]
    assert list(traced.unique().values()) == [2]


def test_a_module_that_blocks_share_is_named_by_the_block_that_calls_it() -> None:
    first, last = ([(f"blocks.{i}.0", "linear"), (f"blocks.{i}.1", "gelu")] for i in range(2))
    assert calls(trace(networks.SharedActivation(), torch.randn(2, 8))) == [*first, *last, *last]


def test_paths_name_the_innermost_module() -> None:
    traced = trace(networks.Wrapped(networks.ConvNet()), torch.randn(2, 3, 16, 16))
    assert calls(traced) == [
        ("inner.conv", "conv2d"), ("inner.norm", "batch_norm"), ("inner", "relu"), ("inner.pool", "max_pool2d"),
        ("inner", "adaptive_avg_pool2d"), ("inner.classifier", "linear"), ("", "mul"),
    ]  # fmt: skip


def test_unregistered_modules_run_under_their_owner_without_their_weights() -> None:
    module = networks.Unregistered()
    weight = module.layers[0].weight
    assert calls(trace(module, torch.randn(2, 8))) == [("", "linear"), ("", "linear"), ("", "exp"), ("", "mul")]
    assert module.layers[0].weight is weight and not weight.is_meta and not module.scale.is_meta


def test_paths_recover_where_a_failure_is_caught() -> None:
    assert calls(trace(networks.Catches(), torch.randn(2, 8)))[-1] == ("last", "linear")
    inner = calls(trace(networks.Wrapped(networks.Catches()), torch.randn(2, 8)))
    assert inner == [("inner.good", "linear"), ("inner.last", "linear"), ("", "mul")]


def test_unused_branch_costs_nothing() -> None:
    assert calls(trace(networks.UnusedBranch(), torch.randn(2, 8))) == [("used", "linear")]


def test_in_place_operators_keep_their_kind() -> None:
    kinds = [x.kind for x in trace(networks.InPlace(), torch.randn(3, 4)).layers]
    filled = ("scalar_tensor", "copy", "fill")  # what an assignment becomes depends on the device
    assert [x for x in kinds if x not in filled] == ["clone", "add", "relu", "mul"] and set(filled) & set(kinds)


class Extremes(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        into = torch.empty_like(x)
        return torch.max(x, y), torch.min(x, y), x.max(), x.min(dim=0).values, torch.max(x, y, out=into)


def test_the_larger_of_two_tensors_is_no_reduction() -> None:
    layers = trace(Extremes(), torch.randn(3, 4), torch.randn(3, 4)).layers
    assert [(x.kind, x.group) for x in layers] == [
        ("maximum", "elementwise"), ("minimum", "elementwise"), ("max", "reduction"), ("min", "reduction"),
        ("maximum", "elementwise"),
    ]  # fmt: skip
    assert [x.flop for x in layers] == [12] * 5


class SelfAttention(nn.Module):
    """Self-attention as an encoder asks for it; `masked` is the dtype of a mask of padding."""

    def __init__(self, heads: int = 4, batch_first: bool = True, masked: torch.dtype | None = None, **asked: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(32, heads, batch_first=batch_first)
        self.masked, self.asked = masked, {"need_weights": False, **asked}

    def forward(self, x: torch.Tensor) -> Any:
        mask = None if self.masked is None else x.new_zeros(x.shape[:2], dtype=self.masked)
        return self.attention(x, x, x, key_padding_mask=mask, **self.asked)


def takes_fast_path(module: nn.Module, x: torch.Tensor, kind: str = "_native_multi_head_attention", **given: Any) -> bool:
    """Whether PyTorch itself takes it, on the CPU."""
    with torch.no_grad(), torch.profiler.profile() as seen:
        module.eval()(x, **given)
    return f"aten::{kind}" in {event.name for event in seen.events()}


SPREAD = ["linear", "clone", "bmm", "softmax", "bmm", "clone"]
"""Attention by two products, once one product of all rows has given queries, keys and values."""


@pytest.mark.parametrize(
    ("module", "kinds"),
    [
        (SelfAttention(), ["linear", "scaled_dot_product_attention", "linear"]),
        (SelfAttention(need_weights=True), [*SPREAD, "sum", "div", "linear"]),
        (SelfAttention(need_weights=True, average_attn_weights=False), [*SPREAD, "linear"]),
        (SelfAttention(masked=torch.bool), ["new_zeros", "zeros_like", "masked_fill", *SPREAD, "linear"]),
        (SelfAttention(heads=8), [*SPREAD, "linear"]),  # four numbers a head: too few for fused kernels
    ],
)
def test_self_attention_takes_the_fast_path_that_it_takes_on_devices(module: SelfAttention, kinds: list[str]) -> None:
    x = torch.randn(2, 6, 32)
    assert takes_fast_path(module, x)
    traced = trace(module, x)
    assert [layer.kind for layer in traced.layers] == kinds
    products = [layer for layer in traced.layers if layer.kind == "linear"]
    assert [layer.inputs[0].shape for layer in products] == [(2, 6, 32)] * 2, "of all rows at once"
    assert counted_flop(traced) == torch_flop(module, x)
    assert trace(module, x, cached=True).layers == trace(module, x, cached=True).layers == traced.layers


def test_other_threads_do_not_see_that_a_network_is_traced() -> None:
    """Neither that multi-head attention asks what runs on devices, nor another forward of it."""
    seen: dict[str, Any] = {}

    def elsewhere() -> None:
        module = nn.MultiheadAttention(32, 4, batch_first=True).eval()
        x = torch.zeros(2, 6, 32, device="meta")
        with torch.no_grad():
            seen["shape"] = module.to("meta")(x, x, x)[0].shape
        seen["named"] = torch.utils.backend_registration._privateuse1_backend_name == "meta"
        seen["scripted"] = torch.jit.script(nn.MultiheadAttention(32, 4, batch_first=True))
        seen["encoded"] = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).eval().to("meta")(x).shape

    class Waits(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with ThreadPoolExecutor(1) as pool:
                pool.submit(elsewhere).result()
            seen["signature"] = inspect.signature(nn.MultiheadAttention.forward)
            return x + 1

    before = inspect.signature(nn.MultiheadAttention.forward)
    trace(Waits(), torch.zeros(2))
    expected = seen.pop("shape"), seen.pop("encoded"), seen.pop("signature"), "scripted" in seen
    assert expected == ((2, 6, 32), (2, 6, 32), before, True)

    module = SelfAttention()
    handle = module.attention.register_forward_pre_hook(lambda _, __: ThreadPoolExecutor(1).submit(elsewhere).result())
    fast = trace(module, torch.zeros(2, 6, 32))
    handle.remove()
    assert seen["shape"] == seen["encoded"] == (2, 6, 32) and "scripted" in seen, "in the midst of attention"
    assert not seen["named"], "the free type of device is no other to them"
    assert [x.kind for x in fast.layers] == ["linear", "scaled_dot_product_attention", "linear"]


def asks(x: torch.Tensor) -> torch.Tensor:
    """Read what only a function mode keeps known: a list of indices, and a number of data."""
    return x[:, [0, -1]] + torch.tensor(1, device=x.device).item()


def test_encoder_layers_with_parts_of_their_own_may_ask_for_numbers() -> None:
    """They take no fast path, within which no function mode is on."""

    class Own(nn.TransformerEncoderLayer):
        def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            return asks(x)

    x = torch.zeros(2, 6, 32)
    assert trace(Own(32, 4, 64, batch_first=True), x).layers == trace(Calls(asks), x).layers
    module = nn.TransformerEncoderLayer(
        32, 4, 64, batch_first=True, activation=lambda x: x * torch.tensor(1, device=x.device).item()
    )
    assert [layer.kind for layer in trace(module, x).layers][-6:] == [
        "layer_norm",
        "linear",
        "mul",
        "linear",
        "add",
        "layer_norm",
    ]


def test_attention_that_fails_and_is_caught_leaves_nothing_behind() -> None:
    class Caught(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(32, 4, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with suppress(Exception):
                self.attention(x[..., :31], x, x)
            return asks(x)

    plain = trace(Calls(asks), torch.zeros(2, 6, 32))
    assert [layer.kind for layer in plain.layers] == ["index", "add"]
    assert trace(Caught(), torch.zeros(2, 6, 32)).layers[-len(plain.layers) :] == plain.layers
    assert not torch_modules._global_forward_hooks and not torch_modules._global_forward_pre_hooks


def test_the_fast_path_returns_the_weights_that_were_asked_for() -> None:
    seen: list[Any] = []
    for asked in ({"need_weights": True}, {"need_weights": True, "average_attn_weights": False}, {}):
        module = SelfAttention(**asked)  # type: ignore[arg-type]
        handle = module.register_forward_hook(lambda _, __, result: seen.append(result[1]))
        trace(module, torch.randn(2, 6, 32))
        handle.remove()
    assert [None if x is None else x.shape for x in seen] == [(2, 6, 6), (2, 4, 6, 6), None]


@pytest.mark.parametrize(
    "module",
    [
        SelfAttention(batch_first=False),
        SelfAttention(heads=1),  # an odd number
        SelfAttention(masked=torch.float32),
    ],
    ids=["sequence first", "odd heads", "float mask"],
)
def test_other_attention_does_not_take_the_fast_path(module: SelfAttention) -> None:
    x = torch.randn(6, 6, 32)
    assert not takes_fast_path(module, x)
    with unfused_attention():
        slow = trace(module, x)
    assert trace(module, x) == slow


def test_one_tensor_given_thrice_is_one_input_and_takes_the_fast_path() -> None:
    x, module = torch.randn(2, 6, 32), nn.MultiheadAttention(32, 4, batch_first=True)
    traced = trace(module, x, x, x, kwargs={"need_weights": False})
    assert [layer.kind for layer in traced.layers] == ["linear", "scaled_dot_product_attention", "linear"]
    assert traced.layers == trace(SelfAttention(), x).layers and [i.shape for i in traced.inputs] == [(2, 6, 32)]
    equal = trace(module, x, x.clone(), x, kwargs={"need_weights": False})
    assert len(equal.inputs) == 2 and len(equal.layers) > 3, "equal values are not one tensor"


PADDED = torch.tensor([[False] * 6, [False, False, False, True, False, True]])  # not left-aligned: encoders keep it as it is


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize(
    "masks",
    [
        {"src_key_padding_mask": PADDED}, {"src_key_padding_mask": PADDED.float()}, {"src_mask": torch.zeros(6, 6)},
        {"src_mask": torch.zeros(6, 6, dtype=torch.bool)},
        {"src_mask": torch.zeros(6, 6), "src_key_padding_mask": PADDED.float()},
    ],
    ids=["padding", "padding in floats", "floats", "switches", "both"],
)  # fmt: skip
def test_encoder_layers_take_the_fast_path_under_masks(masks: dict[str, torch.Tensor], norm_first: bool) -> None:
    x, module = torch.randn(2, 6, 32), nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=norm_first)
    assert takes_fast_path(module, x, "_transformer_encoder_layer_fwd", **masks)
    traced = trace(module, x, kwargs=masks)
    calls = [(path, layer.kind) for path, layer in zip(traced.paths, traced.layers)]
    attention = [("self_attn", kind) for kind in (*SPREAD[:-1], "clone", "linear")]
    forward = [("linear1", "linear"), ("", "relu"), ("linear2", "linear"), ("", "add")]
    if norm_first:
        expected = [("norm1", "layer_norm"), *attention, ("", "add"), ("norm2", "layer_norm"), *forward]
    else:
        expected = [*attention, ("", "add"), ("norm1", "layer_norm"), *forward, ("norm2", "layer_norm")]
    assert calls[-len(expected) :] == expected
    assert not {path for path, _ in calls[: -len(expected)]} - {"", "self_attn"}, "what masks are made of comes before"
    assert next(layer.inputs[0].shape for layer in traced.layers if layer.kind == "linear") == (2, 6, 32), "of all rows at once"


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_encoder_layers_without_a_mask_cost_what_their_parts_do(norm_first: bool, activation: str) -> None:
    """A layer of the same parts in Python, as a subclass is, whose attention alone takes its fast path."""

    class Own(nn.TransformerEncoderLayer):
        def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            return super().forward(*args, **kwargs)

    given = {"batch_first": True, "norm_first": norm_first, "activation": activation}
    x = torch.randn(2, 6, 32)
    fast, parts = (trace(kind(32, 4, 64, **given), x, network="layer") for kind in (nn.TransformerEncoderLayer, Own))
    assert fast == parts and fast.flow == parts.flow


def test_an_encoder_under_a_mask_of_padding_keeps_its_rows() -> None:
    """PyTorch packs them by the mask's values, which a trace has not: padded ones are priced as well (docs/limits.md)."""
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 2)
    traced = trace(encoder, torch.randn(2, 6, 32), kwargs={"src_key_padding_mask": torch.arange(6).expand(2, 6) > 3})
    rows = [layer.inputs[0].shape for path, layer in zip(traced.paths, traced.layers) if path.endswith("linear1")]
    assert rows == [(2, 6, 32)] * 2


def test_the_fast_path_is_left_where_it_is_turned_off() -> None:
    module, x = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), torch.randn(5, 6, 32)
    fast = trace(module, x)
    with unfused_attention():
        slow = trace(module, x)
    assert next(x.inputs[0].shape for x in fast.layers if x.kind == "linear") == (5, 6, 32)
    assert next(x.inputs[0].shape for x in slow.layers if x.kind == "linear") == (6, 5, 32), "rows of one position at a time"
    assert trace(module, x) == fast
    assert trace(module.train(), x, train_mode=True) != fast
    with unfused_attention():
        with unfused_attention():
            pass
        assert not torch.backends.mha.get_fastpath_enabled(), "as it was before"
    assert torch.backends.mha.get_fastpath_enabled()


class Calls(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def test_a_mean_over_planes_is_global_pooling() -> None:
    def of(function: Any, *shape: int) -> Layer:
        (layer,) = trace(Calls(function), torch.randn(shape)).layers
        return layer

    pooled = of(nn.AdaptiveAvgPool2d(1), 2, 8, 7, 7)
    ways = (lambda x: x.mean((2, 3)), lambda x: x.mean([-1, -2], keepdim=True), lambda x: torch.mean(x, (3, 2)))
    assert {of(way, 2, 8, 7, 7) for way in ways} == {pooled}
    assert pooled.flop == of(lambda x: x.flatten(2).mean(-1), 2, 8, 7, 7).flop
    others = (
        lambda x: x.mean((1, 2)),
        lambda x: x.mean(),
        lambda x: x.mean((2, 3), dtype=torch.float64),
        lambda x: x.sum((2, 3)),
    )
    assert [of(way, 2, 8, 7, 7).kind for way in others] == ["mean", "mean", "mean", "sum"]
    assert of(lambda x: x.mean((1, 2)), 2, 8, 7).kind == "mean", "no image"


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("cell", "gates", "kept", "flop"), [(nn.LSTMCell, 4, (32, 4 * 32), 21), (nn.GRUCell, 3, (5 * 32,), 16)])
def test_a_recurrent_cell_is_two_products_and_one_kernel(
    cell: type[nn.Module], gates: int, kept: tuple[int, ...], flop: int, bias: bool
) -> None:
    """As GPUs run it (ATen/native/RNN.cpp); on processors, whose results are the real ones here, in parts."""
    module, state = cell(64, 32, bias=bias), torch.zeros(4, 32)
    given = (torch.zeros(4, 64), (state, state) if cell is nn.LSTMCell else state)
    *products, last = trace(module, *given).layers
    assert [x.kind for x in products] == ["linear", "linear"]
    assert [x.inputs[1].shape for x in products] == [(gates * 32, 64), (gates * 32, 32)]
    assert last.kind == f"_thnn_fused_{'lstm' if cell is nn.LSTMCell else 'gru'}_cell" and last.group == "elementwise"
    assert [x.shape for x in last.outputs] == [(4, 32), *((4, n) for n in kept)]
    assert last.flop == flop * 4 * 32
    assert last.read_bytes == 4 * (2 * 4 * gates * 32 + 4 * 32 + 2 * bias * gates * 32)
    results = module(*given)
    assert [x.shape for x in (results if cell is nn.LSTMCell else (results,))] == [(4, 32)] * (2 if cell is nn.LSTMCell else 1)


@pytest.mark.parametrize("wrong", [(3, 32), (4, 16)])
@pytest.mark.parametrize(("cell", "place"), [(nn.LSTMCell, 0), (nn.LSTMCell, 1), (nn.GRUCell, 0)])
def test_a_state_of_another_batch_or_size_is_refused(cell: type[nn.Module], place: int, wrong: tuple[int, int]) -> None:
    states = [torch.zeros(4, 32), torch.zeros(4, 32)]
    states[place] = torch.zeros(wrong)
    told = rf"does not run on 4x64, .*a state is \[{wrong[0]}, {wrong[1]}\], not \[4, 32\] \(batch, hidden size\)"
    with pytest.raises(InputError, match=told):
        trace(cell(64, 32), torch.zeros(4, 64), tuple(states) if cell is nn.LSTMCell else states[0])


def test_attention_leaves_the_layout_of_its_query() -> None:
    # fused kernels do, so that the transpose and reshape that follow are views
    traced = trace(networks.FunctionalAttention(), torch.randn(2, 6, 32))
    assert Counter(x.kind for x in traced.layers) == {"linear": 2, "scaled_dot_product_attention": 1}
    assert next(x for x in traced.layers if x.group == "attention").argument("is_causal") is True


def test_dropout_of_a_training_module_does_nothing_in_eval() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).train()
    assert "native_dropout" not in {x.kind for x in trace(module, torch.randn(2, 4)).layers}


def test_strides_are_those_of_what_is_read_alone() -> None:
    (layer,) = trace(networks.Runs(lambda x: x.t().relu()), torch.zeros(3, 4)).layers
    assert (layer.inputs[0].strides, layer.outputs[0].shape, layer.outputs[0].strides) == ((1, 4), (4, 3), None)


def test_dropout_that_drops_is_a_call() -> None:
    drops = networks.Runs(lambda x: nn.functional.dropout(x, 0.5, training=True))
    for traced in (trace(drops, torch.zeros(2, 4)), trace(nn.Dropout(0.5, inplace=True), torch.zeros(2, 4), train_mode=True)):
        assert [layer.kind for layer in traced.layers] == ["dropout"]


def test_arguments_that_are_the_operator_s_own_defaults_are_left_out() -> None:
    """As strides, padding and dilation, which are given before the groups."""
    (layer,) = trace(nn.Conv2d(8, 8, 1, groups=2), torch.zeros(1, 8, 5, 5)).layers
    assert layer.arguments == (("groups", 2),)


def test_numbers_that_the_host_works_out_are_no_layers() -> None:
    layers = trace(networks.Runs(lambda x: x * (torch.arange(4) + 1).sum()), torch.zeros(3, 4)).layers
    assert [layer.kind for layer in layers] == ["mul"]


def test_operators_with_underscores_around_their_names_keep_them() -> None:
    layers = trace(networks.Runs(lambda x: (x & 1, x << 1)), torch.zeros(3, 4, dtype=torch.int32)).layers
    assert [(layer.kind, layer.known) for layer in layers] == [("__and__", True), ("__lshift__", True)]


def test_distances_of_another_norm_than_the_euclidean_are_no_products_when_decomposed_either() -> None:
    distances = torch.ops.aten._cdist_forward
    run = networks.Runs(lambda x, y: (distances(x, y, 2.0, None), distances(x, y, 1.0, None)))
    layers = trace(run, torch.zeros(2, 3, 4), torch.zeros(2, 5, 4)).layers
    # of 2 x 3 x 5 pairs with 4 features each: a multiply-add, or a difference, its size and a sum
    assert [layer.flop for layer in layers] == [2 * 30 * 4, 3 * 30 * 4]


def test_what_is_turned_in_place_is_turned_each_time() -> None:
    for cached in (False, True):
        layers = trace(networks.Runs(lambda x: [x.clone().t_() + 1 for _ in "ab"]), torch.zeros(3, 4), cached=cached).layers
        assert [layer.outputs[0].shape for layer in layers if layer.kind == "add"] == [(4, 3)] * 2


@pytest.mark.parametrize("layout", ["channels last", "not contiguous", "expanded"])
def test_strides_are_recorded(layout: str) -> None:
    image = {
        "channels last": torch.randn(2, 3, 16, 16).to(memory_format=torch.channels_last),
        "not contiguous": torch.randn(2, 3, 16, 32)[..., ::2],
        "expanded": torch.randn(1, 3, 16, 16).expand(2, -1, -1, -1),
    }[layout]
    conv = trace(networks.ConvNet(), image).layers[0]
    assert conv.inputs[0].strides == image.stride()
    assert conv.inputs[0].channels_last == (layout == "channels last")
    assert conv.inputs[0].size_bytes == 2 * 3 * 256 * 4 // (2 if layout == "expanded" else 1)
    assert conv != trace(networks.ConvNet(), torch.randn(2, 3, 16, 16)).layers[0]


def test_dtype_converts_parameters_and_inputs() -> None:
    traced = trace(networks.ConvNet(), torch.randn(2, 3, 16, 16), dtype="bfloat16")
    assert traced.dtype == "bfloat16"
    assert {x.dtype for layer in traced.layers for x in layer.inputs} == {"bfloat16"}


def test_tf32_marks_what_it_may_touch() -> None:
    for mode, kinds in (("none", set()), ("conv", {"conv2d"}), ("all", {"conv2d", "linear"})):
        traced = trace(networks.ConvNet(), torch.randn(2, 3, 16, 16), tf32=mode)
        assert {x.kind for x in traced.layers if x.tf32} == kinds


def test_nested_inputs_are_listed() -> None:
    module, args, kwargs = TRAPS["nested"]
    traced = trace(module, *args, kwargs=kwargs)
    assert [x.shape for x in traced.inputs] == [(2, 8), (2, 8), (3,), (4,)]
    assert traced.batch == 2


def test_inputs_are_those_before_the_forward() -> None:
    class Grows(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.unsqueeze_(0)

    x = torch.randn(5, 4)
    assert trace(Grows(), x).inputs[0].shape == (5, 4)
    assert x.shape == (5, 4)


def test_constants_decide_control_flow() -> None:
    module, args, kwargs = TRAPS["asks for values"]
    traced = trace(module, *args, kwargs=kwargs)
    assert sum(x.kind == "linear" for x in traced.layers) == 6
    assert traced.layers[-1].outputs[0].shape == (2, 2, 4)
    masked = trace(module, *args, kwargs={"mask": torch.zeros(2, 6, dtype=torch.bool)})
    assert sum(x.kind == "add" for x in masked.layers) == sum(x.kind == "add" for x in traced.layers) - 1


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("cached", [False, True])
def test_what_follows_from_values_is_not_taken_from_a_call_of_equal_shapes(device: str, cached: bool) -> None:
    def run(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(x[torch.tensor(rows, device=device)] for rows in ([True, False, True], [True, False, False]))

    layers = trace(networks.Runs(run), torch.zeros(3, 4), cached=cached).layers
    assert [layer.outputs[0].shape for layer in layers if layer.kind == "index"] == [(2, 4), (1, 4)]


def test_numbers_that_equal_each_other_may_give_other_dtypes() -> None:
    layers = trace(networks.Runs(lambda x: (x + 1, x + 1.0)), torch.zeros(3, 4, dtype=torch.int32)).layers
    assert [layer.outputs[0].dtype for layer in layers] == ["int32", "float32"]


def test_meta_inputs_leave_their_values_open() -> None:
    module, args, _ = TRAPS["asks for values"]
    with pytest.raises(InputError, match="needs the values of a tensor"):
        trace(module, *args, kwargs={"mask": torch.ones(2, 6, dtype=torch.bool, device="meta")})


@pytest.mark.parametrize(
    ("module", "shape", "message"),
    [
        (networks.NeedsWeights(), (2, 4), r"NeedsWeights does not run on 2x4 .*needs the values of a tensor"),
        (networks.Raises(), (2, 8), r"Raises does not run on 2x8 \(at block\.1\)"),
        (networks.ConvNet(), (2, 4, 16, 16), r"ConvNet does not run on 2x4x16x16 \(at conv\)"),
        (nn.Conv2d(3, 4, 3, stride=(2, 2, 2)), (1, 3, 8, 8), r"conv2d takes a stride of one size or of 2, not \(2, 2, 2\)"),
        (nn.Conv2d(3, 4, 3, padding=(1, 1, 1)), (1, 3, 8, 8), r"conv2d takes a padding of one size or of 2, not \(1, 1, 1\)"),
        (nn.Conv2d(3, 4, 3, dilation=()), (1, 3, 8, 8), r"conv2d takes a dilation of one size or of 2, not \(\)"),
        (nn.Conv2d(3, 4, (3, 3, 3)), (1, 3, 8, 8), r"conv2d takes windows of 2 sizes, not \(3, 3, 3\)"),
        (nn.ConvTranspose1d(3, 4, 3, dilation=(2, 2)), (1, 3, 8), r"conv_transpose1d takes a dilation of one size or of 1"),
        (
            nn.ConvTranspose2d(3, 4, 3, stride=2, output_padding=(1, 1, 1)),
            (1, 3, 8, 8),
            r"conv_transpose2d takes a output_padding of one size or of 2, not \(1, 1, 1\)",
        ),
    ],
)
def test_failure_is_one_line_and_leaves_no_hooks(module: nn.Module, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        trace(module, torch.randn(shape))
    assert "\n" not in str(caught.value)
    assert not torch_modules._global_forward_hooks and not torch_modules._global_forward_pre_hooks
    assert torch.backends.mha.get_fastpath_enabled()
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (None, "NoneType is no torch.nn.Module: give one"),
        (torch.relu, "builtin_function_or_method is no torch.nn.Module: call it in the forward of one"),
        (nn.Linear, r"Linear is a class, no torch.nn.Module: make one of it first, Linear\(…\)"),
        (
            torch.export.export(nn.Linear(3, 4), (torch.zeros(2, 3),)),
            r"ExportedProgram is no torch.nn.Module: give its .module\(\)",
        ),
        (nn.LazyLinear(4), "LazyLinear holds lazy parameters, without a shape yet: run it once on real inputs before"),
        (nn.Sequential(nn.LazyConv2d(4, 3, device="meta")).eval(), "Sequential holds lazy parameters"),
    ],
)
def test_what_is_no_module_or_not_yet_is_refused_with_the_cure(module: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        trace(module, torch.zeros(2, 3))


@pytest.mark.filterwarnings("ignore")  # torch says of both that they will change
@pytest.mark.parametrize("kind", ["quantised", "nested", "jagged"])
def test_tensors_that_meta_does_not_know_are_refused_with_the_cure(kind: str) -> None:
    rows = [torch.zeros(2, 3), torch.zeros(1, 3)]
    x, cure = {
        "quantised": lambda: (torch.quantize_per_tensor(rows[0], 0.1, 0, torch.qint8), "dequantize"),
        "nested": lambda: (torch.nested.nested_tensor(rows), "to_padded_tensor"),
        "jagged": lambda: (torch.nested.nested_tensor(rows, layout=torch.jagged), "to_padded_tensor"),
    }[kind]()
    with pytest.raises(InputError, match=cure):
        trace(nn.Linear(3, 4), x)


@pytest.mark.filterwarnings("ignore")
def test_nested_tensors_of_the_forward_are_refused_with_the_cure() -> None:
    class Nests(nn.Linear):
        def forward(self, *rows: torch.Tensor) -> torch.Tensor:
            return super().forward(torch.nested.as_nested_tensor(list(rows), layout=torch.jagged))

    with pytest.raises(InputError, match="to_padded_tensor"):
        trace(Nests(3, 4), torch.zeros(2, 3), torch.zeros(1, 3))


@pytest.mark.filterwarnings("ignore")  # torch says of some that they may change
@pytest.mark.parametrize("layout", ["coo", "csr"])
@pytest.mark.parametrize("held", ["input", "buffer"])
def test_sparse_tensors_are_said_to_be_taken_for_dense_ones(layout: str, held: str) -> None:
    class Multiplies(nn.Module):
        def __init__(self, a: torch.Tensor | None) -> None:
            super().__init__()
            self.register_buffer("a", a)

        def forward(self, x: torch.Tensor, a: torch.Tensor | None = None) -> torch.Tensor:
            return (self.a if a is None else a) @ x

    dense, x = torch.eye(4), torch.ones(4, 2)
    a = dense.to_sparse() if layout == "coo" else dense.to_sparse_csr()
    traced = trace(Multiplies(None), x, a) if held == "input" else trace(Multiplies(a), x)
    assert SPARSE in traced.assumptions
    assert SPARSE not in trace(Multiplies(None), x, dense).assumptions


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("layout", ["coo", "csr", "csc"])
@pytest.mark.parametrize(
    ("multiply", "kind"),
    [
        (lambda a, x: a @ x, "matmul"), (torch.mm, "mm"), (torch.sparse.mm, "mm"), (lambda a, x: x.t() @ a, "matmul"),
        (lambda a, x: torch.sparse.addmm(x, a, x), "addmm"), (nn.functional.linear, "linear"),
    ],
)  # fmt: skip
def test_sparse_matrices_times_hidden_values_are_products_of_dense_ones(layout: str, multiply: Any, kind: str) -> None:
    class Graph(nn.Module):
        def __init__(self, a: torch.Tensor) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)
            self.register_buffer("a", a)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return multiply(self.a, self.linear(x))

    a, x = getattr(torch.eye(4), {"coo": "to_sparse"}.get(layout, f"to_sparse_{layout}"))(), torch.ones(4, 4)
    for cached in (False, True, True):
        traced = trace(Graph(a), x, cached=cached)
        assert [(layer.kind, layer.flop) for layer in traced.layers] == [("linear", 128), (kind, 128)]
        assert traced.assumptions == (SPARSE,) and traced.held_bytes == 4 * (16 + 4 + 16 + 16)
    known = trace(networks.Runs(multiply), a, x)
    assert [(layer.kind, layer.flop) for layer in known.layers] == [(kind, 128)], "of values that are known as well"


def test_functions_as_arguments_are_refused_in_words() -> None:
    class Branches(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,))

    with pytest.raises(InputError, match="cond, which takes functions, is not traced: call the one that runs") as caught:
        trace(Branches(), torch.ones(2, 3))
    assert "object at" not in str(caught.value)


def test_lengths_on_meta_are_refused_with_the_cure() -> None:
    class Packs(nn.Module):
        def forward(self, x: torch.Tensor, lengths: Any) -> Any:
            return nn.utils.rnn.pack_padded_sequence(x, lengths).data * 2

    x = torch.zeros(5, 2, 3)
    assert trace(Packs(), x, [5, 3]).layers[-1].outputs[0].shape == (8, 3)
    with pytest.raises(InputError, match="give pack_padded_sequence the lengths as a list"):
        trace(Packs(), x, torch.tensor([5, 3]))


@pytest.mark.parametrize(
    ("module", "inputs", "cure"),
    [
        (
            networks.Runs(lambda x: torch.stft(x, 64, window=torch.ones(64), return_complex=True)),
            (torch.zeros(99),),
            "make it where the input is",
        ),
        (nn.Embedding(9, 4), (torch.zeros(2, 3),), "an embedding takes whole numbers, not float32: give token ids"),
        (nn.Bilinear(3, 4, 5), (torch.zeros(2, 3),), r"its forward misses 1 required positional argument: 'input2'"),
    ],
)
def test_what_meta_tensors_and_torch_say_is_told_with_a_cure(module: nn.Module, inputs: Any, cure: str) -> None:
    with pytest.raises(InputError, match=cure):
        trace(module, *inputs)


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_devices_that_are_named_are_refused_with_the_cure(device: str) -> None:
    if torch.cuda.is_available():
        pytest.skip("they are there")
    for run in (lambda x: x.to(device), lambda x: x + torch.zeros(2, 3, device=device), lambda x: x.cuda()):
        with pytest.raises(InputError, match=r"it asks for a CUDA device: ask for that of the input \(device=x.device\)"):
            trace(networks.Runs(run), torch.zeros(2, 3))


@pytest.mark.parametrize(
    "copy",
    [
        lambda x: x.cpu(), lambda x: x.to("cpu"), lambda x: x.to(device=torch.device("cpu"), non_blocking=True),
        lambda x: x.to(torch.zeros(1)), lambda x: x.to("cpu", torch.float32, False, True), lambda x: x.detach().cpu(),
    ],
)  # fmt: skip
def test_copies_to_the_host_are_copies_and_what_follows_is_traced(copy: Any) -> None:
    module, x = nn.Linear(3, 4), torch.zeros(2, 3)
    before = trace(networks.Runs(lambda x: module.to("meta")(copy(x))), x)
    after = trace(networks.Runs(lambda x: copy(module.to("meta")(x))), x)
    assert [layer.kind for layer in before.layers] == ["_to_copy", "linear"]
    assert [layer.kind for layer in after.layers] == ["linear", "_to_copy"] and after.layers[1].write_bytes == 4 * 8
    handle = module.register_forward_hook(lambda _, __, y: copy(y))
    assert [layer.kind for layer in trace(module, x).layers] == ["linear", "_to_copy"]
    handle.remove()


def test_copies_to_the_host_take_their_dtype_along() -> None:
    for copy in (lambda x: x.to("cpu", torch.float16), lambda x: x.to(torch.zeros(1, dtype=torch.float16))):
        (layer,) = trace(networks.Runs(copy), torch.zeros(2, 3)).layers
        assert (layer.kind, layer.outputs[0].dtype) == ("_to_copy", "float16")


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.cpu().tolist()[1][2], lambda x: float(x.cpu().numpy()[1, 2]), lambda x: x.to("cpu")[1, 2].item(),
        lambda x: float(np.asarray(x.cpu())[1, 2]), lambda x: float(x.numpy()[1, 2]), lambda x: x.long().cpu().tolist()[1][2],
    ],
)  # fmt: skip
def test_known_values_are_read_on_the_host_and_unknown_ones_refused(read: Any) -> None:
    x = torch.arange(6.0).reshape(2, 3)
    assert trace(networks.Runs(lambda x: x.new_zeros(int(read(x)))), x).layers[-1].outputs[0].shape == (5,)
    with pytest.raises(InputError, match="needs the values of a tensor"):
        trace(networks.Runs(read), x.to("meta"))


@pytest.mark.parametrize("of_ids", [False, True])
def test_real_weights_that_hooks_bring_are_never_priced_as_nothing(of_ids: bool) -> None:
    """As those of accelerate's offload do, which run on the host what they bring there with its input."""

    def bring(m: nn.Module, given: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        m.weight = nn.Parameter(torch.zeros(m.weight.shape))
        return (given[0].to("cpu"),)

    def let_go(m: nn.Module, _: Any, y: torch.Tensor) -> torch.Tensor:
        m.weight = nn.Parameter(m.weight.to("meta"))
        return y

    module = nn.Sequential(nn.Embedding(9, 8) if of_ids else nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)).eval()
    module = module[: 1 if of_ids else 2]
    for m in module:
        m.register_forward_pre_hook(bring)
        m.register_forward_hook(let_go)
    x = torch.zeros(2, dtype=torch.long) if of_ids else torch.zeros(2, 8)
    if of_ids:
        with pytest.raises(
            InputError, match=r"\(at 0\): it brings real weights and runs on them, unseen: price the network without"
        ):
            trace(module, x)
    else:
        assert [layer.kind for layer in trace(module, x).layers] == ["_to_copy", "linear"] * 2


def test_a_put_remembers_which_axes_are_indexed() -> None:
    def puts(x: torch.Tensor, i: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        x[i] = 0.0
        x[:, i] = 1.0
        x[i, :, i] = 2.0
        return x

    x, i = torch.zeros(4, 5, 6), torch.arange(3)
    first, second, outer = (layer for layer in trace(networks.Runs(puts), x, i).layers if layer.kind == "index_put")
    assert (first.argument("indexed_axes"), first.write_bytes) == (None, 4 * 3 * 30)
    assert (second.argument("indexed_axes"), second.write_bytes) == ((1,), 4 * 3 * 24)
    assert (outer.argument("indexed_axes"), outer.write_bytes) == ((0, 2), 4 * 3 * 5)


def test_writes_in_place_touch_what_they_write_and_others_copy_their_target() -> None:
    cache, token, place = torch.zeros(1, 8, 2048, 64), torch.zeros(1, 8, 1, 64), torch.tensor([5])
    (placed,) = trace(networks.Runs(lambda x, i, y: x.index_copy_(2, i, y)), cache, place, token).layers
    (copied,) = trace(networks.Runs(lambda x, i, y: x.index_copy(2, i, y)), cache, place, token).layers
    assert (placed.argument("copied"), placed.read_bytes, placed.write_bytes) == (None, 2048 + 8, 2048)
    assert (copied.argument("copied"), copied.read_bytes - placed.read_bytes) == (True, 4 * cache.numel())
    told = networks.Runs(lambda x, i, y: torch.index_copy(x, 2, i, y, out=torch.empty_like(x)))
    assert trace(told, cache, place, token).layers == (copied,), "nor is what is told where to write in place"
    (put,) = trace(networks.Runs(lambda x, i, y: x.index_put((i,), y)), torch.zeros(2048, 64), place, torch.zeros(1, 64)).layers
    assert put.write_bytes == 4 * 64 * (2048 + 1)


def test_views_in_place_cost_nothing_and_results_given_in_out_are_not_read() -> None:
    x = torch.zeros(64, 64)
    assert [layer.kind for layer in trace(networks.Runs(lambda x: x.unsqueeze_(0).transpose_(0, 1).mul(2)), x).layers] == ["mul"]
    (sigmoid,) = trace(networks.Runs(lambda x, y: torch.sigmoid(x, out=y)), x, x.clone()).layers
    assert (sigmoid.read_bytes, sigmoid.write_bytes) == (4 * 64 * 64, 4 * 64 * 64)


@torch.library.custom_op("wattlayer_tests::scale_into", mutates_args={"out"})
def scale_into(x: torch.Tensor, out: torch.Tensor) -> None:
    out.copy_(2 * x)


def test_an_operator_that_returns_nothing_is_priced_by_what_it_writes() -> None:
    def run(x: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(x)
        scale_into(x, out)
        return out

    traced = trace(networks.Runs(run), torch.zeros(64, 64))
    (scaled,) = traced.layers
    assert (scaled.kind, scaled.known, scaled.write_bytes) == ("wattlayer_tests::scale_into", False, 4 * 64 * 64)
    assert traced.assumptions == (UNKNOWN_ARITHMETIC.format("wattlayer_tests::scale_into"),)


def test_a_decomposed_module_has_the_layers_of_its_own() -> None:
    module = nn.Sequential(
        nn.Conv2d(8, 16, 3),
        nn.BatchNorm2d(16),
        nn.InstanceNorm2d(16),
        nn.ConvTranspose2d(16, 8, 2),
        nn.GroupNorm(2, 8),
        nn.Softmax(1),
    ).eval()
    x = torch.zeros(2, 8, 12, 12)
    parts = torch.export.export(module, (x,)).run_decompositions().module()
    whole, decomposed = trace(module, x), trace(parts, x)
    kinds = [layer.kind for layer in whole.layers]
    assert [layer.kind for layer in decomposed.layers] == [{"instance_norm": "batch_norm"}.get(name, name) for name in kinds]
    assert [layer.flop for layer in decomposed.layers] == [layer.flop for layer in whole.layers]


@pytest.mark.parametrize("shape", [(4, 16), (2, 4, 16)])
def test_a_decomposed_linear_layer_is_one_again(shape: tuple[int, ...]) -> None:
    module, x = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 8, bias=False)).eval(), torch.zeros(shape)
    parts = torch.export.export(module, (x,)).run_decompositions().module()
    assert {str(node.target) for node in parts.graph.nodes} >= {"aten.addmm.default", "aten.mm.default"}
    whole, decomposed = trace(module, x), trace(parts, x)
    assert [layer.kind for layer in decomposed.layers] == [layer.kind for layer in whole.layers] == ["linear", "gelu", "linear"]
    for a, b in zip(whole.layers, decomposed.layers):
        assert (a.flop, a.read_bytes, a.write_bytes, a.inputs[1:]) == (b.flop, b.read_bytes, b.write_bytes, b.inputs[1:])


class WrittenProducts(nn.Module):
    """Products that write where they are told, or in a dtype that they are told."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(8, 16, dtype=torch.float16))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        wide = torch.mm(x, self.weight.t(), out_dtype=torch.float32)
        y, z = x.new_empty(0), x.new_empty(4, 8)
        torch.matmul(x, self.weight.t(), out=y)
        torch.mm(x, self.weight.t(), out=z)
        return wide, y.relu(), x[:, :8] @ z.t()


@pytest.mark.filterwarnings("ignore:An output with one or more elements was resized")
def test_products_that_write_to_what_they_are_given_stay_what_they_are() -> None:
    traced = trace(WrittenProducts(), torch.zeros(4, 16, dtype=torch.float16))
    found = [(layer.kind, layer.outputs[0].shape, layer.outputs[0].dtype) for layer in traced.layers]
    half = [("matmul", (4, 8)), ("mm", (4, 8)), ("relu", (4, 8)), ("matmul", (4, 4))]
    assert found == [("mm", (4, 8), "float32"), *((kind, shape, "float16") for kind, shape in half)]
    flow = traced.flow
    assert flow is not None and set(flow.producers()) >= {flow.reads[3][0][0], flow.reads[4][1][0]}, "both results are read"


def test_what_decomposed_operators_write_where_they_are_told_is_there() -> None:
    """What follows reads what they wrote to."""

    def run(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y, z, weight = torch.empty_like(x), x.new_empty(2, 5, 9), x.new_empty(5, 9, 3)
        torch.ops.aten._softmax.out(x, 1, False, out=y)
        torch.ops.aten.convolution.out(x, weight, None, [1], [1], [1], False, [0], 1, out=z)
        return y.relu(), z.relu()

    traced = trace(networks.Runs(run), torch.zeros(2, 9, 9))
    made = [("_softmax", (2, 9, 9)), ("convolution", (2, 5, 9)), ("relu", (2, 9, 9)), ("relu", (2, 5, 9))]
    assert [(layer.kind, layer.outputs[0].shape) for layer in traced.layers] == made
    flow = traced.flow
    assert flow is not None and [flow.producers()[flow.reads[call][0][0]] for call in (2, 3)] == [0, 1]


class OwnProducts(nn.Module):
    """Products of a weight that lies as `nn.Linear` keeps it, and some that only look so."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(8, 16)), nn.Parameter(torch.zeros(8))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        w, b = self.weight, self.bias
        linear = x @ w.t(), torch.addmm(b, x[0], w.t()), torch.mm(x[0], w.mT)
        others = (
            x @ w.view(16, 8), x[0] @ y.t(), torch.mm(x[0], x[1].t()), torch.addmm(b, x[0], w.t(), alpha=2),
            torch.addmm(b[:, None].expand(8, 8), w, w.t()), x[0, 0] @ w.t(),
        )  # fmt: skip
        return (*linear, *others)


def test_a_product_with_a_weight_that_lies_transposed_is_a_linear_layer() -> None:
    traced = trace(OwnProducts(), torch.zeros(2, 4, 16), torch.zeros(4, 16))
    assert [layer.kind for layer in traced.layers] == [*["linear"] * 3, "matmul", "matmul", "mm", "addmm", "addmm", "matmul"]
    assert {layer.inputs[1].shape for layer in traced.layers[:3]} == {(8, 16)}


def test_what_decomposed_norms_return_beside_their_output_is_there() -> None:
    """Autograd and functorch read the statistics."""
    norm = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Unflatten(1, (4, 2)), nn.GroupNorm(2, 4)).eval()
    x = torch.zeros(2, 8)

    def force(x: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            x = x.clone().requires_grad_(True)
            return torch.autograd.grad(norm.to("meta")(x).sum(), x)[0]

    kinds = [layer.kind for layer in trace(networks.Runs(force), x).layers]
    assert {"layer_norm", "group_norm"} <= set(kinds)
    batch = nn.BatchNorm2d(3).eval().to("meta")
    traced = trace(networks.Runs(torch.vmap(batch)), torch.zeros(5, 2, 3, 4, 4))
    assert "batch_norm" in [layer.kind for layer in traced.layers]
    (mean, *_) = trace(networks.Runs(lambda x: torch.native_layer_norm(x, [8], None, None, 1e-5)[1] + 1), x).layers[1:]
    assert mean.inputs[0].shape == (2, 1)


def test_what_torch_counts_of_forward_passes_has_a_formula() -> None:
    from torch.utils.flop_counter import flop_registry

    names = {str(operator).removeprefix("aten.") for operator in flop_registry}
    assert not {x for x in names - KINDS.keys() - COMPOSITES.keys() if "backward" not in x and x != "flex_attention"}


@pytest.mark.parametrize(
    ("run", "kind"),
    [
        (lambda a, x, w: a._scaled_dot_product_cudnn_attention(x, x, x, None, False)[0], "scaled_dot_product_attention"),
        (lambda a, x, w: a._scaled_dot_product_efficient_attention(x, x, x, None, False)[0], "scaled_dot_product_attention"),
        (lambda a, x, w: a.cudnn_convolution(x, w, [1, 1], [2, 1], [1, 1], 1, False, False, False), "conv2d"),
        (lambda a, x, w: a.convolution_overrideable(x, w, None, [2, 1], [1, 1], [1, 1], False, [0, 0], 1), "conv2d"),
    ],
)
def test_kernels_called_by_their_names_are_the_operators_that_call_them(run: Any, kind: str) -> None:
    module, x, w = networks.Runs(lambda x, w: run(torch.ops.aten, x, w)), torch.zeros(2, 4, 16, 8), torch.zeros(6, 4, 3, 3)
    traced = trace(module, x, w)
    assert [layer.kind for layer in traced.layers] == [kind] and counted_flop(traced) == torch_flop(module, x, w) > 0


def test_a_slow_convolution_is_one() -> None:
    """As `thnn_conv2d` calls it; torch's counter fails on it."""
    run = networks.Runs(lambda x, w: torch.ops.aten._slow_conv2d_forward(x, w, [3, 3], None, [2, 1], [1, 1]))
    x, w = torch.zeros(2, 4, 16, 8), torch.zeros(6, 4, 3, 3)
    conv = networks.Runs(lambda x, w: torch.conv2d(x, w, None, [2, 1], [1, 1]))
    assert trace(run, x, w).layers == trace(conv, x, w).layers


def flash(q: torch.Tensor, k: torch.Tensor, causal: bool) -> Any:
    return torch.ops.aten._flash_attention_forward(q, k, k, None, None, q.shape[1], k.shape[1], 0.0, causal, False)


def efficient(q: torch.Tensor, k: torch.Tensor, mask: int) -> Any:
    return torch.ops.aten._efficient_attention_forward(q, k, k, None, None, None, None, None, 0.0, mask)


@pytest.mark.parametrize(
    ("run", "mask", "causal"),
    [(flash, False, False), (efficient, 0, False), (efficient, 1, True), (efficient, 2, False), (flash, True, False)],
)
@pytest.mark.parametrize("shared", [1, 2])
def test_attention_by_position_is_that_of_its_heads(run: Any, mask: Any, causal: bool, shared: int) -> None:
    """Of 16 queries and 32 keys: masks from the last query on hide a quarter: nearer to none."""
    q, k = torch.zeros(2, 16, 4, 8), torch.zeros(2, 32, 4 // shared, 8)
    traced = trace(networks.Runs(lambda q, k: [2 * x for x in run(q, k, mask)[:2]]), q, k)
    layer, *read = traced.layers
    assert (layer.kind, layer.flop) == ("scaled_dot_product_attention", 2 * 2 * 4 * 16 * 32 * 16) and not traced.assumptions
    assert [x.shape for x in layer.inputs] == [(2, 4, 16, 8), *[(2, 4 // shared, 32, 8)] * 2]
    assert bool(layer.argument("is_causal", False)) == causal
    assert [x.kind for x in read] == ["mul", "mul"] and read[0].inputs[0].shape == (2, 16, 4, 8)


@pytest.mark.parametrize(("queries", "causal"), [(1, False), (21, False), (22, True), (32, True)])
def test_masks_from_the_last_query_are_causal_where_that_is_nearer(queries: int, causal: bool) -> None:
    q, k = torch.zeros(2, 4, queries, 8), torch.zeros(2, 4, 32, 8)
    whole = lambda q, k: torch.ops.aten._scaled_dot_product_flash_attention(q, k, k, 0.0, True)[0]  # noqa: E731
    bias = lambda q, k: nn.functional.scaled_dot_product_attention(q, k, k, causal_lower_right(queries, 32))  # noqa: E731
    parts = lambda q, k: flash(q.transpose(1, 2), k.transpose(1, 2), True)[0]  # noqa: E731
    for run in (whole, bias, parts):
        (layer,) = trace(networks.Runs(run), q, k).layers
        assert bool(layer.argument("is_causal", False)) == causal


@pytest.mark.parametrize(
    ("run", "x", "kinds"),
    [
        (lambda x, w: nn.functional.conv2d(x.cpu().float() / 255, w), torch.zeros(1, 3, 8, 8, dtype=torch.uint8), ["conv2d"]),
        (lambda x, w: torch.from_numpy(x.numpy()) @ x.T, torch.zeros(4, 5), ["matmul"]),
    ],
)
def test_real_operands_among_others_run_on_the_meta_device(run: Any, x: torch.Tensor, kinds: list[str]) -> None:
    """Kernels of processors would run on a meta weight as on one that is real."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(4, 3, 3, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return run(x, self.weight)

    assert [layer.kind for layer in trace(Net(), x).layers] == kinds


@pytest.mark.parametrize(
    ("run", "x"),
    [(lambda x: x.cpu() * 2, torch.arange(6)), (lambda x: torch.from_numpy(x.numpy()) @ torch.ones(6), torch.zeros(6))],
)
def test_a_network_that_runs_on_the_host_alone_is_not_priced_as_nothing(run: Any, x: torch.Tensor) -> None:
    with pytest.raises(InputError, match=r"what it returns was computed on the host, which is not priced: keep to the device"):
        trace(networks.Runs(run), x)


def test_what_is_written_into_made_tensors_is_the_devices_work() -> None:
    class Fills(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            trace(nn.Linear(2, 2), torch.zeros(1, 2))  # a trace within a trace
            out = torch.empty(6, 6)
            out[:] = self.linear(x)
            return out

    assert trace(Fills(), torch.zeros(6, 6)).layers[0].kind == "linear"
    assert CausalBias.__new__ is torch.Tensor.__new__ and "__new__" not in vars(CausalBias)


def test_attention_of_packed_sequences_says_that_its_arithmetic_is_not_known() -> None:
    def run(q: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        return torch.ops.aten._flash_attention_forward(q, q, q, ends, ends, 9, 9, 0.0, True, False)[0]

    traced = trace(networks.Runs(run), torch.zeros(16, 4, 8), torch.tensor([0, 7, 16], dtype=torch.int32))
    assert traced.assumptions == (UNKNOWN_ARITHMETIC.format("_flash_attention_forward"),)


@pytest.mark.parametrize("made", ["in the forward", "before", "held", "given"])
@pytest.mark.parametrize("variant", [causal_upper_left, causal_lower_right])
@pytest.mark.parametrize(("queries", "keys"), [(16, 16), (4, 16)])
def test_causal_masks_that_are_sizes_alone_are_not_read(made: str, variant: Any, queries: int, keys: int) -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mask = variant(queries, keys) if made == "held" else None

        def forward(self, q: torch.Tensor, k: torch.Tensor, mask: Any = None) -> torch.Tensor:
            mask = {"in the forward": lambda: variant(queries, keys), "before": lambda: before, "held": lambda: self.mask}.get(
                made, lambda: mask
            )()
            return nn.functional.scaled_dot_product_attention(q, k, k, mask)

    before, q, k = variant(queries, keys), torch.zeros(2, 4, queries, 8), torch.zeros(2, 4, keys, 8)
    traced = trace(Masked(), q, k, *[before] * (made == "given"))
    (layer,) = traced.layers
    assert traced.input_shapes == tuple(dict.fromkeys((tuple(q.shape), tuple(k.shape))))
    assert (layer.kind, len(layer.inputs)) == ("scaled_dot_product_attention", 3)
    few = variant is causal_lower_right and queries < keys  # which each see nearly all keys
    assert bool(layer.argument("is_causal", False)) == (not few)
    assert CausalBias.__new__ is torch.Tensor.__new__


@pytest.mark.parametrize("name", ["_scaled_dot_product_flash_attention", "_scaled_dot_product_flash_attention_for_cpu"])
def test_decomposed_attention_stays_causal(name: str) -> None:
    decomposed = getattr(torch.ops.aten, name)
    q = torch.zeros(2, 3, 16, 8)
    (layer,) = trace(networks.Runs(lambda q: decomposed(q, q, q, 0.0, True)[0]), q).layers
    whole = trace(networks.Runs(lambda q: nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True)), q).layers[0]
    assert layer == whole


def test_a_decomposed_softmax_of_halves_may_give_floats() -> None:
    x = torch.zeros(2, 9, 4, dtype=torch.float16)
    (layer,) = trace(networks.Runs(lambda x: torch.ops.aten._softmax(x, 1, True)), x, dtype="float16").layers
    assert layer.outputs[0].dtype == "float32" and layer.write_bytes == 4 * 72


def test_a_decomposed_log_softmax_of_halves_may_give_floats() -> None:
    x = torch.zeros(2, 9, 4, dtype=torch.float16)
    (layer,) = trace(networks.Runs(lambda x: torch.ops.aten._log_softmax(x, 1, True)), x, dtype="float16").layers
    assert (layer.kind, layer.outputs[0].dtype, layer.write_bytes) == ("log_softmax", "float32", 4 * 72)


def test_decomposed_attention_keeps_its_mask_under_either_name() -> None:
    q, mask = torch.zeros(2, 3, 16, 8), torch.zeros(2, 3, 16, 16)
    by_name = (
        lambda q, m: torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, q, q, 0.0, False, attn_mask=m)[0],
        lambda q, m: torch.ops.aten._scaled_dot_product_efficient_attention(q, q, q, m, False)[0],
    )
    for run in by_name:
        (layer,) = trace(networks.Runs(run), q, mask).layers
        assert (layer.kind, layer.operand("attn_mask").shape) == ("scaled_dot_product_attention", mask.shape)


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Conv1d(8, 16, 3, stride=2, padding=1, dilation=2, groups=4), (2, 8, 20)),
        (nn.ConvTranspose2d(8, 16, 3, stride=2, padding=1, output_padding=1, groups=4, dilation=2), (2, 8, 9, 9)),
        (nn.Conv3d(4, 8, 3, padding=(0, 1, 2)), (1, 4, 6, 6, 6)),
        (nn.GroupNorm(2, 8), (2, 8, 4, 4)),
    ],
    ids=repr,
)
def test_a_decomposed_layer_keeps_its_sizes_strides_and_groups(module: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.zeros(shape)
    parts = torch.export.export(module.eval(), (x,)).run_decompositions().module()
    (whole,), (decomposed,) = trace(module, x).layers, trace(parts, x).layers
    assert (whole.kind, whole.outputs, whole.flop) == (decomposed.kind, decomposed.outputs, decomposed.flop)
    for name in ("groups", "num_groups"):
        assert whole.argument(name, None) == decomposed.argument(name, None)


def test_one_stride_for_all_axes_may_be_given_as_a_list() -> None:
    x, weight = torch.zeros(1, 3, 9, 9), torch.zeros(4, 3, 3, 3)
    runs = [networks.Runs(lambda x, s=s: nn.functional.conv2d(x, weight, stride=s)) for s in ([2], 2)]
    listed, plain = (trace(run, x).layers[0] for run in runs)
    assert listed.outputs[0].shape == plain.outputs[0].shape == (1, 4, 4, 4)


def test_what_returns_nothing_still_stands_between_what_it_reads_and_what_reads_it() -> None:
    def run(x: torch.Tensor) -> torch.Tensor:
        a = torch.relu(x)
        out = torch.empty_like(a)
        scale_into(a, out)
        return a + out

    assert [layer.kind for layer in fuse(trace(networks.Runs(run), torch.zeros(64, 64))).layers] == [
        "relu", "wattlayer_tests::scale_into", "add"
    ]  # fmt: skip


def test_products_that_torch_refuses_for_their_dtypes_are_told() -> None:
    """The meta device takes them: a stray `.float()` under `--dtype bfloat16` would pass unseen."""
    module, x = networks.Runs(lambda x: nn.functional.linear(x.float(), weight.to(x.dtype))), torch.zeros(2, 3)
    weight = torch.zeros(4, 3)
    with pytest.raises(RuntimeError, match="dtype"):
        module(x.bfloat16())
    assert trace(module, x).assumptions == ()
    assert trace(module, x, dtype="bfloat16").assumptions == (UNLIKE_DTYPES,)


def test_unlike_dtypes_are_told_of_what_torch_refuses_alone() -> None:
    image, window = torch.zeros(1, 2, 5, 5), torch.zeros(3, 2, 3, 3, dtype=torch.bfloat16)
    convolves, adds = networks.Runs(nn.functional.conv2d), networks.Runs(torch.addr)
    with pytest.raises(RuntimeError, match="type"):
        convolves(image, window)
    assert trace(convolves, image, window).assumptions == (UNLIKE_DTYPES,)
    vectors = torch.zeros(2, 3), torch.zeros(2, dtype=torch.bfloat16), torch.zeros(3)
    assert adds(*vectors).dtype == torch.float32 and trace(adds, *vectors).assumptions == ()


def test_a_call_within_a_forward_that_misses_an_argument_is_told_as_it_is() -> None:
    with pytest.raises(InputError, match=r"Linear.__init__\(\) missing 1 required positional argument: 'out_features'"):
        trace(networks.Runs(lambda x: nn.Linear(x.shape[-1])), torch.zeros(2, 3))  # type: ignore[call-arg]


@pytest.mark.filterwarnings("ignore:CUDA is not available")
@pytest.mark.parametrize(("device", "dtype"), [("cuda", torch.float16), ("cpu", torch.bfloat16)])
def test_autocast_is_told(device: str, dtype: torch.dtype) -> None:
    class Casts(nn.Linear):
        enabled = True

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.autocast(device, dtype, enabled=self.enabled):
                return super().forward(x)

    module, x, make = Casts(3, 4), torch.zeros(2, 3), torch.autocast.__init__
    assert trace(module, x).assumptions == (AUTOCAST,)
    module.enabled = False  # as language models do around their rotary embeddings
    assert trace(module, x).assumptions == ()
    with torch.autocast("cpu", torch.bfloat16):
        assert trace(nn.Linear(3, 4), x).assumptions == (AUTOCAST,)
        mixed = networks.Runs(lambda x: nn.functional.linear(x, module.weight.bfloat16()))
        assert trace(mixed, x).assumptions == (AUTOCAST,), "which casts what torch would refuse"
    assert torch.autocast.__init__ is make


@pytest.mark.filterwarnings("ignore:CUDA is not available")
@pytest.mark.parametrize(("device", "dtype"), [("cuda", torch.float16), ("cpu", torch.bfloat16)])
def test_autocast_that_was_made_before_is_told(device: str, dtype: torch.dtype) -> None:
    class Decorated(nn.Linear):
        @torch.autocast(device, dtype)
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x)

    class Holds(nn.Linear):
        def __init__(self, *sizes: int) -> None:
            super().__init__(*sizes)
            self.cast = torch.autocast(device, dtype)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with self.cast:
                return super().forward(x)

    x, enter = torch.zeros(2, 3), torch.autocast.__enter__
    for module in (Decorated(3, 4), Holds(3, 4)):
        assert trace(module, x).assumptions == (AUTOCAST,)
    with torch.autocast(device, dtype):
        assert trace(nn.Linear(3, 4), x).assumptions == (AUTOCAST,)
    assert torch.autocast.__enter__ is enter and trace(nn.Linear(3, 4), x).assumptions == ()


def test_autocast_that_was_made_before_and_is_off_is_not_told() -> None:
    class Decorated(nn.Linear):
        @torch.autocast("cpu", torch.bfloat16, enabled=False)
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x)

    assert trace(Decorated(3, 4), torch.zeros(2, 3)).assumptions == ()


def test_dtype_is_a_floating_one_where_no_operator_has_flop() -> None:
    assert trace(nn.EmbeddingBag(10, 4), torch.zeros(2, 3, dtype=torch.long)).dtype == "float32"


@pytest.mark.parametrize("options", [{"dtype": "float8"}, {"tf32": "some"}])
def test_unknown_option_is_named(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=str(next(iter(options.values())))):
        trace(networks.ConvNet(), torch.randn(2, 3, 16, 16), **options)


def test_no_weight_is_allocated() -> None:
    with torch.device("meta"):
        module = nn.Linear(1 << 20, 1 << 20)
    assert trace(module, torch.empty(1, 1 << 20, device="meta")).flop == 2 << 40


def test_large_unknown_output_is_not_worked_out() -> None:
    class Mask(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            mask = torch.ones(1 << 13, 1 << 13, dtype=torch.bool, device=x.device)
            return x if mask.all() else -x

    with pytest.raises(InputError, match="needs the values"):
        trace(Mask(), torch.empty(1))


def test_hash_and_digest_in_another_process() -> None:
    layer = trace(nn.Linear(3, 5), torch.randn(2, 3)).layers[0]
    code = f"from wattlayer.layer import Layer; print(Layer.from_json({layer.to_json()!r}).digest())"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == layer.digest()


def test_traces_add_up() -> None:
    traced = trace(networks.ConvNet(), torch.randn(2, 3, 16, 16))
    assert traced.flop == sum(x.flop for x in traced.layers)
    assert traced.read_bytes == sum(x.read_bytes for x in traced.layers)
    assert len(traced.layers) == len(traced.paths)


class Counting(nn.Module):
    """Writes in place to its buffer and to its input, and branches on both."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("step", torch.zeros(1))
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        self.step += 1
        x += 1
        return self.linear(x) if self.step.item() > 1 or x.sum().item() > 8 else self.linear(self.linear(x))


def test_buffers_and_inputs_that_a_forward_writes_to_keep_their_values():
    module, x = Counting().eval(), torch.zeros(2, 4)
    flop = [trace(module, x).flop for _ in range(3)]
    assert flop == [flop[0]] * 3 and not module.step.any() and not x.any()


class Helper:
    """What a network keeps beside its modules, of a class that is no container."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.kept = module, []

    def __call__(self, x):
        self.kept.append(x)
        return self.module(torch.cat(self.kept) if len(self.kept) > 1 else x)


class Helped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Linear(4, 4)
        self.helper, self.known = Helper(self.block), {self.block: 1}

    def forward(self, x):
        return self.helper(x) * (2 if self.block in self.known else x)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_modules_that_other_objects_hold_are_those_of_the_network(device):
    with torch.device(device):
        module = Helped().eval()
    first, again = (trace(module, torch.zeros(2, 4)) for _ in range(2))
    assert (first.paths, [x.kind for x in first.layers]) == (("block", ""), ["linear", "mul"])
    assert len(first.layers[1].inputs) == 1 and first == again and not module.helper.kept


def test_threads_trace_what_each_would_alone_and_leave_torch_as_it_was() -> None:
    """The default dtype, the attention fast path and autocast belong to the process."""
    from wattlayer.adapters.huggingface import _module

    class Half:
        @staticmethod
        def _from_config(config: Any) -> nn.Module:
            time.sleep(0.002)
            return nn.Linear(8, 8)

    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(64, 4, batch_first=True), 2).eval()

    text, numbers = torch.empty(2, 5, 64), torch.empty(4)  # made before: what a thread makes itself is its own affair

    class Made(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cpu", enabled=False):
                time.sleep(0.002)
                return torch.zeros(4) + x

    def of(i: int) -> Any:
        if i % 3 == 0:
            return _module(Half, SimpleNamespace(), "float16").weight.dtype
        return trace(encoder, text).layers if i % 3 == 1 else trace(Made(), numbers).layers

    alone, autocast, enabled = [of(i) for i in range(3)], torch.autocast.__init__, torch.backends.mha.get_fastpath_enabled()
    on_device = activation._check_arg_device
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(of, range(60))) == alone * 20
    assert torch.get_default_dtype() == torch.float32 and torch.autocast.__init__ is autocast
    assert torch.backends.mha.get_fastpath_enabled() == enabled and activation._check_arg_device is on_device


def test_a_packed_sequence_as_an_input_is_refused_with_its_cure() -> None:
    packed = nn.utils.rnn.pack_padded_sequence(torch.zeros(5, 2, 8), [5, 3])
    with pytest.raises(InputError, match="a packed sequence is no input: give the padded tensor"):
        trace(nn.LSTM(8, 16), packed)


def test_a_factory_may_trace_in_threads() -> None:
    """In a process of its own: threads that wait for each other are not told to stop."""
    code = """if True:
        from concurrent.futures import ThreadPoolExecutor
        import torch
        from torch import nn
        from wattlayer.adapters.source import build
        from wattlayer.trace import trace

        def factory():
            with ThreadPoolExecutor(2) as pool:
                found = pool.map(lambda n: len(trace(nn.Linear(8, n), torch.empty(1, 8)).layers), (4, 8))
                return nn.Linear(8, max(found))

        print(build(factory, None).weight.is_meta)
    """
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120)
    assert done.stdout == "True\n"


@pytest.mark.parametrize(
    ("compute", "kinds"),
    [
        (lambda x: x * x, ["mul"]), (lambda x: x + x, ["add"]), (lambda x: torch.mul(x, other=x), ["mul"]),
        *((lambda x, n=n: getattr(torch, n)(x, x), [n]) for n in ("sub", "div", "eq", "ne", "lt", "le", "gt", "ge")),
        (lambda x: (x + 1).mul_(2).pow(2), ["add", "mul", "pow"]),
    ],
)  # fmt: skip
def test_a_tensor_that_is_both_factors_is_read_once(compute: Any, kinds: list[str]) -> None:
    traced = trace(Calls(compute), torch.zeros(3, 4))
    assert [layer.kind for layer in traced.layers] == kinds
    assert all(layer.read_bytes == 48 for layer in traced.layers)
    assert traced.flow is not None and all(len(places) == 1 for places in traced.flow.reads)
    assert trace(Calls(compute), torch.zeros(3, 4), cached=True) == traced


def test_a_square_is_the_power_that_computes_it() -> None:
    layers = [trace(Calls(f), torch.zeros(3, 4)).layers for f in (lambda x: x**2, lambda x: x.square(), torch.square)]
    assert layers[0] == layers[1] == layers[2] and layers[0][0].kind == "pow"
    in_place = trace(Calls(lambda x: (x + 1).square_()), torch.zeros(3, 4)).layers
    assert [x.kind for x in in_place] == ["add", "pow"]


def test_two_tensors_of_one_shape_are_both_read() -> None:
    for cached in (False, True):
        layers = trace(Calls(lambda x: x * x + x.clone() * x), torch.zeros(3, 4), cached=cached).layers
        assert [x.read_bytes for x in layers if x.kind == "mul"] == [48, 96]
    square = trace(Calls(lambda x: x @ x), torch.zeros(3, 3)).layers
    assert [x.read_bytes for x in square] == [72], "a product reads rows of one and columns of the other"


def test_packing_sequences_computes_nothing() -> None:
    class Packs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(8, 16, batch_first=True)

        def forward(self, x: torch.Tensor) -> Any:
            return self.lstm(nn.utils.rnn.pack_padded_sequence(x, [5, 3], batch_first=True))[0].data

    traced = trace(Packs(), torch.zeros(2, 5, 8))
    assert not traced.assumptions and traced.flop == sum(x.flop for x in traced.layers if x.kind == "lstm")


def test_attention_that_compiles_a_function_is_refused_with_what_to_call() -> None:
    from torch.nn.attention.flex_attention import flex_attention

    with pytest.raises(InputError, match="flex_attention, which compiles a function, is not traced: call scaled_dot_product"):
        trace(Calls(lambda q: flex_attention(q, q, q)), torch.zeros(1, 2, 16, 8))


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_an_end_in_the_midst_of_attention_leaves_torch_as_it_was(error: type[BaseException]) -> None:
    class Ends(nn.MultiheadAttention):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            raise error

    name = type(torch.utils.backend_registration._privateuse1_backend_name)
    with pytest.raises((error, InputError)):
        trace(Ends(32, 4), torch.zeros(2, 6, 32), torch.zeros(2, 6, 32), torch.zeros(2, 6, 32))
    assert type(torch.utils.backend_registration._privateuse1_backend_name) is name is str
    assert torch._C._is_torch_function_enabled() and not torch_modules._global_forward_hooks


def test_operators_that_need_both_operands_keep_them() -> None:
    for compute in (lambda x: torch.maximum(x, x), lambda x: torch.atan2(x, x), lambda x: torch.lerp(x, x, 0.5)):
        assert len(trace(Calls(compute), torch.zeros(3, 4)).layers[-1].inputs) == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_grouped_products_keep_the_dtype_of_their_rows(dtype: torch.dtype) -> None:
    rows, weights = torch.zeros(8, 16, dtype=dtype), torch.zeros(2, 16, 32, dtype=dtype)
    ends = torch.tensor([3, 8], dtype=torch.int32)
    traced = trace(networks.Runs(lambda x, w, e: torch._grouped_mm(x, w, offs=e)), rows, weights, ends)
    (layer,) = traced.layers
    assert traced.assumptions == (EVEN_CHOICES,)
    assert (layer.kind, layer.outputs[0].shape, layer.outputs[0].dtype) == ("_grouped_mm", (8, 32), str(dtype)[6:])


class Padded(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.utils.rnn.pad_sequence(list(x.split([3, 5, 2])), **self.options)


@pytest.mark.parametrize(
    "options", [{}, {"batch_first": True}, {"batch_first": True, "padding_side": "left", "padding_value": -1.0}]
)
def test_sequences_are_padded_by_one_copy_each(options):
    """What torch decomposes it to copies the whole batch for every sequence: 48 times the bytes for 64 of them."""
    x, module = torch.randn(10, 4), Padded(**options)
    layers = trace(module, x).layers
    assert [(i.kind, i.write_bytes) for i in layers] == [("new_full", 240), ("copy", 48), ("copy", 80), ("copy", 32)]
    real = module(x)
    place = 0 if options.get("batch_first") else 1
    assert layers[0].outputs[0].shape == tuple(real.shape) and real.shape[place] == 3
    apart = layers[2].inputs[0].strides
    assert (apart is None or apart == (4, 1)) is bool(options.get("batch_first")), "rows of other sequences lie between"


class Assigned(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x.clone()
        y[:, 1:2] = 3
        y[0] = True
        y[..., 0] = np.float64(-0.5)
        return y


def test_a_number_that_is_assigned_fills_in_one_launch_as_on_cuda():
    """On the meta device torch made a tensor of it and copied that: 45 launches more in a Swin-T."""
    layers = trace(Assigned(), torch.randn(3, 4)).layers
    assert [(x.kind, x.write_bytes) for x in layers] == [("clone", 48), ("fill", 12), ("fill", 16), ("fill", 12)]
    other = trace(Assigned(), torch.randn(3, 4, dtype=torch.float64)).layers
    assert [x.outputs[0].dtype for x in other] == ["float64"] * 4


@pytest.mark.parametrize("draw", [
    lambda x: torch.distributions.Normal(x, x.exp()).rsample(),
    lambda x: torch.distributions.Categorical(logits=x).sample(),
    lambda x: torch.distributions.Bernoulli(logits=x).sample(),
    lambda x: torch.distributions.Dirichlet(x.exp()).sample(),
    lambda x: torch.distributions.Beta(x.exp(), x.exp()).sample(),
    lambda x: torch.distributions.TransformedDistribution(
        torch.distributions.Normal(x, x.exp()), torch.distributions.transforms.TanhTransform()).rsample(),
])  # fmt: skip
def test_distributions_check_their_arguments_and_find_them_right(draw, monkeypatch):
    """Policies draw from them; the checks' own work is recorded. Some libraries turn checking off."""
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", True)
    kinds = [i.kind for i in trace(networks.Runs(draw), torch.randn(3, 4)).layers]
    assert "_is_all_true" in kinds and len(kinds) > 3


class Both(nn.Module):
    def __init__(self, enabled: bool) -> None:
        super().__init__()
        self.enabled = enabled

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, enabled=self.enabled):
            return (x * 2).long().type(x.type()) @ x.t()


def test_devices_of_a_networks_own_tensors_have_autocast_and_names_of_types():
    on, off = (trace(Both(enabled), torch.randn(3, 4)) for enabled in (True, False))
    assert [x.kind for x in off.layers] == ["mul", "_to_copy", "_to_copy", "matmul"] and on.layers == off.layers
    assert AUTOCAST in on.assumptions and AUTOCAST not in off.assumptions
    assert [x.outputs[0].dtype for x in off.layers] == ["float32", "int64", "float32", "float32"]


def test_an_operator_without_a_meta_kernel_is_named_for_what_it_lacks():
    library = torch.library.Library("wattlayer_test", "DEF")
    library.define("only_cpu(Tensor x) -> Tensor")
    library.impl("only_cpu", lambda x: x.clone(), "CPU")
    with pytest.raises(
        InputError, match=r"wattlayer_test::only_cpu has no kernel for meta tensors: give it one with torch.library"
    ):
        trace(networks.Runs(lambda x: torch.ops.wattlayer_test.only_cpu(torch.rand_like(x))), torch.randn(2))


def test_autocast_of_another_thread_is_not_the_networks():
    net, x = nn.Sequential(*(nn.Linear(8, 8) for _ in range(40))), torch.randn(2, 8)
    own, stop = trace(net, x), threading.Event()

    def infer() -> None:
        while not stop.is_set():
            with torch.autocast("cpu", dtype=torch.bfloat16):
                net(x)

    other = threading.Thread(target=infer)
    other.start()
    try:
        assert all(trace(net, x) == own for _ in range(10))
    finally:
        stop.set()
        other.join()


class Cache:
    """Keys of the tokens so far, in an object that no pytree knows."""

    def __init__(self, keys: torch.Tensor) -> None:
        self.keys, self.seen = [keys], 1


class Slots:
    __slots__ = ("keys",)

    def __init__(self, keys: torch.Tensor) -> None:
        self.keys = keys


class Secret:
    """It tells nobody what it holds, as proxies that are not ready do."""

    @property
    def __dict__(self) -> Any:
        raise ValueError("not ready")


@pytest.mark.parametrize(
    "given", [object(), Secret(), SimpleNamespace(torch=torch), SimpleNamespace(many=[[] for _ in range(20_000)])]
)
def test_objects_that_hold_nothing_to_change_are_handed_on_as_they_are(given):
    found = trace(networks.Runs(lambda x, y: x * 2 if y is given else x), torch.ones(1, 4), given)
    assert [x.kind for x in found.layers] == ["mul"]


class Cached(nn.Module):
    def forward(self, x: torch.Tensor, cache: Cache) -> torch.Tensor:
        cache.keys[0] = torch.cat([cache.keys[0], x])
        cache.seen += 1
        return cache.keys[0] @ x.t()


def test_objects_that_a_forward_changes_are_the_callers_no_more():
    cache = Cache(torch.ones(5, 4))
    keys = cache.keys[0]
    for module in (Cached(), Cached().to("meta")):
        found = trace(module, torch.ones(1, 4), kwargs={"cache": cache})
        assert [x.kind for x in found.layers] == ["cat", "matmul"] and found.layers[0].outputs[0].shape == (6, 4)
    assert cache.seen == 1 and len(cache.keys) == 1 and cache.keys[0] is keys and not keys.is_meta
    other = Slots(torch.ones(5, 4))
    found = trace(networks.Runs(lambda x, c: c.keys @ x.t()), torch.ones(1, 4), other)
    assert [x.kind for x in found.layers] == ["matmul"] and not other.keys.is_meta
    shared = trace(networks.Runs(lambda x, c: c.keys[0] is x), keys, cache)
    assert not shared.layers, "a tensor that is given twice stays one"


def test_counts_of_layers_are_the_callers_own():
    found = trace(nn.Linear(4, 4), torch.randn(1, 4))
    counts, flop = found.unique(), found.flop
    counts += counts
    counts.clear()
    assert found.flop == flop and len(found.unique()) == 1


class Locked(nn.Module):
    """It holds what cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.lock, self.calls, self.kept = threading.Lock(), 0, []
        self.register_buffer("count", torch.ones(1, device="meta"))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.kept.append(x)
        self.count = self.count * 2
        return x + self.count


def test_a_meta_module_that_cannot_be_copied_is_left_as_it_was():
    module = Locked().eval()
    before = module.count
    assert [x.kind for x in trace(module, torch.ones(1)).layers] == ["mul", "add"]
    assert (module.calls, module.kept) == (0, []) and module.count is before


def test_numbers_are_drawn_for_what_parameters_are_broadcast_to():
    drawn = trace(networks.Runs(lambda n, p: torch.binomial(n, torch.sigmoid(p))), torch.full((1,), 10.0), torch.randn(3, 4))
    assert drawn.layers[-1].outputs[0].shape == (3, 4) and not drawn.assumptions


def test_weights_held_in_a_byte_stay_so():
    class Held(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(64, 32, dtype=torch.float8_e4m3fn), requires_grad=False)

        def forward(self, x):
            return nn.functional.linear(x, self.weight.to(x.dtype))

    kept, product = trace(Held().eval(), torch.zeros(4, 32), dtype="float16").layers
    assert (kept.kind, kept.read_bytes, kept.write_bytes) == ("_to_copy", 64 * 32, 64 * 32 * 2)
    assert product.dtype == "float16"
