"""What the locked child process runs that reads a Parquet file: it comes on stdin, and goes out as lines of JSON.

The first line has the names of the columns, or why the file is refused; then comes a line per row. Whatever goes wrong
after the first line ends the process with an exit code.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

import orjson

# Imported here, where nothing is locked yet; the computing that casts need is imported late by pyarrow itself.
import pyarrow as pa
import pyarrow.compute
from pyarrow import parquet, types

from webapp import lock

GIB = 1024**3
# A file of a few bytes can claim any number of rows, and any size of what they hold.
LIMITS = lock.Limits(memory_bytes=3 * GIB, cpu_seconds=300, written_bytes=0, open_files=16)
BATCH_ROWS = 5000


def main(file: IO[bytes], out: IO[bytes]) -> None:
    """Read and write until the rows end."""
    lock.step_back()
    lock.close(LIMITS)
    try:
        read = parquet.ParquetFile(file, pre_buffer=False)
        ways = {field.name: _way(field) for field in read.schema_arrow}
        names = read.schema_arrow.names
    except TypeError as error:
        _say(out, {"refused": str(error)})
    except (pa.ArrowException, OSError) as error:
        _say(out, {"refused": f"It is no Parquet file, or it is damaged ({type(error).__name__})."})
    else:
        _say(out, {"names": names})
        for batch in read.iter_batches(BATCH_ROWS, use_threads=False):
            out.writelines(_lines(names, [way(column) for way, column in zip(ways.values(), batch, strict=True)]))


def _say(out: IO[bytes], document: dict[str, Any]) -> None:
    out.write(orjson.dumps(document) + b"\n")


def _lines(names: Sequence[str], columns: Sequence[Sequence[Any]]) -> Iterator[bytes]:
    for row in zip(*columns, strict=True):
        yield orjson.dumps(dict(zip(names, row, strict=True))) + b"\n"


def _way(field: pa.Field) -> Callable[[pa.Array], list[Any]]:
    """Give how the values of a column become those of JSON."""
    kind = field.type.value_type if types.is_dictionary(field.type) else field.type
    if types.is_floating(kind) or types.is_decimal(kind):
        return lambda column: [_number(each) for each in column.cast(pa.float64()).to_pylist()]
    if types.is_date(kind) or types.is_timestamp(kind) or types.is_time(kind):
        return lambda column: column.cast(pa.string()).to_pylist()
    plain = (types.is_integer, types.is_boolean, types.is_string, types.is_large_string, types.is_null)
    if any(is_so(kind) for is_so in plain):
        return lambda column: column.to_pylist()
    raise TypeError(f"Its column “{field.name[:100]}” holds {field.type}; write numbers, texts, booleans or times.")


def _number(value: float | None) -> float | str | None:
    """Read what is no number as missing, as everywhere; what is not finite is left to the check of the row."""
    if value is None or math.isnan(value):
        return None
    return value if math.isfinite(value) else str(value)


if __name__ == "__main__":
    main(sys.stdin.buffer, sys.stdout.buffer)
