"""A sweep over worker processes that loses one mid-way still returns every candidate exactly once."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import joblib
import pytest

import wattlayer as wl
from wattlayer import nas

distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def cluster():
    with (
        distributed.LocalCluster(2, threads_per_worker=1, processes=True, dashboard_address=None, scheduler_port=0) as local,
        distributed.Client(local) as client,
    ):
        yield client


def workers(client) -> set[int]:
    return set(client.run(os.getpid).values())


def killing(genomes: list[nas.Genome], after: int, victim: int, marker: Path) -> Iterator[nas.Genome]:
    """Yield genomes; once `after` are handed out, kill one worker the hard way."""
    for i, genome in enumerate(genomes):
        if i == after:
            os.kill(victim, signal.SIGKILL)
            marker.touch()
        yield genome


def test_a_lost_worker_loses_no_candidate(cluster, tmp_path):
    space, model, rng = nas.once_for_all((64, 96), classes=10), wl.load_model("a30"), random.Random(0)
    genomes = [space.random(rng) for _ in range(240)]
    before, marker = workers(cluster), tmp_path / "killed"
    with joblib.parallel_config(backend="dask"):
        source = killing(genomes, 120, min(before), marker)
        found = list(nas.sweep(space, source, model, n_jobs=-1, chunk=8))
    assert marker.exists()
    cluster.wait_for_workers(2)
    assert min(before) not in workers(cluster)
    assert [genome for genome, _ in found] == genomes
    table = nas.LookupTable.of(space, model)
    assert [energy for _, energy in found] == pytest.approx(table.energy_j(genomes).tolist(), rel=1e-9)


def test_estimates_of_a_batch_come_from_the_cluster(cluster):
    space, model, rng = nas.nas_bench_201(cells=1), wl.load_model("a30"), random.Random(0)
    traces = [space.trace(space.random(rng)) for _ in range(10)]
    with joblib.parallel_config(backend="dask"):
        spread = wl.estimate_many(traces, model, n_jobs=-1)
    assert [x.trace for x in spread] == traces
    assert [x.energy_j for x in spread] == pytest.approx([x.energy_j for x in wl.estimate_many(traces, model)], rel=1e-9)
