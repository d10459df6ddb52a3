"""The torch modules that the ready-made spaces are built of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, act: str = "") -> nn.Sequential:
    """Return convolution and batch norm, and the activation `act` ("relu", "hswish" or none)."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    if act:
        layers.append(nn.ReLU(inplace=True) if act == "relu" else nn.Hardswish(inplace=True))
    return nn.Sequential(*layers)


class SqueezeExcite(nn.Module):
    """Channel gates from a pooled image, through a quarter of the channels (Howard et al., ICCV 2019, section 5.3)."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.expand(F.relu(self.reduce(x.mean((2, 3), keepdim=True)), inplace=True))
        return x * F.hardsigmoid(gate, inplace=True)


class InvertedResidual(nn.Module):
    """Expand, depthwise convolution, squeeze and excite, project; with a residual where the shape is kept."""

    def __init__(self, inputs: int, outputs: int, hidden: int, kernel: int, stride: int, act: str, squeezed: int | None) -> None:
        super().__init__()
        self.expand = conv_norm(inputs, hidden, 1, act=act) if hidden != inputs else nn.Identity()
        self.depth = conv_norm(hidden, hidden, kernel, stride, hidden, act)
        self.gate = SqueezeExcite(hidden, squeezed) if squeezed else nn.Identity()
        self.project = conv_norm(hidden, outputs, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.gate(self.depth(self.expand(x))))
        return x + y if self.residual else y


class MobileHead(nn.Module):
    """MobileNetV3's last stage: widen, pool, widen again, classify."""

    def __init__(self, inputs: int, wide: int, features: int, classes: int) -> None:
        super().__init__()
        self.expand = conv_norm(inputs, wide, 1, act="hswish")
        self.mix = nn.Conv2d(wide, features, 1, bias=False)
        self.classifier = nn.Linear(features, classes)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.expand(x).mean((2, 3), keepdim=True)
        return self.classifier(F.hardswish(self.mix(pooled), inplace=True).flatten(1))


class Zero(nn.Module):
    """No connection; what runs is still a product."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mul(0.0)


class Total(nn.Module):
    """The sum of what arrives at a node of a cell."""

    def forward(self, *values: Tensor) -> Tensor:
        zero: Any = 0  # the benchmark's own code starts from 0 as well: adding it is an operator that runs
        return sum(values, zero)


def edge(operation: str, channels: int) -> nn.Module:
    """Return one operation of a NAS-Bench-201 edge."""
    if operation == "none":
        return Zero()
    if operation == "skip_connect":
        return nn.Identity()
    if operation == "avg_pool_3x3":
        return nn.AvgPool2d(3, 1, 1, count_include_pad=False)
    return relu_conv_norm(channels, channels, int(operation[-1]))


def relu_conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Return ReLU, convolution and batch norm."""
    return nn.Sequential(nn.ReLU(), *conv_norm(inputs, outputs, kernel, stride))


class Cell(nn.Module):
    """A NAS-Bench-201 cell: four nodes, an edge from every earlier node to every later one, each node a sum."""

    def __init__(self, operations: Sequence[str], channels: int) -> None:
        super().__init__()
        self.edges = nn.ModuleList(edge(name, channels) for name in operations)
        self.totals = nn.ModuleList(Total() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        nodes, edges = [x], iter(self.edges)
        for total in self.totals:
            nodes.append(total(*[next(edges)(node) for node in nodes]))
        return nodes[-1]


class Reduction(nn.Module):
    """NAS-Bench-201's residual block between stages: half the size, twice the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = relu_conv_norm(channels, 2 * channels, 3, 2)
        self.second = relu_conv_norm(2 * channels, 2 * channels, 3)
        self.shortcut = nn.Sequential(nn.AvgPool2d(2, 2), nn.Conv2d(channels, 2 * channels, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.first(x))
        return self.shortcut(x) + y


class CellHead(nn.Module):
    """Norm, ReLU, pooling and the classifier."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(x), inplace=True)
        return self.classifier(F.adaptive_avg_pool2d(x, 1).flatten(1))


class PatchEmbedding(nn.Module):
    """Patches as tokens, a class token before them, positions added."""

    def __init__(self, width: int, patch: int, tokens: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(3, width, patch, patch)
        self.first = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.zeros(1, tokens, width))

    def forward(self, x: Tensor) -> Tensor:
        patches = self.project(x).flatten(2).transpose(1, 2)
        return torch.cat([self.first.expand(len(x), -1, -1), patches], dim=1) + self.position


class TransformerBlock(nn.Module):
    """Pre-norm self-attention and MLP; heads are `head_width` wide whatever the width of the stream."""

    def __init__(self, width: int, heads: int, head_width: int, hidden: int) -> None:
        super().__init__()
        self.shape = (3, heads, head_width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * heads * head_width)
        self.out = nn.Linear(heads * head_width, width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, tokens, *self.shape).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.out(attended)
        return x + self.mlp(self.norm2(x))


class TokenHead(nn.Module):
    """Norm and a classifier on the class token."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.norm(x)[:, 0])
