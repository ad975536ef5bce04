"""Run a job as spark-submit would, through its file in jobs/, but in this process and on the running session."""

import json
import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mfspark.config.loading import load_config
from tests.programs import Outcome, run_program

PROJECT = Path(__file__).resolve().parent.parent.parent

_SMALL = {
    "split": {"holdout": 0.0},
    "output": {"report": False},
    "train": {"rank": 2, "max_iter": 2, "num_user_blocks": 1, "num_item_blocks": 1, "checkpoint_interval": 1},
}


def run_job(name: str, *arguments: object) -> Outcome:
    """Run jobs/<name>.py; the test needs the fixture `spark`, whose session the job takes over."""
    try:
        return run_program(PROJECT / "jobs" / f"{name}.py", *arguments)
    finally:
        for handler in list(logging.getLogger("mfspark").handlers):  # a process of its own would end here
            logging.getLogger("mfspark").removeHandler(handler)
            handler.close()


class Workspace:
    """A folder with an input, a configuration and an output, and jobs run over them."""

    def __init__(self, folder: Path, **sections: dict[str, Any]) -> None:
        self.folder, self.output = folder, folder / "out"
        self.input = folder / "ratings.parquet"
        self.config = folder / "job.toml"
        tree: dict[str, dict[str, Any]] = {"input": {"path": str(self.input)}, "output": {"path": str(self.output)}}
        for name in {**_SMALL, **sections}:
            tree[name] = {**tree.get(name, {}), **_SMALL.get(name, {}), **sections.get(name, {})}
        # Strings, numbers and booleans are written alike in JSON and TOML.
        lines = [
            line
            for name, keys in tree.items()
            for line in (f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items()))
        ]
        self.config.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def elsewhere(self, folder: Path) -> "Workspace":
        """The same input and settings with another output."""
        folder.mkdir(exist_ok=True)
        other = Workspace(folder)
        other.input = self.input
        other.config.write_text(self.config.read_text().replace(str(self.output), str(other.output)))
        return other

    def run(self, *arguments: object, job: str = "run_pipeline", run_id: str = "run") -> Outcome:
        """Run a job; the arguments are flags, or settings as "train.rank=3"."""
        flags = [argument for argument in arguments if str(argument).startswith("--")]
        settings = [f"--set={argument}" for argument in arguments if not str(argument).startswith("--")]
        return run_job(job, f"--config={self.config}", f"--run-id={run_id}", *flags, *settings)

    def current(self) -> str | None:
        """Content of CURRENT."""
        path = self.output / "CURRENT"
        return path.read_text() if path.exists() else None

    def json(self, name: str, run_id: str = "run") -> dict[str, Any]:
        """metrics.json or manifest.json of a run."""
        return json.loads((self.output / "runs" / run_id / name).read_text())

    def rows(self, table: str, run_id: str = "run") -> list[dict[str, Any]]:
        """All rows of a table of a run, in an order of their own."""
        return sorted(pq.read_table(self.output / "runs" / run_id / table).to_pylist(), key=repr)


def workspace_with_a_run(folder: Path) -> Workspace:
    """An output with an earlier published run, `good`, of which a failing job must not change a byte."""
    workspace = Workspace(folder)
    good = workspace.output / "runs" / "good"
    good.mkdir(parents=True)
    manifest = {"status": "complete", "steps": [], "tables": {}, "config": load_config(workspace.config).as_dict()}
    (good / "manifest.json").write_text(json.dumps(manifest))
    (good / "metrics.json").write_text("{}")
    pq.write_table(pa.table({"user_id": [1], "features": [[0.5, 0.25]]}), good / "user_factors.parquet")
    (workspace.output / "CURRENT").write_text("good\n")
    return workspace


def write_parts(table: pa.Table, folder: Path, n_files: int) -> Path:
    """Write a folder of Parquet files, row by row in turn."""
    folder.mkdir()
    for part in range(n_files):
        pq.write_table(table.take(list(range(part, table.num_rows, n_files))), folder / f"part-{part}.parquet")
    return folder


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file under a folder with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
