"""ONNX operators that make, move, cut, join and resample tensors. What PyTorch does as a view costs nothing here as well."""

from __future__ import annotations

from math import floor, prod
from typing import Any

import torch
from torch.nn import functional

from ...errors import InputError
from .graph import Node
from .operators import axes, ints, operator, scalar

Tensor = torch.Tensor
MOST_PIECES = 4096


@operator("Constant")
def constant(node: Node) -> Tensor:
    """The value that the node holds."""
    for name, dtype in (("value_float", None), ("value_floats", None), ("value_int", torch.int64), ("value_ints", torch.int64)):
        if node.get(name) is not None:
            return torch.tensor(node.get(name), dtype=dtype or torch.get_default_dtype())
    if not isinstance(node.get("value"), Tensor):
        raise InputError(f"{node.label} holds no tensor that is read (text and sparse ones are not)")
    return node.get("value")


@operator("ConstantOfShape")
def constant_of_shape(node: Node, shape: Tensor) -> Tensor:
    """`full`."""
    value = node.get("value")
    number, dtype = (0.0, torch.get_default_dtype()) if value is None else (scalar(value), value.dtype)
    number = 0 if isinstance(number, Tensor) else number  # a value that was not read: it costs the same
    return torch.full(ints(node, shape), number, dtype=dtype, device=shape.device)


@operator("Range")
def arange(node: Node, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    """`arange`."""
    bounds = [scalar(x) for x in (start, limit, delta)]
    if not all(isinstance(x, int | float) for x in bounds):
        raise InputError(f"{node.label} runs between values that only running the network could give: export it with fixed sizes")
    return torch.arange(*bounds, dtype=start.dtype, device=start.device)


@operator("Shape")
def shape(node: Node, x: Tensor) -> Tensor:
    """The sizes, known."""
    return torch.tensor(list(x.shape)[node.get("start", 0) : node.get("end")], dtype=torch.int64)


@operator("Size")
def size(_: Node, x: Tensor) -> Tensor:
    """The number of elements, known."""
    return torch.tensor(x.numel())


@operator("Reshape")
def reshape(node: Node, x: Tensor, given: Tensor | None = None) -> Tensor:
    """`reshape`: 0 keeps a dimension."""
    wanted = list(node.get("shape", ())) if given is None else ints(node, given)
    if not node.get("allowzero", 0):
        wanted = [x.shape[i] if n == 0 and i < x.dim() else n for i, n in enumerate(wanted)]
    return x.reshape(wanted)


@operator("Flatten")
def flatten(node: Node, x: Tensor) -> Tensor:
    """`flatten` to two dimensions."""
    axis = node.get("axis", 1)
    axis = axis + x.dim() if axis < 0 else axis
    if axis == 1 and x.dim() > 1:
        return x.flatten(1)
    return x.reshape(prod(x.shape[:axis]), prod(x.shape[axis:]))


@operator("Squeeze")
def squeeze(node: Node, x: Tensor, given: Tensor | None = None) -> Tensor:
    """`squeeze`."""
    listed = axes(node, given)
    return x.squeeze() if listed is None else x.squeeze(tuple(listed))


@operator("Unsqueeze")
def unsqueeze(node: Node, x: Tensor, given: Tensor | None = None) -> Tensor:
    """`unsqueeze`, axis by axis."""
    listed = axes(node, given) or []
    for axis in sorted(a + x.dim() + len(listed) if a < 0 else a for a in listed):
        x = x.unsqueeze(axis)
    return x


@operator("Transpose")
def transpose(node: Node, x: Tensor) -> Tensor:
    """`permute`."""
    return x.permute(node.get("perm", tuple(reversed(range(x.dim())))))


@operator("Concat")
def concat(node: Node, *parts: Tensor) -> Tensor:
    """`cat`; of the parts of a sequence also `stack`."""
    return (torch.stack if node.get("new_axis", 0) else torch.cat)(parts, node.get("axis", 0))


@operator("Split")
def split(node: Node, x: Tensor, given: Tensor | None = None) -> Any:
    """`split`; into a sequence also `unbind`."""
    axis = node.get("axis", 0)
    listed = node.get("split") if given is None else ints(node, given)
    if listed is None:
        count = len(node.outputs)
        each = -(-x.shape[axis] // max(1, count))
        listed = [each] * (count - 1) + [x.shape[axis] - each * (count - 1)]
    if len(listed) > MOST_PIECES:
        raise InputError(f"{node.label} makes {len(listed)} pieces; up to {MOST_PIECES} are read")
    parts = torch.split(x, list(listed), axis)
    return parts if node.get("keepdims", 1) else [part.squeeze(axis) for part in parts]


@operator("Slice")
def slices(node: Node, x: Tensor, *given: Tensor | None) -> Tensor:
    """Slices, which are views; one that runs backwards is a `flip`."""
    rows = [ints(node, g) if g is not None else None for g in given] or [node.get("starts"), node.get("ends"), node.get("axes")]
    starts, ends, listed, steps = [*rows, None, None][:4]
    if starts is None or ends is None:
        raise InputError(f"{node.label} has no starts and ends")
    for axis, start, end, step in zip(listed or range(len(starts)), starts, ends, steps or [1] * len(starts)):
        before = (slice(None),) * (axis % x.dim())
        if step > 0:
            x = x[(*before, slice(start, end, step))]
        else:
            taken = range(x.shape[axis])[start:end:step]
            forwards = slice(taken[-1], taken[0] + 1, -step) if taken else slice(0, 0)
            x = x[(*before, forwards)].flip(axis)
    return x


@operator("Gather")
def gather(node: Node, x: Tensor, index: Tensor) -> Tensor:
    """`select` for a known number (a view), `embedding` for rows of a weight, else `index_select`."""
    axis = node.get("axis", 0) % max(1, x.dim())
    number = scalar(index)
    if not index.dim() and isinstance(number, int):
        return x.select(axis, number)
    if axis == 0 and x.dim() == 2 and index.dim() > 1 and x.is_floating_point():
        return functional.embedding(index, x)
    if not index.is_meta:
        index = torch.where(index < 0, index + x.shape[axis], index)
    if not index.dim():
        return x.index_select(axis, index.reshape(1)).squeeze(axis)
    if index.dim() == 1:
        return x.index_select(axis, index)
    return x[(slice(None),) * axis + (index,)]


@operator("GatherElements")
def gather_elements(node: Node, x: Tensor, index: Tensor) -> Tensor:
    """`gather`."""
    return torch.gather(x, node.get("axis", 0), index)


@operator("GatherND")
def gather_nd(node: Node, x: Tensor, index: Tensor) -> Tensor:
    """`index` by a tuple of indices."""
    if node.get("batch_dims", 0) or index.shape[-1] > x.dim():
        raise InputError(f"{node.label}: batch dimensions are not read")
    if index.dim() == 1:  # a single one, which meta tensors take as a row of one
        return x[tuple(index.unsqueeze(0).unbind(-1))].squeeze(0)
    return x[tuple(index.unbind(-1))]


@operator("ScatterND")
def scatter_nd(_: Node, x: Tensor, index: Tensor, values: Tensor) -> Tensor:
    """`index_put` by a tuple of indices."""
    if index.shape[-1] > x.dim():
        raise InputError(f"indices of {index.shape[-1]} dimensions into {x.dim()}")
    return torch.index_put(x, tuple(index.unbind(-1)), values)


@operator("ScatterElements", "Scatter")
def scatter(node: Node, x: Tensor, index: Tensor, values: Tensor) -> Tensor:
    """`scatter`."""
    return torch.scatter(x, node.get("axis", 0), index, values)


@operator("Expand")
def expand(node: Node, x: Tensor, given: Tensor) -> Tensor:
    """`expand`, which copies nothing."""
    return x.expand(torch.broadcast_shapes(x.shape, tuple(ints(node, given))))


@operator("Tile")
def tile(node: Node, x: Tensor, repeats: Tensor) -> Tensor:
    """`repeat`."""
    return x.repeat(ints(node, repeats))


@operator("Pad")
def pad(node: Node, x: Tensor, given: Tensor | None = None, value: Tensor | None = None, listed: Tensor | None = None) -> Tensor:
    """`pad` in the mode that the node names."""
    pads = list(node.get("pads", ())) if given is None else ints(node, given)
    where = list(range(x.dim())) if listed is None else [a % x.dim() for a in ints(node, listed)]
    if len(pads) != 2 * len(where):
        raise InputError(f"{node.label}: {len(pads)} pads for {len(where)} axes")
    by_axis = {axis: (pads[i], pads[i + len(where)]) for i, axis in enumerate(where)}
    mode = {"edge": "replicate", "wrap": "circular"}.get(node.get("mode", "constant"), node.get("mode", "constant"))
    first = min((axis for axis, ends in by_axis.items() if any(ends)), default=x.dim())
    if mode != "constant" and 2 < x.dim() > first > 2:  # PyTorch reflects and repeats all spatial axes, or none
        first = 2
    flat = [n for axis in reversed(range(first, x.dim())) for n in by_axis.get(axis, (0, 0))]
    return functional.pad(x, flat, mode) if flat else x


@operator("Resize", "Upsample")
def resize(node: Node, x: Tensor, *given: Tensor | None) -> Tensor:
    """`interpolate` of the spatial dimensions to the sizes that scales or sizes come to."""
    target = _target(node, x, [g for g in given if g is not None and g.numel()])
    mode = node.get("mode", "nearest")
    rank = x.dim() - 2
    if target[:2] != list(x.shape[:2]) or not 1 <= rank <= 3:
        raise InputError(f"{node.label} resizes {tuple(x.shape)} to {tuple(target)}: only spatial dimensions of images are read")
    if mode == "nearest":
        return functional.interpolate(x, target[2:], mode="nearest")
    names = {"linear": ("linear", "bilinear", "trilinear"), "cubic": ("", "bicubic", "")}.get(mode, ("", "", ""))
    if not names[rank - 1]:
        raise InputError(f"{node.label}: mode {mode[:20]!r} of {rank} spatial dimensions is not read: export it with another")
    corners = node.get("coordinate_transformation_mode") == "align_corners"
    return functional.interpolate(
        x, target[2:], mode=names[rank - 1], align_corners=corners, antialias=bool(node.get("antialias", 0))
    )


def _target(node: Node, x: Tensor, given: list[Tensor]) -> list[int]:
    from ...trace.constants import value_of

    where = [axis % x.dim() for axis in node.get("axes", range(x.dim()))]
    last = given[-1] if given else None
    target = list(x.shape)
    if last is not None and not last.is_floating_point():
        sizes, policy = ints(node, last), node.get("keep_aspect_ratio_policy", "stretch")
        if policy != "stretch" and len(sizes) == len(where):
            scale = (min if policy == "not_larger" else max)(n / x.shape[axis] for n, axis in zip(sizes, where))
            sizes = [floor(x.shape[axis] * scale + 0.5) for axis in where]
    else:
        scales = node.get("scales") if last is None else value_of(last)
        factors = [] if scales is None or len(scales) != len(where) else [float(s) for s in scales]
        sizes = [floor(x.shape[axis] * s) for axis, s in zip(where, factors)]
    if len(sizes) != len(where):
        raise InputError(
            f"{node.label} needs scales or sizes for {len(where)} dimensions that are known: export it with fixed sizes"
        )
    for axis, size in zip(where, sizes):
        target[axis] = size
    return target


@operator("DepthToSpace", "SpaceToDepth")
def pixel_shuffle(node: Node, x: Tensor) -> Tensor:
    """`pixel_shuffle` or `pixel_unshuffle`, whatever the order of channels."""
    block = node.get("blocksize", 1)
    return functional.pixel_shuffle(x, block) if node.op == "DepthToSpace" else functional.pixel_unshuffle(x, block)


@operator("wattlayer.Roll")
def roll(node: Node, x: Tensor) -> Tensor:
    """`roll`, put together again by fuse."""
    return torch.roll(x, node.get("shifts"), node.get("dims"))


@operator("Trilu")
def trilu(node: Node, x: Tensor, k: Tensor | None = None) -> Tensor:
    """`triu` or `tril`."""
    diagonal = 0 if k is None else ints(node, k)[0]
    return torch.triu(x, diagonal) if node.get("upper", 1) else torch.tril(x, diagonal)


@operator("OneHot")
def one_hot(node: Node, index: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    """A comparison and a choice, as PyTorch's `one_hot` scatters as much."""
    axis = node.get("axis", -1)
    classes = torch.arange(ints(node, depth)[0], device=index.device)
    return torch.where(index.unsqueeze(-1) == classes, values[1], values[0]).movedim(-1, axis)


@operator("EyeLike")
def eye_like(node: Node, x: Tensor) -> Tensor:
    """`eye`."""
    return torch.eye(*x.shape, dtype=node.get("dtype", x.dtype), device=x.device)


@operator("RandomNormalLike", "RandomUniformLike")
def random_like(node: Node, x: Tensor) -> Tensor:
    """`randn_like` or `rand_like`."""
    function: Any = torch.randn_like if node.op == "RandomNormalLike" else torch.rand_like
    return function(x, dtype=node.get("dtype", x.dtype))


@operator("GridSample")
def grid_sample(node: Node, x: Tensor, grid: Tensor) -> Tensor:
    """`grid_sampler`."""
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(node.get("mode", "linear"), "nearest")
    return functional.grid_sample(x, grid, mode, node.get("padding_mode", "zeros"), bool(node.get("align_corners", 0)))
