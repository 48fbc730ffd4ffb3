"""The cells of a table, which are all text, as the values that JSON would have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from webapp.signature import Feature, Signature, Value

BOOLEANS: Mapping[str, Value] = {
    "true": True,
    "false": False,
    "True": True,
    "False": False,
    "TRUE": True,
    "FALSE": False,
}
Instance = dict[str, Value]


def instances(signature: Signature, columns: Mapping[str, Sequence[str]]) -> list[Instance]:
    """Give one instance per row of a table, whose `columns` have the same length.

    An empty cell is null, where the feature can be missing or is no text. What cannot be read as the feature's kind
    stays text, and a column that is no feature stays as it is: the check that comes next says what is wrong with them.
    """
    features = {feature.name: feature for feature in signature.features}
    read = [_column(features.get(name), cells) for name, cells in columns.items()]
    return [dict(zip(columns, row, strict=True)) for row in zip(*read, strict=True)]


def _column(feature: Feature | None, cells: Sequence[str]) -> Sequence[Value]:
    if feature is None:
        return cells
    if feature.kind == "string":
        return [cell or None for cell in cells] if feature.nullable else cells
    if feature.kind == "boolean":
        return _each(lambda cell: BOOLEANS.get(cell, cell), cells)
    try:
        # Most columns hold nothing but numbers.
        return list(map(float, cells)) if _is_plain("".join(cells)) else _each(_number, cells)
    except ValueError:
        return _each(_number, cells)


def _each(read: Callable[[str], Value], cells: Sequence[str]) -> list[Value]:
    return [read(cell) if cell else None for cell in cells]


def _number(cell: str) -> Value:
    try:
        return float(cell) if _is_plain(cell) else cell
    except ValueError:
        return cell


def _is_plain(text: str) -> bool:
    """Whether Python takes for a number only what others do: it also reads 1_000, and the digits of every script."""
    return "_" not in text and text.isascii()
