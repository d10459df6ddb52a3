"""A folded and fused graph as a module: runs each node on meta tensors under the path of the module it came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from ..scopes import grow
from .fold import Declarations, known_meta, run
from .graph import Node


class OnnxNetwork(nn.Module):
    """Runs `nodes` on its inputs, called `inputs`, and on `tensors`, of which known ones know their value."""

    def __init__(
        self,
        nodes: Sequence[Node],
        inputs: Sequence[str],
        outputs: Sequence[str],
        tensors: Mapping[str, torch.Tensor],
        declarations: Declarations,
    ) -> None:
        super().__init__()
        self.nodes = tuple(nodes)
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        made = {x for node in nodes for x in node.outputs}
        used = {x for node in nodes for x in node.inputs if x} | set(outputs)
        self.tensors = {x: _meta(tensors[x]) for x in used - made - set(inputs) if x in tensors}
        self.declarations = declarations
        self.scopes = grow(self, (node.path for node in nodes))
        self.eval()

    def forward(self, *given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Run every node; raise InputError for one that cannot be."""
        tensors = {**self.tensors, **dict(zip(self.inputs, given))}
        for node in self.nodes:
            scope = self.scopes.get(node.path, self.scopes[""])
            read = [tensors[x] if x else None for x in node.inputs]
            tensors.update(scope(run, node, read, self.declarations))
        return tuple(tensors[x] for x in self.outputs)


def _meta(x: torch.Tensor) -> torch.Tensor:
    return x if x.is_meta else known_meta(x)
