"""Networks of timm, by the name `timm.create_model` knows them by; a weight tag ("resnet50.a1_in1k") may follow."""

from __future__ import annotations

from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..errors import InputError, nearest
from .source import DEFAULT_IMAGE_SIZE, InputSize, Network, build, image_input, require
from .torchvision import import_torchvision

if TYPE_CHECKING:
    from torch import nn

PREFIX = "timm"


def names() -> list[str]:
    """Return every network name timm has, without weight tags."""
    return list(_timm().list_models())


def load(name: str, size: InputSize) -> Network:
    """Build timm's `name` on the meta device; raise InputError for an unknown name or an input that does not fit."""
    timm = _timm()
    untagged = name.partition(".")[0]
    if not timm.is_model(untagged):
        raise InputError(f"timm has no network {name!r}{nearest(name, timm.list_models(), '; timm.list_models() lists them')}")
    network = f"{PREFIX}:{name}"
    config = timm.get_pretrained_cfg(name) or timm.get_pretrained_cfg(untagged)
    default = tuple(config.input_size) if config else (3, DEFAULT_IMAGE_SIZE, DEFAULT_IMAGE_SIZE)
    image = image_input(size, network, default)
    edges = tuple(image.shape[-2:])
    # a network of fixed input size has weights (position embeddings) whose shapes depend on it
    options = {"img_size": edges} if edges != default[-2:] and config and config.fixed_input_size else {}
    return Network(network, build(lambda: _create(timm, name, options), size.dtype), (image,))


def _create(timm: ModuleType, name: str, options: dict[str, Any]) -> nn.Module:
    try:
        return timm.create_model(name, pretrained=False, **options)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        raise InputError(f"timm's {name} works on its own image size only: leave image-size out") from error


def _timm() -> ModuleType:
    if find_spec("timm") and find_spec("torchvision"):
        import_torchvision()  # timm imports it too, without our cure for its missing operators
    return require("timm")
