"""Parquet, where it is installed: tables written group by group, and what to say where it is not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from itertools import islice
from typing import Any, Literal

from webapp.errors import Invalid

MIMETYPE = "application/vnd.apache.parquet"
# How a file begins and ends.
MAGIC = b"PAR1"
# So many rows lie together, and in memory while they are written.
GROUP_ROWS = 10_000

# What a column holds: texts, whole numbers, numbers, yes or no, moments.
Kind = Literal["text", "whole", "number", "truth", "moment"]


def is_there() -> bool:
    """Whether it is installed."""
    return find_spec("pyarrow") is not None


def require() -> None:
    """Refuse what cannot be done here, with the way out."""
    if not is_there():
        detail = (
            'Parquet needs a package that is not installed: pip install "modelport[parquet]"; jsonl and csv do not.'
        )
        raise Invalid("parquet_not_installed", detail)


def written(kinds: Mapping[str, Kind], rows: Iterable[Sequence[Any]]) -> Iterator[bytes]:
    """Write rows, their cells in the order of the columns; the file's own index comes last: nothing is gone back to."""
    # Here, because it is installed only where somebody wants it, and takes a while to import.
    import pyarrow as pa  # noqa: PLC0415
    from pyarrow import parquet  # noqa: PLC0415

    types = {
        "text": pa.string(),
        "whole": pa.int64(),
        "number": pa.float64(),
        "truth": pa.bool_(),
        "moment": pa.timestamp("us", tz="UTC"),
    }
    schema = pa.schema([(name, types[kind]) for name, kind in kinds.items()])
    sink = _Sink()
    remaining = iter(rows)
    with parquet.ParquetWriter(sink, schema, compression="zstd") as writer:
        while group := list(islice(remaining, GROUP_ROWS)):
            columns = map(_storable, kinds.values(), zip(*group, strict=True))
            writer.write_table(pa.Table.from_arrays(list(map(pa.array, columns, schema.types)), schema=schema))
            yield sink.taken()
    # Never nothing: the file's index and its last bytes.
    yield sink.taken()


def _storable(kind: Kind, column: Sequence[Any]) -> Sequence[Any]:
    """Write half of a surrogate pair, which UTF-8 cannot say, as JSON can."""
    if kind != "text":
        return column
    return [None if cell is None else cell.encode("utf-8", "backslashreplace").decode() for cell in column]


class _Sink:
    """What a writer of a file believes to be one, and gives on what was written."""

    def __init__(self) -> None:
        self._written = bytearray()
        self._place = 0
        self.closed = False

    def write(self, content: Any) -> int:  # noqa: ANN401 - anything with bytes in it
        self._written += memoryview(content)
        self._place += len(content)
        return len(content)

    def tell(self) -> int:
        return self._place

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def taken(self) -> bytes:
        """Give what was written since the last time."""
        content = bytes(self._written)
        self._written.clear()
        return content
