"""Operators of ONNX Runtime's own domain: layers, FLOP and bytes by hand, and a block of a decoder beside the module."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_formats import FLOAT, INT64, made, node

import wattlayer as wl
from wattlayer.errors import InputError
from wattlayer.predict import load_network, trace_network

INT32 = 6


def traced(tmp_path, nodes, inputs, weights=(), outputs=("y",), **size):
    """The trace of a file of these nodes; those named `ms:…` are of ONNX Runtime's domain."""
    path = made(tmp_path / "net.onnx", nodes, inputs, outputs, weights=[(name, x) for name, x in weights])
    return trace_network(load_network(str(path), **size))


def ms(op, inputs, outputs, **attributes):
    return node(op, inputs, outputs, domain="com.microsoft", **attributes)


def f(*shape):
    return np.zeros(shape, np.float32)


def u8(*shape):
    return np.zeros(shape, np.uint8)


def layers(trace):
    return [(x.kind, x.flop, x.read_bytes, x.write_bytes) for x in trace.layers]


@pytest.mark.parametrize(("bits", "dtype"), [(4, "int4"), (8, "int8")])
def test_a_product_with_a_packed_weight_reads_its_bits_and_a_scale_a_block(tmp_path, bits, dtype):
    weights = [("b", u8(6, 2, 32 * bits // 8)), ("s", f(6, 2)), ("z", u8(6, bits * 2 // 8)), ("bias", f(6))]
    call = ms("MatMulNBits", ["x", "b", "s", "z", "", "bias"], ["y"], K=64, N=6, bits=bits, block_size=32)
    trace = traced(tmp_path, [call], [("x", FLOAT, (3, 64))], weights)
    read = 4 * 3 * 64 + 6 * 64 * bits // 8 + 4 * 6 * 2 + 6 * bits * 2 // 8 + 4 * 6
    assert layers(trace) == [("linear", 2 * 3 * 64 * 6, read, 4 * 3 * 6)]
    (layer,) = trace.layers
    assert layer.operand("weight").dtype == dtype and layer.operand("weight").shape == (6, 64) and layer.dtype == "float32"
    assert wl.estimate(trace, wl.load_model("a30")).covered_frac == 1.0 and trace.assumptions == ()


def test_packed_weights_that_cannot_be_are_refused(tmp_path):
    call = {"K": 64, "N": 6, "block_size": 32}
    for given, weight, reason in (
        ({"bits": 3}, u8(6, 2, 16), "holds weights of 3 bits; of 4 and 8 are read"),
        ({"bits": 8}, u8(6, 2, 16), "a weight of 6 x 64 fits neither"),
        ({"bits": 4, "K": 32}, u8(6, 1, 16), "a weight of 6 x 32 fits neither"),
    ):
        with pytest.raises(InputError, match=reason):
            packed = ms("MatMulNBits", ["x", "b", "s"], ["y"], **call | given)
            traced(tmp_path, [packed], [("x", FLOAT, (3, 64))], [("b", weight), ("s", f(6, 2))])
    with pytest.raises(InputError, match="rows of a table of bytes are read"):
        gather = ms("GatherBlockQuantized", ["t", "i", "s"], ["y"], bits=4)
        traced(tmp_path, [gather], [("i", INT64, (2, 5))], [("t", np.zeros((9, 8), np.int8)), ("s", f(9, 1))])


def test_rows_of_a_packed_table_are_read_as_they_are_packed(tmp_path):
    gather = ms("GatherBlockQuantized", ["t", "i", "s"], ["y"], bits=4, block_size=16)
    trace = traced(tmp_path, [gather], [("i", INT64, (2, 5))], [("t", u8(900, 8)), ("s", f(900, 1))])
    scale = 4 * 10
    assert layers(trace) == [("embedding", 0, 10 * 8 + 8 * 10 + scale, 4 * 10 * 16)]


@pytest.mark.parametrize("packed", [False, True])
def test_attention_of_heads_that_share_keys_turns_both_first(tmp_path, packed):
    b, n, heads, shared, d = 2, 8, 4, 2, 16
    table = [("cos", f(32, d // 2)), ("sin", f(32, d // 2))]
    given = [("l", INT32, (b,)), ("t", INT32, ())]
    if packed:
        parts = [("x", FLOAT, (b, n, (heads + 2 * shared) * d))]
        names = ["x", "", ""]
    else:
        parts = [("x", FLOAT, (b, n, heads * d)), ("k", FLOAT, (b, n, shared * d)), ("v", FLOAT, (b, n, shared * d))]
        names = ["x", "k", "v"]
    call = ms(
        "GroupQueryAttention", [*names, "", "", "l", "t", "cos", "sin"], ["y", "pk", "pv"],
        num_heads=heads, kv_num_heads=shared, do_rotary=1,
    )  # fmt: skip
    trace = traced(tmp_path, [call], [*parts, *given], table, ["y", "pk", "pv"])
    *turned, attention = [x for x in trace.layers if x.group != "copy"]
    rows = 2 * 4 * n * d // 2
    assert [(x.kind, x.read_bytes, x.write_bytes) for x in turned] == [
        ("addcmul", 4 * b * n * h * d + rows, 4 * b * n * h * d) for h in (heads, shared)
    ]
    assert attention.kind == "scaled_dot_product_attention" and attention.argument("is_causal")
    assert attention.flop == 2 * b * heads * n * n * 2 * d
    assert attention.read_bytes == 4 * b * n * (heads + 2 * shared) * d, "keys that heads share are read once"


def test_a_step_attends_to_all_that_is_kept_and_appends_to_it(tmp_path):
    b, heads, shared, d, past = 2, 4, 2, 16, 9
    inputs = [
        ("x", FLOAT, (b, 1, heads * d)), ("k", FLOAT, (b, 1, shared * d)), ("v", FLOAT, (b, 1, shared * d)),
        ("pk", FLOAT, (b, shared, past, d)), ("pv", FLOAT, (b, shared, past, d)),
    ]  # fmt: skip
    call = ms("GroupQueryAttention", ["x", "k", "v", "pk", "pv"], ["y", "nk", "nv"], num_heads=heads, kv_num_heads=shared)
    trace = traced(tmp_path, [call], inputs, outputs=["y", "nk", "nv"])
    *kept, attention = trace.layers
    assert [(x.kind, x.write_bytes) for x in kept] == [("cat", 4 * b * shared * (past + 1) * d)] * 2
    assert attention.flop == 2 * b * heads * (past + 1) * 2 * d and not attention.argument("is_causal", False)


def test_sizes_that_a_file_leaves_open_are_given_by_name(tmp_path):
    kept = ("b", 2, "past_sequence_length", 16)
    inputs = [("x", FLOAT, ("b", "n", 64)), ("k", FLOAT, ("b", "n", 32)), ("v", FLOAT, ("b", "n", 32))]
    inputs += [("pk", FLOAT, kept), ("pv", FLOAT, kept)]
    call = ms("GroupQueryAttention", ["x", "k", "v", "pk", "pv"], ["y", "nk", "nv"], num_heads=4, kv_num_heads=2)
    path = str(made(tmp_path / "net.onnx", [call], inputs, ["y", "nk", "nv"]))
    step = wl.predict(path, input="past_sequence_length=100, n=1, b=3", hardware="a30").trace
    assert step.layers[-1].flop == 2 * 3 * 4 * 101 * 2 * 16 and step.batch == 3
    prompt = wl.predict(path, input="n=100,past_sequence_length=0", hardware="a30").trace
    assert prompt.layers[-1].argument("is_causal") and prompt.inputs[0].shape == (1, 100, 64)
    for given, reason in (
        ("n=1", r"leaves sizes open \(pk bx2xpast_sequence_lengthx16.*or by name: --input past_sequence_length=1$"),
        ("n=1,past=3", "leaves no size 'past' open"), ("n==1", "does not name sizes like"),
        ("n=1,n=2", "does not name sizes like"), ("n=", "does not name sizes like"),
        ("n=-1", "does not name sizes like"), ("n=99999999999", "has a size of more than"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=reason):
            wl.predict(path, input=given, hardware="a30")
    with pytest.raises(InputError, match="fit"):
        wl.predict(path, input="n=1,b=3,past_sequence_length=1", batch=2, hardware="a30")
    with pytest.raises(InputError, match="names sizes of a file, which hf:gpt2 is not"):
        wl.predict("hf:gpt2", input="n=1", hardware="a30")


@pytest.mark.parametrize("form", ["apart", "packed", "keys packed", "projected"])
def test_attention_in_every_form_is_the_same_attention(tmp_path, form):
    b, n, heads, d = 2, 6, 4, 8
    wide = heads * d
    inputs = {
        "apart": [(x, FLOAT, (b, n, wide)) for x in "xkv"], "packed": [("x", FLOAT, (b, n, heads, 3, d))],
        "keys packed": [("x", FLOAT, (b, n, wide)), ("k", FLOAT, (b, n, heads, 2, d))], "projected": [("x", FLOAT, (b, n, 24))],
    }[form]  # fmt: skip
    if form == "projected":
        call, weights = ms("Attention", ["x", "w", "b"], ["y"], num_heads=heads), [("w", f(24, 3 * wide)), ("b", f(3 * wide))]
    else:
        call, weights = ms("MultiHeadAttention", [x[0] for x in inputs], ["y"], num_heads=heads), []
    trace = traced(tmp_path, [call], inputs, weights)
    (attention,) = [x for x in trace.layers if x.group == "attention"]
    assert attention.flop == 2 * b * heads * n * n * 2 * d
    assert [x.kind for x in trace.layers if x.kind in ("add", "clone", "cat")] == []
    linear = [(x.flop, x.operand("bias").shape) for x in trace.layers if x.kind == "linear"]
    assert linear == ([(2 * b * n * 24 * 3 * wide, (3 * wide,))] if form == "projected" else [])


def test_a_bias_of_queries_keys_and_values_is_added_in_one_kernel(tmp_path):
    b, n, heads, d = 2, 6, 4, 8
    call = ms("MultiHeadAttention", ["x", "k", "v", "bias"], ["y"], num_heads=heads)
    trace = traced(tmp_path, [call], [(x, FLOAT, (b, n, heads * d)) for x in "xkv"], [("bias", f(3 * heads * d))])
    size = 4 * b * n * heads * d
    first, second = trace.layers[:2]
    assert (first.kind, first.read_bytes, first.write_bytes) == ("add", 3 * size + 4 * 3 * heads * d, 3 * size)
    assert second.kind == "scaled_dot_product_attention"


def test_a_weight_that_two_calls_share_is_held_once(tmp_path):
    calls = [ms("Attention", [x, "w", "b"], [y], num_heads=4) for x, y in (("x", "h"), ("h", "y"))]
    trace = traced(tmp_path, calls, [("x", FLOAT, (1, 8, 32))], [("w", f(32, 96)), ("b", f(96))])
    assert trace.held_bytes == 4 * (32 * 96 + 96 + 8 * 32)


@pytest.mark.parametrize(
    ("call", "weights", "expected"),
    [
        (("SkipLayerNormalization", ["x", "x2", "w", "w2", "w3"]), 3, ("layer_norm", 2 * 4 * 40 + 3 * 4 * 8, 4 * 40)),
        (("SkipSimplifiedLayerNormalization", ["x", "x2", "w"]), 1, ("rms_norm", 2 * 4 * 40 + 4 * 8, 4 * 40)),
        (("SimplifiedLayerNormalization", ["x", "w"]), 1, ("rms_norm", 4 * 40 + 4 * 8, 4 * 40)),
        (("BiasGelu", ["x", "w"]), 1, ("gelu", 4 * 40 + 4 * 8, 4 * 40)),
        (("FastGelu", ["x"]), 0, ("gelu", 4 * 40, 4 * 40)),
        (("QuickGelu", ["x"]), 0, ("gelu", 4 * 40, 4 * 40)),
        (("BiasSplitGelu", ["x", "w"]), 1, ("gelu", 4 * 40 + 4 * 8, 4 * 20)),
        (("BiasAdd", ["x", "w", "x2"]), 1, ("add", 2 * 4 * 40 + 4 * 8, 4 * 40)),
    ],
)
def test_what_one_kernel_does_is_one_layer(tmp_path, call, weights, expected):
    (op, names), vectors = call, [(x, f(8)) for x in ("w", "w2", "w3")[:weights]]
    inputs = [(x, FLOAT, (5, 8)) for x in names if x.startswith("x")]
    trace = traced(tmp_path, [ms(op, names, ["y"])], inputs, vectors)
    assert [(x.kind, x.read_bytes, x.write_bytes) for x in trace.layers] == [expected]
    assert all(x.known for x in trace.layers) and wl.estimate(trace, wl.load_model("a30")).energy_j > 0


def test_a_sum_that_somebody_reads_is_written_beside_the_norm(tmp_path):
    norm = ms("SkipSimplifiedLayerNormalization", ["x", "s", "w"], ["h", "", "", "sum"])
    trace = traced(
        tmp_path, [norm, node("Add", ["h", "sum"], ["y"])], [("x", FLOAT, (5, 8)), ("s", FLOAT, (5, 8))], [("w", f(8))]
    )
    assert [(x.kind, x.write_bytes) for x in trace.layers] == [("rms_norm", 2 * 4 * 40), ("add", 4 * 40)]
    fused = wl.estimate(trace, wl.load_model("a30"), mode="compiled")
    assert len(fused.trace.layers) <= 2 and fused.energy_j > 0, "compiled passes know what it feeds"


def test_norms_of_groups_of_channels_that_lie_last(tmp_path):
    norm = ms("SkipGroupNorm", ["x", "w", "w2", "s"], ["y", "sum"], groups=4, activation=1)
    inputs = [("x", FLOAT, (2, 6, 6, 8)), ("s", FLOAT, (2, 6, 6, 8))]
    (layer,) = traced(tmp_path, [norm], inputs, [("w", f(8)), ("w2", f(8))], ["y", "sum"]).layers
    size = 4 * 2 * 36 * 8
    assert (layer.kind, layer.read_bytes, layer.write_bytes) == ("group_norm", 2 * size + 2 * 4 * 8, 2 * size)
    assert layer.inputs[0].shape == (2, 8, 6, 6) and layer.inputs[0].channels_last


def test_products_and_convolutions_with_what_rides_along(tmp_path):
    call = ms("FusedMatMul", ["a", "b"], ["y"], transA=1, transB=1, alpha=0.5)
    (layer,) = traced(tmp_path, [call], [("a", FLOAT, (2, 4, 3)), ("b", FLOAT, (2, 5, 4))]).layers
    assert (layer.kind, layer.flop, layer.outputs[0].shape) == ("matmul", 2 * 2 * 3 * 5 * 4, (2, 3, 5))
    call = ms("FusedConv", ["x", "w", "b"], ["y"], pads=[1, 1, 1, 1], activation="Relu")
    image = [("x", FLOAT, (1, 3, 8, 8))]
    trace = traced(tmp_path, [call], image, [("w", f(4, 3, 3, 3)), ("b", f(4))])
    assert [(x.kind, x.flop) for x in trace.layers] == [("conv2d", 2 * 64 * 4 * 27)]
    for op, weight in (("NhwcConv", f(4, 6, 3, 3)), ("NhwcConv", f(4, 3, 3, 6)), ("NhwcFusedConv", f(4, 6, 3, 3))):
        call = ms(op, ["x", "w"], ["y"], pads=[1, 1, 1, 1])
        trace = traced(tmp_path, [call], [("x", FLOAT, (1, 8, 8, 6))], [("w", weight)])
        assert [(x.kind, x.flop) for x in trace.layers] == [("conv2d", 2 * 64 * 4 * 54)]
    call = ms("FusedMatMul", ["a", "w"], ["y"], transB=1)
    for weight, transposed in ((f(5, 4), 1), (f(4, 5), 0)):
        call = ms("FusedMatMul", ["a", "w"], ["y"], transB=transposed)
        trace = traced(tmp_path, [call], [("a", FLOAT, (2, 3, 4))], [("w", weight)], dtype="int4")
        assert [(x.kind, x.flop, x.operand("weight").dtype) for x in trace.layers] == [("linear", 2 * 6 * 5 * 4, "int4")]
    call = ms("EmbedLayerNormalization", ["i", "s", "t", "p", "k", "w", "w2"], ["y", "m"])
    tables = [("t", f(50, 8)), ("p", f(20, 8)), ("k", f(2, 8)), ("w", f(8)), ("w2", f(8))]
    trace = traced(tmp_path, [call], [("i", INT32, (2, 5)), ("s", INT32, (2, 5))], tables, ["y"])
    assert [x.kind for x in trace.layers] == ["embedding", "add", "embedding", "add", "layer_norm"]


def test_searches_are_refused_as_loops_are(tmp_path):
    body = pytest.importorskip("onnx").helper.make_graph([], "decoder", [], [])
    search = ms("GreedySearch", ["i", "n"], ["y"], decoder=body, eos_token_id=1, pad_token_id=0)
    with pytest.raises(InputError, match="repeats a graph as often as values say"):
        traced(tmp_path, [search], [("i", INT32, (1, 4)), ("n", INT32, (1,))])


def test_a_decoder_as_it_is_exported_costs_what_its_module_costs(tmp_path):
    """A block of norms, attention with shared keys and a gated MLP, weights in four bits: file and module beside one another."""
    heads, shared, d, wide, hidden, b, n = 8, 2, 16, 128, 352, 2, 32

    def linear(name, x, y, k, out):
        weights.extend([(f"{name}.w", u8(out, k // 32, 16)), (f"{name}.s", f(out, k // 32))])
        return ms("MatMulNBits", [x, f"{name}.w", f"{name}.s"], [y], K=k, N=out, bits=4, block_size=32)

    weights = [("n1", f(wide)), ("n2", f(wide)), ("cos", f(64, d // 2)), ("sin", f(64, d // 2))]
    nodes = [
        node("SimplifiedLayerNormalization", ["x", "n1"], ["a"]), linear("q", "a", "q", wide, heads * d),
        linear("k", "a", "k", wide, shared * d), linear("v", "a", "v", wide, shared * d),
        ms("GroupQueryAttention", ["q", "k", "v", "", "", "", "", "cos", "sin"], ["o"],
           num_heads=heads, kv_num_heads=shared, do_rotary=1),
        linear("o", "o", "p", heads * d, wide),
        ms("SkipSimplifiedLayerNormalization", ["x", "p", "n2"], ["h", "", "", "r"]), linear("g", "h", "g", wide, hidden),
        linear("u", "h", "u", wide, hidden), node("Sigmoid", ["g"], ["t"]), node("Mul", ["g", "t"], ["s"]),
        node("Mul", ["s", "u"], ["m"]), linear("d", "m", "e", hidden, wide), node("Add", ["r", "e"], ["y"]),
    ]  # fmt: skip

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            sizes = {"q": (wide, heads * d), "k": (wide, shared * d), "v": (wide, shared * d), "o": (heads * d, wide)}
            sizes |= {"g": (wide, hidden), "u": (wide, hidden), "d": (hidden, wide)}
            self.linear = torch.nn.ModuleDict({x: torch.nn.Linear(*size, bias=False) for x, size in sizes.items()})
            self.first, self.second = torch.nn.RMSNorm(wide), torch.nn.RMSNorm(wide)

        def forward(self, x):
            a = self.first(x)
            q, k, v = (self.linear[name](a).unflatten(-1, (-1, d)).transpose(1, 2) for name in "qkv")
            o = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            x = x + self.linear["o"](o.transpose(1, 2).flatten(2))
            h = self.second(x)
            return x + self.linear["d"](torch.nn.functional.silu(self.linear["g"](h)) * self.linear["u"](h))

    file = traced(tmp_path, nodes, [("x", FLOAT, (b, n, wide))], weights)
    module = wl.trace(Block(), torch.empty(b, n, wide))
    for group in ("matmul", "attention"):
        mine, theirs = ([x for x in t.layers if x.group == group] for t in (file, module))
        assert sum(x.flop for x in mine) == sum(x.flop for x in theirs) > 0
        assert [x.outputs[0].shape for x in mine] == [x.outputs[0].shape for x in theirs]
    held = wl.predict(Block(), torch.empty(b, n, wide), dtype="int4").trace
    packed = [[x.operand("weight") for x in t.layers if x.kind == "linear"] for t in (file, held)]
    assert packed[0] == packed[1] and len(packed[0]) == 7, "weights of four bits are the same record either way"


def attended(tmp_path, op, inputs, weights=(), outputs=("y",), **attributes):
    """The layers of one attention, and that of attention itself; inputs that are not given are named by an empty string."""
    names = [x if isinstance(x, str) else x[0] for x in inputs]
    given = [x for x in inputs if not isinstance(x, str)]
    trace = traced(tmp_path, [ms(op, names, list(outputs), **attributes)], given, weights, list(outputs))
    (attention,) = [x for x in trace.layers if x.group == "attention"]
    return trace.layers, attention


def test_attention_of_heads_apart_is_causal_where_it_says_so_and_reads_its_mask(tmp_path):
    b, n, heads, d = 2, 6, 4, 8
    qkv, mask = [(x, FLOAT, (b, n, heads * d)) for x in "xkv"], ("m", FLOAT, (1, 1, n, n))
    for attributes, causal in (({}, False), ({"unidirectional": 1}, True)):
        _, attention = attended(tmp_path, "MultiHeadAttention", qkv, num_heads=heads, **attributes)
        assert bool(attention.argument("is_causal", False)) == causal
        assert attention.read_bytes == 4 * 3 * b * n * heads * d
    for op, before in (("MultiHeadAttention", ["", ""]), ("GroupQueryAttention", [""] * 7)):
        _, attention = attended(tmp_path, op, [*qkv, *before, mask], num_heads=heads, kv_num_heads=heads)
        assert not attention.argument("is_causal", False) and attention.operand("attn_mask").shape == (1, 1, n, n)


def test_attention_of_heads_apart_appends_to_what_came_before(tmp_path):
    b, heads, d, past = 2, 4, 8, 9
    qkv, kept = [(x, FLOAT, (b, 1, heads * d)) for x in "xkv"], [(x, FLOAT, (b, heads, past, d)) for x in ("pk", "pv")]
    layers, attention = attended(
        tmp_path, "MultiHeadAttention", [*qkv, "", "", "", *kept], outputs=("y", "nk", "nv"), num_heads=heads
    )
    assert [x.write_bytes for x in layers if x.kind == "cat"] == [4 * b * heads * (past + 1) * d] * 2
    assert attention.flop == 2 * b * heads * (past + 1) * 2 * d


def test_projected_attention_has_values_of_their_own_size_and_appends_to_what_came_before(tmp_path):
    b, n, heads, past = 3, 6, 4, 9
    x, weights = ("x", FLOAT, (b, n, 24)), [("w", f(24, 64)), ("b", f(64))]
    _, attention = attended(
        tmp_path, "Attention", [x, "w", "b"], weights, num_heads=heads, qkv_hidden_sizes=[16, 16, 32], unidirectional=1
    )
    assert attention.flop == 2 * b * heads * n * n * (4 + 8) and attention.argument("is_causal")
    weights, kept = [("w", f(24, 96)), ("b", f(96))], ("p", FLOAT, (2, b, heads, past, 8))
    layers, attention = attended(tmp_path, "Attention", [x, "w", "b", "", kept], weights, ("y", "new"), num_heads=heads)
    assert attention.flop == 2 * b * heads * n * (past + n) * (8 + 8) and not attention.argument("is_causal", False)
    assert layers[-1].write_bytes == 4 * 2 * b * heads * (past + n) * 8, "keys and values are kept in one tensor"


def test_heads_are_turned_where_the_operator_says_so_and_are_shared_evenly(tmp_path):
    sizes = [("x", FLOAT, (2, 8, 64)), ("k", FLOAT, (2, 8, 32)), ("v", FLOAT, (2, 8, 32))]
    table = [("cos", f(32, 8)), ("sin", f(32, 8))]
    inputs = [*sizes, "", "", "", "", "cos", "sin"]
    layers, _ = attended(tmp_path, "GroupQueryAttention", inputs, table, num_heads=4, kv_num_heads=2)
    assert "addcmul" not in {x.kind for x in layers}
    sizes[1:] = [(x, FLOAT, (2, 8, 48)) for x in "kv"]
    with pytest.raises(InputError, match="4 heads do not share 3 of keys and values evenly"):
        attended(tmp_path, "GroupQueryAttention", sizes, num_heads=4, kv_num_heads=3)


def test_zero_points_of_a_packed_table_are_read_by_row_and_only_rows_are(tmp_path):
    tables, indices = [("t", u8(900, 16)), ("s", f(900, 2)), ("z", u8(900, 1))], [("i", INT64, (2, 5))]
    gather = ms("GatherBlockQuantized", ["t", "i", "s", "z"], ["y"], bits=4, block_size=16)
    assert layers(traced(tmp_path, [gather], indices, tables)) == [("embedding", 0, 10 * (16 + 8 + 8 + 1), 4 * 10 * 32)]
    gather = ms("GatherBlockQuantized", ["t", "i", "s"], ["y"], bits=4, gather_axis=1)
    with pytest.raises(InputError, match="rows of a table of bytes are read"):
        traced(tmp_path, [gather], indices, tables)


def test_gelu_says_which_of_its_forms_it_is(tmp_path):
    for op, form in (("Gelu", None), ("FastGelu", "tanh")):
        (layer,) = traced(tmp_path, [ms(op, ["x"], ["y"])], [("x", FLOAT, (5, 8))]).layers
        assert (layer.kind, layer.argument("approximate")) == ("gelu", form)


def test_groups_of_channels_may_lie_first(tmp_path):
    norm = ms("GroupNorm", ["x", "w", "w2"], ["y"], groups=4, channels_last=0)
    (layer,) = traced(tmp_path, [norm], [("x", FLOAT, (2, 8, 6, 6))], [("w", f(8)), ("w2", f(8))]).layers
    assert layer.inputs[0].shape == layer.outputs[0].shape == (2, 8, 6, 6) and not layer.inputs[0].channels_last
    assert layer.argument("num_groups") == 4


def test_embeddings_without_segments_are_of_two_tables(tmp_path):
    call = ms("EmbedLayerNormalization", ["i", "", "t", "p", "", "w", "w2"], ["y", "m"])
    tables = [("t", f(50, 8)), ("p", f(20, 8)), ("w", f(8)), ("w2", f(8))]
    trace = traced(tmp_path, [call], [("i", INT32, (2, 5))], tables)
    assert [x.kind for x in trace.layers] == ["embedding", "add", "layer_norm"]


def test_a_first_factor_that_lies_transposed_is_multiplied_as_it_stands(tmp_path):
    call = ms("FusedMatMul", ["a", "w"], ["y"], transA=1)
    (layer,) = traced(tmp_path, [call], [("a", FLOAT, (4, 3))], [("w", f(4, 5))]).layers
    assert (layer.flop, layer.outputs[0].shape) == (2 * 3 * 5 * 4, (3, 5))
    for name in ("transBatchA", "transBatchB"):
        call = ms("FusedMatMul", ["a", "b"], ["y"], **{name: 1})
        with pytest.raises(InputError, match="moves batches within a product"):
            traced(tmp_path, [call], [("a", FLOAT, (2, 2, 2)), ("b", FLOAT, (2, 2, 2))])


def test_convolutions_may_have_groups_and_something_to_add(tmp_path):
    first, last = (1, 4, 8, 8), (1, 8, 8, 4)
    for op, image in (("FusedConv", first), ("NhwcFusedConv", last)):
        call = ms(op, ["x", "w", "", "z"], ["y"], pads=[1, 1, 1, 1], group=4)
        trace = traced(tmp_path, [call], [("x", FLOAT, image), ("z", FLOAT, image)], [("w", f(4, 1, 3, 3))])
        assert [(x.kind, x.flop) for x in trace.layers] == [("conv2d", 2 * 64 * 4 * 9), ("add", 64 * 4)]


def test_weights_may_be_packed_in_words_as_well_as_in_bytes(tmp_path):
    call = ms("MatMulNBits", ["x", "b", "s"], ["y"], K=64, N=6, bits=4, block_size=32)
    weights = [("b", np.zeros((6, 2, 4), np.int32)), ("s", f(6, 2))]
    (layer,) = traced(tmp_path, [call], [("x", FLOAT, (3, 64))], weights).layers
    assert (layer.flop, layer.read_bytes) == (2 * 3 * 64 * 6, 4 * 3 * 64 + 6 * 64 // 2 + 4 * 6 * 2)


@pytest.mark.parametrize(
    "op",
    ["QAttention", "QGemm", "QLinearAdd", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "QuantizeLinear", "QMoE", "MatMulBnb4",
     "MatMulFpQ4", "MatMulNBitsMlp", "QuantizeBFP", "DequantizeBFP", "QuantizeWithOrder", "MulInteger"],
)  # fmt: skip
def test_other_quantised_operators_are_refused_as_those_of_onnx_are(tmp_path, op):
    path = made(tmp_path / "net.onnx", [ms(op, ["x", "x"], ["y"])], [("x", FLOAT, (2, 4))], values=[("y", FLOAT, (2, 4))])
    with pytest.raises(InputError, match="is part of a quantised model, which is not read"):
        load_network(str(path))
