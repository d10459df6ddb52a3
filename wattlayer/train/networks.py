"""Measured networks with their traces, which judging and fitting launches need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

from ..dataset import Measurement
from ..dataset.labels import networks_of
from ..errors import InputError
from ..predict import load_measured, trace_network

if TYPE_CHECKING:
    from ..trace import Trace

Progress = Callable[[str], None]
"""Is told what is being done, in a few words."""


class Tracer:
    """Traces each measured network once, on the inputs that it was measured on; Python files that rows name are run but
    where `run_code` is False."""

    def __init__(self, progress: Progress = lambda text: None, run_code: bool = True) -> None:
        self._progress, self._run_code = progress, run_code
        self._traces: dict[object, Trace | InputError] = {}

    def __call__(self, m: Measurement) -> Trace:
        """Return the trace of the pass that `m` measured; raise InputError where there is none of its name and its inputs."""
        assert m.network is not None
        slow = m.mha_fastpath is False
        key = (m.network, m.input_shapes, m.dtype, m.tf32, slow)
        if key not in self._traces:
            from ..trace.hooks import unfused_attention

            self._progress(f"tracing {m.network}")
            try:
                network = load_measured(m.network, m.input_shapes, m.dtype, self._run_code)
                with unfused_attention() if slow else nullcontext():
                    self._traces[key] = trace_network(network, m.tf32)
            except InputError as error:
                self._traces[key] = error
        found = self._traces[key]
        if isinstance(found, InputError):
            raise found
        return found


def traced_networks(
    measurements: Sequence[Measurement], progress: Progress = lambda text: None, tracer: Tracer | None = None
) -> list[tuple[Measurement, Trace]]:
    """Return the measured networks of `measurements`, each with the trace of the call that was measured."""
    trace_of = tracer or Tracer(progress)
    return [(m, trace_of(m)) for m in networks_of(measurements)]
