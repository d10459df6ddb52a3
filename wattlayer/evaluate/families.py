"""Which network families of torchvision a layer occurs in: the split `family` leaves a whole one out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

from ..adapters import torchvision
from ..adapters.source import InputSize
from ..errors import WattlayerError
from ..layer import Layer
from ..trace import trace

IMAGE_CHANNELS = 3


def families_of(layers: Iterable[Layer], progress: Callable[[str], None] = lambda text: None) -> dict[Layer, frozenset[str]]:
    """Return, for each of `layers` that occurs in an image network of torchvision, the families (its source modules).

    Networks are traced at the batch and image sizes that the layers themselves show: those of convolutions over three
    channels. Keys are the layers `as_defined`.
    """
    wanted = {layer.as_defined() for layer in layers}
    result: dict[Layer, set[str]] = defaultdict(set)
    for name, family in _classifiers():
        progress(f"families: tracing {name}")
        for size in _sizes(wanted):
            for layer in _layers(name, size):
                key = layer.as_defined()
                if key in wanted:
                    result[key].add(family)
    return {layer: frozenset(names) for layer, names in result.items()}


def _sizes(layers: Iterable[Layer]) -> list[InputSize]:
    images = {x.inputs[0].shape for x in layers if x.kind == "conv2d" and x.inputs[0].shape[1:2] == (IMAGE_CHANNELS,)}
    return [InputSize(batch=shape[0], image_size=shape[-1]) for shape in sorted(images)]


def _classifiers() -> list[tuple[str, str]]:
    """Image classifiers with the module that defines each: resnet18 and resnext50 are both of `resnet`."""
    library = torchvision.import_torchvision()
    names = library.models.list_models(module=library.models)
    return [(name, library.models.get_model_builder(name).__module__.rpartition(".")[2]) for name in names]


def _layers(name: str, size: InputSize) -> Iterable[Layer]:
    try:
        network = torchvision.load(name, size)
        return trace(network.module, *network.args).unique()
    except WattlayerError:  # a network that does not take images of this size has no layers at it
        return ()
