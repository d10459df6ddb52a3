"""Realistic data for a layer's operands: power depends on the bits, and zeros take far less (Gregersen et al., SC'24 workshops).

Activations are normal, half-rectified behind a ReLU; weights are normal with variance 1 / fan-in, so that outputs stay
of the size of inputs; whole numbers are uniform over what they index.
"""

from __future__ import annotations

from math import prod, sqrt

import torch

from ..layer import Layer, Operand

POSITIVE_ONLY = frozenset({"sqrt", "rsqrt", "log", "log2", "log10", "log1p", "pow", "reciprocal", "lgamma", "digamma", "xlogy"})
"""Kinds whose inputs are taken positive, so that outputs are numbers."""
UNIT_ONLY = frozenset({"asin", "acos", "erfinv", "logit", "bernoulli", "grid_sampler", "grid_sampler_2d", "grid_sampler_3d"})
"""Kinds whose inputs are taken from 0.05 to 0.95."""
INDEXED = {
    "embedding": ("weight", 0), "embedding_bag": ("weight", 0), "_embedding_bag": ("weight", 0), "gather": ("self", None),
    "index_select": ("self", None), "take_along_dim": ("self", None), "scatter": ("self", None), "scatter_add": ("self", None),
    "index_add": ("self", None), "index_copy": ("self", None), "index": ("self", "place"), "index_put": ("self", "place"),
    "_unsafe_index": ("self", "place"), "_index_put_impl": ("self", "place"), "_unsafe_index_put": ("self", "place"),
    "scatter_reduce": ("self", None), "take": ("self", "all"), "one_hot": ("self", "classes"), "index_fill": ("self", None),
    "index_reduce": ("self", None), "put": ("self", "all"), "bincount": ("self", "classes"),
}  # fmt: skip
"""Kinds with indices: what is indexed, and along which dimension (None: the call's `dim`)."""


def fill_operand(layer: Layer, index: int, generator: torch.Generator, rectified: bool) -> torch.Tensor:
    """Return input `index` of `layer` as data on the generator's device, with the recorded shape, dtype and strides."""
    x = layer.inputs[index]
    dtype = getattr(torch, x.dtype)
    storage = torch.empty(x.span_elements, dtype=dtype, device=generator.device)
    if dtype.is_floating_point or dtype.is_complex:
        _fill_floating(storage, layer, index, generator, rectified)
    elif dtype == torch.bool:
        storage.random_(0, 2, generator=generator)
    else:
        storage.random_(0, _largest_index(layer, index), generator=generator)
    return storage.as_strided(x.shape, x.strides) if x.strides is not None else storage.view(x.shape)


def _fill_floating(storage: torch.Tensor, layer: Layer, index: int, generator: torch.Generator, rectified: bool) -> None:
    x = layer.inputs[index]
    if storage.element_size() == 1:  # float8 has no random generator of its own
        storage.copy_(torch.empty(storage.shape, device=storage.device).normal_(generator=generator))
        return
    if x.name == "running_var" or layer.kind in POSITIVE_ONLY:
        storage.uniform_(0.5, 1.5, generator=generator)
    elif layer.kind in UNIT_ONLY:
        storage.uniform_(0.05, 0.95, generator=generator)
    elif "box" in x.name or x.name in ("dets", "rois"):
        _fill_boxes(storage.view(x.shape), generator)
    else:
        storage.normal_(0.0, _deviation(layer, x), generator=generator)
        if rectified and index == 0:
            storage.clamp_(min=0.0)


def _fill_boxes(boxes: torch.Tensor, generator: torch.Generator) -> None:
    """Corners of small boxes; the column before four coordinates is the image that they lie in."""
    boxes.uniform_(0.0, 100.0, generator=generator)
    boxes[..., -2:] += boxes[..., -4:-2]
    if boxes.shape[-1] == 5:
        boxes[..., 0] = 0.0


def _deviation(layer: Layer, x: Operand) -> float:
    """Of weights 1 / sqrt(fan-in); of second operands of a product likewise; of everything else 1."""
    if x.name in ("weight", "params") and layer.group in ("conv", "matmul", "recurrent"):
        return 1.0 / sqrt(max(1, prod(x.shape[1:])))
    if x.name in ("mat2", "batch2", "other") and layer.group == "matmul":
        return 1.0 / sqrt(max(1, x.shape[-2] if len(x.shape) > 1 else x.shape[0]))
    return 1.0


def _largest_index(layer: Layer, index: int) -> int:
    """One above the largest whole number that input `index` may hold."""
    name, place = INDEXED.get(layer.kind, (None, None))
    if name is None or layer.inputs[index].name == name:
        return _alone(layer, place)
    shape = (layer.operand(name) or layer.inputs[0]).shape
    if place == "all":
        return max(1, prod(shape))
    if place == "place":
        # of several indices each lies within the smallest dimension: always legal, and as spread as need be
        return max(1, min(shape)) if shape else 1
    dimension = place if isinstance(place, int) else layer.argument("dim", 0)
    return max(1, shape[dimension]) if shape else 1


def _alone(layer: Layer, place: object) -> int:
    classes = layer.argument("num_classes", -1)
    return int(classes) if place == "classes" and classes > 0 else 100
