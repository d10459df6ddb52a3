"""Tensors of a model file: shapes and dtypes, and the values of those that can only be sizes, axes or indices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from math import prod
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import torch

from ...errors import InputError, first_line
from ..scopes import MOST_DIMENSIONS, Declared, empty

MOST_VALUES = 8192
"""Elements of a tensor whose values are read; weights are never."""
MOST_SCALES = 8
"""Floats that may be a list of scales (one a dimension) rather than weights."""

DTYPES = (
    {1: torch.float32, 2: torch.uint8, 3: torch.int8, 4: torch.uint16, 5: torch.int16, 6: torch.int32, 7: torch.int64}
    | {9: torch.bool, 10: torch.float16, 11: torch.float64, 12: torch.uint32, 13: torch.uint64, 14: torch.complex64}
    | {15: torch.complex128, 16: torch.bfloat16, 17: torch.float8_e4m3fn, 19: torch.float8_e5m2}
)  # fmt: skip
"""By the number in TensorProto.DataType (onnx/onnx.proto); text and what PyTorch does not have, such as int4, are left out."""

_EXTERNAL = 1


def dtype_of(code: int) -> torch.dtype:
    """Return the dtype that a model writes as `code`; raise InputError for one that is not read."""
    if code not in DTYPES:
        raise InputError(f"the model holds tensors of ONNX type {_type_name(code)}, which are not read: export it in float")
    return DTYPES[code]


def _type_name(code: int) -> str:
    from onnx import TensorProto

    return TensorProto.DataType.Name(code) if code in TensorProto.DataType.values() else str(code)


def shape_of(proto: Any) -> tuple[int, ...]:
    """Return a TensorProto's dimensions; raise InputError for more of them, or others, than a tensor can have."""
    if len(proto.dims) > MOST_DIMENSIONS or any(n < 0 for n in proto.dims):
        raise InputError(f"tensor {proto.name[:60]!r} has {len(proto.dims)} dimensions, or a negative one: no tensor can")
    return tuple(proto.dims)


def read(proto: Any, dtypes: Mapping[torch.dtype, torch.dtype], scales: bool = False) -> torch.Tensor:
    """Return a TensorProto as a real tensor where it can only be sizes, indices or a scalar, else as a meta tensor.

    `scales` says that a few floats are no weights. `dtypes` converts. Raises InputError for values that do not fill
    the shape and for external data outside the model's folder; external data is never opened.
    """
    shape, dtype = shape_of(proto), dtype_of(proto.data_type)
    elements = prod(shape)
    wanted = dtypes.get(dtype, dtype)
    _check_location(proto)
    counted = not dtype.is_floating_point and not dtype.is_complex and elements <= MOST_VALUES
    few = dtype.is_floating_point and (not shape or (scales and elements <= MOST_SCALES))
    if proto.data_location == _EXTERNAL or not (counted or few) or not _has_values(proto, elements):
        return empty(shape, wanted)
    return _values(proto).to(wanted)


def _values(proto: Any) -> torch.Tensor:
    from onnx import numpy_helper

    try:
        array = numpy_helper.to_array(proto)
        if array.dtype.kind not in "biuf":  # bfloat16 and float8 come as numpy's user-defined types
            array = array.astype("float32")
        return torch.from_numpy(array.copy())
    except (ValueError, TypeError, OverflowError, NotImplementedError) as error:
        raise InputError(f"tensor {proto.name[:60]!r} does not hold what its shape says: {first_line(error)}") from error


def _has_values(proto: Any, elements: int) -> bool:
    return not elements or any(
        len(getattr(proto, x)) for x in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data")
    )


def _check_location(proto: Any) -> None:
    for entry in proto.external_data:
        if entry.key == "location":
            posix, windows = PurePosixPath(entry.value), PureWindowsPath(entry.value)
            if posix.is_absolute() or windows.is_absolute() or windows.drive or ".." in {*posix.parts, *windows.parts}:
                raise InputError(
                    f"refused: the weights of {proto.name[:60]!r} lie outside the model's folder ({entry.value[:60]!r})"
                )


def all_declared(
    protos: Iterable[Any], dtypes: Mapping[torch.dtype, torch.dtype], rename: Callable[[str], str] = str
) -> dict[str, Declared]:
    """Return by name what is declared of tensors, as far as it is read: others may still be worked out."""
    found = {}
    for proto in protos:
        with suppress(InputError):
            found[rename(proto.name)] = declared(proto, dtypes)
    return found


def _short(name: str) -> str:
    return name if len(name) <= 60 else f"{name[:59]}…"


def declared(proto: Any, dtypes: Mapping[torch.dtype, torch.dtype]) -> Declared:
    """Return a ValueInfoProto's name, dtype and dimensions; raise InputError, saying what it is or has, if not read."""
    if not proto.type.HasField("tensor_type") or not proto.type.tensor_type.HasField("shape"):
        raise InputError("is no tensor of a declared shape: export it with one")
    x = proto.type.tensor_type
    if x.elem_type not in DTYPES:
        raise InputError(f"is of ONNX type {_type_name(x.elem_type)}, which is not read: export it in float")
    if len(x.shape.dim) > MOST_DIMENSIONS:
        raise InputError(f"has {len(x.shape.dim)} dimensions: no tensor has more than {MOST_DIMENSIONS}")
    dtype = DTYPES[x.elem_type]
    dims = tuple(
        d.dim_value if d.HasField("dim_value") else (_short(d.dim_param) or f"{proto.name[:60]}.{i}")
        for i, d in enumerate(x.shape.dim)
    )
    negative = next((n for n in dims if isinstance(n, int) and n < 0), None)
    if negative is not None:
        raise InputError(f"has a dimension of {negative}: export it with its size or, where that is open, with a name")
    return Declared(proto.name, dtypes.get(dtype, dtype), dims)
