"""Networks of torchvision, by the name `torchvision.models.get_model` knows them by."""

from __future__ import annotations

import sys
from threading import RLock
from types import ModuleType
from typing import TYPE_CHECKING

from ..errors import InputError, nearest
from .source import DEFAULT_IMAGE_SIZE, InputSize, Network, build, image_input, require

if TYPE_CHECKING:
    import torch

PREFIX = "torchvision"

DECLARED_OPS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "roi_align(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width,"
    " int sampling_ratio, bool aligned) -> Tensor",
)
"""Schemas that torchvision's import and its detectors refer to (torchvision/csrc/ops/nms.cpp, roi_align.cpp)."""


def names() -> list[str]:
    """Return every network name torchvision has, quantised copies included."""
    return list(import_torchvision().models.list_models())


def load(name: str, size: InputSize) -> Network:
    """Build torchvision's `name` on the meta device; raise InputError for an unknown name or an input that does not fit."""
    models = import_torchvision().models
    if name not in (known := models.list_models()):
        lists = "; torchvision.models.list_models() lists them"
        raise InputError(f"torchvision has no network {name!r}{nearest(name, known, lists)}")
    network = f"{PREFIX}:{name}"
    if name.startswith("quantized_"):
        raise InputError(
            f"{network} runs int8 kernels of a backend of the processor, which trace does not describe:"
            f" take torchvision:{name.removeprefix('quantized_')}, the same network in floating point"
        )
    options: dict[str, bool | None] = {"weights": None}
    if name.startswith(_WITH_BACKBONE + _DETECTION):
        options |= {"weights_backbone": None}
    if name in _AUXILIARY:
        options |= {"aux_logits": False, "init_weights": False}
    inputs = _inputs(name, network, size)
    module = build(lambda: models.get_model(name, **options), size.dtype)
    if not name.startswith(_DETECTION):
        return Network(network, module, inputs)
    from .detection import countable

    module, assumptions = countable(module)
    return Network(network, module, inputs, assumptions=assumptions)


def _inputs(name: str, network: str, size: InputSize) -> tuple[torch.Tensor, ...]:
    if name.startswith("raft"):
        return (image_input(size, network, _FLOW_INPUT),) * 2
    if name.startswith(_DETECTION):
        return (image_input(size, network, _PHOTO),)
    if name in _VIDEO_INPUTS:
        return (image_input(size, network, _VIDEO_INPUTS[name]),)
    edge = _IMAGE_SIZES.get(name, DEFAULT_IMAGE_SIZE)
    return (image_input(size, network, (3, edge, edge)),)


_WITH_BACKBONE = ("deeplabv3", "fcn_", "lraspp")
_DETECTION = ("fasterrcnn", "maskrcnn", "keypointrcnn", "retinanet", "ssd", "fcos")
_AUXILIARY = ("googlenet", "inception_v3")
"""Their auxiliary classifiers exist in training only, and their initialisation takes seconds."""

_IMAGE_SIZES = {
    "inception_v3": 299, "efficientnet_b1": 240, "efficientnet_b2": 288, "efficientnet_b3": 300, "efficientnet_b4": 380,
    "efficientnet_b5": 456, "efficientnet_b6": 528, "efficientnet_b7": 600, "efficientnet_v2_s": 384,
    "efficientnet_v2_m": 480, "efficientnet_v2_l": 480, "swin_v2_t": 256, "swin_v2_s": 256, "swin_v2_b": 256,
    "deeplabv3_mobilenet_v3_large": 520, "deeplabv3_resnet50": 520, "deeplabv3_resnet101": 520, "fcn_resnet50": 520,
    "fcn_resnet101": 520, "lraspp_mobilenet_v3_large": 520,
}  # fmt: skip
"""Crop or resize of each network's default weights where it is not 224 (docs: torchvision.models, tables of weights)."""

_VIDEO_INPUTS = {
    "r3d_18": (3, 16, 112, 112), "mc3_18": (3, 16, 112, 112), "r2plus1d_18": (3, 16, 112, 112),
    "mvit_v1_b": (3, 16, 224, 224), "mvit_v2_s": (3, 16, 224, 224), "s3d": (3, 16, 224, 224),
    "swin3d_t": (3, 16, 224, 224), "swin3d_s": (3, 16, 224, 224), "swin3d_b": (3, 16, 224, 224),
}  # fmt: skip
"""Channels, frames, height, width: a clip of 16 frames at the crop of each network's weights (as above)."""

_FLOW_INPUT = (3, 520, 960)
"""The pair of frames that RAFT's weights were evaluated on (docs: torchvision.models.optical_flow)."""


_PHOTO = (3, 480, 640)
"""The commonest size of COCO's photographs, on which detectors were trained; each resizes it to a size of its own."""


_IMPORTING = RLock()


def import_torchvision() -> ModuleType:
    """Import torchvision, also beside a torch that it was not compiled for.

    Its compiled operators are missing there ("operator torchvision::nms does not exist"). Tracing needs their names
    and shapes only, so the schemas are declared and the import is tried again.
    """
    with _IMPORTING:
        return _imported()


def _imported() -> ModuleType:
    try:
        return require("torchvision")
    except RuntimeError as error:
        if "does not exist" not in str(error):
            raise
    import torch

    _LIBRARIES.append(torch.library.Library("torchvision", "FRAGMENT"))
    for schema in DECLARED_OPS:
        _LIBRARIES[-1].define(schema)
    _LIBRARIES[-1].impl("roi_align", _pooled, "Meta")
    for module in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[module]
    torchvision = require("torchvision")
    for importer in (torchvision.extension, sys.modules["torchvision.ops.roi_align"]):
        vars(importer)["_has_ops"] = lambda: True  # declared by now, which is all that tracing asks for
    return torchvision


def _pooled(features: torch.Tensor, boxes: torch.Tensor, scale: float, height: int, width: int, *_: object) -> torch.Tensor:
    """Shape of RoIAlign's output, [boxes, channels, height, width], as torchvision's own registration has it."""
    return features.new_empty((boxes.shape[0], features.shape[1], height, width))


_LIBRARIES: list[torch.library.Library] = []
"""Operator declarations live as long as the library object that made them."""
