"""The command `mfspark`: its subcommands, each a function from arguments to an exit code.

`mfspark run` and the others of the pipeline are the same code as the files in jobs/, which spark-submit starts.
"""

import argparse
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from mfspark.cli import inspection, serve
from mfspark.cli.command_line import Parser, guarded, job_parser, run_job, run_rollback, run_tuning
from mfspark.config.loading import load_config
from mfspark.errors import ConfigError
from mfspark.tracking.log_file import LogFile
from mfspark.version import __version__

_SAMPLES = ("explicit", "implicit", "sgd", "tune")
_STEPS = ["ingest", "train", "recommend", "evaluate"]


class _Command(NamedTuple):
    what: str
    """One line of help."""
    run: Callable[[str, list[str]], int]
    """From the line of help and the arguments to the exit code."""


def _job(*steps: str) -> Callable[[str, list[str]], int]:
    return lambda what, arguments: run_job(what, list(steps), arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run a subcommand; return the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        print(help_text())
        return 0
    if name == "--version":
        print(f"mfspark {__version__}")
        return 0
    if name not in COMMANDS:
        print(f"mfspark: unknown command '{name}'; see mfspark --help", file=sys.stderr)
        return ConfigError.exit_code
    command = COMMANDS[name]
    sys.argv[0] = f"mfspark {name}"  # what usage messages begin with
    return command.run(command.what, arguments[1:])


def help_text() -> str:
    """What `mfspark --help` prints."""
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:{width}}{command.what}" for name, command in COMMANDS.items()]
    return "\n".join([
        "usage: mfspark COMMAND [--help]", "", "Matrix factorization for recommendations on Spark.", "", *lines, "",
        "Begin with: mfspark init, then mfspark run --config mfspark.toml",
        "On a cluster: spark-submit $(mfspark path) run --config mfspark.toml",
    ])  # fmt: skip


def _init(what: str, arguments: list[str]) -> int:
    parser = Parser(description=what)
    parser.add_argument("kind", nargs="?", default="explicit", choices=_SAMPLES, help="default: explicit")
    parser.add_argument("--to", type=Path, default=Path("mfspark.toml"), metavar="FILE", help="default: mfspark.toml")
    options = parser.parse_args(arguments)
    text = files("mfspark.config").joinpath(f"samples/{options.kind}.toml").read_text(encoding="utf-8")
    try:
        with options.to.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        parser.error(f"'{options.to}' exists already; name another file with --to")
    except OSError as error:
        parser.error(f"cannot write '{options.to}': {error.strerror}")
    print(f"wrote {options.to}; set input.path and output.path, then: mfspark run --config {options.to}")
    return 0


def _warm(what: str, arguments: list[str]) -> int:
    parser = job_parser(what)
    parser.add_argument("--config", metavar="FILE", help="compile for these settings; default: those of ALS")
    parser.add_argument("--rank", type=int, default=10, help="without --config: number of latent factors; default: 10")
    return guarded(parser.parse_args(arguments), _compile)


def _compile(options: argparse.Namespace, _: LogFile) -> None:
    from mfspark.batch.pipeline import estimator_of
    from mfspark.ml.estimators import ALS
    from mfspark.serving.recommend import compile_top_n

    estimator = estimator_of(load_config(options.config)) if options.config else ALS(rank=options.rank)
    estimator.algorithm().compile()
    compile_top_n()


def _path(what: str, arguments: list[str]) -> int:
    Parser(description=what).parse_args(arguments)
    print(files("mfspark.cli").joinpath("submitted.py"))
    return 0


COMMANDS = {
    "init": _Command("Write a commented configuration.", _init),
    "run": _Command("Run the whole pipeline: ingest, train, recommend, evaluate, publish.", _job(*_STEPS)),
    "ingest": _Command(
        "Start a run: read the ratings, move unusable rows aside, split off the holdout.", _job("ingest")
    ),
    "train": _Command("Train on the ratings of a run and write its factor tables.", _job("train")),
    "recommend": _Command("Write the top-N table of a run.", _job("recommend")),
    "evaluate": _Command("Evaluate a run on its holdout, then publish it.", _job("evaluate")),
    "tune": _Command("Train with many settings and write the configuration of the best.", run_tuning),
    "runs": _Command("List the runs of an output.", inspection.run_runs),
    "show": _Command("Show a run: tables, metrics, rules, some recommendations.", inspection.run_show),
    "diff": _Command("Compare two runs: settings, metrics, lists.", inspection.run_diff),
    "report": _Command("Make the report page of a run anew.", inspection.run_report),
    "rollback": _Command("Let readers have an earlier run again.", run_rollback),
    "score": _Command("Predict the ratings of pairs with a published model.", serve.run_score),
    "lists": _Command("Recommend to some or all users with a published model.", serve.run_lists),
    "similar": _Command("Find similar items or users with a published model.", serve.run_similar),
    "fold-in": _Command("Recommend to newcomers, by their ratings.", serve.run_fold_in),
    "explain": _Command("Say which ratings a prediction comes of.", serve.run_explain),
    "export": _Command("Write factors as .npy files with their ids, and a vector index.", serve.run_export),
    "warm": _Command("Compile the kernels, so that the first job need not.", _warm),
    "path": _Command("Print the file to give to spark-submit.", _path),
}
