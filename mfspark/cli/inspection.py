"""What is in an output: `mfspark runs`, `show`, `diff` and `report`. Runs on the driver.

Answers go to stdout, the report to a file.
"""

import argparse
import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from mfspark.cli.command_line import Parser, guarded, locked, session, session_parser
from mfspark.tracking.log_file import LogFile

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from mfspark.storage.runs import PublishedRun

logger = logging.getLogger("mfspark.cli.inspection")

_SHOWN = 3
"""Users whose recommendations are shown."""


def run_runs(what: str, arguments: list[str]) -> int:
    """List the runs of an output."""
    return guarded(_parse(what, arguments), partial(_with_spark, _print_runs))


def run_show(what: str, arguments: list[str]) -> int:
    """Show one run."""
    return guarded(_parse(what, arguments, "run"), partial(_with_spark, _print_run))


def run_diff(what: str, arguments: list[str]) -> int:
    """Compare two runs."""
    return guarded(_parse(what, arguments, "before", "after"), partial(_with_spark, _print_diff))


def run_report(what: str, arguments: list[str]) -> int:
    """Make the report of a run anew."""
    parser = _parser(what, "run")
    parser.add_argument("--to", metavar="FILE", help="the page to write; default: report.html of the run, replaced")
    parser.add_argument("--overwrite", action="store_true", help="replace the file of --to")
    return guarded(parser.parse_args(arguments), partial(_with_spark, _write_report))


def _parse(what: str, arguments: list[str], *runs: str) -> argparse.Namespace:
    return _parser(what, *runs).parse_args(arguments)


def _parser(what: str, *runs: str) -> Parser:
    parser = session_parser(what)
    parser.add_argument("output", help="output.path of the configuration")
    for name in runs:
        is_optional = len(runs) == 1
        parser.add_argument(
            name, nargs="?" if is_optional else None,
            help="name of a run" + (" (default: the current one)" if is_optional else ""),
        )  # fmt: skip
    return parser


def _with_spark(
    work: "Callable[[SparkSession, argparse.Namespace], None]", options: argparse.Namespace, log: LogFile
) -> None:
    with session(options, "mfspark", log) as spark:
        work(spark, options)


def _print_runs(spark: "SparkSession", options: argparse.Namespace) -> None:
    from mfspark.engine.files import FileStore
    from mfspark.storage.metrics import n_known_ratings, published_course
    from mfspark.storage.retention import current_name, run_ends

    output = options.output.rstrip("/")
    files = FileStore(spark, output)
    current = current_name(files, output)
    rows: list[list[Any]] = [["", "run", "status", "started", "users", "items", "ratings", "RMSE", "NDCG"]]
    for end in run_ends(files, output):
        path = f"{output}/runs/{end.name}/metrics.json"
        metrics = files.read_json(path) if files.exists(path) else {}
        course, holdout = published_course(metrics), metrics.get("holdout", {})
        ndcg = next((value for key, value in holdout.items() if key.startswith("ndcg_at_")), None)
        rows.append([
            "*" if end.name == current else "", end.name, end.status or "no manifest", end.started[:19],
            course.get("users"), course.get("items"), n_known_ratings(metrics), holdout.get("rmse"), ndcg,
        ])  # fmt: skip
    _print_table(rows)


def _print_run(spark: "SparkSession", options: argparse.Namespace) -> None:
    from mfspark.batch.pipeline import lists_of_run
    from mfspark.batch.published import config_of, open_published
    from mfspark.tables.columns import column

    run = open_published(spark, options.output, options.run)
    print(f"{run.folder}\n\nTables")
    for name, table in sorted(run.manifest["tables"].items()):
        print(f"  {name}: {table['schema'].removeprefix('struct<').removesuffix('>')}")
    print("\nHoldout")
    holdout, baselines = run.metrics.get("holdout", {}), run.metrics.get("baselines", {})
    _print_table([
        ["", "this model", *baselines],
        *([name, value, *(of.get(name) for of in baselines.values())] for name, value in holdout.items()),
    ])  # fmt: skip
    broken = [gate for gate in run.manifest.get("gates", []) if not gate["passed"]]
    if broken:
        print("\nRules that are not met")
        _print_table([[gate["rule"], gate["message"]] for gate in broken])
    print("\nRecommendations")
    config = config_of(run)
    for user, entries in lists_of_run(config, run).orderBy(column(config.columns.user)).limit(_SHOWN).collect():
        print(f"  {user}: {', '.join(_entry(entry, config.columns.item) for entry in entries)}")


def _entry(entry: Any, item: str) -> str:
    return f"{entry[item]}" if entry["score"] is None else f"{entry[item]} ({entry['score']:.3g})"


def _print_diff(spark: "SparkSession", options: argparse.Namespace) -> None:
    from mfspark.batch.published import config_of, open_published

    before, after = (open_published(spark, options.output, name) for name in (options.before, options.after))
    changes = config_of(after).changes_since(before.manifest["config"])
    print("Settings" if changes else "Settings: the same")
    _print_table([[key, then, "→", now] for key, (then, now) in changes.items()])
    print("\nMetrics")
    numbers = [_numbers(run.metrics) for run in (before, after)]
    _print_table([
        ["", before.name, after.name], *([key, numbers[0].get(key), value] for key, value in numbers[1].items())
    ])  # fmt: skip
    print("\nLists")
    moved = _overlap(before, after)
    _print_table([[key, value] for key, value in moved.items()])


def _numbers(metrics: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a run that may be compared."""
    from mfspark.storage.metrics import n_known_ratings, published_course

    course = published_course(metrics)
    lists = {f"{kind} lists": count for kind, count in metrics.get("lists", {}).items()}
    counts = {"users": course.get("users"), "items": course.get("items"), "ratings": n_known_ratings(metrics)}
    return {**counts, **lists, **metrics.get("holdout", {})}


def _overlap(before: "PublishedRun", after: "PublishedRun") -> dict[str, Any]:
    """How far the lists moved: one join by user."""
    from pyspark.sql import functions as F

    from mfspark.tables.evaluate import lists_of

    def lists(run: "PublishedRun", name: str) -> "DataFrame":
        user, item = (run.manifest["config"]["columns"][side] for side in ("user", "item"))
        return lists_of(run.read_table("recommendations"), user, item).select("id", F.col("items").alias(name))

    both = lists(before, "old").join(lists(after, "new"), "id", "full")
    shared = F.size(F.array_intersect("old", "new")) / F.greatest(F.size("old"), F.size("new"), F.lit(1))
    is_in_both = F.col("old").isNotNull() & F.col("new").isNotNull()
    row = both.agg(
        F.count_if(is_in_both).alias("users in both"),
        F.count_if(F.col("old").isNull()).alias("users in the second only"),
        F.count_if(F.col("new").isNull()).alias("users in the first only"),
        F.avg(F.when(is_in_both, shared)).alias("share of items that stayed, mean over users"),
        F.avg(F.when(is_in_both, (F.col("old") == F.col("new")).cast("int"))).alias("share of lists that are the same"),
    ).first()
    return {} if row is None else row.asDict()


def _write_report(spark: "SparkSession", options: argparse.Namespace) -> None:
    from mfspark.batch.published import config_of, open_published, published_report
    from mfspark.batch.report import REPORT
    from mfspark.storage.tables import write_whole_text

    if options.to is not None:
        page = published_report(spark, options.output, options.run)
        write_whole_text(spark, page, options.to, overwrite=options.overwrite)
        logger.info("wrote %s", options.to)
        return
    run = open_published(spark, options.output, options.run)
    output = replace(config_of(run).output, path=options.output)
    with locked(spark, output, "report"):  # so that no job removes the run meanwhile
        page = published_report(spark, options.output, run.name)
        write_whole_text(spark, page, f"{run.folder}/{REPORT}", overwrite=True)
        logger.info("wrote %s/%s", run.folder, REPORT)


def _print_table(rows: Iterable[list[Any]]) -> None:
    """Columns of equal width; numbers to the right."""
    shown = [[_shown(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for row in shown:
        cells = (
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  " + "  ".join(cells).rstrip())


def _shown(cell: Any) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, float):
        return f"{cell:.4g}"
    return f"{cell:,}" if isinstance(cell, int) and not isinstance(cell, bool) else str(cell)
