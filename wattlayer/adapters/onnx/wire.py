"""A model file without its weights: large tensor data is skipped over before anything is parsed, so it is never loaded.

An ONNX file is one protobuf message (onnx/onnx.proto). The few lines here walk the fields around its tensors, key by key
(https://protobuf.dev/programming-guides/encoding), through a memory map whose pages of weights are never touched.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from ...errors import InputError

LARGEST_VALUES_BYTES = 1 << 16
"""Data of a tensor that is kept: enough for any list of sizes, axes or indices."""
LARGEST_GRAPH_BYTES = 64 << 20
"""What may be left without weights; a transformer of 10,000 operators with stack traces has 25 MB."""
MOST_FIELDS = 400_000

DEEPEST = 64
"""Messages within messages that are looked through, three for each graph within a graph; deeper ones are kept."""

_INNER = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph"},
}
"""The fields of each message that can hold a tensor: an initialiser, a constant, or one in a branch or a function."""
_DATA = frozenset({4, 5, 6, 7, 9, 10, 11})
"""Numbers of TensorProto's fields for values: float, int32, string, int64, raw, double and uint64 data."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def read_without_weights(path: Path) -> bytes:
    """Return the bytes of a model file less its large tensor data; raise InputError where it is no model or is cut off."""
    try:
        with path.open("rb") as file:
            # closed when nobody refers to it: the traceback of a refusal still holds slices of it
            return _Walk(path.name).model(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


class _Walk:
    """Counts what it has seen, so that no file keeps it busy for long."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.fields = 0
        self.kept_bytes = 0

    def model(self, view: memoryview) -> bytes:
        return self._rewritten(view, "model")

    def _rewritten(self, view: memoryview, message: str, depth: int = 0) -> bytes:
        if depth > DEEPEST or (message == "node" and len(view) <= LARGEST_VALUES_BYTES):  # as most are
            self._keep(len(view))
            return bytes(view)
        inner = _INNER.get(message, {})
        kept = bytearray()
        for number, kind, start, body, end in self._walk(view):
            if number in inner and kind == _BYTES:
                content = self._rewritten(view[body:end], inner[number], depth + 1)
                kept += _varint(number << 3 | kind) + _varint(len(content)) + content
            elif message != "tensor" or number not in _DATA or end - start <= LARGEST_VALUES_BYTES:
                self._keep(end - start)
                kept += view[start:end]
        return bytes(kept)

    def _keep(self, size_bytes: int) -> None:
        self.kept_bytes += size_bytes
        if self.kept_bytes > LARGEST_GRAPH_BYTES:
            raise InputError(f"{self.name}: more than {LARGEST_GRAPH_BYTES >> 20} MiB beside the weights, no network has so much")

    def _walk(self, view: memoryview) -> Iterator[tuple[int, int, int, int, int]]:
        """Yield (number, wire type, start, start of the content, end) of each field."""
        at = 0
        while at < len(view):
            self.fields += 1
            if self.fields > MOST_FIELDS:
                raise InputError(f"{self.name} has more than {MOST_FIELDS} fields: no network has so many")
            start = at
            key, at = self._number(view, at)
            kind, body = key & 7, at
            if kind == _VARINT:
                _, at = self._number(view, at)
            elif kind == _BYTES:
                size, body = self._number(view, at)
                at = body + size
            elif kind in (_FIXED64, _FIXED32):
                at += 8 if kind == _FIXED64 else 4
            else:
                raise InputError(f"{self.name} is no ONNX model: export the network again")
            if at > len(view):
                raise InputError(f"{self.name} is cut off or no ONNX model: export the network again")
            yield key >> 3, kind, start, body, at

    def _number(self, view: memoryview, at: int) -> tuple[int, int]:
        value = 0
        for i, byte in enumerate(view[at : at + 10]):
            value |= (byte & 0x7F) << 7 * i
            if byte < 0x80:
                return value, at + i + 1
        raise InputError(f"{self.name} is cut off or no ONNX model: export the network again")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
