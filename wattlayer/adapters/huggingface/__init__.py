"""Networks of Hugging Face transformers by their configuration: the architecture only, never weights, never remote code."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import MethodType, ModuleType
from typing import TYPE_CHECKING, Any

from ...errors import InputError, first_line, nearest
from ...layer import DTYPE_BYTES
from ..hub import fetch_config
from ..source import InputSize, Network, build, require
from ..torchvision import import_torchvision
from .incomplete import CONVENTION, fill_by_convention, parts, set_forecast, sizes_of_heads, stated, unset
from .modalities import example_inputs, left_out

if TYPE_CHECKING:
    from torch import nn

PREFIX = "hf"

AS_DECODER = "its configuration is an encoder's: run as a decoder, each position sees those before it alone"
TEXT_ALONE = "its decoder of text alone is priced: no image and no sound is read"
CROSS_ATTENTION = ("encoder_attn", "crossattention", "cross_attn")
"""What decoders call attention over another network's result; given none, they leave it out."""
NO_SOURCE = "what its decoder reads of an encoder is not priced: no image, sound or text is given to it"
EAGER_ATTENTION = (
    "transformers has no fused attention for this network: scores are written to memory and keys that heads share are copied,"
    " as its own code does it; fused kernels of servers do neither"
)
LATENT_CACHE = (
    "keys and values of all tokens are unpacked from the latent cache at every step, as transformers' own code does it;"
    " servers that fold this into the queries compute far less"
)


def names() -> list[str]:
    """Return every model type whose default configuration transformers' `AutoModel` accepts."""
    types = _config_types()
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    return sorted(name for name in types if name in MODEL_MAPPING_NAMES)


def load(name: str, size: InputSize) -> Network:
    """Build the architecture of `name` on the meta device.

    `name` is a config.json, a folder that holds one, a model type ("bert": its default configuration), or an id on the
    hub, whose config.json is taken from the local cache or fetched. The class is the first of the configuration's
    `architectures`, else the bare model; attention runs as `scaled_dot_product_attention` where the network supports it.
    Raises InputError naming the value and the cure.
    """
    network = f"{PREFIX}:{name}"
    config = _config(name)
    own = _of_checkpoint(config, size.dtype)
    _resize(config, size)
    filled = set_forecast(config, size.seq_len)
    before = sizes_of_heads(config)
    module = build(lambda: _whole_module(config, size.dtype), None)
    if sizes_of_heads(config) != before:
        filled += (CONVENTION,)
    inputs = example_inputs(module, network, size)
    return Network(network, module, (), inputs, (*filled, *own, *_as_coded(module), *left_out(module, inputs)))


def load_causal(name: str, tokens: int, dtype: str) -> Network:
    """Build a decoder with its head over the vocabulary, for sequences of up to `tokens`; it has no inputs yet.

    Of a network that reads images or sound too it is the decoder of text. Raises InputError for anything but `hf:…`, for a
    network without a decoder of text and for more tokens than it has positions.
    """
    source, _, own = name.partition(":")
    if source != PREFIX:
        raise InputError(f"{name!r} is no language model of transformers: --prefill and --decode price `hf:…`")
    config = _config(own)
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    said = _of_checkpoint(config, dtype)
    decoder, config = _decoder(name, whole := config)
    # decoders have the field too, left at False
    encoder = getattr(config, "is_decoder", None) is False and config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if hasattr(config, "is_decoder"):
        config.is_decoder = True  # encoders that can be one (BERT) keep a cache only then
    config.architectures = [decoder]
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if isinstance(positions, int) and 0 < positions < tokens:
        raise InputError(f"{tokens} tokens are more than the {positions} positions of {name}: ask for fewer")
    module = build(lambda: _whole_module(config, dtype), None)
    latent = stated(_text(config), "kv_lora_rank") is not None
    reads = any(path.rpartition(".")[2] in CROSS_ATTENTION for path, _ in module.named_modules())
    said += (AS_DECODER,) * encoder + _as_coded(module) + (LATENT_CACHE,) * latent + (NO_SOURCE,) * reads
    return Network(name, module, assumptions=said + (TEXT_ALONE,) * (whole is not config or hasattr(config, "text_config")))


def _decoder(name: str, config: Any) -> tuple[str, Any]:
    """Return the class that decodes text and the configuration that it takes, which may be a part of the whole."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    text = getattr(config, "text_config", None)
    for part, classes in (
        (config, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
        (text, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
        (config, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES),
    ):
        decoder = None if part is None or getattr(config, "is_encoder_decoder", False) else classes.get(part.model_type)
        if decoder is not None:
            wanted = getattr(_transformers(), decoder).config_class
            return decoder, text if text is not None and not isinstance(part, wanted) and isinstance(text, wanted) else part
    raise InputError(f"{name} ({config.model_type}) is no decoder of text: price a pass of it with --seq-len")


def _of_checkpoint(config: Any, dtype: str) -> tuple[str, ...]:
    """Tell of a configuration whose weights are published in another form than they are priced in."""
    own = next((x for x in (getattr(part, "dtype", None) for part in (config, _text(config))) if x is not None), None)
    name = str(own).removeprefix("torch.")
    said: tuple[str, ...] = ()
    if name in DTYPE_BYTES and name not in ("float32", dtype):
        said = (f"its configuration is of weights in {name}, which are priced in {dtype}, as --dtype says",)
    packed = getattr(config, "quantization_config", None)
    if isinstance(packed, Mapping) and packed:
        method, bits = packed.get("quant_method") or "by no named method", packed.get("bits")
        form = f"{str(method)[:40]}, {bits} bits" if type(bits) is int else str(method)[:40]
        said += (f"its configuration is of quantised weights ({form}): --dtype int8 and int4 price such, others do not",)
    return said


def _as_coded(module: Any) -> tuple[str, ...]:
    """Tell of a network of language whose attention transformers writes out."""
    text = _text(module.config)
    heads = all(stated(text, name) is not None for name in ("num_attention_heads", "vocab_size"))
    return (EAGER_ATTENTION,) * (heads and getattr(text, "_attn_implementation", None) == "eager")


def _text(config: Any) -> Any:
    return getattr(config, "text_config", None) or config


def _config(name: str) -> Any:
    if not name:
        raise InputError("hf: names no network: give a type or a configuration, hf:bert or hf:path/to/config.json")
    types = _config_types()
    if name in types:
        return types[name]()
    record = _read(_path(name))
    model_type = str(record.get("model_type"))
    if model_type not in types:
        reason = nearest(model_type, sorted(types))
        raise InputError(f"hf:{name}: its model_type {model_type!r} is not part of the installed transformers{reason}")
    try:
        config = types[model_type].from_dict(record)
    except Exception as error:  # transformers' own checks
        raise InputError(f"hf:{name}: its config.json is not valid for {model_type}: {first_line(error)}") from error
    for part in parts(config):
        for key, (least, most) in _SIZES.items():
            value = stated(part, key)
            if isinstance(value, int) and not least <= value <= most:
                raise InputError(f"hf:{name}: its config.json says {key} {value}: give a size that a network can have")
    return config


_SIZES = {
    "num_hidden_layers": (0, 10_000), "hidden_size": (1, 10**9), "num_attention_heads": (1, 10**9),
    "intermediate_size": (1, 10**9), "vocab_size": (1, 10**9),
}  # fmt: skip
"""Between what sizes of a configuration lie; a million layers would be built for hours."""


def _config_types() -> Mapping[str, Any]:
    _transformers()
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return CONFIG_MAPPING


def _transformers() -> ModuleType:
    if find_spec("transformers") and find_spec("torchvision"):
        import_torchvision()  # transformers imports it too, without our cure for its missing operators
    return require("transformers")


def _path(name: str) -> Path:
    path = Path(name).expanduser()
    path = path / "config.json" if path.is_dir() else path
    if path.is_file():
        return path
    if path.suffix == ".json" or name.startswith((".", "/", "~")):
        raise InputError(f"{path}: there is no such file")
    return fetch_config(name)


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON: {first_line(error)}") from error
    if not isinstance(record, dict):
        raise InputError(f"{path} is not a configuration: it must hold a JSON object")
    return record


def _resize(config: Any, size: InputSize) -> None:
    """Build the network for the image size that the user gave: position embeddings depend on it."""
    vision = getattr(config, "vision_config", None) or config
    edge = size.shape[-1] if size.shape and len(size.shape) == 4 else size.image_size
    if edge is not None and isinstance(getattr(vision, "image_size", None), int):
        vision.image_size = edge


def _whole_module(config: Any, dtype: str) -> nn.Module:
    """Build the first class of a configuration that can be; where none can, tell what the configuration leaves out."""
    first: Exception | None = None
    for architecture in _architectures(config):
        for fill in (lambda _: True, fill_by_convention):
            try:
                if fill(config):
                    return _module(architecture, config, dtype)
            except Exception as error:  # a constructor is somebody else's code
                first = first or error
    assert first is not None
    if isinstance(first, ImportError):
        wanted = first_line(first).partition(" but it was not found")[0]
        raise InputError(f"the network cannot be built: {wanted}: install it") from first
    name = unset(first)
    if name is None:
        raise first
    raise InputError(f"the network cannot be built: its configuration leaves {name} unset: say it in a config.json") from first


def _module(architecture: Any, config: Any, dtype: str) -> nn.Module:
    """Build a class with parameters in `dtype` from the start.

    So buffers that a network keeps in float32 whatever its dtype (rotary frequencies) stay as they are.
    """
    import torch

    from ...trace.meta import TORCH_STATE

    _set_dtype(config, getattr(torch, dtype))
    with TORCH_STATE:
        previous = torch.get_default_dtype()
        if previous is not getattr(torch, dtype):  # other threads see it as well
            torch.set_default_dtype(getattr(torch, dtype))
        try:
            built: nn.Module = architecture._from_config(config)
        finally:
            torch.set_default_dtype(previous)
    for part in built.modules():
        if hasattr(part, "_rescale_layers"):
            part._rescale_layers = MethodType(_rescaled, part)  # type: ignore[assignment]
    return built


def _rescaled(rwkv: Any) -> None:
    """What is left of RWKV's division of its weights, in every pass but the first: to know that it was made."""
    rwkv.layers_are_rescaled = not rwkv.training


def _architectures(config: Any) -> list[Any]:
    """Return the class that a configuration names, else the bare model of its type and those that solve a task."""
    transformers = _transformers()
    for named in getattr(config, "architectures", None) or ():
        if not hasattr(transformers, named):
            cure = "code that comes with a network is never run"
            raise InputError(f"architecture {named!r} is not part of transformers {transformers.__version__}; {cure}")
        return [getattr(transformers, named)]
    found = list(_classes(type(config)))
    if not found:
        raise InputError(
            f"transformers {transformers.__version__} has no model for {type(config).__name__}: name one in its `architectures`"
        )
    return found


def _classes(config_type: type) -> Iterator[Any]:
    """Yield transformers' classes for a configuration, the bare model first."""
    from transformers.models.auto import modeling_auto

    mappings = (x for key, x in vars(modeling_auto).items() if key.startswith("MODEL_") and not key.endswith("_NAMES"))
    for mapping in (modeling_auto.MODEL_MAPPING, *mappings):
        try:
            found = mapping.get(config_type, ())
        except ValueError:  # a class that transformers lists and does not have
            continue
        yield from found if isinstance(found, tuple) else (found,)


def _set_dtype(config: Any, dtype: Any) -> None:
    """Say the dtype in every part of a configuration; before transformers 4.56 it was called torch_dtype."""
    for part in (config, *(getattr(config, key, None) for key in getattr(config, "sub_configs", ()))):
        if part is not None:
            setattr(part, "dtype" if hasattr(part, "dtype") else "torch_dtype", dtype)
            part.use_cache = False
