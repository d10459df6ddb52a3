"""The main job in one call: a network's name, or a module with inputs, to an Estimate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import InputError
from .estimate import Estimate, estimate
from .layer import format_shape
from .model import EnergyModel, load_model
from .trace import Trace, trace
from .trace.rewrite import computes_in, trace_as, with_weights

if TYPE_CHECKING:
    from torch import nn

    from .adapters import Network

DEFAULT_HARDWARE = "a30"


def predict(
    network: str | Path | nn.Module,
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

    `network` is a name or a file as on the command line, sized by `batch`, `image_size`, `seq_len` or `input` (a shape, or text
    like `8x3x224x224`; default dtype float32), or an `nn.Module` with its `inputs` and `kwargs`, whose own dtype stays unless
    `dtype` says otherwise. Raises InputError for anything that cannot be used, UncoveredKindError under `strict`.
    """
    model = load_model(hardware)
    if isinstance(network, str | Path):
        if inputs or kwargs:
            raise InputError("inputs go with a module; a network's name is sized by batch, image_size, seq_len or input")
        traced = trace_name(str(network), batch, image_size, seq_len, input, dtype or "float32", tf32)
    else:
        sizes = {"batch": None if batch == 1 else batch, "image_size": image_size, "seq_len": seq_len, "input": input}
        given = next((name for name, value in sizes.items() if value is not None), None)
        if given:
            raise InputError(f"{given} {sizes[given]!r} sizes a network's name; a module comes with its inputs: leave it out")
        traced = trace_as(dtype, network, *inputs, kwargs=kwargs, tf32=tf32)
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

    `input` is the shape of the first input, or sizes that a file leaves open by name ("past_sequence_length=128,batch=1").
    `dtype` "int8" and "int4" are float16 with the weights of linear layers in these (`trace.rewrite.with_weights`).
    """
    from .adapters import InputSize, resolve

    sizes = parse_sizes(input) if isinstance(input, str) and "=" in input else {}
    shape = None if sizes else parse_shape(input) if isinstance(input, str) else input
    network = resolve(name, InputSize(batch, image_size, seq_len, shape, computes_in(dtype), sizes))
    return replace(network, asked_dtype=dtype)


def load_measured(name: str, input_shapes: Sequence[tuple[int, ...]], dtype: str = "float32", run_code: bool = True) -> Network:
    """Load a network by its name in measured rows with the inputs that it was measured on, by their shapes.

    Rows may be somebody else's: without `run_code` a Python file that they name is refused.

    One shape is that of the first input, several are those of all, in any order. Two dimensions are taken for [batch, tokens]
    where the network reads text. Raises InputError where it takes no such inputs.
    """
    from .adapters import UnusedSize, runs_code

    if runs_code(name) and not run_code:
        raise InputError(f"{name} is Python code that measured rows name, and --no-run-code was asked for")

    refused: list[InputError] = []
    for size in _sizes(input_shapes):
        try:
            network = load_network(name, dtype=dtype, **size)
        except InputError as error:
            refused.append(error)
            continue
        own = input_shapes_of(network)
        if list(input_shapes) == own[:1] or sorted(input_shapes) in ([], sorted(own), sorted(set(own))):
            return network
        asked, takes = ("; ".join(format_shape(shape) for shape in shapes) for shapes in (input_shapes, own))
        refused.append(InputError(f"{name} takes inputs of {takes or 'no shape'} and not of {asked}: say those that it takes"))
    # what a network has no use for says less than what does not fit it
    raise next((error for error in refused if not isinstance(error, UnusedSize)), refused[0])


def _sizes(shapes: Sequence[tuple[int, ...]]) -> Iterator[dict[str, Any]]:
    """Yield in what ways a user could ask for inputs of `shapes`, the likeliest first."""
    if len(shapes) == 1:
        if len(shapes[0]) == 2:
            yield {"batch": shapes[0][0], "seq_len": shapes[0][1]}
        yield {"input": shapes[0]}
    elif shapes:
        tokens = next((shape[1] for shape in shapes if len(shape) == 2), None)
        edge = next((shape[-1] for shape in shapes if len(shape) == 4), None)
        yield {"batch": next((shape[0] for shape in shapes if shape), 1), "seq_len": tokens, "image_size": edge}
    yield {}


def input_shapes_of(network: Network) -> list[tuple[int, ...]]:
    """Return the shapes of a network's input tensors, in their order."""
    import torch
    from torch.utils._pytree import tree_leaves

    return [tuple(x.shape) for x in tree_leaves((network.args, dict(network.kwargs))) if isinstance(x, torch.Tensor)]


def trace_network(network: Network, tf32: str = "conv") -> Trace:
    """Trace a loaded network; what its source assumed comes before what the trace did.

    Raises InputError when the forward pass fails, naming what its configuration leaves unset where that is why.
    """
    from .adapters.huggingface.incomplete import unset

    try:
        traced = trace(network.module, *network.args, kwargs=network.kwargs, tf32=tf32, network=network.name)
    except InputError as error:
        name = unset(error.__cause__) if error.__cause__ and "None" in str(error) else None
        if name is None:
            raise
        raise InputError(f"{error}: its configuration leaves {name} unset") from error
    traced = replace(traced, assumptions=(*network.assumptions, *traced.assumptions))
    return with_weights(traced, network.asked_dtype)


def parse_sizes(text: str) -> dict[str, int]:
    """Return the sizes that `past_sequence_length=128,batch=1` names; raise InputError for anything else."""
    sizes: dict[str, int] = {}
    for part in text.split(","):
        name, _, value = (x.strip() for x in part.rpartition("="))
        if not name or "=" in name or not value.isdecimal() or sizes.get(name, int(value)) != int(value):
            raise InputError(f"input {text!r} does not name sizes like past_sequence_length=128,batch=1")
        sizes[name] = int(value)
    return sizes


def parse_shape(text: str) -> tuple[int, ...]:
    """Return the shape that `8x3x224x224` writes; raise InputError for anything else."""
    try:
        return tuple(int(n) for n in text.lower().split("x"))
    except ValueError:
        raise InputError(f"input {text!r} is not a shape like 8x3x224x224") from None
