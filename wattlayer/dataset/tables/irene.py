"""Transformer primitives of IrEne (Cao et al., ACL 2021, "original datasets"): GPU board energy by nvidia-smi.

Mapped exactly: Linear, Conv1D (an addmm in transformers), LayerNorm, Softmax, Tanh, Embedding. The two products of
attention carry one figure in the table, whose bytes and FLOP fit both; it is taken for query x key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ...errors import InputError
from ...kinds import MOMENTS_APART
from ...layer import Layer, Operand
from .. import Measurement
from .modules import layer_of
from .values import positive, whole

NAME = "IrEne primitives"
COLUMNS = ("gpu", "model_name", "batch_size", "seq_len", "op", "scope", "hidden", "heads", "time_s", "gpu_energy_nvidia_smi_J")

COPIES = True
"""A reading is repeated, to the last digit, for every layer of a network that is shaped alike: it counts once."""

DEVICES = {"GeForce GTX 1070": "gtx1070", "GeForce GTX 1080 Ti": "gtx1080ti"}
VOCABULARY = {
    "bert-base-uncased": 30522, "distilbert-base-uncased": 30522, "roberta-base": 50265,
    "gpt2": 50257, "distilgpt2": 50257, "openai-gpt": 40478,
}  # fmt: skip
"""Rows of the word embedding (config.json of each model)."""
POSITIONS = {"roberta-base": 514, "gpt2": 1024, "distilgpt2": 1024}
"""Rows of the position embedding where they are not 512."""


def measurement(row: Mapping[str, str]) -> Measurement:
    """Return one row as a Measurement; its run is the model whose pass it was measured in."""
    if row["gpu"] not in DEVICES:
        raise InputError(f"gpu {row['gpu']!r} is not one of {', '.join(DEVICES)}")
    layer = _layer(row)
    return Measurement(
        hardware=DEVICES[row["gpu"]], time_s=positive(row, "time_s"), energy_j=positive(row, "gpu_energy_nvidia_smi_J"),
        layer=layer, input_shapes=(layer.inputs[0].shape,), tf32="none", mode="eager", run=row["model_name"],
    )  # fmt: skip


def _layer(row: Mapping[str, str]) -> Layer:
    batch, seq, hidden, heads = (whole(row, c, least=1) for c in ("batch_size", "seq_len", "hidden", "heads"))
    scores = (batch, heads, seq, seq)
    match row["op"]:
        case "Linear":
            return _linear(row, batch, seq)
        case "Conv1D":
            return _conv1d(whole(row, "rows_M"), whole(row, "in_features"), whole(row, "out_features"))
        case "LayerNorm":
            return as_it_ran(_module(f"LayerNorm(({hidden},))", (batch, seq, hidden)))
        case "Softmax":
            return _module("Softmax(dim=-1)", scores)
        case "Tanh":
            return _module("Tanh()", (batch, hidden))
        case "Embedding":
            return _embedding(row, batch, seq, hidden)
        case "MatMul":
            size = hidden // heads
            return _matmul((batch, heads, seq, size), (batch, heads, size, seq), scores)
    raise InputError(f"op {row['op']!r} cannot be mapped to a layer exactly")


def as_it_ran(norm: Layer) -> Layer:
    """Return a layer norm as these networks ran it, in PyTorch 1.7.1 (their requirements.txt)."""
    return replace(norm, arguments=(*norm.arguments, (MOMENTS_APART, True)))


def _module(text: str, shape: tuple[int, ...]) -> Layer:
    return layer_of(text, (shape,), "float32", "none", False)


def _linear(row: Mapping[str, str], batch: int, seq: int) -> Layer:
    rows, inner, outer = (whole(row, c) for c in ("rows_M", "in_features", "out_features"))
    if rows not in (batch, batch * seq):
        raise InputError(f"rows_M {rows} is neither the batch {batch} nor batch x sequence {batch * seq}")
    shape = (batch, inner) if rows == batch else (batch, seq, inner)
    return _module(f"Linear({inner}, {outer})", shape)


def _conv1d(rows: int, inner: int, outer: int) -> Layer:
    inputs = (("self", (outer,)), ("mat1", (rows, inner)), ("mat2", (inner, outer)))
    return Layer("addmm", _float32(*inputs), _float32(("output", (rows, outer))))


def _matmul(query: tuple[int, ...], key: tuple[int, ...], out: tuple[int, ...]) -> Layer:
    return Layer("matmul", _float32(("self", query), ("other", key)), _float32(("output", out)))


def _float32(*operands: tuple[str, tuple[int, ...]]) -> tuple[Operand, ...]:
    return tuple(Operand(name, shape, "float32") for name, shape in operands)


def _embedding(row: Mapping[str, str], batch: int, seq: int, hidden: int) -> Layer:
    """Which rows are looked up follows from the memory column: (hidden x 4 + 8) bytes for each."""
    model, scope = row["model_name"], row["scope"]
    looked_up = round(positive(row, "mem_MiB") * 2**20 / (hidden * 4 + 8))
    if looked_up not in (seq, batch * seq):
        raise InputError(f"mem_MiB {row['mem_MiB']} fits neither one sequence nor a batch of them")
    if "token_type" in scope:
        rows = 1 if model == "roberta-base" else 2
    elif "pos" in scope or scope == "wpe":
        rows = POSITIONS.get(model, 512)
    elif model in VOCABULARY:
        rows = VOCABULARY[model]
    else:
        raise InputError(f"model_name {model!r} has no known vocabulary")
    return _module(f"Embedding({rows}, {hidden})", (looked_up // seq, seq))
