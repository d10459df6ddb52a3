"""Batch norms folded into the convolutions before them, as compilers for inference do."""

from __future__ import annotations

from dataclasses import replace

from ..errors import InputError
from ..kinds import KINDS
from ..layer import Layer, Operand
from . import Trace
from .flow import Flow


def flow_of(trace: Trace) -> Flow:
    """Return what feeds what in `trace`; raise InputError for one that does not say."""
    if trace.flow is None:
        raise InputError(
            f"{trace.network}: folding and compiled mode need to know which layer feeds which, and this trace does not say: "
            "trace the whole network with wattlayer.trace, without fusing attention by rule"
        )
    return trace.flow


def folded(trace: Trace) -> Trace:
    """Return `trace` without the batch norms that only scale and shift what a convolution wrote; it gets a bias for each.

    In eval mode a batch norm goes into the weights and the bias (`torch.nn.utils.fuse_conv_bn_eval`). It must be the only
    reader of the convolution, whose weights must come from outside. Raises InputError for a trace without data flow.
    """
    flow = flow_of(trace)
    readers, producers = flow.readers(), flow.producers()
    layers, writes = list(trace.layers), list(flow.writes)
    dropped: set[int] = set()
    for i, layer in enumerate(trace.layers):
        conv = producers.get(flow.reads[i][0][0]) if _scales(layer) and flow.reads[i] else None
        if conv is None or not _foldable(trace.layers[conv]) or readers[flow.reads[i][0][0]] != [i] or conv in dropped:
            continue
        if not _reads_as_written(layer.inputs[0], trace.layers[conv].outputs[0]):
            continue
        if flow.reads[conv][1][0] in producers or flow.reads[i][0][0] in flow.results or writes[conv] != flow.writes[conv]:
            continue
        layers[conv], writes[conv] = with_bias(layers[conv]), flow.writes[i]
        dropped.add(i)
    kept = [i for i in range(len(layers)) if i not in dropped]
    reads = [_bias_read(flow.reads[i], len(layers[i].inputs)) for i in kept]
    return replace(
        trace,
        layers=tuple(layers[i] for i in kept),
        paths=tuple(trace.paths[i] for i in kept),
        flow=Flow(tuple(reads), tuple(writes[i] for i in kept), flow.results),
    )


def _scales(layer: Layer) -> bool:
    return layer.kind == "batch_norm" and not layer.argument("training", False)


def _reads_as_written(read: Operand, written: Operand) -> bool:
    """Whether a norm reads a convolution's output itself and no view of it, of which dimension 1 may be no channels."""
    return read.shape == written.shape and (read.strides is None or read.channels_last)


def _foldable(layer: Layer) -> bool:
    return layer.group == "conv" and layer.kind in KINDS and "deform" not in layer.kind and len(layer.outputs) == 1


def _bias_read(places: tuple[tuple[int, int], ...], inputs: int) -> tuple[tuple[int, int], ...]:
    """A bias that a fold adds is a value of its own from outside, numbered by its weight's."""
    return (*places[:2], (-places[1][0], 0), *places[2:]) if inputs > len(places) else places


def with_bias(conv: Layer) -> Layer:
    """Return a convolution with a bias: a batch norm that is folded in leaves its shift there."""
    if conv.operand("bias"):
        return conv
    weight = conv.inputs[1]
    bias = Operand("bias", (conv.outputs[0].shape[1 - len(weight.shape)],), weight.dtype)  # an image may be without a batch
    return replace(conv, inputs=(*conv.inputs[:2], bias, *conv.inputs[2:]))
