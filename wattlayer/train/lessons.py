"""What measured devices teach one that was not: the law that they have in common, and how far it is from each of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from ..dataset import Measurement
from ..dataset.labels import looped
from ..errors import InputError
from ..features.columns import Array
from ..hardware import find_hardware
from ..model.intervals import LEVEL
from ..model.roofline import RATES
from .pooling import Sample, learn
from .rows import merge
from .transfer import LN2, Interval, Learned, Lesson, device_class

MIN_HOSTS = 3
"""With fewer hosts that were measured none is told from them."""


def samples_of(measurements: Sequence[Measurement]) -> dict[str, Sample]:
    """Return what is learned from of each device, by name; raise InputError where there is no layer."""
    own = by_device(measurements)
    if not own:
        raise InputError("there is no measured layer to learn from")
    return {name: Sample.of(name, merge(rows), looped(rows)) for name, rows in own.items()}


def by_device(measurements: Sequence[Measurement]) -> dict[str, list[Measurement]]:
    """Return the measured layers of each device, by name."""
    devices = sorted({m.hardware for m in measurements if m.layer is not None})
    return {name: [m for m in measurements if m.hardware == name and m.layer is not None] for name in devices}


def interval_of(samples: Mapping[str, Sample], lessons: Mapping[str, Lesson]) -> Interval:
    """Return the interval for a further device and its host: the widest that any of `samples` needs from the lesson without it.

    Devices and not rows are the sample here, and with k of them no finite interval is sure to hold for `LEVEL` of further
    devices while k < 9; the widest is the most that they can say. One device alone says nothing: its interval is a factor of 4.
    Layers of one group err alike on one device: what they have in common stays in the sum over a network, which has few groups.
    For that groups on devices are the sample, each of which counts once, however many of its layers were measured.
    """
    judged = {name: sample for name, sample in samples.items() if name in lessons}
    if len(judged) < 2:
        return Interval(2.0, 1.0)
    errors = [_log_error(lessons[name], sample) for name, sample in judged.items()]
    hosts = {name: sample.own_host() for name, sample in judged.items() if sample.looped}
    host_spread = None
    if len(hosts) >= MIN_HOSTS:
        off = [abs(own - lessons[name].log_rates["*"][RATES.index("host")]) for name, own in hosts.items()]
        host_spread = float(np.expm1(max(off)))
    half_width = max(float(np.quantile(np.abs(e), LEVEL)) for e in errors)
    alike: dict[tuple[str, str], list[float]] = defaultdict(list)
    for (name, sample), own in zip(judged.items(), errors):
        for layer, error in zip(sample.rows.layers, own.tolist()):
            alike[name, layer.group].append(error)
    between = float(np.var([np.mean(x) for x in alike.values()]))
    shared = between / max(between + float(np.mean([np.var(x) for x in alike.values()])), 1e-12)
    return Interval(half_width / LN2, shared, host_spread)


def _log_error(lesson: Lesson, sample: Sample) -> Array:
    columns, rows = sample.columns, sample.rows
    time_s = lesson.scaffold(sample.launch_s).time_s(columns)
    power_w = lesson.drawn(columns.hardware).power_w(columns, time_s, np.zeros(len(time_s)))
    result: Array = np.log(time_s * power_w / (rows.time_s * rows.power_w))
    return result


def _without_each(samples: Mapping[str, Sample]) -> dict[str, Lesson]:
    """What the others teach, by the device that is left out; nothing where there is one alone."""
    if len(samples) < 2:
        return {}
    return {name: learn([x for key, x in samples.items() if key != name]) for name in samples}


def learned_from(samples: Mapping[str, Sample]) -> Learned:
    """Return what `samples` of one class of devices teach about the next one."""
    without = _without_each(samples)
    return Learned((learn(list(samples.values())), *without.values()), interval_of(samples, without))


def learned_classes(measurements: Sequence[Measurement]) -> dict[str, Learned]:
    """Return what all measured devices teach, by class of device."""
    samples = samples_of(measurements)
    title_of = {name: device_class(find_hardware(name)) for name in samples}
    classes = sorted(set(title_of.values()))
    return {title: learned_from({name: x for name, x in samples.items() if title_of[name] == title}) for title in classes}
