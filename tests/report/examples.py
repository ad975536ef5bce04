"""A run to make a page of, without one having been run."""

import numpy as np

from mfspark.report.collect import Bins, Collected, ItemMap, Matrix, SampleUser, ScoredItem
from mfspark.report.page import RunFacts

NASTY = "<script>document.title='taken'</script>"
LINK = "<a href='https://example.com'>id</a> & more"


def record(iteration, validation_rmse=None):
    return {
        "iteration": iteration, "squared_error": 100.0 / iteration, "penalty": 20.0,
        "objective": 100.0 / iteration + 20, "rmse": 1.0 / iteration,
        "validation_rmse": validation_rmse, "seconds": 0.5,
    }  # fmt: skip


def facts(gates=(), **metrics):
    manifest = {
        "started": "2026-01-31T23:59:59.5+00:00",
        "config": {"train": {"algorithm": "als", "rank": 3, "reg_param": 0.1}, "input": {"path": NASTY}},
        "config_hash": "0123456789abcdef",
        "versions": {"mfspark": "0.1.0", "spark": "4.3.0"},
        "input_files": {f"file:///{NASTY}": {"size": 5}},
        "gates": list(gates),
    }
    found = {
        "rows": {"read": 12345, "rejected": {f"{NASTY} is null": 7}, "train": 12000, "validation": 0, "holdout": 338},
        "training": {
            "parts": ["train"], "users": 3, "items": 4, "iterations": [record(1), record(2)], "stop_reason": "max_iter",
            "best_iteration": 2, "global_mean": 3.5, "seconds": {"index": 1.5, "iterate": 2.5},
        },
        "holdout": {"n_pairs": 338, "n_unknown": 0, "rmse": 0.9, "mae": 0.7, "n_users": 3, "ndcg_at_10": 0.25},
        "seconds": {"ingest": 2.0, "train": 5.0, "recommend": 1.0, "evaluate": 1.0},
    }  # fmt: skip
    return RunFacts("run-1", manifest, found | metrics, None)


def collected():
    scored = [ScoredItem(NASTY, 5.0), ScoredItem(LINK, 4.0)]
    places = np.array([[1.0, 0.5], [-1.0, 0.25], [0.0, -0.75]])
    return Collected(
        Bins(["1", "2"], [5, 7]),
        Bins(["1", "2 to 3"], [1, 2]),
        Bins(["1"], [4]),
        [SampleUser(NASTY, 2, scored, scored[:1])],
        ItemMap([NASTY, LINK, "7"], [100, 10, 1], places, (0.75, 0.25)),
        Matrix([NASTY, "2"], [LINK, "8"], [[5.0, None], [None, 1.0]], [[4.9, 2.0], [1.0, 1.1]]),
    )
