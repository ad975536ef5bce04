"""Records of the Connect engine as rows of binary, and the task that reads and writes them. Runs on executors."""

import gc
import pickle
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import Any

import pyarrow as pa
from pyspark import TaskContext

from mfspark.engine.failures import require_packages

Task = Callable[[int, Iterable[Any]], Iterable[Any]]

RECORD_ROWS = "part int, source int, number int, chunk int, n_chunks int, data binary"
"""A record is n_chunks rows: their part, and the place of the record among those of the part: ascending in (source,
number). data is a piece of the pickled record. It is null in a row that marks the part, the first row from its source:
each part has one from source 0, since a task cannot tell its part by the number of its partition, which another one has
in a union."""
VALUE_ROWS = "value string, piece int, bytes binary"
"""A piece of a pickled value. Before a task, each mark from source 0 is joined with the pieces that the task reads."""
_COLUMNS = pa.schema(
    [*((name, pa.int32()) for name in ("part", "source", "number", "chunk", "n_chunks")), ("data", pa.binary())]
)
PLACE = ("source", "number", "chunk")

# A row and a batch of rows have at most about so many bytes: gRPC refuses messages above 128 MiB, and a JVM array of
# gathered rows ends at 2 GiB.
CHUNK_BYTES = 1 << 22


def run_part(
    read: Callable[[Iterable[pa.RecordBatch]], Iterable[Any]],
    tasks: tuple[Task, ...],
    write: Callable[[int, Iterable[Any]], Iterator[pa.RecordBatch]],
    chosen: frozenset[int] | None,
    packages: dict[str, str],
    has_pieces: bool,
    batches: Iterable[pa.RecordBatch],
) -> Iterator[pa.RecordBatch]:
    """Executor: read the records of one partition, run the tasks and write their results.

    chosen : the parts to run; None: all
    packages : versions on the client
    has_pieces : whether the first rows have pieces of the values that the tasks read
    """
    gc.freeze()  # as in the RDD engine
    require_packages(packages)
    batches = _receive(iter(batches)) if has_pieces else iter(batches)
    first = list(islice(batches, 1))
    part = _part_of(first) if read is read_records else TaskContext.get().partitionId()  # type: ignore[union-attr]
    if part is not None and (chosen is None or part in chosen):
        records: Iterable[Any] = read(chain(first, batches))
        for task in tasks:
            records = task(part, records)
        yield from write(part, records)
    for _batch in batches:
        pass  # Spark does not reuse a worker that leaves input unread


_received: dict[str, Any] = {}
"""The large values that the task of this process reads."""


class Received:
    """A large value, in the code of a task."""

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def value(self) -> Any:
        """The value; tasks must not change it."""
        return _received[self._name]


def _receive(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Take the large values from the first rows, which repeat the mark for each piece; return the mark and the rest."""
    _received.clear()
    pieces: dict[str, dict[int, pa.Buffer]] = {}
    marks: list[pa.RecordBatch] = []
    rest: list[pa.RecordBatch] = []
    for batch in batches:
        n_pieces = batch.num_rows - batch["value"].null_count
        for row in range(n_pieces):
            of_value = pieces.setdefault(batch["value"][row].as_py(), {})
            of_value[batch["piece"][row].as_py()] = batch["bytes"][row].as_buffer()
        records = batch.select(_COLUMNS.names)
        if not marks:
            marks.append(records.take(pa.array([0])))  # a copy: a slice would keep the pieces in memory
        if n_pieces < batch.num_rows:
            rest.append(records.slice(n_pieces))
            break
    for name, of_value in pieces.items():
        _received[name] = pickle.loads(b"".join(of_value[number] for number in range(len(of_value))))
    return chain(marks, rest, batches)


def _part_of(first: list[pa.RecordBatch]) -> int | None:
    """The part of these rows; None if there are none, because other parts were chosen."""
    return first[0]["part"][0].as_py() if first else None


def read_numbers(batches: Iterable[pa.RecordBatch]) -> Iterator[int]:
    """The numbers of the parts, as records."""
    for batch in batches:
        yield from batch.column(0).to_pylist()


def read_batches(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Rows of a table of the user, as records."""
    return (batch.cast(schema) for batch in batches)


def read_records(batches: Iterable[pa.RecordBatch]) -> Iterator[Any]:
    """The records in rows (`RECORD_ROWS`)."""
    return (record for _part, record in records_of(batches))


def records_of(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[int, Any]]:
    """Each record with its part; the rows of a record follow each other."""
    gathered: list[bytes] = []
    for batch in batches:
        for row in range(batch.num_rows):
            data = batch["data"][row]
            if data.is_valid:
                gathered.append(data.as_buffer())
                if len(gathered) == batch["n_chunks"][row].as_py():
                    joined = gathered[0] if len(gathered) == 1 else b"".join(gathered)
                    gathered = []
                    yield batch["part"][row].as_py(), pickle.loads(joined)


def write_records(part: int, records: Iterable[Any]) -> Iterator[pa.RecordBatch]:
    """Rows of the records of a part, after its mark."""
    yield _marks([part])
    yield from _rows((part, 0, record) for record in records)


def write_pairs(n_parts: int, source: int, pairs: Iterable[tuple[int, Any]]) -> Iterator[pa.RecordBatch]:
    """Rows of (target, record); the first source also marks each target."""
    if source == 0:
        yield _marks(list(range(n_parts)))
    yield from _rows((pair[0], source, pair) for pair in pairs)


def _marks(parts: list[int]) -> pa.RecordBatch:
    n = len(parts)
    return _batch_of([parts, [0] * n, [-1] * n, [0] * n, [1] * n, [None] * n])


def write_pieces(name: str, first: int, data: bytes, _: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Part of a pickled value as its pieces, from this number on."""
    for number, start in enumerate(range(0, len(data), CHUNK_BYTES), first):
        yield pa.RecordBatch.from_pydict(
            {"value": [name], "piece": pa.array([number], pa.int32()), "bytes": [data[start : start + CHUNK_BYTES]]}
        )


def _rows(records: Iterable[tuple[int, int, Any]]) -> Iterator[pa.RecordBatch]:
    """Batches of the rows of (part, source, record)."""
    columns: list[list[Any]] = [[] for _ in _COLUMNS]
    n_bytes = 0
    for number, (part, source, record) in enumerate(records):
        data = memoryview(pickle.dumps(record, protocol=5))
        n_chunks = max(1, -(-len(data) // CHUNK_BYTES))
        for chunk in range(n_chunks):
            piece = data[chunk * CHUNK_BYTES : (chunk + 1) * CHUNK_BYTES]
            for column, value in zip(columns, (part, source, number, chunk, n_chunks, piece), strict=True):
                column.append(value)
            n_bytes += len(piece)
            if n_bytes >= CHUNK_BYTES:
                yield _batch_of(columns)
                columns, n_bytes = [[] for _ in _COLUMNS], 0
    if columns[0]:
        yield _batch_of(columns)


def _batch_of(columns: list[list[Any]]) -> pa.RecordBatch:
    arrays = [pa.array(column, field.type) for column, field in zip(columns, _COLUMNS, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=_COLUMNS)


def write_table(schema: pa.Schema, _: int, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Rows of a table, with the types of its schema."""
    return (batch.cast(schema) for batch in batches)
