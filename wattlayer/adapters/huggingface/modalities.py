"""Example inputs of a transformers network, by what it takes: text, images or sound."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from typing import TYPE_CHECKING, Any

from ...errors import InputError
from ...layer import format_shape
from ..source import DEFAULT_IMAGE_SIZE, DEFAULT_SEQ_LEN, InputSize, image_input
from . import by_type
from .completion import MAIN, complete
from .specimen import AUDIO_SAMPLES, Specimen, ordinary_tokens

if TYPE_CHECKING:
    import torch
    from torch import nn

SPECTROGRAM_FRAMES = 3000
"""Thirty seconds of frames 10 ms apart, Whisper's window (Radford et al. 2022, section 2.2)."""

SENSES = frozenset({"pixel_values", "pixel_values_videos", "input_features", "input_values"})
"""What carries images, clips and sound into a network."""

Make = Callable[["nn.Module", str, InputSize], "dict[str, Any]"]


def example_inputs(module: nn.Module, network: str, size: InputSize) -> dict[str, Any]:
    """Return keyword arguments of one forward pass as meta tensors.

    Raises InputError for a network that takes something else, and for sizes that it does not have.
    """
    taken = signature(module.forward).parameters
    specimen = Specimen(module, module.config, size)
    if inputs := by_type.make(specimen):
        _refuse_unused(specimen, network)
        return {key: x for key, x in inputs.items() if key in taken} | _uncached(taken)
    main = "text and image" if _compares(module, taken) else getattr(module, "main_input_name", "input_ids")
    make = _MAKERS.get(main) if isinstance(main, str) else None
    if isinstance(main, str) and main in MAIN:
        return complete(module.config, {}, taken, size)
    if make is None:
        raise InputError(f"{network} takes {main}, which wattlayer cannot make up: wrap it as path/to/file.py:factory")
    inputs = make(module, network, size)
    if getattr(module.config, "is_encoder_decoder", False) and "decoder_input_ids" in taken:
        length = size.seq_len or (inputs[main].shape[1] if main == "input_ids" else DEFAULT_SEQ_LEN)
        inputs["decoder_input_ids"] = ordinary_tokens(module.config, size.batch, length)
    known = complete(module.config, {key: x for key, x in inputs.items() if key in taken}, taken, size)
    return known | _uncached(taken)


def left_out(module: nn.Module, inputs: Mapping[str, Any]) -> tuple[str, ...]:
    """Tell which images and sounds a network could take and is not given: what reads only those costs nothing."""
    missing = [name for name in signature(module.forward).parameters if name in SENSES and name not in inputs]
    if not missing or any(name in SENSES for name in inputs):
        return ()
    given = ", ".join(key for key in inputs if key != "use_cache")
    return (
        f"runs on {given} alone: what reads only {', '.join(missing)} costs nothing here (give them by path/to/file.py:factory)",
    )


def _uncached(taken: Mapping[str, Any]) -> dict[str, Any]:
    return {"use_cache": False} if "use_cache" in taken else {}


def _refuse_unused(specimen: Specimen, network: str) -> None:
    for option in {"shape", "image_size", "seq_len"} - specimen.used:
        specimen.size.refuse(option, network, "inputs of its own")


def _compares(module: nn.Module, taken: Mapping[str, Any]) -> bool:
    """Whether a network needs text and image together, as CLIP does; one that weaves image tokens into text runs on text."""
    both = "pixel_values" in taken and "input_ids" in taken
    return both and not any(key.startswith("image_token") for key in vars(module.config))


def _floats(shape: tuple[int, ...], dtype: str) -> torch.Tensor:
    import torch

    return torch.empty(shape, dtype=getattr(torch, dtype), device="meta")


def _shape(size: InputSize, network: str, default: tuple[int, ...], takes: str) -> tuple[int, ...]:
    """Return the user's shape, or `default`; raise InputError for another rank."""
    shape = size.shape or default
    if len(shape) != len(default):
        example = f"{len(default)} dimensions like {format_shape(default)}"
        raise InputError(f"input {format_shape(shape)} does not fit {network}, which takes {takes} of {example}")
    return shape


def _tokens(module: nn.Module, network: str, size: InputSize) -> dict[str, Any]:
    size.refuse("image_size", network, "text")
    shape = _shape(size, network, (size.batch, size.seq_len or DEFAULT_SEQ_LEN), "token ids")
    config = getattr(module.config, "text_config", None) or module.config
    longest = getattr(config, "max_position_embeddings", None)
    if isinstance(longest, int) and 0 < longest < shape[1]:
        if size.seq_len is None and size.shape is None:
            shape = (shape[0], longest)
        else:
            cure = "shorten it, or raise max_position_embeddings in a config.json"
            raise InputError(f"seq-len {shape[1]} is more than the {longest} positions of {network}: {cure}")
    return {"input_ids": ordinary_tokens(config, *shape)}


def _pixels(module: nn.Module, network: str, size: InputSize) -> dict[str, Any]:
    config = getattr(module.config, "vision_config", None) or module.config
    edges = getattr(config, "image_size", None) or DEFAULT_IMAGE_SIZE
    height, width = (edges, edges) if isinstance(edges, int) else tuple(edges)[-2:]
    channels = getattr(config, "num_channels", None) or 3
    return {"pixel_values": image_input(size, network, (channels, height, width))}


def _pairs(module: nn.Module, network: str, size: InputSize) -> dict[str, Any]:
    """Text and image side by side, as in CLIP."""
    size.refuse("shape", network, "text and images")
    text = _tokens(module, network, InputSize(size.batch, None, size.seq_len, None, size.dtype))
    return text | _pixels(module, network, InputSize(size.batch, size.image_size, None, None, size.dtype))


def _waveform(module: nn.Module, network: str, size: InputSize) -> dict[str, Any]:
    _refuse_all(size, network)
    config: Any = module.config
    default: tuple[int, ...]
    if hasattr(config, "num_mel_bins"):  # spectrograms go by this name too
        default = (size.batch, getattr(config, "max_length", 1024), config.num_mel_bins)
    elif hasattr(config, "audio_channels"):
        default = (size.batch, config.audio_channels, AUDIO_SAMPLES)
    else:
        default = (size.batch, AUDIO_SAMPLES)
    return {"input_values": _floats(_shape(size, network, default, "sound"), size.dtype)}


def _spectrogram(module: nn.Module, network: str, size: InputSize) -> dict[str, Any]:
    _refuse_all(size, network)
    config = getattr(module.config, "audio_config", None) or getattr(module.config, "encoder_config", None) or module.config
    positions = getattr(config, "max_source_positions", None)
    bins = getattr(config, "num_mel_bins", None) or getattr(config, "feature_projection_input_dim", None) or 80
    # Whisper halves the frames before it numbers the positions; its mel bins come first, and those of encoders like it
    first = _is_like_whisper(module, bins)
    frames = 2 * positions if first and positions else SPECTROGRAM_FRAMES
    default = (size.batch, bins, frames) if first else (size.batch, frames, bins)
    return {"input_features": _floats(_shape(size, network, default, "spectrograms"), size.dtype)}


def _is_like_whisper(module: nn.Module, bins: int) -> bool:
    """Whether a convolution called conv1 runs over the frames of a spectrogram with its mel bins as channels."""
    named = (m for name, m in module.named_modules() if name.rpartition(".")[2] == "conv1")
    return any(type(m).__name__ == "Conv1d" and m.in_channels == bins for m in named)


def _refuse_all(size: InputSize, network: str) -> None:
    size.refuse("image_size", network, "sound")
    size.refuse("seq_len", network, "sound")


_MAKERS: dict[str, Make] = {
    "input_ids": _tokens,
    "pixel_values": _pixels,
    "input_values": _waveform,
    "input_features": _spectrogram,
    "text and image": _pairs,
}
"""By the module's `main_input_name`."""
