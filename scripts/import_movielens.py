"""Convert MovieLens ratings to Parquet: user_id and item_id int64, rating float32, timestamp int64 (Unix seconds).

Reads u.data (100K, tabs), ratings.dat (1M, 10M, and Spark's sample, '::'), ratings.csv (20M and later) and its copies:
any letter case, quotes, a byte-order mark, times as text (UTC), gzip; and the files of the Netflix prize (a line "7:"
before the ratings of film 7). The file is streamed: memory does not grow with it.
"""

import argparse
import csv
import gzip
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

_SCHEMA = pa.schema({"user_id": pa.int64(), "item_id": pa.int64(), "rating": pa.float32(), "timestamp": pa.int64()})
_HEADER = ["userid", "movieid", "rating", "timestamp"]
_ROWS_AT_A_TIME = 1 << 20


def import_movielens(source: Path, target: Path) -> int:
    """Write `target` and return the number of ratings.

    Raises
    ------
    ValueError    the first line has no known format, or a line cannot be read
    OSError       a file cannot be read or written
    """
    with _open_text(source) as file:
        first_line, second_line = (file.readline().rstrip("\r\n") for _ in range(2))
    is_netflix = first_line.removesuffix(":").isdecimal() and first_line.endswith(":")
    batches = _netflix_batches(source) if is_netflix else _csv_batches(source, first_line, second_line)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(target.name + ".unfinished")
    n_ratings = 0
    with pyarrow.parquet.ParquetWriter(unfinished, _SCHEMA) as writer:
        for batch in batches:
            writer.write_batch(batch)
            n_ratings += batch.num_rows
    unfinished.replace(target)
    return n_ratings


def _open_text(source: Path) -> IO[str]:
    # utf-8-sig: without a byte-order mark.
    is_gzip = _is_gzip(source)
    return gzip.open(source, "rt", encoding="utf-8-sig") if is_gzip else source.open(encoding="utf-8-sig")


def _is_gzip(source: Path) -> bool:
    with source.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _csv_batches(source: Path, first_line: str, second_line: str) -> Iterator[pa.RecordBatch]:
    names = list(_SCHEMA.names)
    delimiter, skipped, time_type = "\t", 0, pa.int64()
    if "::" in first_line:
        # The reader supports only one-character delimiters: 'a::b' is 'a', '' and 'b'.
        delimiter = ":"
        names = [name for column in names for name in (column, f"nothing after {column}")][:-1]
    elif [name.strip().lower().replace("_", "") for name in next(csv.reader([first_line]), [])] == _HEADER:
        delimiter, skipped = ",", 1
        if not next(csv.reader([second_line]), ["0"])[-1].strip().isdecimal():
            time_type = pa.timestamp("s")
    elif first_line.count("\t") != len(names) - 1:
        raise ValueError(
            f"the first line is {first_line[:80]!r}; expected u.data (user, item, rating, timestamp between tabs), "
            "ratings.dat (between '::'), ratings.csv (userId,movieId,rating,timestamp as header), or '1:' as in the "
            "files of the Netflix prize"
        )
    reader = pyarrow.csv.open_csv(
        pa.input_stream(source, compression="gzip" if _is_gzip(source) else None),
        read_options=pyarrow.csv.ReadOptions(column_names=names, skip_rows=skipped),
        parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types={**{field.name: field.type for field in _SCHEMA}, "timestamp": time_type},
            include_columns=_SCHEMA.names, strings_can_be_null=False, null_values=[],
        ),
    )  # fmt: skip
    for batch in reader:
        columns = [batch[name] for name in _SCHEMA.names]
        yield pa.RecordBatch.from_arrays([*columns[:3], pc.cast(columns[3], pa.int64())], schema=_SCHEMA)


def _netflix_batches(source: Path) -> Iterator[pa.RecordBatch]:
    ratings = _netflix_ratings(source)
    while rows := list(islice(ratings, _ROWS_AT_A_TIME)):
        columns = zip(*rows, strict=True)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)]
        yield pa.RecordBatch.from_arrays(arrays, schema=_SCHEMA)


def _netflix_ratings(source: Path) -> Iterator[tuple[int, int, float, int]]:
    item = 0
    with _open_text(source) as file:
        for number, line in enumerate(file, 1):
            text = line.strip()
            if text.endswith(":"):
                item = int(text[:-1])
            elif text:
                try:
                    user, rating, day = text.split(",")
                    moment = datetime.fromisoformat(day).replace(tzinfo=timezone.utc)
                    yield int(user), item, float(rating), int(moment.timestamp())
                except ValueError as error:
                    raise ValueError(f"line {number} is {text[:80]!r}; expected user,rating,date") from error


def main() -> int:
    """Run as a command; exit code 3 if the file is not usable."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="u.data, ratings.dat, ratings.csv or a file of the Netflix prize")
    parser.add_argument("target", type=Path, help="Parquet file to write")
    arguments = parser.parse_args()
    try:
        n_ratings = import_movielens(arguments.source, arguments.target)
    except (ValueError, OSError) as error:
        print(f"import_movielens: {arguments.source}: {error}", file=sys.stderr)
        return 3
    print(f"{n_ratings} ratings in {arguments.target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
