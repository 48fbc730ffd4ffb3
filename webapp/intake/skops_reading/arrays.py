"""Reads what arrays say of themselves, dense and sparse, and what native code would take as it is.

NumPy evaluates the header of an array as Python. What it gets to see has passed one narrow expression here; objects,
which would be pickles, are not among the kinds of elements.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from webapp.intake.skops_reading import archive

_MAGIC = b"\x93NUMPY\x01\x00"
_HEADER_BEGIN = len(_MAGIC) + 2
# NumPy evaluates a header as Python; what it gets to see is only ever this.
_HEADER = re.compile(
    r"\{'descr': (?P<descr>'[^']{2,12}'|\[[^]]{1,1000}\]), 'fortran_order': (True|False),"
    r" 'shape': \((?P<shape>|\d{1,18},|\d{1,18}(, \d{1,18}){1,7})\), \} *\n"
)
HEADER_CHARACTERS = 2000
# Truth values, integers, floats, complex numbers and texts, in this machine's byte order.
_NUMBERS = ("|b1", "|i1", "|u1", *(f"<{kind}{size}" for kind in "iu" for size in (2, 4, 8)))
_FRACTIONS = ("<f2", "<f4", "<f8", "<f16", "<c8", "<c16", "<c32")
_TEXT = re.compile(r"'(?P<kind>\|S|<U)(?P<size>[1-9]\d{0,8})'")
_INTEGERS = ("'<i4'", "'<i8'")
_UNICODE_BYTES = 4
# The records that estimators hold: of trees, of the trees of histogram gradient boosting, of neighbours' trees.
TREE_RECORD = (
    "[('left_child', '<i8'), ('right_child', '<i8'), ('feature', '<i8'), ('threshold', '<f8'), ('impurity', '<f8'),"
    " ('n_node_samples', '<i8'), ('weighted_n_node_samples', '<f8'), ('missing_go_to_left', '|u1'), ('', '|V7')]"
)
_RECORDS = {
    TREE_RECORD: 64,
    "[('value', '<f8'), ('count', '<u4'), ('feature_idx', '<i8'), ('num_threshold', '<f8'),"
    " ('missing_go_to_left', '|u1'), ('left', '<u4'), ('right', '<u4'), ('gain', '<f8'), ('depth', '<u4'),"
    " ('is_leaf', '|u1'), ('bin_threshold', '|u1'), ('is_categorical', '|u1'), ('bitset_idx', '<u4')]": 56,
    "[('idx_start', '<i8'), ('idx_end', '<i8'), ('is_leaf', '<i8'), ('radius', '<f8')]": 32,
}
_ELEMENT_BYTES = {f"'{number}'": int(number[2:]) for number in (*_NUMBERS, *_FRACTIONS)} | _RECORDS


class WrongError(Exception):
    """Something without the form that skops gives it; says how, or nothing when its parts were told of before."""


@dataclass(frozen=True, slots=True)
class Array:
    """What the header of an array says: how an element is written, and how many there are."""

    descr: str
    shape: tuple[int, ...]


def header(head: bytes, size: int) -> tuple[Array, int]:
    """Read the header of a `.npy` of `size` bytes; give also where its elements begin."""
    begin = _HEADER_BEGIN + int.from_bytes(head[len(_MAGIC) : _HEADER_BEGIN], "little")
    found = _HEADER.fullmatch(head[_HEADER_BEGIN:begin].decode("latin-1"))
    if not head.startswith(_MAGIC) or begin > HEADER_CHARACTERS or found is None:
        raise WrongError("The array's header is not as NumPy writes it.")
    array = Array(found["descr"], tuple(int(number) for number in re.findall(r"\d+", found["shape"])))
    count = math.prod(array.shape)
    if begin + count * _element_bytes(array.descr) != size:
        raise WrongError(f"The array claims {count} elements, which its {size} bytes do not hold.")
    return array, begin


def is_record(array: Array) -> bool:
    """Tell whether the elements have named parts."""
    return array.descr in _RECORDS


def _element_bytes(descr: str) -> int:
    if descr in _ELEMENT_BYTES:
        return _ELEMENT_BYTES[descr]
    found = _TEXT.fullmatch(descr)
    if found is None:
        raise WrongError("The array holds other things than numbers and texts.")
    return int(found["size"]) * (_UNICODE_BYTES if found["kind"] == "<U" else 1)


# - Sparse matrices -

_PARTS = ("data", "indices", "indptr", "shape", "format")


@dataclass(frozen=True, slots=True)
class _Part:
    """An array of a sparse matrix: its header, and the bytes of its elements."""

    array: Array
    elements: memoryview

    def integers(self) -> NDArray[Any]:
        if self.array.descr not in _INTEGERS:
            raise WrongError("The shape or the indices of the sparse matrix are no integers.")
        return np.frombuffer(self.elements, self.array.descr.strip("'"), math.prod(self.array.shape))


def sparse(content: bytes, kind: str) -> tuple[tuple[Array, ...], int]:
    """Read the `.npz` of a sparse matrix of `kind` (such as `csr_array`); give its arrays and what it unpacks to."""
    members = archive.members(content, archive.SPARSE_MEMBER)
    named = {*_PARTS, "_is_array"} if kind.endswith("_array") else {*_PARTS}
    if members.keys() != {f"{name}.npy" for name in named}:
        raise WrongError("The members of the sparse matrix are not those that SciPy writes.")
    parts = {name: _part(content, members[f"{name}.npy"]) for name in sorted(named)}
    if parts["format"].array != Array("'|S3'", ()) or bytes(parts["format"].elements) != kind[:3].encode():
        raise WrongError("The sparse matrix is of another format than its class.")
    _check_indices(parts, by_rows=kind.startswith("csr"))
    return tuple(part.array for part in parts.values()), sum(packed.size for packed in members.values())


def _part(content: bytes, packed: archive.Member) -> _Part:
    unpacked = archive.unpacked(content, packed)
    array, begin = header(unpacked[:HEADER_CHARACTERS], packed.size)
    return _Part(array, memoryview(unpacked)[begin:])


def _check_indices(parts: Mapping[str, _Part], *, by_rows: bool) -> None:
    """Refuse indices that point outside of the matrix: native code follows them without looking."""
    shape, indices, starts = (parts[name].integers() for name in ("shape", "indices", "indptr"))
    if parts["shape"].array.shape != (2,) or shape.min() < 0:
        raise WrongError("The shape of the sparse matrix is not that of a matrix.")
    lines, across = (int(length) for length in (shape if by_rows else shape[::-1]))
    count = parts["data"].array.shape
    if count != (len(indices),) or count != parts["indices"].array.shape or parts["indptr"].array.shape != (lines + 1,):
        raise WrongError("The parts of the sparse matrix do not fit each other.")
    inside = not len(indices) or (indices.min() >= 0 and indices.max() < across)
    if starts[0] != 0 or starts[-1] != len(indices) or (starts[1:] < starts[:-1]).any() or not inside:
        raise WrongError("Indices of the sparse matrix point outside of it.")
