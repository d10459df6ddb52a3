"""Inputs that a transformers network requires beside its main one, made up from its configuration by their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import Parameter
from typing import Any

from ...trace.constants import remember
from ..source import DEFAULT_IMAGE_SIZE, InputSize

QUERIES = 32
"""Learned queries of a Q-Former (Li et al. 2023, BLIP-2, section 3.1)."""


def complete(config: Any, inputs: Mapping[str, Any], taken: Mapping[str, Parameter], size: InputSize) -> dict[str, Any]:
    """Return `inputs` with what else `taken`, the parameters of a forward, requires and a rule here can make.

    Images as patches for networks of any resolution ([patches, values of one]) with the grid that they form, boxes of
    words, masks that hide nothing and a Q-Former's queries. A parameter without a rule is left for the network to miss.
    """
    result = dict(inputs)
    if _GRIDS & set(taken):
        result.pop("pixel_values", None)  # of the main input's rule, as an image
    for name, parameter in taken.items():
        required = parameter.default is Parameter.empty or name in _ALWAYS
        if name not in result and required and name in _RULES:
            result[name] = _RULES[name](config, result, size)
    return result


def _grid(config: Any, size: InputSize) -> tuple[int, int]:
    """Return the rows and columns of patches of an image, both divisible by how many merge into one token."""
    edge = size.image_size or DEFAULT_IMAGE_SIZE
    merge = getattr(config, "spatial_merge_size", None) or getattr(config, "merge_size", None) or 1
    side = max(edge // config.patch_size // merge, 1) * merge
    return side, side


def _series(config: Any, _: Mapping[str, Any], size: InputSize) -> Any:
    return _empty((size.batch, config.context_length, config.num_input_channels), size.dtype)


def _patches(config: Any, _: Mapping[str, Any], size: InputSize) -> Any:
    rows, columns = _grid(config, size)
    channels = getattr(config, "in_channels", None) or getattr(config, "num_channels", None) or 3
    depth = getattr(config, "temporal_patch_size", None) or 1
    return _empty((size.batch * rows * columns, channels * depth * config.patch_size**2), size.dtype)


def _grids(config: Any, _: Mapping[str, Any], size: InputSize) -> Any:
    import torch

    value = torch.tensor([[1, *_grid(config, size)]] * size.batch)
    return remember(torch.empty(value.shape, dtype=value.dtype, device="meta"), value)


def _boxes(config: Any, inputs: Mapping[str, Any], size: InputSize) -> Any:
    import torch

    shape = (*inputs["input_ids"].shape, 4)
    return remember(torch.empty(shape, dtype=torch.int64, device="meta"), torch.zeros((), dtype=torch.int64).expand(shape))


def _queries(config: Any, _: Mapping[str, Any], size: InputSize) -> Any:
    return _empty((size.batch, QUERIES, config.hidden_size), size.dtype)


def _mask(config: Any, inputs: Mapping[str, Any], size: InputSize) -> Any:
    import torch

    shape = next(iter(inputs.values())).shape
    frames = (shape[0], max(shape[1:])) if len(shape) == 3 else tuple(shape[:2])
    return remember(torch.empty(frames, dtype=torch.bool, device="meta"), torch.ones((), dtype=torch.bool).expand(frames))


def _empty(shape: tuple[int, ...], dtype: str) -> Any:
    import torch

    return torch.empty(shape, dtype=getattr(torch, dtype), device="meta")


_RULES: dict[str, Callable[[Any, Mapping[str, Any], InputSize], Any]] = {
    "hidden_states": _patches,
    "pixel_values": _patches,
    "grid_thw": _grids,
    "image_grid_thw": _grids,
    "past_values": _series,
    "bbox": _boxes,
    "query_embeds": _queries,
    "input_features_mask": _mask,
}
_GRIDS = frozenset({"grid_thw", "image_grid_thw"})
"""Parameters of networks that take an image as patches."""
_ALWAYS = frozenset({"bbox", "input_features_mask"})
"""Required although their default says otherwise."""
MAIN = frozenset({"past_values"})
"""Main inputs that a rule here makes."""
