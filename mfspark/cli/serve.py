"""Jobs over a published run: `mfspark score`, `lists`, `similar`, `fold-in`, `explain`, `export`.

Each reads the model of a run, writes one Parquet table outside the run (`export`: a folder of files), and changes
nothing else. A table appears when it is whole.
"""

import argparse
import logging
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from mfspark.cli.command_line import Parser, guarded, session, session_parser
from mfspark.errors import ConfigError
from mfspark.tracking.log_file import LogFile

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from pyspark.sql import DataFrame, SparkSession

    from mfspark.ml.model import ALSModel

    Work = Callable[[ALSModel, argparse.Namespace, Callable[[str], DataFrame]], DataFrame]

logger = logging.getLogger("mfspark.cli.serve")


def run_score(what: str, arguments: list[str]) -> int:
    """Pairs → predictions."""
    parser = _parser(what)
    parser.add_argument("--pairs", required=True, metavar="PATH", help="table with a user and an item column")
    return _run(parser, arguments, lambda model, options, read: model.transform(read(options.pairs)))


def run_lists(what: str, arguments: list[str]) -> int:
    """Users → recommendations."""
    parser = _parser(what)
    parser.add_argument("--n", type=int, default=10, help="length of the lists; default: 10")
    parser.add_argument("--users", metavar="PATH", help="table with a user column; default: all users of the model")
    parser.add_argument("--seen", metavar="PATH", help="table of pairs to leave out, such as all ratings")
    parser.add_argument(
        "--candidates", metavar="PATH", help="table with an item column: only these, such as what is in stock"
    )
    parser.add_argument("--exclude", metavar="PATH", help="table with an item column to leave out, or of pairs")
    parser.add_argument(
        "--popular", metavar="PATH", help="with --users: ratings; users without factors get the most popular of them"
    )
    _add_layout(parser)
    return _run(parser, arguments, _lists)


def run_similar(what: str, arguments: list[str]) -> int:
    """Items or users → the nearest others."""
    parser = _parser(what)
    parser.add_argument("--n", type=int, default=10, help="length of the lists; default: 10")
    parser.add_argument("--side", choices=["items", "users"], default="items", help="default: items")
    parser.add_argument("--of", metavar="PATH", help="table with their column; default: all")
    parser.add_argument("--metric", choices=["cosine", "dot"], default="cosine", help="default: cosine")
    return _run(parser, arguments, _similar)


def run_fold_in(what: str, arguments: list[str]) -> int:
    """Ratings of newcomers → recommendations, or factors."""
    parser = _parser(what)
    parser.add_argument(
        "--ratings", required=True, metavar="PATH", help="table of their ratings, with the columns of the training"
    )
    parser.add_argument("--n", type=int, default=10, help="length of the lists; default: 10")
    parser.add_argument("--factors", action="store_true", help="write their factors, not recommendations")
    _add_layout(parser)
    return _run(parser, arguments, _fold_in)


def run_explain(what: str, arguments: list[str]) -> int:
    """A user and an item → the contribution of each rating."""
    parser = _parser(what)
    parser.add_argument(
        "--ratings", required=True, metavar="PATH", help="table of ratings, with the columns of the training"
    )
    parser.add_argument("--user", required=True, help="id of a user in these ratings")
    parser.add_argument("--item", required=True, help="id of an item of the model")
    return _run(parser, arguments, _explain)


def run_export(what: str, arguments: list[str]) -> int:
    """Factors → arrays and ids, and an index of the items."""
    parser = _parser(what, "local folder")
    parser.add_argument(
        "--index", nargs="?", const="Flat", metavar="KIND",
        help="also write a FAISS index of the items by inner product: Flat, which is exact (default), or another "
        "description for its index_factory, such as HNSW32",
    )  # fmt: skip
    return guarded(parser.parse_args(arguments), _export)


def _lists(model: "ALSModel", options: argparse.Namespace, read: "Callable[[str], DataFrame]") -> "DataFrame":
    seen, candidates, exclude, popular = (
        read(path) if path else None for path in (options.seen, options.candidates, options.exclude, options.popular)
    )
    if options.users is None:
        if popular is not None:
            raise ConfigError("--popular is for users without factors; name the users with --users")
        return model.recommendForAllUsers(options.n, seen, candidates, exclude)
    return model.recommendForUserSubset(read(options.users), options.n, seen, candidates, exclude, popular)


def _similar(model: "ALSModel", options: argparse.Namespace, read: "Callable[[str], DataFrame]") -> "DataFrame":
    find = model.similarItems if options.side == "items" else model.similarUsers
    return find(options.n, options.metric, read(options.of) if options.of else None)


def _fold_in(model: "ALSModel", options: argparse.Namespace, read: "Callable[[str], DataFrame]") -> "DataFrame":
    ratings = read(options.ratings)
    folded = model.foldInUsers(ratings)
    if options.factors:
        return folded.userFactors.withColumnRenamed("id", folded.getUserCol())
    return folded.recommendForAllUsers(options.n, seen=ratings)


def _explain(model: "ALSModel", options: argparse.Namespace, read: "Callable[[str], DataFrame]") -> "DataFrame":
    from pyspark.sql import functions as F

    item_type = model.factorTables[1].id_type
    row = model.itemFactors.sparkSession.range(1).select(F.lit(options.item).try_cast(item_type)).first()
    item = options.item if row is None or row[0] is None else row[0]  # what is no id of this type is told as it is
    return model.explain(read(options.ratings), options.user, item)


def _parser(what: str, kind: str = "table") -> Parser:
    parser = session_parser(what)
    parser.add_argument("output", help="output.path of the configuration")
    parser.add_argument("--run", metavar="NAME", help="a run; default: the current one")
    parser.add_argument("--to", required=True, metavar="PATH", help=f"the {kind} to write")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    parser.add_argument(
        "--format", default="parquet", help="of the tables that are read: parquet, csv (with a header), …"
    )
    return parser


def _add_layout(parser: Parser) -> None:
    parser.add_argument(
        "--layout", choices=["nested", "flat"],
        help="a row for each user, or for each recommendation; default: recommend.layout of the run",
    )  # fmt: skip


def _run(parser: Parser, arguments: list[str], work: "Work") -> int:
    return guarded(parser.parse_args(arguments), partial(_serve, work))


def _serve(work: "Work", options: argparse.Namespace, log: LogFile) -> None:
    from mfspark.batch.pipeline import list_writer
    from mfspark.batch.published import config_of, model_of, open_published
    from mfspark.storage.tables import write_whole_table
    from mfspark.tables.lists import NESTED

    with session(options, "mfspark", log) as spark:
        run = open_published(spark, options.output, options.run)
        model = model_of(run)
        table = work(model, options, partial(_read, spark, options.format))
        if NESTED in table.columns:  # the lists of a model: write them as the run writes its own
            writer = list_writer(config_of(run, options.layout), spark, run.name, model.factorTables[1].id_type)
            table = writer.table(table, model.getUserCol(), model.getItemCol())
        write_whole_table(table, options.to, overwrite=options.overwrite)
        logger.info("wrote %s", options.to)


def _read(spark: "SparkSession", source_format: str, path: str) -> "DataFrame":
    from mfspark.config.checking import checked
    from mfspark.config.sections import SourceConfig
    from mfspark.storage.source import read_source

    options = {"header": True, "inferSchema": True} if source_format == "csv" else {}
    return read_source(spark, checked(SourceConfig, {"path": path, "format": source_format, "options": options}))


def _export(options: argparse.Namespace, log: LogFile) -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from mfspark.batch.published import load
    from mfspark.storage.tables import whole_folder

    if options.index is not None and find_spec("faiss") is None:
        raise ConfigError("--index needs the library faiss, which is not installed; pip install 'mfspark[index]'")
    with session(options, "mfspark", log) as spark:
        model = load(options.output, options.run, spark)
        with whole_folder(options.to, overwrite=options.overwrite) as folder:
            for side, factors in zip(("user", "item"), model.factorTables, strict=True):
                ids, matrix = factors.collect()
                np.save(folder / f"{side}_factors.npy", matrix)
                pq.write_table(pa.table({"id": ids}), folder / f"{side}_ids.parquet")
                if side == "item" and options.index is not None:
                    _write_index(matrix, options.index, folder / "item_factors.faiss")
        logger.info("wrote %s", options.to)


def _write_index(vectors: "NDArray[np.float32]", kind: str, path: Path) -> None:
    """Write a FAISS index of the rows by inner product. Runs on the driver."""
    import faiss

    try:
        index = faiss.index_factory(vectors.shape[1], kind, faiss.METRIC_INNER_PRODUCT)
        index.train(vectors)
    except RuntimeError as error:
        reason = str(error).rpartition("Error: ")[2].splitlines()[0]
        raise ConfigError(
            f"--index {kind}: FAISS cannot make it of {len(vectors)} vectors of {vectors.shape[1]} numbers: {reason}; "
            "expected Flat, HNSW32 or another description for faiss.index_factory"
        ) from error
    index.add(vectors)
    faiss.write_index(index, str(path))
