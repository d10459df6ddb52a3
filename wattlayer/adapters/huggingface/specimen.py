"""Meta tensors of the shapes that inputs have, made for one network: a Specimen knows its configuration and the user's sizes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...trace.constants import remember
from ..source import DEFAULT_IMAGE_SIZE, DEFAULT_SEQ_LEN, InputSize

if TYPE_CHECKING:
    import torch
    from torch import nn

Inputs = dict[str, Any]
"""Keyword arguments of one forward pass."""

AUDIO_SAMPLES = 16000
"""One second at 16 kHz, the rate that the speech networks of transformers expect (Wav2Vec2FeatureExtractor's default)."""


@dataclass(frozen=True)
class Specimen:
    """What inputs are made from. `used` collects which of the user's sizes had a say: the others must be refused."""

    module: nn.Module
    config: Any
    size: InputSize
    used: set[str] = field(default_factory=set)

    @property
    def batch(self) -> int:
        return self.size.batch

    @property
    def length(self) -> int:
        """Tokens of a text."""
        self.used.add("seq_len")
        return self.size.seq_len or DEFAULT_SEQ_LEN

    @property
    def text_length(self) -> int:
        """Tokens of a text, but not more than the network has positions for, where its configuration says how many."""
        text = getattr(self.config, "text_config", None) or self.config
        return min(self.length, getattr(text, "max_position_embeddings", None) or self.length)

    def edge(self, default: int = DEFAULT_IMAGE_SIZE) -> int:
        """Return the height and width of an image in pixels."""
        self.used.add("image_size")
        return self.size.image_size or default

    def side(self, patch: int, merge: int = 1, default: int = DEFAULT_IMAGE_SIZE) -> int:
        """Return how many patches of `patch` pixels lie along an image, a multiple of the `merge` that become one token."""
        return max(self.edge(default) // patch // merge, 1) * merge

    def floats(self, *shape: int) -> torch.Tensor:
        """Return numbers [*shape] of the dtype that the user asked for, whose values nobody knows."""
        import torch

        return torch.empty(shape, dtype=getattr(torch, self.size.dtype), device="meta")

    def image(self, *lead: int, edge: int = DEFAULT_IMAGE_SIZE) -> torch.Tensor:
        """Return pixels [batch, *lead, 3, height, width]."""
        pixels = self.edge(edge)
        return self.floats(self.batch, *lead, 3, pixels, pixels)

    def ids(self, *shape: int) -> torch.Tensor:
        """Return token ids [batch, *shape] of an ordinary token."""
        return ordinary_tokens(self.config, self.batch, *shape)

    def full(self, value: int, *shape: int, dtype: str = "int64") -> torch.Tensor:
        """Return whole or boolean numbers [*shape] that are known to be `value`."""
        import torch

        return known(torch.full((), value, dtype=getattr(torch, dtype)).expand(shape))

    def ones(self, *shape: int) -> torch.Tensor:
        """Return a mask [*shape] that hides nothing."""
        return self.full(1, *shape)

    def numbers(self, values: Any) -> torch.Tensor:
        """Return nested lists of whole numbers as a tensor."""
        import torch

        return known(torch.tensor(values))


def known(value: torch.Tensor) -> torch.Tensor:
    """Return a meta tensor that stands for `value`."""
    import torch

    return remember(torch.empty(value.shape, dtype=value.dtype, device="meta"), value)


def ordinary_tokens(config: Any, *shape: int) -> torch.Tensor:
    """Return token ids of an ordinary token: networks look for padding among them, so they need values."""
    import torch
    from torch.utils._pytree import tree_leaves

    special = tree_leaves([value for key, value in vars(config).items() if key.endswith("token_id")])
    return known(torch.full((), next(token for token in range(1, 100) if token not in special)).expand(shape))
