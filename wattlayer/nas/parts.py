"""The parts of the ready-made spaces: frozen sizes that say which module is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class ConvNorm:
    """Convolution, batch norm and an activation on an image of `size` x `size`."""

    inputs: int
    outputs: int
    size: int
    stride: int = 1
    act: str = ""

    @property
    def input_shapes(self) -> Shapes:
        return ((self.inputs, self.size, self.size),)

    def build(self) -> nn.Module:
        from .modules import conv_norm

        return conv_norm(self.inputs, self.outputs, 3, self.stride, act=self.act)


@dataclass(frozen=True)
class MobileBlock:
    """An inverted residual on an image of `size` x `size`."""

    inputs: int
    outputs: int
    hidden: int
    kernel: int
    stride: int
    act: str
    squeezed: int | None
    size: int

    @property
    def input_shapes(self) -> Shapes:
        return ((self.inputs, self.size, self.size),)

    def build(self) -> nn.Module:
        from .modules import InvertedResidual

        return InvertedResidual(self.inputs, self.outputs, self.hidden, self.kernel, self.stride, self.act, self.squeezed)


@dataclass(frozen=True)
class MobileTail:
    """MobileNetV3's last stage on an image of `size` x `size`."""

    inputs: int
    wide: int
    features: int
    classes: int
    size: int

    @property
    def input_shapes(self) -> Shapes:
        return ((self.inputs, self.size, self.size),)

    def build(self) -> nn.Module:
        from .modules import MobileHead

        return MobileHead(self.inputs, self.wide, self.features, self.classes)


@dataclass(frozen=True)
class CellEdge:
    """One operation between two nodes of a NAS-Bench-201 cell."""

    operation: str
    channels: int
    size: int

    @property
    def input_shapes(self) -> Shapes:
        return ((self.channels, self.size, self.size),)

    def build(self) -> nn.Module:
        from .modules import edge

        return edge(self.operation, self.channels)


@dataclass(frozen=True)
class CellNode:
    """The sum of `arrivals` images at a node of a cell."""

    arrivals: int
    channels: int
    size: int

    @property
    def input_shapes(self) -> Shapes:
        return ((self.channels, self.size, self.size),) * self.arrivals

    def build(self) -> nn.Module:
        from .modules import Total

        return Total()


@dataclass(frozen=True)
class CellReduction:
    """The residual block between two stages of cells."""

    channels: int
    size: int

    @property
    def input_shapes(self) -> Shapes:
        return ((self.channels, self.size, self.size),)

    def build(self) -> nn.Module:
        from .modules import Reduction

        return Reduction(self.channels)


@dataclass(frozen=True)
class CellTail:
    """Norm, pooling and classifier after the last cell."""

    channels: int
    classes: int
    size: int

    @property
    def input_shapes(self) -> Shapes:
        return ((self.channels, self.size, self.size),)

    def build(self) -> nn.Module:
        from .modules import CellHead

        return CellHead(self.channels, self.classes)


@dataclass(frozen=True)
class Patches:
    """An image of `size` x `size` as tokens of `width`, the class token first."""

    width: int
    patch: int
    size: int

    @property
    def tokens(self) -> int:
        """Patches and the class token."""
        return (self.size // self.patch) ** 2 + 1

    @property
    def input_shapes(self) -> Shapes:
        return ((3, self.size, self.size),)

    def build(self) -> nn.Module:
        from .modules import PatchEmbedding

        return PatchEmbedding(self.width, self.patch, self.tokens)


@dataclass(frozen=True)
class AttentionBlock:
    """One transformer block on `tokens` of `width`."""

    width: int
    heads: int
    head_width: int
    hidden: int
    tokens: int

    @property
    def input_shapes(self) -> Shapes:
        return ((self.tokens, self.width),)

    def build(self) -> nn.Module:
        from .modules import TransformerBlock

        return TransformerBlock(self.width, self.heads, self.head_width, self.hidden)


@dataclass(frozen=True)
class TokenTail:
    """Norm and classifier on the class token."""

    width: int
    classes: int
    tokens: int

    @property
    def input_shapes(self) -> Shapes:
        return ((self.tokens, self.width),)

    def build(self) -> nn.Module:
        from .modules import TokenHead

        return TokenHead(self.width, self.classes)
