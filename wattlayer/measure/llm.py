"""Layers of large language models at prefill and at decode: weight-bound products, grouped-query attention over a long cache.

Sizes are those of the models' published `config.json` files on the Hugging Face hub.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from ..layer import Layer
from .record import meta, record
from .rig import Item
from .sample import LONGEST_DRAWN_S, Roofline


@dataclass(frozen=True)
class Sizes:
    """What of an architecture decides the shapes of its layers."""

    name: str
    width: int
    heads: int
    kv_heads: int
    head: int
    hidden: int
    vocabulary: int


MODELS = (
    Sizes("llama-3-8b", 4096, 32, 8, 128, 14336, 128256),
    Sizes("llama-3-70b", 8192, 64, 8, 128, 28672, 128256),
    Sizes("mistral-7b", 4096, 32, 8, 128, 14336, 32000),
    Sizes("qwen2.5-7b", 3584, 28, 4, 128, 18944, 152064),
    Sizes("qwen2.5-0.5b", 896, 14, 2, 64, 4864, 151936),
    Sizes("llama-2-13b", 5120, 40, 40, 128, 13824, 32000),
    Sizes("phi-3-mini", 3072, 32, 32, 96, 8192, 32064),
    Sizes("gemma-2b", 2048, 8, 1, 256, 16384, 256000),
    Sizes("gpt2", 768, 12, 12, 64, 3072, 50257),
)

PREFILL = ((1, 128), (1, 512), (1, 2048), (8, 512))
"""(sequences, tokens of each)."""
DECODE = ((1, 512), (1, 4096), (8, 1024), (32, 2048))
"""(sequences, tokens in the cache): one new token each."""


def llm_items(dtypes: list[str], roofline: Roofline) -> list[Item]:
    """Return the distinct layers of every model at every prefill and decode size, in each of the half-precision `dtypes`."""
    halves = [x for x in dtypes if x in ("bfloat16", "float16")] or dtypes[:1]
    found: dict[Layer, Item] = {}
    for index, sizes in enumerate(MODELS):
        dtype = halves[index % len(halves)]
        for phase, shapes in (("prefill", PREFILL), ("decode", DECODE)):
            for sequences, tokens in shapes:
                for layer in model_layers(sizes, dtype, sequences, tokens, decode=phase == "decode"):
                    found.setdefault(layer, Item(layer, source=f"llm:{sizes.name} {phase}"))
    return [item for layer, item in found.items() if roofline.fits(layer, LONGEST_DRAWN_S)]


def model_layers(sizes: Sizes, dtype: str, sequences: int, tokens: int, *, decode: bool) -> Iterator[Layer]:
    """Yield the distinct layers of one pass of a model: prefill of `tokens`, or one decoding step on a cache of `tokens`."""
    new = 1 if decode else tokens
    x = meta(sequences, new, sizes.width, dtype=dtype)
    for features, outputs in (
        (sizes.width, (sizes.heads + 2 * sizes.kv_heads) * sizes.head),
        (sizes.heads * sizes.head, sizes.width),
        (sizes.width, sizes.hidden),
        (sizes.hidden, sizes.width),
    ):
        yield record(F.linear, meta(sequences, new, features, dtype=dtype), meta(outputs, features, dtype=dtype))
    # only the last token's logits are needed
    yield record(F.linear, meta(sequences, 1, sizes.width, dtype=dtype), meta(sizes.vocabulary, sizes.width, dtype=dtype))
    yield _attention(sizes, dtype, sequences, new, tokens, causal=not decode)
    yield record(lambda x, w: F.rms_norm(x, (sizes.width,), w), x, meta(sizes.width, dtype=dtype))
    hidden = meta(sequences, new, sizes.hidden, dtype=dtype)
    yield record(F.silu, hidden)
    yield record(torch.mul, hidden, hidden.clone())
    yield record(F.embedding, meta(sequences, new, dtype="int64"), meta(sizes.vocabulary, sizes.width, dtype=dtype))


def _attention(sizes: Sizes, dtype: str, sequences: int, new: int, tokens: int, *, causal: bool) -> Layer:
    query = meta(sequences, sizes.heads, new, sizes.head, dtype=dtype)
    key = meta(sequences, sizes.kv_heads, tokens, sizes.head, dtype=dtype)
    grouped = sizes.heads != sizes.kv_heads

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=grouped)

    return record(attend, query, key, key.clone())
