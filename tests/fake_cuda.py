"""A stand-in for the parts of `torch.cuda` that launching uses: one stream on a virtual device timeline.

It checks the order of calls, not CUDA: a kernel is a step that says how long it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class FakeCuda:
    """Time passes on the host with `host_s`; the device is done with what was launched at `free_s`."""

    def __init__(self) -> None:
        self.host_s = 0.0
        self.free_s = 0.0
        self.idle_s = 0.0
        self.capturing: list[Callable[[], Any]] | None = None
        self.events_made = 0
        self.launch_s = 5e-6

    def kernel(self, seconds: float) -> None:
        """Launch work; within a capture it is recorded and takes no time."""
        if self.capturing is not None:
            self.capturing.append(lambda: self._execute(seconds))
        else:
            self.host_s += self.launch_s
            self._execute(seconds)

    def _execute(self, seconds: float) -> None:
        self.idle_s += max(0.0, self.host_s - self.free_s)
        self.free_s = max(self.free_s, self.host_s) + seconds

    def synchronize(self, *_: Any) -> None:
        self.host_s = max(self.host_s, self.free_s)


def install(monkeypatch: Any, cuda: FakeCuda) -> None:
    """Put `cuda` in the place of `torch.cuda`'s streams, events and graphs."""
    import torch

    class Stream:
        synchronize = staticmethod(cuda.synchronize)

        def wait_stream(self, other: Any) -> None:
            pass

    class Event:
        def __init__(self, enable_timing: bool = False) -> None:
            assert enable_timing
            cuda.events_made += 1
            self.at_s = 0.0

        def record(self, stream: Any = None) -> None:
            self.at_s = max(cuda.free_s, cuda.host_s)

        def query(self) -> bool:
            return self.at_s <= cuda.host_s

        def synchronize(self) -> None:
            cuda.host_s = max(cuda.host_s, self.at_s)

        def elapsed_time(self, other: Event) -> float:
            assert self.query() and other.query(), "an event was read before it had happened"
            return (other.at_s - self.at_s) * 1e3

    class Graph:
        def __init__(self) -> None:
            self.kernels: list[Callable[[], Any]] | None = None

        def replay(self) -> None:
            assert self.kernels is not None, "a graph was replayed before its capture or after its reset"
            cuda.host_s += cuda.launch_s
            for kernel in self.kernels:
                kernel()

        def reset(self) -> None:
            self.kernels = None

    @contextmanager
    def graph(target: Graph, stream: Any = None) -> Iterator[None]:
        assert isinstance(stream, Stream), "the capture must run on the stream that was warmed up"
        cuda.synchronize()
        cuda.capturing = []
        yield
        target.kernels, cuda.capturing = cuda.capturing, None

    @contextmanager
    def on_stream(stream: Any) -> Iterator[None]:
        yield

    for name, value in {"Stream": Stream, "Event": Event, "CUDAGraph": Graph, "graph": graph, "stream": on_stream}.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "synchronize", cuda.synchronize)
