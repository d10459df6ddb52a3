"""Networks of torchvision, by the name `torchvision.models.get_model` knows them by."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from ..errors import InputError, nearest
from .source import InputSize, Network, build, image_input

PREFIX = "torchvision"

DECLARED_OPS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
"""Schemas that `torchvision._meta_registrations` refers to (torchvision/csrc/ops/nms.cpp)."""


def names() -> list[str]:
    """Return every network name torchvision has, quantised copies included."""
    return list(_torchvision().models.list_models())


def load(name: str, size: InputSize) -> Network:
    """Build torchvision's `name` on the meta device; raise InputError for an unknown name."""
    models = _torchvision().models
    if name not in models.list_models():
        raise InputError(f"torchvision has no network {name!r}{nearest(name, models.list_models())}")
    options = {"weights": None} | ({"weights_backbone": None} if name.startswith(_WITH_BACKBONE) else {})
    if name in _AUXILIARY:
        options |= {"aux_logits": False, "init_weights": False}
    module = build(lambda: models.get_model(name, **options), size.dtype)
    return Network(f"{PREFIX}:{name}", module, (image_input(size, _IMAGE_SIZES.get(name, 224)),))


_WITH_BACKBONE = ("deeplabv3", "fcn_", "lraspp", "fasterrcnn", "maskrcnn", "keypointrcnn", "retinanet", "ssd", "fcos")
_AUXILIARY = ("googlenet", "inception_v3")
"""Their auxiliary classifiers exist in training only, and their initialisation takes seconds."""

_IMAGE_SIZES = {
    "inception_v3": 299, "efficientnet_b1": 240, "efficientnet_b2": 288, "efficientnet_b3": 300, "efficientnet_b4": 380,
    "efficientnet_b5": 456, "efficientnet_b6": 528, "efficientnet_b7": 600, "efficientnet_v2_s": 384,
    "efficientnet_v2_m": 480, "efficientnet_v2_l": 480, "swin_v2_t": 256, "swin_v2_s": 256, "swin_v2_b": 256,
    "vit_h_14": 224,
}  # fmt: skip
"""Crop sizes of each network's IMAGENET1K weights where they are not 224 (docs: torchvision.models, table of weights)."""


def _torchvision() -> ModuleType:
    """Import torchvision, also beside a torch that it was not compiled for.

    Its compiled operators are missing there ("operator torchvision::nms does not exist"). Tracing needs their names
    and shapes only, so the schemas are declared and the import is tried again.
    """
    try:
        return importlib.import_module("torchvision")
    except ModuleNotFoundError as error:
        if error.name != "torchvision":
            raise
        raise InputError("torchvision is not installed: pip install 'wattlayer[torchvision]'") from None
    except RuntimeError as error:
        if "does not exist" not in str(error):
            raise
    import torch

    _LIBRARIES.append(torch.library.Library("torchvision", "FRAGMENT"))
    for schema in DECLARED_OPS:
        _LIBRARIES[-1].define(schema)
    for module in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[module]
    return importlib.import_module("torchvision")


_LIBRARIES: list[object] = []
"""Operator declarations live as long as the library object that made them."""
