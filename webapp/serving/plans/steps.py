"""Steps before what predicts: from checked rows to the matrix that scalers, imputers and encoders would make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any, Literal

import numpy as np
import scipy.sparse  # type: ignore[import-untyped] # scipy ships no types
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    RobustScaler,
    StandardScaler,
)

from webapp.serving.plans import NoPlan, Unplanned
from webapp.serving.predictor import assemble
from webapp.signature import Container, Feature, Row, Signature, Value
from webapp.signature.example import STRANGE_NUMBER, STRANGE_TEXT

Matrix = np.ndarray[Any, np.dtype[Any]]
Change = Callable[[Matrix], Matrix]
# An encoder whose table were larger is left to scikit-learn.
MOST_CELLS = 1_000_000
# Larger whole numbers are not told apart as floats.
MOST_EXACT = 2**53


@dataclass(frozen=True, slots=True)
class Column:
    """A column that no step has changed: its place in a row, its feature, and what an imputer puts where null is."""

    position: int
    feature: Feature
    filled: Value = None


@dataclass(frozen=True, slots=True)
class Raw:
    """Columns as they come."""

    signature: Signature
    columns: tuple[Column, ...]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a number comes from: in a row at `position` stands number * scale + offset."""

    position: int
    scale: Any = 1.0
    offset: Any = 0.0


@dataclass(frozen=True, slots=True)
class Numbers:
    """A matrix of floats, made anew from rows each time, so that the next step may change it in place."""

    read: Callable[[Sequence[Row]], Matrix]
    # One for each column; None where an encoder made it.
    origins: tuple[Origin | None, ...]
    # Whether scikit-learn holds it as a sparse matrix: then it adds up in another order.
    sparse: bool = False
    # Whether nothing in it can be infinite, because rows are finite and no step has scaled them.
    finite: bool = True


Given = Raw | Numbers


def raw(signature: Signature) -> Raw:
    """Give the columns of a request."""
    return Raw(signature, tuple(Column(position, feature) for position, feature in enumerate(signature.features)))


def through(steps: Sequence[Any], given: Given) -> Given:
    """Give what fitted steps make of `given`, one after another."""
    for step in steps:
        if isinstance(step, Pipeline):
            given = through([each for _, each in step.steps], given)
        elif step is not None and not (isinstance(step, str) and step == "passthrough"):
            if type(step) not in STEPS:
                raise NoPlan(f"there is none for {type(step).__name__}")
            given = STEPS[type(step)](step, given)
    return given


def numbers(given: Given) -> Numbers:
    """Give a matrix of columns that nothing has changed yet."""
    if isinstance(given, Numbers):
        return given
    if any(not _is_number(column) for column in given.columns):
        raise NoPlan("a text is used as a number")
    positions = [column.position for column in given.columns]
    # As pandas hands out its columns, and numpy its rows: linear algebra rounds differently over another layout.
    order: Literal["F", "C"] = "F" if given.signature.container == "frame" else "C"
    whole = positions == list(range(len(given.signature.features)))
    width, pick = len(positions), itemgetter(*positions)

    def read_whole(rows: Sequence[Row]) -> Matrix:
        return np.array(rows, dtype=np.float64, order=order)

    def read_some(rows: Sequence[Row]) -> Matrix:
        return np.array([pick(row) for row in rows], dtype=np.float64, order=order).reshape(len(rows), width)

    return Numbers(read_whole if whole else read_some, tuple(map(Origin, positions)))


def _is_number(column: Column) -> bool:
    kind = column.feature.kind
    return kind in {"number", "integer"} or (kind == "boolean" and column.feature.missing == "nan")


# --- Scalers ------------------------------------------------------------------------------------------------


def _standard(step: StandardScaler, given: Given) -> Numbers:
    return _centred(numbers(given), step.mean_ if step.with_mean else None, step.scale_ if step.with_std else None)


def _robust(step: RobustScaler, given: Given) -> Numbers:
    return _centred(
        numbers(given), step.center_ if step.with_centering else None, step.scale_ if step.with_scaling else None
    )


def _centred(given: Numbers, centre: Matrix | None, scale: Matrix | None) -> Numbers:
    """Subtract, then divide, as scikit-learn does: another order would round differently."""
    if given.sparse and centre is not None:
        raise NoPlan("a sparse matrix is centred")
    # A sparse one is multiplied by the inverse.
    factor = 1 / scale if given.sparse and scale is not None else None

    def change(matrix: Matrix) -> Matrix:
        if centre is not None:
            matrix -= centre
        if factor is not None:
            matrix *= factor
        elif scale is not None:
            matrix /= scale
        return matrix

    width = len(given.origins)
    return _scaled(
        given, change, np.ones(width) if scale is None else scale, np.zeros(width) if centre is None else centre
    )


def _min_max(step: MinMaxScaler, given: Given) -> Numbers:
    scale, offset = step.scale_, step.min_
    low, high = step.feature_range

    def change(matrix: Matrix) -> Matrix:
        matrix *= scale
        matrix += offset
        return np.clip(matrix, low, high, out=matrix) if step.clip else matrix

    made = numbers(given)
    if made.sparse:
        raise NoPlan("it takes no sparse matrix")
    return _scaled(made, change, 1 / scale, -offset / scale)


def _max_abs(step: MaxAbsScaler, given: Given) -> Numbers:
    made, scale = numbers(given), step.scale_
    factor = 1.0 / scale

    def change(matrix: Matrix) -> Matrix:
        if made.sparse:
            matrix *= factor
        else:
            matrix /= scale
        return np.clip(matrix, -1.0, 1.0, out=matrix) if step.clip else matrix

    return _scaled(made, change, scale, np.zeros(len(scale)))


def _scaled(given: Numbers, change: Change, scale: Matrix, offset: Matrix) -> Numbers:
    """Give what `change` makes; `scale` and `offset` lead back, column by column."""
    if len(scale) != len(given.origins) or len(offset) != len(given.origins):
        raise NoPlan("a scaler was fitted with another number of columns")
    origins = tuple(
        origin and Origin(origin.position, each * origin.scale, by * origin.scale + origin.offset)
        for origin, each, by in zip(given.origins, scale.tolist(), offset.tolist(), strict=True)
    )
    return replace(given, read=_then(given, change), origins=origins, finite=False)


def _then(given: Numbers, change: Change) -> Callable[[Sequence[Row]], Matrix]:
    """Read, then change; an infinite number is refused by every step of scikit-learn."""
    read = given.read
    if given.finite:
        return lambda rows: change(read(rows))

    def checked(rows: Sequence[Row]) -> Matrix:
        matrix = read(rows)
        if np.isinf(matrix).any():
            raise Unplanned
        return change(matrix)

    return checked


# --- Imputers and encoders ----------------------------------------------------------------------------------


def _imputed(step: SimpleImputer, given: Given) -> Given:
    if isinstance(given, Raw) and all(column.feature.kind == "string" for column in given.columns):
        return _filled(step, given)
    made = numbers(given)
    if made.sparse or not _is_nan(step.missing_values) or _has_boolean(given):
        raise NoPlan("what it takes as missing is not what null becomes")
    filled = step.statistics_.astype(step._fill_dtype).astype(np.float64)  # noqa: SLF001 - there is no public way
    if len(filled) != len(made.origins) or np.isnan(filled).any():
        raise NoPlan("a column has no value to put where null is")
    told = step.indicator_.features_ if step.add_indicator else None

    def change(matrix: Matrix) -> Matrix:
        missing = np.isnan(matrix)
        np.copyto(matrix, filled, where=missing)
        return matrix if told is None else np.hstack((matrix, missing[:, told]))

    added = (None,) * (0 if told is None else len(told))
    return replace(made, read=_then(made, change), origins=made.origins + added, finite=True)


def _filled(step: SimpleImputer, given: Raw) -> Raw:
    """Put a text where null is, before an encoder."""
    if isinstance(step.missing_values, str):
        raise NoPlan("it takes a text as missing")
    for column in given.columns:
        matches = _is_nan(step.missing_values) if column.feature.missing == "nan" else step.missing_values is None
        if not matches and column.feature.nullable:
            raise NoPlan("what it takes as missing is not what null becomes")
    filled = step.statistics_.tolist()
    if step.add_indicator or len(filled) != len(given.columns) or any(type(each) is not str for each in filled):
        raise NoPlan("a column has no value to put where null is")
    # What another imputer has put there is missing no more.
    columns = [
        replace(column, filled=each if column.filled is None else column.filled)
        for column, each in zip(given.columns, filled, strict=True)
    ]
    return replace(given, columns=tuple(columns))


def _has_boolean(given: Given) -> bool:
    return isinstance(given, Raw) and any(column.feature.kind == "boolean" for column in given.columns)


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and value != value  # noqa: PLR0124 - only NaN differs from itself


class _Codes(dict[Value, int]):
    """The line of an encoder's table for each value; `strange` for all that it has never seen."""

    strange: int | None = None

    def __missing__(self, _value: Value) -> int:
        if self.strange is None:
            raise Unplanned
        return self.strange


def _encoded(step: OneHotEncoder | OrdinalEncoder, given: Given) -> Numbers:
    if not isinstance(given, Raw) or np.dtype(step.dtype) != np.float64 or len(step.categories_) != len(given.columns):
        raise NoPlan("it encodes what another step has made")
    one_hot = isinstance(step, OneHotEncoder)
    widths = list(step._n_features_outs) if one_hot else [1] * len(given.columns)  # noqa: SLF001 - no public way
    if sum(len(known) * width for known, width in zip(step.categories_, widths, strict=True)) > MOST_CELLS:
        raise NoPlan("it knows very many values")
    ends = np.cumsum(widths).tolist()
    parts = [
        (column.position, *_table(step, given, at, slice(end - width, end)))
        for at, (column, width, end) in enumerate(zip(given.columns, widths, ends, strict=True))
    ]

    def read(rows: Sequence[Row]) -> Matrix:
        blocks = [table.take([codes[row[position]] for row in rows], axis=0) for position, codes, table in parts]
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=1)

    return Numbers(read, (None,) * sum(widths), sparse=one_hot and step.sparse_output)


def _table(step: OneHotEncoder | OrdinalEncoder, given: Raw, at: int, place: slice) -> tuple[_Codes, Matrix]:
    """Ask an encoder for what it makes of each value of one column, so that none of its rules is told twice."""
    column, known = given.columns[at], [_plain(value) for value in step.categories_[at]]
    values = [value for value in known if value is not None]
    kinds = {"string": str, "boolean": bool}.get(column.feature.kind, float)
    if {type(value) for value in values} - {kinds} or any(
        type(value) is float and abs(value) > MOST_EXACT for value in values
    ):
        raise NoPlan("its values are not of the feature's kind")
    base = [next((_plain(value) for value in each if _plain(value) is not None), None) for each in step.categories_]

    def asked(value: Value) -> Matrix:
        return _ask(step, given, [(*base[:at], value, *base[at + 1 :])])[:, place]

    rows = [(*base[:at], value, *base[at + 1 :]) for value in values]
    lines = [_ask(step, given, rows)[:, place]]
    codes = _Codes(zip(values, range(len(values)), strict=True))
    for value in (None, STRANGE_TEXT if kinds is str else STRANGE_NUMBER):
        try:
            line = asked(value)
        except ValueError:
            # What it refuses, it shall refuse itself.
            continue
        if value is None:
            codes[None] = len(codes)
        elif kinds is not bool:
            codes.strange = len(codes)
        lines.append(line)
    if column.filled is not None:
        # What an imputer puts there may itself be refused: then null is, too.
        codes.pop(None, None)
        with suppress(Unplanned):
            codes[None] = codes[column.filled]
    return codes, np.concatenate(lines)


def _ask(step: OneHotEncoder | OrdinalEncoder, given: Raw, rows: Sequence[Row]) -> Matrix:
    container: Container = "frame" if hasattr(step, "feature_names_in_") else "array"
    features = tuple(column.feature for column in given.columns)
    made = step.transform(assemble(replace(given.signature, features=features, container=container), rows))
    return np.asarray(made.toarray() if scipy.sparse.issparse(made) else made)


def _plain(value: Any) -> Value:  # noqa: ANN401 - a category of any type
    """Give a category as it stands in a row."""
    plain: Value = value.item() if isinstance(value, np.generic) else value
    if plain is None or plain != plain:  # noqa: PLR0124 - only NaN differs from itself
        return None
    return float(plain) if type(plain) is int else plain


# --- Columns ------------------------------------------------------------------------------------------------


def _columns(step: ColumnTransformer, given: Given) -> Numbers:
    if step.transformer_weights:
        raise NoPlan("its parts have weights")
    parts = []
    for name, transformer, chosen in step.transformers_:
        places = step._transformer_to_input_indices[name]  # noqa: SLF001 - there is no public way
        if (isinstance(transformer, str) and transformer == "drop") or not len(places):
            continue
        if np.isscalar(chosen):
            raise NoPlan("a part takes one column as a list")
        parts.append(numbers(through([transformer], _chosen(given, places))))
    if not parts:
        raise NoPlan("no column is left")
    if len(parts) == 1:
        return replace(parts[0], sparse=step.sparse_output_)
    reads = [part.read for part in parts]
    return Numbers(
        lambda rows: np.concatenate([read(rows) for read in reads], axis=1),
        tuple(origin for part in parts for origin in part.origins),
        sparse=step.sparse_output_,
        finite=all(part.finite for part in parts),
    )


def _chosen(given: Given, places: Sequence[int]) -> Given:
    if isinstance(given, Raw):
        kinds = {column.feature.kind == "string" for column in given.columns}
        if given.signature.container == "array" and len(kinds) > 1:
            raise NoPlan("an array mixes text and numbers")
        return replace(given, columns=tuple(given.columns[place] for place in places))
    read, chosen = given.read, list(places)
    return replace(
        given, read=lambda rows: read(rows)[:, chosen], origins=tuple(given.origins[place] for place in places)
    )


def _passed(step: FunctionTransformer, given: Given) -> Given:
    if step.func is not None or step.validate:
        raise NoPlan("it calls a function")
    return given


STEPS: dict[type, Callable[[Any, Given], Given]] = {
    StandardScaler: _standard,
    RobustScaler: _robust,
    MinMaxScaler: _min_max,
    MaxAbsScaler: _max_abs,
    SimpleImputer: _imputed,
    OneHotEncoder: _encoded,
    OrdinalEncoder: _encoded,
    ColumnTransformer: _columns,
    FunctionTransformer: _passed,
}
