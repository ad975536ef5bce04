"""Convert MovieLens ratings to Parquet: user_id and item_id int64, rating float32, timestamp int64 (Unix seconds).

Reads u.data (100K, tabs), ratings.dat (1M, 10M, and Spark's sample, '::') and ratings.csv (20M and later, header).
Streams the file, so memory does not grow with its size.
"""

import argparse
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

_SCHEMA = pa.schema({"user_id": pa.int64(), "item_id": pa.int64(), "rating": pa.float32(), "timestamp": pa.int64()})


def import_movielens(source: Path, target: Path) -> int:
    """Write `target` and return the number of ratings.

    Raises
    ------
    ValueError    the first line has no known format, or a line cannot be read
    OSError       a file cannot be read or written
    """
    with source.open(encoding="utf-8") as file:
        first_line = file.readline().rstrip("\n")
    reader = pyarrow.csv.open_csv(source, **_options(first_line))
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(target.name + ".unfinished")
    n_ratings = 0
    with pyarrow.parquet.ParquetWriter(unfinished, _SCHEMA) as writer:
        for batch in reader:
            writer.write_batch(batch.select(_SCHEMA.names))
            n_ratings += batch.num_rows
    unfinished.replace(target)
    return n_ratings


def _options(first_line: str) -> dict[str, object]:
    """CSV options for a file with this first line."""
    names = list(_SCHEMA.names)
    delimiter, skipped = "\t", 0
    if "::" in first_line:
        # The reader supports only one-character delimiters: 'a::b' is 'a', '' and 'b'.
        delimiter = ":"
        names = [name for column in names for name in (column, f"nothing after {column}")][:-1]
    elif first_line.replace('"', "").startswith("userId,movieId,rating,timestamp"):
        delimiter, skipped = ",", 1
    elif first_line.count("\t") != len(names) - 1:
        raise ValueError(
            f"the first line is {first_line[:80]!r}; expected u.data (user, item, rating, timestamp between tabs), "
            "ratings.dat (between '::') or ratings.csv (userId,movieId,rating,timestamp as header)"
        )
    return {
        "read_options": pyarrow.csv.ReadOptions(column_names=names, skip_rows=skipped),
        "parse_options": pyarrow.csv.ParseOptions(delimiter=delimiter),
        "convert_options": pyarrow.csv.ConvertOptions(
            column_types=_SCHEMA, include_columns=_SCHEMA.names, strings_can_be_null=False, null_values=[]
        ),
    }


def main() -> int:
    """Run as a command; exit code 3 if the file is not usable."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="u.data, ratings.dat or ratings.csv")
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
