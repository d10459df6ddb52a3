"""The zip archive around an exported network: only the JSON of its graph is read."""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any

from ...errors import InputError, first_line

LARGEST_JSON_BYTES = 64 << 20
"""Text of a graph; ViT-B/16 has 1 MB."""
MOST_ENTRIES = 200_000
SCHEMA_MAJOR = 8
"""Of torch/_export/serde/schema.py, from torch 2.6 on."""
_DAMAGED = (zipfile.BadZipFile, zlib.error, OSError, ValueError, RuntimeError, EOFError)
_MODEL = re.compile(r"(?:.*/)?(?:models/[^/]+|serialized_exported_program)\.json")


def read_model(path: Path) -> dict[str, Any]:
    """Return the serialised program of an archive as plain JSON types; raise InputError naming what is wrong with it."""
    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            text = _read(path, archive, _entry(path, archive))
        model = json.loads(text)
    except (*_DAMAGED, RecursionError) as error:  # NotImplementedError, of an unknown compression, is a RuntimeError
        raise InputError(f"{path} is no archive of torch.export.save: {first_line(error)}") from error
    return _checked(path, model)


def _entry(path: Path, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    entries = archive.infolist()
    if len(entries) > MOST_ENTRIES:
        raise InputError(f"{path} has {len(entries)} entries, more than {MOST_ENTRIES}: no network has so many weights")
    for entry in entries:
        name = PurePosixPath(entry.filename.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts:
            raise InputError(f"{path} is refused: its entry {entry.filename[:60]!r} points outside the archive")
    models = [x for x in entries if _MODEL.fullmatch(x.filename)]
    if len(models) != 1:
        found = ", ".join(x.filename[:60] for x in models[:4]) or "none"
        raise InputError(
            f"{path} must hold one graph, models/NAME.json, and has {found}: save one program with torch.export.save"
        )
    return models[0]


def _read(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    with archive.open(entry) as stream:  # what the entry says of its own size is not believed
        text = stream.read(LARGEST_JSON_BYTES + 1)
    if len(text) > LARGEST_JSON_BYTES:
        raise InputError(f"{path}: the graph is larger than {LARGEST_JSON_BYTES >> 20} MiB, no network's is")
    return text


def _checked(path: Path, model: Any) -> dict[str, Any]:
    version = model.get("schema_version") if isinstance(model, dict) else None
    major = version.get("major") if isinstance(version, dict) else None
    if major != SCHEMA_MAJOR:
        raise InputError(f"{path} has schema {str(major)[:20]}, {SCHEMA_MAJOR} is read: export it again with torch 2.6 or later")
    return dict(model)
