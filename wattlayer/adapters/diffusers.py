"""Denoising networks of diffusers by class name or config.json: the architecture only, one step of denoising."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..errors import InputError, nearest
from .source import InputSize, Network, build, require
from .torchvision import import_torchvision

if TYPE_CHECKING:
    import torch
    from torch import nn

PREFIX = "diffusers"

TEXT_TOKENS = 77
"""Tokens of the text that an image is made of: CLIP's context, which Stable Diffusion's pipelines pad to."""

LATENT_SIZE = 64
"""Height and width of a latent image where a configuration has none: 512 pixels through an autoencoder of factor 8."""

FRAMES = 8
"""Frames of a latent clip where a configuration has none."""


def names() -> list[str]:
    """Return every denoising network of diffusers: classes called UNet or Transformer."""
    diffusers = _diffusers()
    listed = (name for name in dir(diffusers) if ("UNet" in name or "Transformer" in name) and "Output" not in name)
    return sorted(name for name in listed if _is_model(diffusers, getattr(diffusers, name)))


def load(name: str, size: InputSize) -> Network:
    """Build `name`, a class (its default configuration) or a config.json that names one, on the meta device.

    Its inputs are one denoising step's: a latent image of the configuration's size, or of `size.image_size` latent
    pixels, and embeddings of `size.seq_len` tokens of text, each as wide as the configuration says. Raises InputError
    naming the value and the cure.
    """
    network = f"{PREFIX}:{name}"
    diffusers = _diffusers()
    kind, config = _read(Path(name)) if name.endswith(".json") else (name, {})
    architecture = getattr(diffusers, kind, None)
    if not _is_model(diffusers, architecture):
        raise InputError(f"diffusers has no network {kind!r}{nearest(kind, names())}")
    module = build(lambda: _built(architecture, config), size.dtype)
    return Network(network, module, (), _inputs(module, network, size))


def _built(architecture: Any, config: Mapping[str, Any]) -> nn.Module:
    module: nn.Module = architecture.from_config(dict(config))
    return module


def _diffusers() -> ModuleType:
    if find_spec("diffusers") and find_spec("torchvision"):
        import_torchvision()  # diffusers imports it too, without our cure for its missing operators
    return require("diffusers")


def _is_model(diffusers: ModuleType, found: Any) -> bool:
    return inspect.isclass(found) and issubclass(found, diffusers.ModelMixin) and found is not diffusers.ModelMixin


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return str(record["_class_name"]), record
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, LookupError, TypeError, RecursionError):
        raise InputError(f"{path} is no configuration of diffusers: it must be a JSON object with a _class_name") from None


def _inputs(module: nn.Module, network: str, size: InputSize) -> dict[str, Any]:
    """Make what the forward pass takes and nothing fills; raise InputError naming what has no rule."""
    size.refuse("shape", network, "--image-size and --seq-len in latent pixels and tokens")
    step = _Step(module, size)
    inputs: dict[str, Any] = {}
    for name, parameter in inspect.signature(module.forward).parameters.items():
        required = parameter.default is inspect.Parameter.empty
        value = RULES[name](step) if name in RULES and (required or name not in _ONLY_REQUIRED) else None
        if value is not None:
            inputs[name] = value
        elif required:
            raise InputError(f"{network} takes {name}, which nothing here can make: call it from path/to/file.py:factory")
    return inputs


class _Step:
    """One denoising step: what is known of the sizes of its inputs."""

    def __init__(self, module: Any, size: InputSize) -> None:
        self.module, self.size = module, size
        self.kind, self.config = type(module).__name__, module.config

    def first(self, *names: str) -> Any:
        """Return the first of the configuration's `names` that is set, else None."""
        found = (self.config.get(name) for name in names)
        return next((x for x in found if x is not None), None)

    def tensor(self, *shape: int, dtype: str | None = None) -> torch.Tensor:
        """Return a meta tensor of the batch's `shape`."""
        import torch

        return torch.empty((self.size.batch, *shape), dtype=getattr(torch, dtype or self.size.dtype), device="meta")

    def tokens(self, width: Any) -> torch.Tensor | None:
        """Return the embedding of a text, [batch, tokens, width], where there is a width."""
        wide = max(width) if isinstance(width, list | tuple) else width
        return self.tensor(self.count(), wide) if isinstance(wide, int) else None

    def count(self) -> int:
        """Return how many tokens the text has."""
        return self.size.seq_len or self.first("max_text_seq_length") or TEXT_TOKENS

    def frames(self) -> int:
        """Return how many frames the latent clip has: an autoencoder keeps the first of a film and packs the others."""
        seen, packed = self.first("sample_frames", "num_frames"), self.first("temporal_compression_ratio") or 1
        return FRAMES if seen is None else (seen - 1) // packed + 1

    def edges(self) -> tuple[int, int]:
        """Return height and width in latent pixels."""
        own = self.size.image_size or self.first("sample_size") or LATENT_SIZE
        height, width = (own, own) if isinstance(own, int) else own
        return self.first("sample_height") or height, self.first("sample_width") or width


def _sample(step: _Step) -> torch.Tensor:
    """[batch, channels, (frames,) height, width], as the class's name says; CogVideoX puts frames before channels."""
    channels = step.first("in_channels") or 4
    if "1D" in step.kind:
        return step.tensor(channels, step.size.image_size or step.first("sample_size") or LATENT_SIZE)
    if step.kind.startswith("CogVideo"):
        return step.tensor(step.frames(), channels, *step.edges())
    return step.tensor(channels, *([step.frames()] if "3D" in step.kind or "Motion" in step.kind else []), *step.edges())


def _hidden(step: _Step) -> torch.Tensor:
    """As `_sample`; where the network takes positions of patches beside them, [batch, patches, channels]."""
    if step.first("axes_dims_rope") is not None and step.first("joint_attention_dim") is not None:
        height, width = step.edges()
        return step.tensor(height // 2 * (width // 2), step.first("in_channels"))  # the pipeline packs 2 x 2 pixels
    return _sample(step)


def _positions(rows: Callable[[_Step], int]) -> Callable[[_Step], torch.Tensor | None]:
    def made(step: _Step) -> torch.Tensor | None:
        axes = step.first("axes_dims_rope")
        return None if axes is None else step.tensor(rows(step), len(axes))[0]

    return made


def _classes(step: _Step) -> torch.Tensor | None:
    config = step.config
    conditioned = config.get("class_embed_type") in (None, "timestep") and step.first("num_class_embeds", "num_embeds_ada_norm")
    return step.tensor(dtype="int64") if conditioned else None


def _added(step: _Step) -> dict[str, Any] | None:
    """What Stable Diffusion XL and PixArt are told beside the text: its pooled embedding, sizes and crops."""
    if step.config.get("addition_embed_type") == "text_time":
        ids = 6  # original size, crop and target size, two numbers each (Podell et al. 2023, section 2.2)
        pooled = step.config["projection_class_embeddings_input_dim"] - ids * step.config["addition_time_embed_dim"]
        return {"text_embeds": step.tensor(pooled), "time_ids": step.tensor(ids)}
    if step.kind.startswith("PixArt"):
        sized = step.module.use_additional_conditions  # which is decided by the size where the configuration leaves it open
        return {"resolution": step.tensor(2), "aspect_ratio": step.tensor(1)} if sized else None
    return None


def _wide(step: _Step, width: str) -> torch.Tensor | None:
    """[batch, width], where the configuration has that width."""
    return step.tensor(step.first(width)) if step.first(width) else None


_ONLY_REQUIRED = frozenset({"encoder_attention_mask"})
"""Made where a network cannot do without; elsewhere a text that fills its context needs no mask."""

_WIDTHS = ("joint_attention_dim", "caption_channels", "text_dim", "text_embed_dim", "cross_attention_dim")
"""What configurations call the width of a text's embedding."""

RULES: dict[str, Callable[[_Step], Any]] = {
    "sample": _sample,
    "hidden_states": _hidden,
    "timestep": lambda step: step.tensor(dtype="float32" if step.first("axes_dims_rope") else "int64"),
    "encoder_hidden_states": lambda step: step.tokens(step.first(*_WIDTHS)),
    "encoder_attention_mask": lambda step: step.tensor(step.count(), dtype="bool"),
    "pooled_projections": lambda step: _wide(step, "pooled_projection_dim"),
    "guidance": lambda step: step.tensor() if step.first("guidance_embeds") else None,
    "class_labels": _classes,
    "added_cond_kwargs": _added,
    "img_ids": _positions(lambda step: step.edges()[0] // 2 * (step.edges()[1] // 2)),
    "txt_ids": _positions(lambda step: step.count()),
}
"""What is made of each parameter of a forward pass; None leaves it at its default."""
