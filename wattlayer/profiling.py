"""`profile`: a run of a module beside its prediction; measured where there is a meter, predicted only where there is none.

What is measured is everything that the device does between entering and leaving the block: energy is gross, idle and pauses
between calls included, so warm up before the block and run nothing else in it. A counter that publishes now and then is
stale by up to one refresh at both ends; `Measured.interval_frac` is that bound. Campaigns measure far better (`measure`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .errors import InputError, MeterError
from .estimate import Estimate
from .meter import REFRESH_S, Clock, Instrument, Meter, SystemClock
from .model import EnergyModel
from .model.folders import shipped_models
from .predict import DEFAULT_HARDWARE, predict

if TYPE_CHECKING:
    import pandas
    from torch import nn
    from torch.profiler import profile as TorchProfile


@dataclass(frozen=True)
class Measured:
    """What a meter saw of the calls in the block; energy and time are of one call."""

    meter: str
    calls: int
    energy_j: float
    time_s: float
    interval_frac: float
    """Bound of the error by a stale counter, relative to `energy_j`; the meter's own scale is not in it."""

    @property
    def power_w(self) -> float:
        """Mean power over the block."""
        return self.energy_j / self.time_s


class Profile:
    """The context manager behind `profile`; `predicted` is there at once, `measured` and `note` after the block."""

    def __init__(self, module: nn.Module, predicted: Estimate, meter: Meter | None, note: str, clock: Clock) -> None:
        self.predicted, self.measured, self.note = predicted, None, note
        self._module, self._meter, self._clock, self._said = module, meter, clock, note
        self._calls = self._unlike = 0
        self._shapes = [x.shape for x in predicted.trace.inputs]

    measured: Measured | None

    def __enter__(self) -> Profile:
        self._calls = self._unlike = 0
        self.measured, self.note = None, self._said
        _synchronise(self._module)
        self._start_j = self._meter.energy_j() if self._meter else 0.0
        self._start_s = self._clock.now()
        self._hook = self._module.register_forward_hook(self._count, with_kwargs=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        self._hook.remove()
        if kind is not None:
            return
        _synchronise(self._module)
        if not self._calls:
            self.note = f"{type(self._module).__name__} was not called in the block: nothing measured. {self.note}".strip()
        elif self._meter:
            self.measured = self._read(self._meter)
        if self._unlike:
            self.note += f" {self._unlike} of {self._calls} calls had other shapes than the prediction."

    def _count(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], __: Any) -> None:
        from torch import Tensor
        from torch.utils._pytree import tree_leaves

        shapes = [tuple(x.shape) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        self._calls += 1
        self._unlike += shapes != self._shapes

    def _read(self, meter: Meter) -> Measured:
        energy_j = meter.energy_j() - self._start_j
        window_s = self._clock.now() - self._start_s
        stale_s = getattr(meter, "refresh_s", REFRESH_S)
        if energy_j <= 0 or window_s < 2 * stale_s:
            raise MeterError(
                f"{self._calls} calls in {window_s:.3g} s are too short for {meter.name}, which steps about every {stale_s:g} s: "
                f"run more calls in the block"
            )
        return Measured(meter.name, self._calls, energy_j / self._calls, window_s / self._calls, stale_s / window_s)

    def to_frame(self, depth: int = 1) -> pandas.DataFrame:
        """Return predicted time_s and energy_j by module and in total, beside what was measured (NaN where nothing was).

        A meter sees the whole device, so only the total has measured columns; `ProfilerHook` splits time by operator.
        """
        import pandas

        frame = self.predicted.by_module(depth)[["calls", "time_s", "energy_j"]]
        total = [len(self.predicted.trace.layers), self.predicted.time_s, self.predicted.energy_j]
        frame = pandas.concat([frame, pandas.DataFrame([total], index=["total"], columns=frame.columns)])
        frame.columns = ["calls", "predicted_time_s", "predicted_j"]
        frame[["measured_time_s", "measured_j"]] = float("nan")
        if self.measured:
            frame.loc["total", ["measured_time_s", "measured_j"]] = self.measured.time_s, self.measured.energy_j
        return frame

    def __str__(self) -> str:
        """The ratio where there is one, what to mind of the prediction, the table and the note."""
        table = self.to_frame().rename(index={"": "(top level)"}).to_string(float_format="{:.4g}".format, na_rep="–")
        low, high = self.predicted.interval_j
        head = f"{self.predicted.trace.network}: predicted {self.predicted.energy_j:.4g} J ({low:.4g} to {high:.4g} J)"
        if self.measured:
            m = self.measured
            head += (
                f", measured {m.energy_j:.4g} J a call (± {m.interval_frac:.1%}) by {m.meter} over {m.calls} calls; "
                f"predicted / measured = {self.predicted.energy_j / m.energy_j:.3g}"
            )
        else:
            head += "; not measured"
        told = "\n".join((head, *self.predicted.minds))
        return f"{told}\n\n{table}\n{self.note}".rstrip()


def profile(
    module: nn.Module,
    inputs: Any = (),
    *,
    kwargs: Mapping[str, Any] | None = None,
    hardware: str | Path | EnergyModel | None = None,
    meter: str | Meter | Instrument | None = None,
    assumed_power_w: float | None = None,
    mode: str = "eager",
    tf32: str = "conv",
    clock: Clock | None = None,
) -> Profile:
    """Predict `module(*inputs, **kwargs)` and, in a `with` block that calls it, measure it too; a single input needs no tuple.

    `hardware` is what is predicted for (default: the device that the module is on where it is known, else the A30, with a
    note). `meter` is a meter, the name of one ("nvml", "rapl", "zeus", "assumed-power" with its `assumed_power_w`), or None
    for the device's own; where there is none, the note says so and nothing is measured. Raises MeterError for a meter that
    was asked for and is not there, and for calls too few to be measured.
    """
    found, note = (hardware, "") if hardware is not None else _known_hardware(module)
    opened, reason = _open(module, meter, assumed_power_w)
    given = inputs if isinstance(inputs, tuple | list) else (inputs,)
    predicted = predict(module, *given, hardware=found, mode=mode, tf32=tf32, kwargs=kwargs)
    return Profile(module, predicted, opened, f"{note} {reason}".strip(), clock or SystemClock())


def _device(module: nn.Module) -> Any:
    import torch

    return next((x.device for x in [*module.parameters(), *module.buffers()]), torch.device("cpu"))


def _synchronise(module: nn.Module) -> None:
    """Let the device finish what was queued: a counter read before would miss it."""
    device = _device(module)
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


def _known_hardware(module: nn.Module) -> tuple[str, str]:
    """Return the name of a shipped model of the device at hand; else the default's, with a note."""
    from .hardware import registry_name
    from .hardware.detect import board_name

    board = board_name(_device(module))
    name = registry_name(board)
    if name in shipped_models():
        return str(name), ""
    return DEFAULT_HARDWARE, f"No model of {board}: predicted for {DEFAULT_HARDWARE}, another device than the one at hand."


def _open(module: nn.Module, meter: str | Meter | Instrument | None, assumed_power_w: float | None) -> tuple[Meter | None, str]:
    """Return the meter to read and, where there is none and none was asked for, why."""
    from .measure.device import identity
    from .meter.choose import choose, openers

    if isinstance(meter, Instrument):
        return _counter(meter), ""
    if meter is not None and not isinstance(meter, str):
        return meter, ""
    if assumed_power_w is not None and meter != "assumed-power":
        raise InputError(f"assumed_power_w {assumed_power_w} goes with meter='assumed-power'")
    device = _device(module)
    try:
        known = openers(*identity(device), assumed_power_w, device.index if device.type == "cuda" else None)
        return _counter(choose(meter or "auto", device.type, known)), ""
    except MeterError as error:
        if meter is not None:
            raise
        return None, f"Predicted only: {error}"


def _counter(instrument: Instrument) -> Meter:
    """Return the instrument's counter; MeterError where it only has powers, which must be read throughout to make an energy."""
    meter = instrument.meters[0]
    if getattr(meter, "adds_up_powers", False):
        raise MeterError(f"{meter.name} is a power and no energy counter: measure with a campaign, which reads it all the time")
    return meter


class ProfilerHook:
    """For `torch.profiler.profile(on_trace_ready=ProfilerHook(estimate))`: predicted joules beside profiled times.

    `frame`, after the profiler has finished, has one row a kind of operator: calls in one predicted pass, calls seen,
    predicted time_s and energy_j of a pass, and the profiled time_s of all calls seen (on the device where it was
    profiled, else on the CPU; nested calls included).
    """

    def __init__(self, estimate: Estimate) -> None:
        self.estimate = estimate
        self.frame: pandas.DataFrame | None = None

    def __call__(self, profiler: TorchProfile) -> None:
        self.frame = joules_by_operator(profiler, self.estimate)


def joules_by_operator(profiler: TorchProfile, estimate: Estimate) -> pandas.DataFrame:
    """Return the table of `ProfilerHook` for a profiler that has finished."""
    frame = estimate.by_kind().rename(columns={"time_s": "predicted_time_s", "energy_j": "predicted_j"})
    seen = {kind: [0, 0.0] for kind in frame.index}
    for event in profiler.key_averages():
        name = event.key.removeprefix("aten::")
        kind = name if name in seen else name.removesuffix("_")
        if kind in seen:
            seen[kind][0] += event.count
            seen[kind][1] += (getattr(event, "device_time_total", 0.0) or event.cpu_time_total) * 1e-6
    frame["calls_seen"] = [seen[kind][0] for kind in frame.index]
    frame["profiled_time_s"] = [seen[kind][1] for kind in frame.index]
    return frame
