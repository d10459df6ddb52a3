"""Small networks, each named by its trap."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Runs(nn.Module):
    """A function as a module."""

    def __init__(self, forward: Any) -> None:
        super().__init__()
        self.run = forward

    def forward(self, *args: Any) -> Any:
        return self.run(*args)


class ConvNet(nn.Module):
    """The ordinary case: what a batch of images meets in a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.pool = nn.MaxPool2d(2)
        self.classifier = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.norm(self.conv(x)), inplace=True))
        return self.classifier(x.mean((2, 3)))


class SharedModule(nn.Module):
    """One module called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Linear(16, 16)
        self.alias = self.block

    def forward(self, x: Tensor) -> Tensor:
        return self.alias(self.block(x))


class SharedActivation(nn.Module):
    """Blocks that hold one activation, as those of openai-gpt do; the last block runs twice."""

    def __init__(self) -> None:
        super().__init__()
        act = nn.GELU()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), act) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        first, last = self.blocks
        return last(last(first(x)))


class Remembers(nn.Module):
    """Keeps what it has seen, in plain attributes and in the shape of a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Linear(8, 8)
        self.register_buffer("scale", torch.ones(8))
        self.past: list[Tensor] = []
        self.steps: dict[str, list[Tensor]] = {"all": []}

    def forward(self, x: Tensor) -> Tensor:
        self.past.append(self.block(x))
        self.steps["all"].append(x)
        self.scale.unsqueeze_(0)
        return sum(self.run(y) for y in self.past) * self.scale


class TiedWeights(nn.Module):
    """Two modules with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.head = nn.Linear(16, 50, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embed(ids))


class FunctionalAttention(nn.Module):
    """Attention that is no module."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(32, 96)
        self.out = nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, 4, 8).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(batch, length, 32))


class InPlace(nn.Module):
    """Operators that write into their input."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.clone()
        y.add_(1).relu_()
        y[:, 0] = 0
        return y.mul_(x)


class Nested(nn.Module):
    """Dicts and tuples in and out, and keyword arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 4)

    def forward(self, batch: dict[str, Any], *, scale: Tensor | None = None, skip: bool = False) -> dict[str, Any]:
        first, (second, third) = batch["x"], batch["pair"]
        y = self.linear(first + second)
        if scale is not None:
            y = y * scale
        return {"y": y, "rest": (third, [y]), "skip": skip}


class UnusedBranch(nn.Module):
    """A module that no forward pass reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Linear(8, 8)
        self.unused = nn.Linear(8, 4096)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


class Unregistered(nn.Module):
    """Modules in a plain list and a plain tensor attribute: `parameters()` knows of neither."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = [nn.Linear(8, 8), nn.Linear(8, 8)]
        self.scale = torch.full((8,), 2.0)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x * self.scale.exp()


class Recurrent(nn.Module):
    """Recurrent layers, which some devices decompose."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(16, 12, num_layers=2, bidirectional=True, batch_first=True)
        self.gru = nn.GRU(24, 20)

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(self.lstm(x)[0])[0]


class Convolutions(nn.Module):
    """Every kind of convolution that flop counters treat apart."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv1d(4, 6, 3)
        self.grouped = nn.Conv2d(8, 16, 3, groups=4)
        self.depthwise = nn.Conv2d(16, 16, 3, groups=16, dilation=2)
        self.up = nn.ConvTranspose2d(16, 8, 4, stride=2, groups=2, output_padding=1)
        self.up1 = nn.ConvTranspose1d(6, 5, 3)
        self.three = nn.Conv3d(2, 4, (1, 3, 3), stride=(1, 2, 2))
        self.up3 = nn.ConvTranspose3d(4, 2, 2)

    def forward(self, line: Tensor, plane: Tensor, volume: Tensor) -> tuple[Tensor, ...]:
        return self.up1(self.one(line)), self.up(self.depthwise(self.grouped(plane))), self.up3(self.three(volume))


class Products(nn.Module):
    """Matrix products under all their names, and einsum, which is a recipe made of them."""

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        flat, other = a[0], b[0]
        return (
            a @ b, torch.bmm(a, b), flat @ other, flat.mv(other[:, 0]), torch.addmm(flat @ other, flat, other),
            torch.baddbmm(a @ b, a, b), torch.einsum("bik,bkj->bij", a, b), torch.einsum("bik,bkj->ij", a, b),
            torch.matmul(a.unsqueeze(1), b), torch.tensordot(flat, other, 1), torch.dot(flat[0], flat[0]),
        )  # fmt: skip


class RarerProducts(nn.Module):
    """Matrix products that few networks call, of bytes among them; of these torch counts `_scaled_mm` alone."""

    def __init__(self) -> None:
        super().__init__()
        self.bilinear = nn.Bilinear(32, 16, 8)

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        one, (rows, columns) = torch.ones((), device=a.device), (x.to(torch.float8_e4m3fn) for x in (a[0], b[0]))
        return (
            torch._scaled_mm(rows, columns.t(), one, one, out_dtype=torch.bfloat16),
            torch._int_mm(a[0].to(torch.int8), b[0].to(torch.int8).t()), torch.addbmm(a[0] @ b[0].T, a, b.transpose(1, 2)),
            self.bilinear(a[0], a[0, :, :16]), torch.cdist(a, b), torch.cdist(a, b, p=1.0),
        )  # fmt: skip


class AsksForValues(nn.Module):
    """Control flow on values that follow from shapes and constants alone."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("levels", torch.tensor([1, 2, 3]))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        positions = torch.arange(x.shape[1], device=x.device)
        steps = torch.zeros_like(positions)
        steps[1:] = positions.diff()
        if not (steps[1:] == 1).all():
            raise RuntimeError("positions are not consecutive")
        for _ in range(int(self.levels.sum())):
            x = self.linear(x)
        kept = positions[positions[[0, -1]].max() - positions < 2]
        if mask is not None and bool(mask.all()):
            x = x + 1
        return x[:, kept]


class NeedsWeights(nn.Module):
    """Control flow on a value that only weights could give."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x if self.linear(x).sum() > 0 else -x


class Raises(nn.Module):
    """Fails below the top level."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(8, 8), nn.Linear(9, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class Catches(nn.Module):
    """Goes on after a child's failure."""

    def __init__(self) -> None:
        super().__init__()
        self.bad = nn.Sequential(nn.Linear(9, 9))
        self.good = nn.Linear(8, 8)
        self.last = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        try:
            x = self.bad(x)
        except RuntimeError:
            x = self.good(x)
        return self.last(x)


class Wrapped(nn.Module):
    """One network inside another."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * 2
