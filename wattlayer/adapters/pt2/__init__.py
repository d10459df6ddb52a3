"""Networks that `torch.export.save` wrote (`.pt2`): the graph is read as JSON, weights and pickles are never opened.

`torch.export.load` is not used: it evaluates the file's symbolic expressions with sympy and unpickles what a weight's
entry asks it to. Here the operators of the graph run on meta tensors, one by one, and nothing else does.
"""

from __future__ import annotations

from pathlib import Path

from ..scopes import bind, conversion, converted, made
from ..source import InputSize, Network
from .archive import read_model
from .network import ExportedNetwork
from .program import Program


def load(name: str, size: InputSize) -> Network:
    """Read the network of file `name` and its inputs of `size`; raise InputError for what cannot be read or does not fit."""
    file = Path(name).name
    program = Program.read(file, read_model(Path(name)))
    symbols = bind(file, program.inputs, size)
    floating = [*program.weights.values(), *(made(x, symbols) for x in program.inputs)]
    dtypes = conversion(floating, size.dtype)
    inputs = [made(x, symbols) for x in program.inputs]
    given = tuple(x.to(dtypes.get(x.dtype, x.dtype)) for x in inputs)
    return Network(name, ExportedNetwork(program, symbols, dtypes), given, assumptions=converted(dtypes))
