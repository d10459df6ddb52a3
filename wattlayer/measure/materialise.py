"""A whole network on a real device: the architecture from its source, with random weights of the usual size."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod, sqrt
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from ..trace.constants import value_of
from .rig import NetworkCall

VOCABULARY_NAMES = ("vocab_size", "n_vocab", "num_embeddings")
SMALLEST_VOCABULARY = 1000
"""Token ids stay below this where a network does not tell its vocabulary."""


@dataclass(frozen=True)
class RealNetwork:
    """A module with real weights and the inputs of one forward pass."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def run(self) -> Any:
        """Run one forward pass."""
        with torch.inference_mode():
            return _plain(self.module(*self.args, **self.kwargs))

    @property
    def input_shapes(self) -> tuple[tuple[int, ...], ...]:
        leaves = tree_leaves((self.args, dict(self.kwargs)))
        return tuple(tuple(x.shape) for x in leaves if isinstance(x, torch.Tensor))


def load_real_network(call: NetworkCall, device: torch.device, seed: int = 0) -> RealNetwork:
    """Build the network that `call` names on `device`; raise InputError where its source cannot."""
    from ..adapters import InputSize, resolve

    size = InputSize(call.batch, call.image_size, call.seq_len, dtype=call.dtype)
    found = resolve(call.name, size)
    generator = torch.Generator(device=device).manual_seed(seed)
    module = with_weights(found.module, device, generator)
    vocabulary = _vocabulary(module)
    args, kwargs = tree_map(lambda x: _input(x, device, generator, vocabulary), (found.args, dict(found.kwargs)))
    return RealNetwork(module, args, kwargs)


def with_weights(module: nn.Module, device: torch.device, generator: torch.Generator) -> nn.Module:
    """Return a copy of a meta module on `device`; tied weights stay tied, constants keep their values."""
    memo: dict[int, Any] = {}
    for name, tensor in _tensors(module):
        if id(tensor) not in memo:
            memo[id(tensor)] = _real(name, tensor, device, generator)
    return copy.deepcopy(module, memo).eval()


def _tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)
    for part in module.modules():  # and tensors in plain attributes
        yield from ((name, x) for name, x in vars(part).items() if isinstance(x, torch.Tensor))


def _real(name: str, tensor: torch.Tensor, device: torch.device, generator: torch.Generator) -> torch.Tensor:
    known = None if isinstance(tensor, nn.Parameter) else value_of(tensor)
    if known is not None:
        return known.to(device)
    data = torch.zeros(tensor.shape, dtype=tensor.dtype, device=device)
    if data.is_floating_point():
        _fill(data, name.rpartition(".")[2], generator)
    return nn.Parameter(data, requires_grad=False) if isinstance(tensor, nn.Parameter) else data


def _fill(data: torch.Tensor, name: str, generator: torch.Generator) -> None:
    """Normal weights of variance 1 / fan-in, scales near 1, small shifts: activations keep their size through the network."""
    if name == "running_var" or (data.dim() == 1 and name in ("weight", "gamma", "scale")):
        data.uniform_(0.8, 1.2, generator=generator)
    elif data.dim() > 1:
        data.normal_(0.0, 1.0 / sqrt(max(1, prod(data.shape[1:]))), generator=generator)
    else:
        data.normal_(0.0, 0.02, generator=generator)


def _input(x: Any, device: torch.device, generator: torch.Generator, vocabulary: int) -> Any:
    if not isinstance(x, torch.Tensor):
        return x
    known = value_of(x)
    if known is not None:
        return known.to(device)
    data = torch.empty(x.shape, dtype=x.dtype, device=device)
    if data.is_floating_point():
        return data.normal_(generator=generator)
    if data.dtype == torch.bool:
        return data.fill_(True)
    return data.random_(0, vocabulary, generator=generator)


def _vocabulary(module: nn.Module) -> int:
    config = getattr(module, "config", None)
    sizes = [getattr(config, name, None) for name in VOCABULARY_NAMES]
    tables = [m.num_embeddings for m in module.modules() if isinstance(m, nn.Embedding)]
    known = next((x for x in sizes if isinstance(x, int)), None) or max(tables, default=SMALLEST_VOCABULARY)
    return max(1, known)


def _plain(result: Any) -> Any:
    """Outputs of transformers are dictionaries with attributes; only their tensors matter."""
    return [x for x in tree_leaves(dict(result) if isinstance(result, Mapping) else result) if isinstance(x, torch.Tensor)]
