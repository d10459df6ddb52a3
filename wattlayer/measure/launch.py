"""Keeping a device busy with one call after another: CUDA graphs, eager launches, and plain loops on a CPU.

CUDA (docs: torch.cuda.CUDAGraph, "CUDA Graphs" in the CUDA semantics notes): calls are warmed up and captured on one side
stream, replays are queued ahead of the host, and events around each tell when it ran.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from random import Random
from time import perf_counter
from typing import Any

import torch

from .rig import Facts, Progress

GRAPH_S = 0.012
"""Device time of one replay aimed at: long enough to queue ahead, short enough to stop quickly."""
LONGEST_GRAPH_S = 0.06
"""The longest replay, where going round all copies of the weights takes more than `GRAPH_S`."""
MOST_CALLS = 2000
"""Calls of one graph; each is one node or a few."""
QUEUED_S = 0.04
"""Work queued ahead of the device, so that a slow meter reading leaves no gap."""
MOST_QUEUED = 64
EAGER_S = 0.01
"""Device time of one round of eager calls; between two rounds the host reads the meter and the device may pause."""
HOST_CHUNK_S = 0.005
WARM_UP_CALLS = 3
"""Calls before the first that is timed: libraries choose kernels and set aside memory in them."""
PILOT_S, MOST_PILOT_CALLS = 2e-3, 50
"""Length of the graph that tells how long a call takes: long beside the launch of the graph itself, short beside a window."""

Step = Callable[[int], Any]
"""Runs one call on the copy of this number."""


@dataclass(frozen=True)
class Launch:
    """Something that hands the device a number of calls at once."""

    run: Callable[[], None]
    calls: int
    time_s: float
    """About how long the device takes for all of them."""
    close: Callable[[], None] = lambda: None
    step: Step | None = None
    """Kept because a graph knows its operands by address only: without an owner their memory would be given away."""


class CudaWorkload:
    """A launch repeated on a stream, a few ahead of the device, each between two events.

    With a `filler`, one to three launches of it follow each main launch: the lengths vary, so that the loop has no period
    that a part-time sensor could lock on to. With `pauses`, the time between launches counts as filler too: in eager mode
    the host that launches also reads the meter, which is none of the network's time.
    """

    def __init__(
        self, main: Launch, stream: torch.cuda.Stream, facts: Facts, filler: Launch | None = None, *, pauses: bool = False
    ) -> None:
        self.facts = facts
        self._main, self._filler, self._stream, self._pauses = main, filler, stream, pauses
        self._random = Random(0)
        filler_s = 2 * filler.time_s if filler else 0.0
        self._depth = min(MOST_QUEUED, max(2, ceil(QUEUED_S / max(main.time_s + filler_s, 1e-6))))
        self._queue: deque[tuple[torch.cuda.Event, torch.cuda.Event, torch.cuda.Event]] = deque()
        self._spare: list[torch.cuda.Event] = []
        self._origin = torch.cuda.Event(enable_timing=True)
        self._progress = Progress()

    def start(self) -> None:
        self._queue.clear()
        self._progress = Progress()
        self._origin.record(self._stream)
        self.keep_busy()

    def keep_busy(self) -> None:
        self._collect()
        while len(self._queue) < self._depth:
            self._launch()

    def progress(self) -> Progress:
        self._collect()
        return self._progress

    def stop(self) -> None:
        self._stream.synchronize()
        self._collect()

    def burst(self, seconds: float) -> None:
        self._collect()
        for _ in range(max(1, round(seconds / self._main.time_s))):
            self._launch()

    def close(self) -> None:
        self._stream.synchronize()
        self._queue.clear()
        self._main.close()

    def _launch(self) -> None:
        begin, middle, end = (self._event() for _ in range(3))
        with torch.cuda.stream(self._stream), torch.inference_mode():
            begin.record()
            self._main.run()
            middle.record()
            if self._filler:
                for _ in range(self._random.randint(1, 3)):
                    self._filler.run()
            end.record()
        self._queue.append((begin, middle, end))

    def _event(self) -> torch.cuda.Event:
        return self._spare.pop() if self._spare else torch.cuda.Event(enable_timing=True)

    def _collect(self) -> None:
        """Take finished launches off the queue and add up what they took."""
        while self._queue and self._queue[0][2].query():
            begin, middle, end = self._queue.popleft()
            done = self._progress
            time_s = self._origin.elapsed_time(end) * 1e-3
            busy_s = done.busy_s + begin.elapsed_time(end) * 1e-3
            filler_s = done.filler_s + (middle.elapsed_time(end) * 1e-3 if self._filler else 0.0)
            if self._pauses and not self._filler:
                filler_s = time_s - busy_s
            self._progress = Progress(done.calls + self._main.calls, time_s, busy_s, filler_s)
            self._spare += (begin, middle, end)


def graph_launch(step: Step, copies: int, stream: torch.cuda.Stream) -> tuple[Launch, int]:
    """Capture calls of `step`, unrolled, as one CUDA graph; return it and how many copies of the weights it touches.

    The graph holds about `GRAPH_S` of calls, but at least one for each copy (weights are cold only if the captured
    graph itself goes round all of them), as far as `LONGEST_GRAPH_S` and `MOST_CALLS` allow.
    """
    _warm_up(step, stream)
    call_s = _timed(lambda: _first_calls(step), stream) / WARM_UP_CALLS
    # issuing the kernels from the host may take several times as long as they do, those of a whole network above all, and too
    # long a guess leaves too little queued: time a short graph
    pilot = min(MOST_PILOT_CALLS, max(1, round(PILOT_S / call_s)))
    graph = capture(step, pilot, stream)
    call_s = _replay_s(graph, stream) / pilot
    graph.reset()
    calls = calls_per_graph(call_s, copies)
    graph = capture(step, calls, stream)
    return Launch(graph.replay, calls, calls * call_s, graph.reset, step), min(calls, copies)


def calls_per_graph(call_s: float, copies: int) -> int:
    """Return how many calls one graph unrolls: whole rounds over the copies where they fit."""
    most = max(1, min(MOST_CALLS, int(LONGEST_GRAPH_S / call_s)))
    wanted = max(1, ceil(GRAPH_S / call_s), copies)
    return min(most, ceil(wanted / copies) * copies if copies <= most else wanted)


def capture(step: Step, calls: int, stream: torch.cuda.Stream) -> torch.cuda.CUDAGraph:
    """Return a CUDA graph of `calls` calls, on the copies 0, 1, 2, … in turn."""
    graph = torch.cuda.CUDAGraph()
    with torch.inference_mode(), torch.cuda.graph(graph, stream=stream):
        for i in range(calls):
            step(i)
    return graph


def eager_launch(step: Step, stream: torch.cuda.Stream) -> Launch:
    """Return launches of `step` one by one, as PyTorch does without graphs."""
    _warm_up(step, stream)
    call_s = _timed(lambda: _first_calls(step), stream) / WARM_UP_CALLS
    calls = max(1, round(EAGER_S / call_s))
    turn = iter(range(2**62))

    def run() -> None:
        for _ in range(calls):
            step(next(turn))

    return Launch(run, calls, calls * call_s)


def _warm_up(step: Step, stream: torch.cuda.Stream) -> None:
    """Run a few calls on the stream that captures, so that libraries have their workspaces before and outside of it."""
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), torch.inference_mode():
        _first_calls(step)
    torch.cuda.current_stream().wait_stream(stream)
    stream.synchronize()


def _first_calls(step: Step) -> None:
    for i in range(WARM_UP_CALLS):
        step(i)


def _replay_s(graph: torch.cuda.CUDAGraph, stream: torch.cuda.Stream) -> float:
    """Device seconds of one replay that is queued behind another, as the host's part of a launch does not count."""

    def twice() -> None:
        graph.replay()
        graph.replay()

    with torch.cuda.stream(stream), torch.inference_mode():
        graph.replay()
    return _timed(twice, stream) / 2


def _timed(run: Callable[[], Any], stream: torch.cuda.Stream) -> float:
    """Device seconds of `run`, at least a tenth of a microsecond."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    with torch.cuda.stream(stream), torch.inference_mode():
        begin.record()
        run()
        end.record()
    end.synchronize()
    return max(begin.elapsed_time(end) * 1e-3, 1e-7)


class HostWorkload:
    """Calls one after another on the processor that also reads the meter."""

    def __init__(self, step: Step, facts: Facts, filler: Step | None = None) -> None:
        self.facts = facts
        self._step, self._filler = step, filler
        self._calls = 0
        self._busy_s = self._filler_s = 0.0

    def start(self) -> None:
        self._calls, self._busy_s, self._filler_s = 0, 0.0, 0.0

    def keep_busy(self) -> None:
        self._run(HOST_CHUNK_S)

    def progress(self) -> Progress:
        return Progress(self._calls, self._busy_s + self._filler_s, self._busy_s + self._filler_s, self._filler_s)

    def stop(self) -> None:
        pass

    def burst(self, seconds: float) -> None:
        self._run(seconds)

    def close(self) -> None:
        pass

    def _run(self, seconds: float) -> None:
        began_s = now_s = perf_counter()
        with torch.inference_mode():
            while now_s < began_s + seconds:
                self._step(self._calls)
                self._calls += 1
                now_s = perf_counter()
            self._busy_s += now_s - began_s
            if self._filler:
                self._filler(0)
                self._filler_s += perf_counter() - now_s
