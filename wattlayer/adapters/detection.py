"""torchvision's detectors with stated numbers of boxes, for how many there are depends on what is seen.

Every filter of theirs is a `where` or a mask whose length only values could tell. Here it is stated: what a network
proposes passes every filter but its own limits (proposals, top-k, detections an image), which therefore decide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

Keeps = Callable[[int], int]
"""How many of so many candidates pass a filter."""

ASSUMPTIONS = (
    "no box is suppressed or too small, so the network's own limits decide how many there are ({limits})",
    "a box passes the score threshold in one class",
)
SPREAD = "boxes are spread evenly over the levels of the pyramid"
UNCOUNTED = "turning {heads} into pixels of the image is left out, for it depends on the size of each box"

LIMITS: dict[str, Callable[[Any], int]] = {
    "proposals": lambda detector: detector.rpn.post_nms_top_n(),
    "candidates a level or class": lambda detector: detector.topk_candidates,
    "detections an image": lambda detector: getattr(detector, "roi_heads", detector).detections_per_img,
}
"""What each kind of limit is called, and where a detector keeps it."""


def countable(detector: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """Return a torchvision detector that runs without values, on a batch [batch, 3, height, width], and what it assumes."""
    kind = type(detector)
    detector.__class__ = type(kind.__name__, (_Countable, kind), {"__module__": kind.__module__})
    limits = [f"{read(detector)} {name}" for name, read in LIMITS.items() if _has(detector, read)]
    told = [ASSUMPTIONS[0].format(limits=", ".join(limits)), ASSUMPTIONS[1]]
    heads = getattr(detector, "roi_heads", None)
    if heads is not None:
        told.append(SPREAD)
        if _last(heads) is not None:
            told.append(UNCOUNTED.format(heads="masks" if heads.has_mask() else "keypoints"))
    return detector, tuple(told)


def _has(detector: nn.Module, read: Callable[[Any], int]) -> bool:
    try:
        return bool(read(detector))
    except AttributeError:
        return False


def _last(heads: Any) -> nn.Module | None:
    """Return the module after which boxes are handled one by one, each in its own size."""
    last: nn.Module | None = heads.mask_predictor if heads.has_mask() else heads.keypoint_predictor
    return last


class _HeadsDone(Exception):
    """Raised after the last module that is counted."""


class _Countable:
    """Mixed into a detector: its forward with stated numbers."""

    def forward(self, images: torch.Tensor, targets: None = None) -> Any:
        with _Filters() as filters, _stated(self, filters, len(images)), _unsuppressed():
            try:
                return super().forward(images)  # type: ignore[misc]
            except _HeadsDone:
                return None


class _Filters(TorchFunctionMode):
    """Gives every filter the length that `keeps` states, where plain meta tensors would need values."""

    def __init__(self) -> None:
        super().__init__()
        self.keeps: Keeps = _all

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.where and len(args) == 1 and not kwargs:
            return self._passing(args[0])
        if func is torch.Tensor.__getitem__ and isinstance(args[1], torch.Tensor) and args[1].dtype is torch.bool:
            return args[0][self._passing(args[1])]
        return func(*args, **(kwargs or {}))

    def _passing(self, condition: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.nonzero_static(condition, size=self.keeps(condition.numel())).unbind(1)


def _all(candidates: int) -> int:
    return candidates


def _share(parts: int, candidates: int) -> int:
    return max(1, candidates // parts)


def _at_most(limit: int, candidates: int) -> int:
    return min(limit, candidates)


@contextmanager
def _stated(detector: Any, filters: _Filters, batch: int) -> Iterator[None]:
    """Tell `filters` where the pass is, by hooks that end with it."""

    def then(keeps: Keeps) -> Callable[..., None]:
        return lambda *_: setattr(filters, "keeps", keeps)

    def after_boxes(_: nn.Module, __: Any, output: Any) -> None:
        filters.keeps = partial(_at_most, len(output[0]) // batch)  # as many as there are proposals: one class each

    def stop(*_: Any) -> None:
        raise _HeadsDone

    heads = getattr(detector, "roi_heads", None)
    if heads is None:
        handles = [detector.head.register_forward_hook(then(partial(_share, _classes(detector))))]
    else:
        handles = [heads.box_predictor.register_forward_hook(after_boxes)]
        for pool in (heads.box_roi_pool, heads.mask_roi_pool, heads.keypoint_roi_pool):
            if pool is not None:
                handles.append(pool.register_forward_pre_hook(then(partial(_share, len(pool.featmap_names)))))
                handles.append(pool.register_forward_hook(then(_all)))
        last = _last(heads)
        handles += [last.register_forward_hook(stop)] if last is not None else []
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _classes(detector: Any) -> int:
    """Return how many classes a detector without proposals scores each box for."""
    head = detector.head.classification_head
    classes: int = getattr(head, "num_classes", None) or head.num_columns
    return classes


@contextmanager
def _unsuppressed() -> Iterator[None]:
    """Let non-maximum suppression keep every box, on the meta device and in here only."""
    with torch.library._scoped_library("torchvision", "IMPL") as library:
        library.impl("nms", lambda boxes, *_: boxes.new_empty(len(boxes), dtype=torch.int64), "Meta", allow_override=True)
        yield
