"""Our FLOP beside fvcore's and torch's."""

from __future__ import annotations

import logging
from importlib.util import find_spec

import networks
import pytest
import torch
from torch import nn

from wattlayer.adapters import InputSize, Network, resolve
from wattlayer.crosscheck import FlopCheck, FlopRow, check_flops
from wattlayer.trace import trace
from wattlayer.trace.meta import to_meta


def checked(network: Network) -> FlopCheck:
    return check_flops(network, trace(network.module, *network.args, kwargs=network.kwargs, network=network.name))


def small(module: nn.Module, *shapes: tuple[int, ...]) -> Network:
    return Network(type(module).__name__, to_meta(module), tuple(torch.empty(x, device="meta") for x in shapes))


def test_rows_name_module_kind_and_both_counts() -> None:
    check = checked(small(networks.Wrapped(networks.ConvNet()), (2, 3, 16, 16)))
    counts = {(row.path, row.kind): (row.flop, row.fvcore_flop, row.reason) for row in check.rows}
    conv = 2 * 2 * 8 * 8 * 8 * 27
    assert counts == {
        ("inner.conv", "conv"): (conv, conv, ""),
        ("inner.norm", "batch_norm"): (2 * 2 * 8 * 64, 2 * 2 * 8 * 64, ""),
        ("inner", "relu"): (2 * 8 * 64, None, "fvcore does not count relu"),
        ("inner.pool", "max_pool2d"): (2 * 8 * 64, None, "fvcore does not count max_pool2d"),
        ("inner", "adaptive_avg_pool2d"): (2 * 8 * 16, None, "fvcore does not count adaptive_avg_pool2d"),
        ("inner.classifier", "matmul"): (2 * 2 * 8 * 10, 2 * 2 * 8 * 10, ""),
        ("", "mul"): (2 * 10, None, "fvcore does not count mul"),
    }
    assert check.agrees
    assert check.matrix_flop == check.torch_flop == conv + 320
    assert check.flop == sum(row.flop for row in check.rows)
    assert check.fvcore_flop == sum(row.fvcore_flop or 0 for row in check.rows)


def test_a_product_that_blocks_share_is_counted_where_fvcore_does() -> None:
    shared = nn.Linear(8, 8)
    check = checked(small(nn.Sequential(nn.Sequential(nn.ReLU(), shared), nn.Sequential(nn.GELU(), shared)), (4, 8)))
    assert {(row.path, row.flop) for row in check.rows if row.kind == "matmul"} == {("0.1", 2 * 2 * 4 * 8 * 8)}
    assert check.agrees


@pytest.mark.parametrize(
    ("module", "shapes"),
    [
        (networks.ConvNet(), [(2, 3, 16, 16)]),
        (networks.Convolutions(), [(2, 4, 9), (2, 8, 12, 10), (2, 2, 3, 8, 8)]),
        (networks.SharedModule(), [(4, 16)]),
        (nn.Sequential(nn.Linear(8, 4), nn.LayerNorm(4), nn.Linear(4, 2)), [(3, 5, 8)]),
        (nn.Sequential(nn.Conv2d(4, 8, 3), nn.GroupNorm(2, 8)), [(2, 4, 8, 8)]),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, nn.Module) else "",
)
def test_fvcore_counts_the_same_with_weights(module: nn.Module, shapes: list[tuple[int, ...]]) -> None:
    fvcore = pytest.importorskip("fvcore.nn")
    logging.getLogger("fvcore.nn.jit_analysis").disabled = True
    real = fvcore.FlopCountAnalysis(module.eval(), tuple(torch.randn(x) for x in shapes)).by_operator()
    doubled = sum(count * (2 if name in ("conv", "linear", "matmul") else 1) for name, count in real.items())
    assert checked(small(module, *shapes)).fvcore_flop == doubled


def test_attention_is_what_fvcore_leaves_out() -> None:
    check = checked(small(networks.FunctionalAttention(), (2, 6, 32)))
    assert check.agrees
    assert check.parted() == {"fvcore does not count scaled_dot_product_attention": 4 * 2 * 4 * 6 * 6 * 8}
    assert "scaled_dot_product_attention" in str(check) and "equal" in str(check)


def test_counts_agree_where_torchs_total_and_fvcores_matrix_products_do() -> None:
    norm, conv, product = FlopRow("", "layer_norm", 3, 30), FlopRow("", "conv", 100, 90), FlopRow("", "matmul", 50, 50)
    assert FlopCheck("net", (norm, product), 53, 50, 50, 80).agrees
    assert not FlopCheck("net", (norm, product), 53, 50, 49, 80).agrees
    for row in (conv, FlopRow("", "matmul", 50, 49), FlopRow("", "matmul", 50, None)):
        assert not FlopCheck("net", (row,), row.flop, row.flop, row.flop, 90).agrees
    parted = FlopCheck("net", (FlopRow("", "relu", 8, None), conv, norm, product), 161, 150, 150, 170).parted()
    assert list(parted.items()) == [
        ("fvcore counts layer_norm by another convention", -27),
        ("fvcore follows another shape or another number of calls here", 10),
        ("fvcore does not count relu", 8),
    ], "what parts them most comes first"


def test_torch_counts_no_product_with_a_vector() -> None:
    class WithVector(nn.Module):
        def forward(self, x: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return torch.matmul(x, v)

    check = checked(small(WithVector(), (3, 4), (4,)))
    assert (check.flop, check.matrix_flop, check.torch_flop) == (2 * 3 * 4, 0, 0)


def test_einsum_and_keyword_arguments() -> None:
    class Einsum(nn.Module):
        def forward(self, a: torch.Tensor, *, b: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"y": torch.einsum("bik,bkj->bij", a, b)}

    network = Network("einsum", Einsum(), (torch.empty(2, 3, 4, device="meta"),), {"b": torch.empty(2, 4, 5, device="meta")})
    check = checked(network)
    assert check.flop == check.torch_flop == check.fvcore_flop == 2 * 2 * 3 * 4 * 5
    assert check.agrees


def test_network_that_fvcore_cannot_run_is_reported() -> None:
    check = checked(small(networks.AsksForValues(), (2, 6, 4)))
    assert check.failure.startswith("could not run: ") and check.failure in str(check)
    assert check.rows == () and not check.agrees
    assert check.matrix_flop == check.torch_flop > 0


def test_torch_is_left_as_it_was() -> None:
    checked(small(networks.ConvNet(), (2, 3, 16, 16)))
    assert not {"size", "shape", "numel"} & set(vars(torch.Tensor))
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize(
    ("name", "library"),
    [
        ("resnet18", "torchvision"),
        ("efficientnet_b0", "torchvision"),
        ("swin_t", "torchvision"),
        ("fcn_resnet50", "torchvision"),
        ("timm:mixer_s16_224", "timm"),
        ("timm:vit_tiny_patch16_224", "timm"),
        ("hf:bert", "transformers"),
        ("hf:t5", "transformers"),
        ("hf:segformer", "transformers"),
    ],
)
def test_libraries_agree(name: str, library: str) -> None:
    if find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    check = checked(resolve(name, InputSize(batch=2)))
    assert check.agrees, str(check)
    assert check.fvcore_flop > 0.5 * check.flop
