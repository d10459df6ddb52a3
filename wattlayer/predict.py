"""The main job in one call: a network's name, or a module with inputs, to an Estimate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import InputError
from .estimate import Estimate, estimate
from .model import EnergyModel, load_model
from .rewrite import INT8_ACTIVATIONS, weights_in_int8
from .trace import Trace, trace

if TYPE_CHECKING:
    from torch import nn

    from .adapters import Network

DEFAULT_HARDWARE = "a30"


def predict(
    network: str | nn.Module,
    *inputs: Any,
    hardware: str | Path | EnergyModel = DEFAULT_HARDWARE,
    batch: int = 1,
    image_size: int | None = None,
    seq_len: int | None = None,
    input: tuple[int, ...] | str | None = None,
    dtype: str | None = None,
    tf32: str = "conv",
    mode: str = "graph",
    strict: bool = False,
    kwargs: Mapping[str, Any] | None = None,
) -> Estimate:
    """Predict what one forward pass costs on `hardware` (a name, a model file, or a loaded model).

    `network` is a name as on the command line, sized by `batch`, `image_size`, `seq_len` or `input` (a shape, or text like
    `8x3x224x224`; default dtype float32), or an `nn.Module` with its `inputs` and `kwargs`, whose own dtype stays unless
    `dtype` says otherwise. Raises InputError for anything that cannot be used, UncoveredKindError under `strict`.
    """
    model = hardware if isinstance(hardware, EnergyModel) else load_model(hardware)
    if isinstance(network, str):
        if inputs or kwargs:
            raise InputError("inputs go with a module; a network's name is sized by batch, image_size, seq_len or input")
        traced = trace_name(network, batch, image_size, seq_len, input, dtype or "float32", tf32)
    else:
        int8 = dtype == "int8"
        traced = trace(network, *inputs, kwargs=kwargs, dtype=INT8_ACTIVATIONS if int8 else dtype, tf32=tf32)
        traced = weights_in_int8(traced) if int8 else traced
    return estimate(traced, model, mode=mode, strict=strict)


def trace_name(
    name: str,
    batch: int = 1,
    image_size: int | None = None,
    seq_len: int | None = None,
    input: tuple[int, ...] | str | None = None,
    dtype: str = "float32",
    tf32: str = "conv",
) -> Trace:
    """Trace a network by its name on the command line; raise InputError for an unknown name or unfit sizes."""
    return trace_network(load_network(name, batch, image_size, seq_len, input, dtype), tf32)


def load_network(
    name: str,
    batch: int = 1,
    image_size: int | None = None,
    seq_len: int | None = None,
    input: tuple[int, ...] | str | None = None,
    dtype: str = "float32",
) -> Network:
    """Load a network by its name on the command line, on the meta device, with its inputs.

    `dtype` "int8" is float16 with the weights of linear layers in int8 (`rewrite.weights_in_int8`).
    """
    from .adapters import InputSize, resolve

    shape, int8 = parse_shape(input) if isinstance(input, str) else input, dtype == "int8"
    network = resolve(name, InputSize(batch, image_size, seq_len, shape, INT8_ACTIVATIONS if int8 else dtype))
    return replace(network, int8_weights=int8)


def trace_network(network: Network, tf32: str = "conv") -> Trace:
    """Trace a loaded network; what its source assumed comes before what the trace did.

    Raises InputError when the forward pass fails, naming what its configuration leaves unset where that is why.
    """
    from .adapters.incomplete import unset

    try:
        traced = trace(network.module, *network.args, kwargs=network.kwargs, tf32=tf32, network=network.name)
    except InputError as error:
        name = unset(error.__cause__) if error.__cause__ and "None" in str(error) else None
        if name is None:
            raise
        raise InputError(f"{error}: its configuration leaves {name} unset") from error
    traced = replace(traced, assumptions=(*network.assumptions, *traced.assumptions))
    return weights_in_int8(traced) if network.int8_weights else traced


def parse_shape(text: str) -> tuple[int, ...]:
    """Return the shape that `8x3x224x224` writes; raise InputError for anything else."""
    try:
        return tuple(int(n) for n in text.lower().split("x"))
    except ValueError:
        raise InputError(f"input {text!r} is not a shape like 8x3x224x224") from None
