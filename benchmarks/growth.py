"""How cost grows: with depth, with the batch of candidates, with cores; memory of a stream; cold starts."""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
from collections.abc import Iterator

import torch
from timing import Row, paired, seconds

import wattlayer as wl
from wattlayer import nas

STREAM = """
import random, resource
import wattlayer as wl
from wattlayer import nas
space, model, rng = nas.once_for_all(), wl.load_model({name!r}), random.Random(0)
total = sum(energy for _, energy in nas.sweep(space, (space.random(rng) for _ in range({count})), model))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""

COLD = {
    "import wattlayer": "import wattlayer",
    "import torch": "import torch",
    "wattlayer --help": "import sys; sys.argv = ['wattlayer', '--help']; from wattlayer.cli import main; main()",
    "load a model": "import wattlayer; wattlayer.load_model('a30')",
    "predict resnet50 by name": "import wattlayer; wattlayer.predict('torchvision:resnet50', hardware='a30').energy_j",
}


def rows(model: wl.EnergyModel, rounds: int) -> Iterator[Row]:
    yield from depth(model, rounds)
    yield from batches(model, rounds)
    yield from cores(model, rounds)
    yield from memory(model)
    yield from cold_start(rounds)


def depth(model: wl.EnergyModel, rounds: int) -> Iterator[Row]:
    """Plain traces and estimates of transformers, per block."""
    depths = (4, 16, 64)
    space = nas.vision_transformer(depths)
    genome = [0] * len(space.choices)
    work, traces = {}, {}
    for i, blocks in enumerate(depths):
        genome[0] = i
        with torch.device("meta"):
            network, x = space.build(genome), torch.empty(1, 3, 224, 224)
        traces[blocks] = wl.trace(network, x)
        work[f"trace {blocks}"] = lambda network=network, x=x: wl.trace(network, x)
        work[f"estimate {blocks}"] = lambda trace=traces[blocks]: wl.estimate(trace, model)
    timed = paired(work, rounds)
    for what in ("trace", "estimate"):
        for blocks in depths[1:]:
            ratio = timed.ratio(f"{what} {blocks}", f"{what} {depths[0]}")
            yield Row(
                "depth", f"{what}, {blocks} blocks", 1e3 * timed.median_s(f"{what} {blocks}"), "ms",
                f"{depths[0]} blocks ({blocks // depths[0]} x fewer)", ratio,
            )  # fmt: skip


def batches(model: wl.EnergyModel, rounds: int) -> Iterator[Row]:
    """Time a candidate in batches of traced candidates."""
    space, rng = nas.once_for_all(), random.Random(0)
    traces = [space.trace(space.random(rng)) for _ in range(1_000)]
    sizes = (1, 10, 100, 1_000)
    timed = paired({str(n): (lambda n=n: wl.estimate_many(traces[:n], model)) for n in sizes}, rounds)
    for n in sizes:
        per_candidate = 1e3 * timed.median_s(str(n)) / n
        yield Row(
            "batch", f"estimate_many, {n:,} candidates", per_candidate, "ms each", "one alone", timed.ratio(str(n), "1") / n
        )


def _fresh(space: nas.Space, genomes: list[nas.Genome], model: wl.EnergyModel) -> float:
    """Build, trace and estimate whole modules: work as a sweep over networks of one's own has it."""
    torch.set_num_threads(1)
    total = 0.0
    for genome in genomes:
        with torch.device("meta"):
            network, x = space.build(genome), torch.empty(1, *space.input_shapes(genome)[0])
        total += wl.estimate(wl.trace(network, x), model).energy_j
    return total


def cores(model: wl.EnergyModel, rounds: int) -> Iterator[Row]:
    """Sweeps over processes through joblib, whose workers are warm; speed-up over one worker process."""
    from joblib import Parallel, delayed, parallel_config

    space, rng = nas.once_for_all(), random.Random(0)
    genomes = [space.random(rng) for _ in range(48)]
    chunks = [genomes[i : i + 3] for i in range(0, len(genomes), 3)]
    taken: dict[int, list[float]] = {1: [], 2: [], 4: []}
    with parallel_config(backend="loky", inner_max_num_threads=1):
        for _ in range(rounds):
            for jobs, times in taken.items():
                # one job would run in this process: two workers of which one has all the work stand for it
                pool = Parallel(n_jobs=max(2, jobs))
                spread = [genomes] if jobs == 1 else chunks
                pool(delayed(_fresh)(space, genomes[:2], model) for _ in range(2 * max(2, jobs)))
                jobs_of = [delayed(_fresh)(space, part, model) for part in spread]
                times.append(seconds(lambda p=pool, work=jobs_of: p(work)))
    for jobs in (2, 4):
        speed_up = statistics.median(a / b for a, b in zip(taken[1], taken[jobs]))
        what, target = f"{len(genomes)} fresh modules on {jobs} processes", "≥ 1.7 on two" if jobs == 2 else ""
        yield Row("cores", what, statistics.median(taken[jobs]), "s", "speed-up over one process", speed_up, target)


def memory(model: wl.EnergyModel) -> Iterator[Row]:
    """Peak resident memory of a process that streams candidates."""
    peak = {count: _run(STREAM.format(name=model.name, count=count)) for count in (1_000, 100_000)}
    for count, megabytes in peak.items():
        yield Row(
            "memory", f"{count:,} candidates streamed", megabytes / 1024, "MiB peak", "1,000 candidates", megabytes / peak[1_000],
            "0.9 to 1.1",
        )  # fmt: skip


def _run(code: str) -> int:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def cold_start(rounds: int) -> Iterator[Row]:
    """Fresh processes, against one that imports torch alone."""
    timed = paired({name: (lambda code=code: _start(code)) for name, code in COLD.items()}, max(3, rounds // 2))
    for name in COLD:
        yield Row("cold start", name, timed.median_s(name), "s", "import torch", timed.ratio(name, "import torch"))


def _start(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
