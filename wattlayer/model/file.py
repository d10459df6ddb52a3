"""The model file: JSON of both boosters, the neighbours, the cliffs and the metadata, with a checksum.

The boosters are XGBoost's own JSON; the metadata hold features and their version, hardware, kinds, ranges, conformal quantiles
and the digest of the data. Opening one never runs code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from ..errors import InputError, first_line
from ..features import FEATURES_VERSION
from .cliffs import Cliffs
from .intervals import Conformal
from .launches import Launches
from .metadata import Metadata
from .power import PowerScaffold
from .regressor import Regressor
from .residual import MODEL_FEATURES, Residual
from .scaffold import Scaffold

SCHEMA = 14


def payload(metadata: Metadata, regressor: Regressor) -> dict[str, Any]:
    """Return the content of a model file without its checksum."""
    learned = {"time": regressor.time.to_json(), "power": regressor.power.to_json(), "cliffs": asdict(regressor.cliffs)["groups"]}
    told = json.loads(json.dumps(asdict(metadata)))
    if metadata.own_support is None:  # as of all models that were not calibrated
        del told["own_support"]
    return {"wattlayer_model": SCHEMA, "metadata": told, **learned}


def checksum(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a model's content in canonical JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read(path: Path) -> tuple[Metadata, Regressor, str]:
    """Return what a model file holds, and its checksum; raise InputError as `EnergyModel.load` does."""
    record, digest = _checked(path)
    metadata = _metadata(path, record)
    return metadata, _regressor(path, record, metadata), digest


def read_metadata(path: Path) -> Metadata:
    """Return what a model file says of its model, without the model, which takes XGBoost; raise InputError as `read` does."""
    return _metadata(path, _checked(path)[0])


def _checked(path: Path) -> tuple[dict[str, Any], str]:
    """What a file of this version holds, and the checksum that it matches."""
    record = _read(path)
    digest = record.pop("sha256", None)
    if record.get("wattlayer_model") != SCHEMA:
        raise InputError(f"{path} has model schema {record.get('wattlayer_model')!r}, this wattlayer reads {SCHEMA}: retrain it")
    version = _dictionary(path, record, "metadata").get("features")
    if version != FEATURES_VERSION:
        raise InputError(
            f"{path} has feature version {version}, this wattlayer has {FEATURES_VERSION}: retrain it with `wattlayer train`"
        )
    if digest != checksum(record):
        raise InputError(f"{path} does not match its checksum (truncated or altered): get it again or retrain it")
    return record, digest


def _read(path: Path) -> dict[str, Any]:
    import msgspec

    try:
        record = msgspec.json.decode(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise InputError(f"{path} is not a wattlayer model (truncated, or not JSON): get it again or retrain it") from None
    if not isinstance(record, dict) or "wattlayer_model" not in record:
        raise InputError(f"{path} is not a wattlayer model: train one with `wattlayer train`")
    return record


def _dictionary(path: Path, record: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = record.get(key)
    if not isinstance(value, dict):
        raise InputError(f"{path} is not a wattlayer model: its {key!r} is missing")
    return value


def _metadata(path: Path, record: Mapping[str, Any]) -> Metadata:
    import msgspec

    try:
        told = record["metadata"]
        _no_others(told, Metadata)
        _no_others(told.get("launches"), Launches)
        _no_others(told.get("conformal"), Conformal)
        return msgspec.convert(told, Metadata)
    except (LookupError, AttributeError, TypeError, ValueError, OverflowError) as error:
        raise _unusable(path, error) from None


def _unusable(path: Path, error: Exception) -> InputError:
    return InputError(f"{path} is not a wattlayer model that this version can use ({first_line(error)}): retrain it")


def _regressor(path: Path, record: Mapping[str, Any], metadata: Metadata) -> Regressor:
    import xgboost

    try:
        time, power = (
            Residual.from_json(record["time"], len(MODEL_FEATURES) - 1),
            Residual.from_json(record["power"], len(MODEL_FEATURES)),
        )
        cliffs = Cliffs.from_json(record["cliffs"])
    except (LookupError, AttributeError, TypeError, ValueError, OverflowError, xgboost.core.XGBoostError) as error:
        raise _unusable(path, error) from None
    scaffold = Scaffold(metadata.log_rates, metadata.runs)
    drawn = PowerScaffold(metadata.consumers_w, metadata.limit_w)
    return Regressor(
        metadata.hardware, scaffold, drawn, time, power, metadata.runs, metadata.run_power_shift, cliffs, metadata.taught_by
    )


def _no_others(told: Any, kind: type) -> None:
    """Raise ValueError for a part of another version: what this one does not know of would be left out silently."""
    known = {field.name for field in fields(kind)}
    for name in told if isinstance(told, Mapping) else ():
        if name not in known:
            raise ValueError(f"{kind.__name__} has no {name}")
