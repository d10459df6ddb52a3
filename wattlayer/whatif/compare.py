"""Networks side by side on several devices and batches: energy with intervals, and where FLOP would order them differently.

Every network is traced once per batch and priced on all devices. Networks are only ranked within one device and one
batch. A place in the ranking by energy comes with the places that the intervals leave open, and a pair that FLOP orders
the other way round is named with what its intervals say: whether they overlap, and the interval of the difference, in
which layers that both networks run cancel (`whatif.change`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from itertools import combinations, groupby, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..estimate import LAUNCH_BOUND, LAUNCH_BOUND_FRAC, SCHEMA, VERSION, Estimate, estimate_many, unseen_kinds, who_assumes
from ..model import EnergyModel, load_model
from ..model.intervals import LEVEL
from ..predict import DEFAULT_HARDWARE, parse_shape
from ..trace import Trace
from . import Change, Tell, change
from .subject import Edit, Setting, Subject, subject_of

if TYPE_CHECKING:
    import pandas

FAR_FRAC = 0.05
"""The least share of a row's energy in layers far outside what was measured that is told."""


@dataclass(frozen=True)
class Ranked:
    """One network on one device at one batch with its places among the networks compared there, 1 the least.

    By energy it may stand anywhere from `first` to `last`: intervals of energy that overlap decide no order.
    """

    estimate: Estimate
    by_energy: int
    first: int
    last: int
    by_flop: int

    def to_json(self) -> dict[str, Any]:
        """Return one row of the comparison as JSON types; `_per_sample_` of the batch's samples, else of one pass."""
        e, batch = self.estimate, self.estimate.trace.batch
        low, high = e.interval_j
        return {
            "network": e.trace.network, "hardware": e.model.hardware, "model": e.model.name, "model_sha256": e.model_sha256,
            "basis": e.model.basis, "conditions": e.model.conditions,
            "dtype": e.trace.dtype, "tf32": e.trace.tf32, "mode": e.mode, "batch": batch,
            "energy_j": e.energy_j, "energy_low_j": low, "energy_high_j": high, "interval_frac": LEVEL,
            "energy_per_sample_j": e.energy_per_sample_j, "energy_per_sample_low_j": low / batch,
            "energy_per_sample_high_j": high / batch, "time_s": e.time_s, "power_w": e.power_w, "flop": e.trace.flop,
            "flop_per_sample": e.trace.flop / batch, "covered_frac": e.covered_frac, "extrapolated_frac": e.extrapolated_frac,
            "launch_bound_frac": e.launch_bound_frac,
            "rank_by_energy": self.by_energy, "rank_first": self.first, "rank_last": self.last, "rank_by_flop": self.by_flop,
            "assumptions": list(e.assumptions), "uncovered_kinds": e.uncovered_kinds(),
        }  # fmt: skip


@dataclass(frozen=True)
class Swap:
    """Two networks, on one device at one batch, of which the one with fewer FLOP is predicted to cost more energy."""

    fewer_flop: Estimate
    less_energy: Estimate

    @property
    def overlap(self) -> bool:
        """Whether the intervals of the two energies overlap: then the prediction alone does not say that FLOP mislead."""
        return _overlap(self.fewer_flop, self.less_energy)

    @cached_property
    def difference(self) -> Change:
        """From the network of less energy to the one of fewer FLOP, in joules per sample, with its interval."""
        return change(self.less_energy, self.fewer_flop, of_one_network=False)

    def to_json(self) -> dict[str, Any]:
        """Return the pair as JSON types; the difference per sample."""
        e, (low, high) = self.fewer_flop, self.difference.interval_j
        return {
            "hardware": e.model.hardware, "model": e.model.name, "batch": e.trace.batch, "fewer_flop": e.trace.network,
            "less_energy": self.less_energy.trace.network, "difference_per_sample_j": self.difference.change_j,
            "difference_low_j": low, "difference_high_j": high, "intervals_overlap": self.overlap,
        }  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """Rows ordered by device, then batch, then network as they were given."""

    rows: tuple[Ranked, ...]

    @cached_property
    def swaps(self) -> tuple[Swap, ...]:
        """Pairs of one device and batch that FLOP and predicted energy order differently, the largest share first."""
        found = []
        for _, rivals in groupby((row.estimate for row in self.rows), key=_place):
            for pair in combinations(rivals, 2):
                less, more = sorted(pair, key=lambda e: e.energy_j)
                if more.trace.flop < less.trace.flop and less.energy_j < more.energy_j:
                    found.append(Swap(more, less))
        return tuple(sorted(found, key=lambda x: x.less_energy.energy_j / x.fewer_flop.energy_j))

    @property
    def minds(self) -> tuple[str, ...]:
        """What a reader must know before believing the rows, in sentences: what models rest on, kinds never measured, which rows
        have layers far outside what was, what is taken for granted of which, and where launches as measured are much."""
        rows = [row.estimate for row in self.rows]
        caveats = dict.fromkeys(e.model.caveat for e in rows if e.model.caveat)
        return (*caveats, *unseen_kinds(rows), *_far(rows), *_assumed(rows), *_launches(rows))

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as JSON types, schema 1."""
        rows, swaps = [x.to_json() for x in self.rows], [x.to_json() for x in self.swaps]
        return {"schema": SCHEMA, "wattlayer": VERSION, "rows": rows, "swaps": swaps}

    def to_frame(self) -> pandas.DataFrame:
        """Return one row per network, device and batch with the columns of `rows` in the JSON form; of lists one text."""
        import pandas

        rows = (row.to_json() for row in self.rows)
        return pandas.DataFrame([{k: "; ".join(v) if isinstance(v, list) else v for k, v in row.items()} for row in rows])

    def _repr_html_(self) -> str:
        html: str = self._short().to_html(index=False, border=0, float_format="{:.4g}".format)
        return html + "".join(f"<p><small>{escape(text)}</small></p>" for text in self.minds)

    def __str__(self) -> str:
        return "\n".join((self._short().to_string(float_format="{:.4g}".format), *self.minds))

    def _short(self) -> pandas.DataFrame:
        columns = ["network", "hardware", "batch", "energy_per_sample_j", "energy_per_sample_low_j", "energy_per_sample_high_j"]
        frame = self.to_frame().assign(hardware=[x.estimate.model.where for x in self.rows])
        return frame[[*columns, "flop_per_sample", "covered_frac", "extrapolated_frac"]]


def _assumed(rows: Sequence[Estimate]) -> Iterator[str]:
    """What is taken for granted, and of which rows, unless of all on the devices that it concerns."""
    for text, places in who_assumes(rows).items():
        devices, own = {rows[i].model.hardware for i in places}, {id(rows[i]) for i in places}
        there = [e for e in rows if e.model.hardware in devices]
        labels: list[str] = []
        for network in dict.fromkeys(rows[i].trace.network for i in places):
            its = [e for e in there if e.trace.network == network]
            some = [e for e in its if id(e) in own]
            labels += [network] if len(some) == len(its) else map(_pass, some)
        yield text if len(there) == len(own) else f"{', '.join(labels)}: {text}"


def _far(rows: Sequence[Estimate]) -> list[str]:
    """Of which rows layers far outside what was measured are much; of a data sheet, which says so itself, all are."""
    measured = [e for e in rows if e.model.basis != "data sheet"]
    shares = "; ".join(f"{_pass(e)}: {e.extrapolated_frac:.0%}" for e in measured if e.extrapolated_frac >= FAR_FRAC)
    return [f"a share of the energy is in layers far outside what was measured: wider intervals ({shares})"] if shares else []


def _pass(e: Estimate) -> str:
    return f"{e.trace.network} on {e.model.where}, batch {e.trace.batch}"


def _launches(rows: Sequence[Estimate]) -> list[str]:
    """Of which rows launches as they were measured are much."""
    bound = [e for e in rows if e.launch_bound_frac >= LAUNCH_BOUND_FRAC]
    shares = "; ".join(f"{_pass(e)}: {e.launch_bound_frac:.0%}" for e in bound)
    return [f"{LAUNCH_BOUND.format('a share')} ({shares})"] if bound else []


def compare(
    networks: str | Path | Subject | Iterable[str | Path | Subject],
    hardware: str | Path | EnergyModel | Iterable[str | Path | EnergyModel] = DEFAULT_HARDWARE,
    batch: int | Iterable[int] = (),
    image_size: int | None = None,
    seq_len: int | None = None,
    input: tuple[int, ...] | str | None = None,
    dtype: str | None = None,
    tf32: str = "conv",
    mode: str = "graph",
    strict: bool = False,
    tell: Tell = lambda text, done, total: None,
) -> Comparison:
    """Price `networks` on all `hardware` (names, model files or loaded models) at every `batch`.

    A network is a name, sized as in `predict`, or a `Subject` (a module with its inputs), which brings its own setting but
    the `mode`. Without `batch` it is that of `input` or of the subject, else 1. `tell` hears what is being traced.
    Raises InputError for what cannot be used, UncoveredKindError under `strict`.
    """
    names, devices = [str(x) if isinstance(x, Path) else x for x in _listed(networks)], _listed(hardware)
    for each in names:
        subject_of(each)
    if not names or not devices:
        raise InputError(f"there is nothing to compare: name at least one {'device' if names else 'network'}")
    shape = parse_shape(input) if isinstance(input, str) else input
    setting = Setting(shape[0] if shape else 1, image_size, seq_len, shape, dtype, tf32, mode)
    once = [x for i, x in enumerate(names) if isinstance(x, Subject) or x not in names[:i]]
    subjects = [x if isinstance(x, Subject) else Subject(x, (), setting) for x in once]
    loaded = [load_model(x) for x in devices]
    models = {(x.hardware, x.sha256, x.metadata.conditions): x for x in loaded}.values()
    traces = _traces(subjects, _listed(batch), tell)
    estimates = [e for model in models for e in estimate_many(traces, model, mode, strict)]
    return Comparison(tuple(row for _, rivals in groupby(estimates, key=_place) for row in _ranked(list(rivals))))


def _traces(subjects: Sequence[Subject], batches: Sequence[int], tell: Tell) -> list[Trace]:
    """Every subject at every batch, or at its own, by batch."""
    edits = [Edit(batch=n) for n in sorted(set(batches))] or [Edit()]
    traces = []
    for i, (edit, subject) in enumerate(product(edits, subjects)):
        tell(f"tracing {_name(subject)} {edit.describe()}".rstrip(), i, len(edits) * len(subjects))
        traces.append(subject.trace(edit))
    return sorted(traces, key=lambda x: x.batch)


def _listed(given: Any) -> tuple[Any, ...]:
    """One thing or several of it as a tuple; a module, of which some can be iterated, is one."""
    several = isinstance(given, Iterable) and not isinstance(given, str) and not hasattr(given, "forward")
    return tuple(given) if several else (given,)


def _name(subject: Subject) -> str:
    return subject.network if isinstance(subject.network, str) else type(subject.network).__name__


def _place(e: Estimate) -> tuple[str, str, str, int]:
    """Where estimates compete: one model of one device, one batch."""
    return e.model.hardware, e.model_sha256, e.model.conditions, e.trace.batch


def _ranked(rivals: Sequence[Estimate]) -> list[Ranked]:
    rows = []
    for e in rivals:
        open_to = [x for x in rivals if x is not e and _overlap(x, e)]
        surely_less = sum(x.interval_j[1] < e.interval_j[0] for x in rivals)
        by_energy = 1 + sum(x.energy_j < e.energy_j for x in rivals)
        by_flop = 1 + sum(x.trace.flop < e.trace.flop for x in rivals)
        rows.append(Ranked(e, by_energy, 1 + surely_less, 1 + surely_less + len(open_to), by_flop))
    return rows


def _overlap(one: Estimate, other: Estimate) -> bool:
    return one.interval_j[0] <= other.interval_j[1] and other.interval_j[0] <= one.interval_j[1]
