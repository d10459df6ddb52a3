"""What a language model's request costs: one pass over the prompt, then one step a token on a growing cache, each one priced."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, check_whole
from ..estimate import (
    SCHEMA,
    VERSION,
    Estimate,
    estimate,
    launch_bound,
    minds_of,
    told_of_device,
    told_of_launches,
    torch_version,
)
from ..features.columns import Array
from ..model import EnergyModel, load_model
from ..model.intervals import LEVEL, total_half_width
from ..model.launches import wait_s
from ..model.metadata import Metadata
from ..predict import DEFAULT_HARDWARE
from ..trace import Trace
from ..trace.rewrite import computes_in
from .decoding import Passes, segments

if TYPE_CHECKING:
    from ..report.accounting import Assumptions

MODES = ("graph", "eager")


@dataclass(frozen=True)
class Call:
    """One operator call over the steps of a segment; its error is taken to be one and the same in all of them."""

    kind: str
    energy_j: float
    covered_j: float
    extrapolated_j: float
    half_width: float
    """Log half-width of its interval, the mean over the steps by energy."""
    launch_bound_j: float = 0.0
    """Of the steps in which its launch, as it was measured, takes longer than its work (`estimate.launch_bound`)."""


@dataclass(frozen=True, eq=False)
class Generation:
    """One batch of requests: every sequence takes `prompt_tokens` and `new_tokens` follow, one step each.

    The token that the prompt's own logits give is the input of the first step. Energies in joules are of the whole batch
    unless a name says otherwise; arrays are [new_tokens] in the order of steps.
    """

    prefill: Estimate
    new_tokens: int
    context_tokens: NDArray[np.int64]
    """Tokens in the cache when a step begins."""
    step_time_s: Array
    step_energy_j: Array
    calls: tuple[Call, ...]
    """What the steps are made of."""
    gap_energy_j: float = 0.0
    """What the device burns while it waits for the host in eager mode, over all steps; part of `step_energy_j`."""
    gap_interval_j: tuple[float, float] = (0.0, 0.0)
    """Interval of `gap_energy_j`: the host's time is off by the same share in all steps."""
    last_step: Trace | None = None
    """The last step, on the fullest cache; None where no token is written."""

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What was taken for granted of the prompt's pass and of the steps, among them that weights and cache fit."""
        traces = [x for x in (self.trace, self.last_step) if x is not None]
        told = dict.fromkeys(text for x in traces for text in x.assumptions)
        if self.prompt_tokens == 1 and self.new_tokens:
            told["the prompt is a single token"] = None
        return (*told, *told_of_device(traces, self.model.hardware), *told_of_launches(self.launch_bound_frac))

    @property
    def minds(self) -> tuple[str, ...]:
        """What a reader must know before believing the figures, in sentences, as `Estimate.minds`."""
        return minds_of(self)

    @property
    def launch_gaps(self) -> str:
        """What the gaps in the launch queue of all passes cost in eager mode, and what that rests on; empty in graph mode."""
        from ..report.quantities import small

        gap_j = self.prefill.gap_energy_j + self.gap_energy_j
        told = f"gaps in the launch queue of all passes: {small(gap_j, 'J')} ({self.model.launching})"
        return told if self.prefill.mode == "eager" else ""

    @property
    def trace(self) -> Trace:
        """The pass over the prompt."""
        return self.prefill.trace

    @property
    def model(self) -> Metadata:
        """What is known of the model that priced it."""
        return self.prefill.model

    @property
    def batch(self) -> int:
        """Sequences that are served together."""
        return self.prefill.trace.batch

    @property
    def prompt_tokens(self) -> int:
        """Tokens of each sequence's prompt."""
        return int(self.prefill.trace.inputs[0].shape[1])

    @property
    def decode_energy_j(self) -> float:
        """Energy of all steps of the whole batch."""
        return float(self.step_energy_j.sum())

    @property
    def decode_interval_j(self) -> tuple[float, float]:
        """Interval of `decode_energy_j`: distinct calls share the model's correlation of errors, as in an Estimate."""
        energy_j = np.array([x.energy_j for x in self.calls])
        width = total_half_width(energy_j, np.array([x.half_width for x in self.calls]), self.prefill.model.conformal.correlation)
        launches = self.prefill.model.launches_or_assumed
        return launches.interval_j(float(energy_j.sum()), width, self.gap_energy_j, self.gap_interval_j)

    @property
    def decode_kinds_j(self) -> dict[str, float]:
        """Energy of all steps by kind of layer, the costliest first."""
        found: Counter[str] = Counter()
        for call in self.calls:
            found[call.kind] += call.energy_j  # type: ignore[assignment]  # counts of joules
        return dict(found.most_common())

    def uncovered_kinds(self) -> list[str]:
        """Return the kinds that were never measured on this hardware, in the prompt's pass or in steps, the costliest first."""
        costs: dict[str, float] = {}
        prompt = zip(self.trace.layers, self.prefill.layer_energy_j, self.prefill.covered)
        uncovered = [(x.kind, float(energy_j)) for x, energy_j, covered in prompt if not covered]
        # sums of many steps: what is left of them by rounding is no energy
        steps = [(x.kind, x.energy_j - x.covered_j) for x in self.calls if x.covered_j < (1 - 1e-9) * x.energy_j]
        for kind, energy_j in (*uncovered, *steps):
            costs[kind] = costs.get(kind, 0.0) + energy_j
        return sorted(costs, key=lambda kind: -costs[kind])

    @property
    def energy_j(self) -> float:
        """Energy of prompt and steps of the whole batch."""
        return self.prefill.energy_j + self.decode_energy_j

    @property
    def interval_j(self) -> tuple[float, float]:
        """Interval of `energy_j`; prompt and steps are taken to err together, which is the wider assumption."""
        return (
            self.prefill.interval_j[0] + self.decode_interval_j[0],
            self.prefill.interval_j[1] + self.decode_interval_j[1],
        )

    @property
    def time_s(self) -> float:
        """Time of prompt and steps."""
        return self.prefill.time_s + float(self.step_time_s.sum())

    @property
    def energy_per_request_j(self) -> float:
        """Energy of one sequence."""
        return self.energy_j / self.batch

    @property
    def energy_per_token_j(self) -> float:
        """Energy of a request by the tokens that it writes, its prompt included; of the prompt alone by the prompt's tokens."""
        return self.energy_per_request_j / (self.new_tokens or self.prompt_tokens)

    @property
    def energy_per_token_interval_j(self) -> tuple[float, float]:
        """The interval of `energy_per_token_j`."""
        low, high = (x / self.energy_j * self.energy_per_token_j for x in self.interval_j)
        return low, high

    @property
    def tokens_per_j(self) -> float:
        """Tokens written (of the prompt alone: read) for a joule."""
        return 1.0 / self.energy_per_token_j

    @property
    def tokens_per_s(self) -> float:
        """Tokens written a second while decoding, by the whole batch; 0.0 where none is."""
        return self.batch * self.new_tokens / float(self.step_time_s.sum()) if self.new_tokens else 0.0

    @property
    def covered_frac(self) -> float:
        """Share of the energy in layers whose kind was measured on this hardware."""
        return self._share(self.prefill.covered_frac, sum(x.covered_j for x in self.calls))

    @property
    def extrapolated_frac(self) -> float:
        """Share of the energy in layers far outside what was measured."""
        return self._share(self.prefill.extrapolated_frac, sum(x.extrapolated_j for x in self.calls))

    @property
    def launch_bound_frac(self) -> float:
        """Share of the energy in layers whose launch, as it was measured, takes longer than their work; 0 in eager mode
        (`estimate.launch_bound`)."""
        return self._share(self.prefill.launch_bound_frac, sum(x.launch_bound_j for x in self.calls))

    def _share(self, of_prompt: float, of_steps_j: float) -> float:
        """Of the energy in layers, launch gaps left out, the share that `of_prompt` of the prompt's and `of_steps_j` are."""
        prompt_j = self.prefill.energy_j - self.prefill.gap_energy_j
        return (of_prompt * prompt_j + of_steps_j) / (prompt_j + sum(x.energy_j for x in self.calls))

    def to_json(self) -> dict[str, Any]:
        """Return the answer as JSON types; `steps` has one entry a step, energies of the whole batch."""
        model, trace = self.model, self.trace
        (low_j, high_j), (token_low_j, token_high_j) = self.interval_j, self.energy_per_token_interval_j
        steps = zip(self.context_tokens, self.step_time_s, self.step_energy_j)
        return {
            "schema": SCHEMA, "wattlayer": VERSION, "torch": torch_version(), "network": trace.network,
            "hardware": model.hardware, "dtype": trace.dtype, "tf32": trace.tf32, "batch": self.batch, "mode": self.prefill.mode,
            "basis": model.basis, "assumptions": list(self.assumptions), "model": self.prefill.to_json()["model"],
            "generation": {"prompt_tokens": self.prompt_tokens, "new_tokens": self.new_tokens,
                           "energy_per_request_j": self.energy_per_request_j, "energy_per_request_low_j": low_j / self.batch,
                           "energy_per_request_high_j": high_j / self.batch, "energy_per_token_j": self.energy_per_token_j,
                           "energy_per_token_low_j": token_low_j, "energy_per_token_high_j": token_high_j,
                           "tokens_per_j": self.tokens_per_j, "tokens_per_s": self.tokens_per_s},
            "total": {"energy_j": self.energy_j, "energy_low_j": low_j, "energy_high_j": high_j, "interval_frac": LEVEL,
                      "time_s": self.time_s, "power_w": self.energy_j / self.time_s, "covered_frac": self.covered_frac,
                      "extrapolated_frac": self.extrapolated_frac, "launch_bound_frac": self.launch_bound_frac,
                      "gap_energy_j": self.prefill.gap_energy_j + self.gap_energy_j, "uncovered_kinds": self.uncovered_kinds()},
            "prefill": self.prefill.total,
            "decode": {"energy_j": self.decode_energy_j, "energy_low_j": self.decode_interval_j[0],
                       "energy_high_j": self.decode_interval_j[1], "time_s": float(self.step_time_s.sum()),
                       "gap_energy_j": self.gap_energy_j, "kinds": self.decode_kinds_j},
            "steps": [{"context_tokens": int(c), "time_s": float(t), "energy_j": float(e)} for c, t, e in steps],
        }  # fmt: skip

    def to_html(self, path: str | Path | None = None, assumptions: Assumptions | None = None) -> str:
        """Return the report, one HTML page that works offline, and write it to `path`, if any; InputError where it cannot."""
        from ..report.html import estimate_page

        return estimate_page(self, assumptions, path)

    def __repr__(self) -> str:
        return (f"<Generation {self.prefill.trace.network} on {self.prefill.model.hardware}: {self.prompt_tokens} + "
                f"{self.new_tokens} tokens, {self.energy_per_request_j:.4g} J a request>")  # fmt: skip

    def __str__(self) -> str:
        low, high = (x / self.batch for x in self.interval_j)
        least, most = self.energy_per_token_interval_j
        token = "written, prompt included" if self.new_tokens else "of the prompt"
        head = (
            f"{self.trace.network} on {self.model.hardware}, {self.trace.dtype}, batch {self.batch}, {self.prompt_tokens} + "
            f"{self.new_tokens} tokens, {self.prefill.mode} mode: {self.energy_per_request_j:.4g} J a request ({low:.4g} to "
            f"{high:.4g} J at {LEVEL:.0%}), {self.energy_per_token_j:.4g} J ({least:.4g} to {most:.4g} J) a token {token}"
        )
        return "\n".join((head, *self.minds))


def predict_generation(
    network: str | Path,
    prefill: int = 1,
    decode: int = 0,
    *,
    batch: int = 1,
    hardware: str | Path | EnergyModel = DEFAULT_HARDWARE,
    dtype: str = "float32",
    tf32: str = "conv",
    mode: str = "graph",
    strict: bool = False,
) -> Generation:
    """Predict what `batch` requests of `prefill` prompt tokens and `decode` written ones cost on `hardware`.

    `network` is a decoder of Hugging Face transformers, named as on the command line (`hf:…`). Keys and values are cached as
    transformers' own dynamic cache does; only the last position's logits are computed. Raises InputError for a network
    without a cache, for more tokens than it has positions and for sizes below 1 (`decode`: 0), and UncoveredKindError under
    `strict`.
    """
    if mode not in MODES:
        raise InputError(f"mode {mode!r} is not one of {', '.join(MODES)}, which generation is priced in")
    for name, value, least in (("prefill", prefill, 1), ("decode", decode, 0), ("batch", batch, 1)):
        check_whole(name, value, least)
    if not isinstance(network, str | Path):
        raise InputError(f"{type(network).__name__} is no language model's name: give one like hf:gpt2 (`hf:…`)")
    from ..adapters.huggingface import load_causal

    model = load_model(hardware)
    loaded = replace(load_causal(str(network), prefill + decode, computes_in(dtype)), asked_dtype=dtype)
    passes = Passes(loaded, batch, tf32)
    prompt = estimate(passes.prompt(prefill), model, mode, strict)
    if strict and decode:
        estimate(passes.step(prefill), model, mode, strict)  # a step may have kinds that the prompt has not
    return _priced(passes, prompt, decode, model)


def _priced(passes: Passes, prompt: Estimate, decode: int, model: EnergyModel) -> Generation:
    first = prompt.trace.inputs[0].shape[1]
    time_s, energy_j, gaps_j, calls = np.zeros(decode), np.zeros(decode), np.zeros(3), []
    launches = model.launches
    for segment in segments(passes, first, first + decode - 1) if decode else ():
        counts = Counter(segment.calls)
        layers = {call: segment.layers(call) for call in counts}
        index = {layer: i for i, layer in enumerate(dict.fromkeys(x for group in layers.values() for x in group))}
        priced = model.predict(list(index))
        marks = priced.covered, priced.extrapolated, launch_bound(list(index), model.metadata, prompt.mode)
        steps = slice(segment.first - first, segment.last - first + 1)
        kernels_s, issue_s = np.zeros(steps.stop - steps.start), 0.0
        for call, count in counts.items():
            own = np.array([index[x] for x in layers[call]])
            each_j = np.broadcast_to(count * priced.energy_j[own], steps.stop - steps.start)
            kernels_s += count * priced.time_s[own]
            issue_s += count * launches.issue_s(layers[call][:1])
            energy_j[steps] += each_j
            covered_j, extrapolated_j, bound_j = (float((each_j * x[own]).sum()) for x in marks)
            width = float((each_j * priced.half_width[own]).sum() / each_j.sum())
            calls.append(Call(call[0].kind, float(each_j.sum()), covered_j, extrapolated_j, width, bound_j))
        time_s[steps] += kernels_s
        if prompt.mode == "eager":
            gap_s = wait_s(kernels_s, issue_s)
            time_s[steps] += gap_s
            energy_j[steps] += gap_s * launches.idle_w
            low_j, high_j = launches.gap_interval_j(kernels_s, issue_s)
            gaps_j += [x.sum() for x in (gap_s * launches.idle_w, low_j, high_j)]
    gap_j, low, high = (float(x) for x in gaps_j)
    last = passes.step(first + decode - 1) if decode else None
    return Generation(prompt, decode, first + np.arange(decode), time_s, energy_j, tuple(calls), gap_j, (low, high), last)
