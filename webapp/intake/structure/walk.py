"""The walk over every object that an estimator holds, with the path to each."""

from __future__ import annotations

import datetime as dt
import decimal
import numbers
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.sparse  # type: ignore[import-untyped] # scipy ships no types
from scipy.interpolate import interp1d  # type: ignore[import-untyped]
from sklearn.neighbors import BallTree, KDTree

from webapp.intake.structure.finding import member

# Values that hold nothing and index nothing.
PLAIN = (
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    bytearray,
    slice,
    range,
    np.generic,
    np.dtype,
    type(Ellipsis),
    dt.date,
    dt.timedelta,
    decimal.Decimal,
    numbers.Number,
)
FUNCTIONS = (
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    types.MethodWrapperType,
    np.ufunc,
    type(np.mean),
    type,
)
CONTAINERS = (dict, list, tuple, set, frozenset)
# What stands inside of a compiled object: its attribute, and how it is read.
INSIDE: dict[type, Callable[[Any], dict[str, Any]]] = {
    KDTree: lambda tree: {"dist_metric": tree.__getstate__()[11]},
    BallTree: lambda tree: {"dist_metric": tree.__getstate__()[11]},
    np.random.RandomState: lambda state: {"_bit_generator": state._bit_generator},  # noqa: SLF001 - no public way
    np.random.Generator: lambda generator: {"bit_generator": generator.bit_generator},
}


def is_python(cls: type) -> bool:
    """Tell whether a class is written in Python, so that all its state can be seen."""
    return all(base is object or base in CONTAINERS or _from_source(base) for base in cls.__mro__)


def _from_source(cls: type) -> bool:
    # Compiled classes say so by their flag or by their module: some that are made in C are flagged as made in Python.
    made_by_statement = bool(cls.__flags__ & (1 << 9))
    file = getattr(sys.modules.get(cls.__module__), "__file__", None) or ""
    return made_by_statement and file.endswith(".py") and "__module__" in vars(cls) and not _in_disguise(cls)


def _in_disguise(cls: type) -> bool:
    # functools.partial is compiled and says that it stands in functools.py.
    return cls.__module__ in {"functools", "operator", "collections", "itertools"}


def walk(root: object) -> Iterator[tuple[str, Any]]:
    """Give the path and the object, once for every object that is more than a plain value."""
    # The objects are kept, so that no id is given out twice.
    seen: dict[int, object] = {}
    waiting: list[tuple[str, Any]] = [("", root)]
    while waiting:
        path, found = waiting.pop()
        if id(found) in seen or (isinstance(found, PLAIN) and not isinstance(found, FUNCTIONS)):
            continue
        seen[id(found)] = found
        yield path, found
        # The last in is the first out: turned round, what is reported comes in the estimator's order.
        waiting.extend(reversed(list(_inside(path, found))))


def _inside(path: str, found: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - what a file holds
    if isinstance(found, FUNCTIONS) or scipy.sparse.issparse(found):
        return
    if isinstance(found, dict):
        yield from ((f"{path} key {_short(key)}", key) for key in found if not isinstance(key, PLAIN))
        yield from ((f"{path}[{_short(key)}]", value) for key, value in found.items() if not isinstance(value, PLAIN))
    elif isinstance(found, list | tuple | set | frozenset):
        yield from ((f"{path}[{at}]", value) for at, value in enumerate(found) if not isinstance(value, PLAIN))
    elif isinstance(found, np.ndarray):
        yield from _in_array(path, found)
    yield from ((member(path, name), value) for name, value in attributes(found).items())


def _in_array(path: str, array: np.ndarray[Any, Any]) -> Iterator[tuple[str, Any]]:
    if not array.dtype.hasobject or array.dtype.names:
        return
    for at in np.ndindex(array.shape):
        if not isinstance(value := array[at], PLAIN):
            yield f"{path}[{', '.join(map(str, at))}]", value


def attributes(found: object) -> dict[str, Any]:
    """Give what an object holds by name."""
    read = INSIDE.get(type(found))
    if read is not None:
        return read(found)
    # What an isotonic regression interpolates with is made anew from its thresholds when it is loaded.
    if isinstance(found, np.ndarray | interp1d) or not is_python(type(found)):
        return {}
    slots = (name for cls in type(found).__mro__ for name in _slots(cls))
    held = {name: getattr(found, name) for name in slots if hasattr(found, name)}
    return held | getattr(found, "__dict__", {})


def _slots(cls: type) -> tuple[str, ...]:
    named = vars(cls).get("__slots__", ())
    return tuple(name for name in ((named,) if isinstance(named, str) else named) if not name.startswith("__"))


def _short(key: object) -> str:
    text = repr(key)
    return text if len(text) <= 60 else f"{text[:57]}…"  # noqa: PLR2004 - a name is to be recognised, not copied
