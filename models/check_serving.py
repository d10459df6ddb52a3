"""Data-sheet predictions against a serving benchmark, to an order of magnitude: `python models/check_serving.py PATH_TO_TABLES`.

LLM-Inference-Bench (Argonne, BSD-3) gives mean power and latency of Llama models that take 1,024 tokens and write 1,024. The
prediction is one prefill of the batch and 1,024 decoding steps in float16, graph mode; nothing was measured on these devices.
What the server did is unknown; assumed is that it keeps as many sequences at once as their caches fit into 90 % of the board's
memory beside the weights, and runs the batch in equal waves of those.

The last two columns tell how much the launch floor matters: the devices that data-sheet models learn from were measured in
eager mode, where a layer takes at least as long as the host needs to launch it. A server replays CUDA graphs, so the
prediction takes the registry's `launch_s` for the floor of every layer; the last columns take what the loops took.
"""

from __future__ import annotations

import csv
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from wattlayer.hardware import find_hardware
from wattlayer.layer import Layer
from wattlayer.measure.llm import Sizes, model_layers
from wattlayer.measure.record import meta, record
from wattlayer.model import EnergyModel
from wattlayer.train.transfer import from_data_sheet

TOKENS = 1024
BLOCKS = 32
MODELS = {
    "meta-llama/Llama-2-7b-hf": Sizes("llama-2-7b", 4096, 32, 32, 128, 11008, 32000),
    "meta-llama/Meta-Llama-3-8B": Sizes("llama-3-8b", 4096, 32, 8, 128, 14336, 128256),
}
BOARDS = {
    "Nvidia A100 GPU": "a100-sxm-40gb",
    "Nvidia H100 GPU": "h100-sxm",
    "Nvidia GH200 GPU": "gh200-96gb",
}
CALLS = (1, 1, 2, 1, 0, 1, 2, 1, 1, 0)
"""How often each layer of `model_layers` is called in a block; the head and the embedding once a model."""
CACHE_STEPS = (1152, 1408, 1664, 1920)
"""Cache lengths that stand for the 1,024 steps from 1,024 to 2,048."""


@dataclass(frozen=True)
class Pass:
    """Time and energy of one pass."""

    time_s: float
    energy_j: float


def one_pass(model: EnergyModel, sizes: Sizes, sequences: int, tokens: int, *, decode: bool) -> Pass:
    """Return what one prefill of `tokens`, or one decoding step on a cache of `tokens`, costs."""
    found = list(model_layers(sizes, "float16", sequences, tokens, decode=decode))
    calls: Counter[Layer] = Counter()
    for layer, count in zip(found, CALLS):
        calls[layer] += count * BLOCKS or 1
    x = meta(sequences, 1 if decode else tokens, sizes.width, dtype="float16")
    calls[record(torch.add, x, x.clone())] += 2 * BLOCKS
    prediction, count = model.predict(list(calls)), np.array(list(calls.values()))
    return Pass(float(count @ prediction.time_s), float(count @ prediction.energy_j))


def weight_bytes(sizes: Sizes) -> float:
    block = sizes.width * (2 * sizes.heads + 2 * sizes.kv_heads) * sizes.head + 3 * sizes.width * sizes.hidden
    return 2.0 * (BLOCKS * block + 2 * sizes.width * sizes.vocabulary)


def fitting(sizes: Sizes, board_bytes: float) -> int:
    """Return how many sequences of 2,048 tokens fit beside the weights."""
    cache_bytes = 2.0 * 2 * BLOCKS * sizes.kv_heads * sizes.head * 2 * TOKENS
    return max(1, int((0.9 * board_bytes - weight_bytes(sizes)) / cache_bytes))


def batch(model: EnergyModel, sizes: Sizes, sequences: int) -> Pass:
    """Return what it takes to serve `sequences`, in as many waves as the board's memory asks for."""
    dram_bytes = find_hardware(model.hardware).dram_bytes
    assert dram_bytes is not None
    waves = -(-sequences // fitting(sizes, dram_bytes))
    each = -(-sequences // waves)
    prefill = one_pass(model, sizes, each, TOKENS, decode=False)
    steps = [one_pass(model, sizes, each, tokens, decode=True) for tokens in CACHE_STEPS]
    time_s, energy_j = (float(np.mean([getattr(s, name) for s in steps])) * TOKENS for name in ("time_s", "energy_j"))
    return Pass(waves * (prefill.time_s + time_s), waves * (prefill.energy_j + energy_j))


HEAD = (
    "board",
    "server",
    "model",
    "batch",
    "measured J",
    "predicted J",
    "energy ratio",
    "time ratio",
    "energy, loops",
    "time, loops",
)


def main(arguments: Sequence[str]) -> None:
    print(f"| {' | '.join(HEAD)} |\n|---|---|---|{'--:|' * 7}")
    models = {board: (from_data_sheet(name), from_data_sheet(name, looped=True)) for board, name in BOARDS.items()}
    ratios: dict[str, list[tuple[tuple[float, float], ...]]] = {name: [] for name in BOARDS.values()}
    with (Path(arguments[0]) / "argonne/power_tidy.csv").open() as file:
        for row in csv.DictReader(file):
            (model, looped), sizes, sequences = models[row["Hardware"]], MODELS[row["Model"]], int(row["Batch Size"])
            measured = Pass(float(row["Latency"]), float(row["energy_J_batch"]))
            found, loops = batch(model, sizes, sequences), batch(looped, sizes, sequences)
            pair = (found.energy_j / measured.energy_j, loops.energy_j / measured.energy_j)
            times = (found.time_s / measured.time_s, loops.time_s / measured.time_s)
            ratios[model.name] += [tuple(zip(pair, times))] if sequences >= 16 else []
            cells = (model.name, row["Framework"], sizes.name, sequences, f"{measured.energy_j:.0f}", f"{found.energy_j:.0f}")
            figures = (pair[0], times[0], pair[1], times[1])
            print(f"| {' | '.join([*map(str, cells), *(f'{x:.2f}' for x in figures)])} |")
    for name, rows in ratios.items():
        for title, values in zip(("as predicted", "with the floor of loops"), zip(*rows)):
            energy, time = (np.array(x) for x in zip(*values))
            within = f"{np.sum((energy >= 1 / 1.5) & (energy <= 1.5))} of {len(energy)} within a factor of 1.5"
            middle = f"energy {np.median(energy):.2f}, time {np.median(time):.2f}, power {np.median(energy / time):.2f}"
            print(f"{name}, batch 16 to 64, {title}: medians of predicted / measured: {middle}; energy of {within}")


if __name__ == "__main__":
    main(sys.argv[1:])
