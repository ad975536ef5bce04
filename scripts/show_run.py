"""Show the run that CURRENT names: paths of its tables, the loss by iteration, the holdout error, some recommendations,
and for a small matrix the ratings and their reconstruction.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

TABLES = ["user_factors", "item_factors", "recommendations", "rejected_ratings"]


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="output.path of the configuration")
    parser.add_argument("--matrix", type=Path, metavar="RATINGS", help="Parquet ratings to show as a matrix")
    arguments = parser.parse_args()
    run = arguments.output / "runs" / (arguments.output / "CURRENT").read_text().strip()
    metrics = json.loads((run / "metrics.json").read_text())
    columns = json.loads((run / "manifest.json").read_text())["config"]["columns"]
    show_tables(run)
    show_training(metrics)
    show_recommendations(run, columns)
    if arguments.matrix:
        show_matrix(run, arguments.matrix, columns)


def show_tables(run: Path) -> None:
    """Path and number of rows of each table."""
    print("\nTables")
    for name in TABLES:
        print(f"  {run / name}: {pq.read_table(run / name).num_rows} rows")
    for name in ["metrics.json", "manifest.json", "report.html"]:
        if (run / name).exists():
            print(f"  {run / name}")


def show_training(metrics: dict) -> None:
    """Print the loss of each iteration and the error on the holdout."""
    print("\nIteration  squared error    penalty  objective    RMSE")
    for record in metrics["training"]["iterations"]:
        print(
            f"{record['iteration']:9d}  {record['squared_error']:13.3f}  {record['penalty']:9.3f}  "
            f"{record['objective']:9.3f}  {_shown(record['rmse'])}"
        )
    show_holdout({"this model": metrics["holdout"], **metrics["baselines"]})


def show_holdout(found: dict[str, dict]) -> None:
    """Holdout metrics of the model and of the baselines, a row each."""
    names = [name for name in found["this model"] if not name.startswith("n_")]
    if not found["this model"]["n_pairs"]:
        return
    print(f"\nHoldout, {found['this model']['n_pairs']} ratings")
    print(" " * 16 + "".join(f"{_title(name):>13}" for name in names))
    for who, metrics in found.items():
        values = (metrics.get(name) for name in names)
        print(f"{who.replace('_', ' '):16}" + "".join(f"{'-' if v is None else f'{v:.4f}':>13}" for v in values))


def _title(metric: str) -> str:
    """Title of a metric: ndcg@10 for ndcg_at_10."""
    return metric.replace("_at_", "@").replace("_", " ")


def _shown(rmse: float | None) -> str:
    """RMSE as text; implicit feedback has none."""
    return "     -" if rmse is None else f"{rmse:6.4f}"


def show_recommendations(run: Path, columns: dict) -> None:
    """The best items of the first users."""
    print("\nRecommendations (item: score)")
    table = pq.read_table(run / "recommendations").sort_by(columns["user"]).slice(0, 3)
    for row in table.to_pylist():
        best = ", ".join(f"{entry[columns['item']]}: {entry['score']:.2f}" for entry in row["recommendations"][:5])
        print(f"  user {row[columns['user']]}: {best}")


def show_matrix(run: Path, ratings_path: Path, columns: dict) -> None:
    """Ratings and their reconstruction from the factor tables."""
    users, X = read_factors(run / "user_factors", columns["user"])
    items, Y = read_factors(run / "item_factors", columns["item"])
    ratings = {
        (row[columns["user"]], row[columns["item"]]): f"{row[columns['rating']]:g}"
        for row in pq.read_table(ratings_path).to_pylist()
    }
    reconstruction = X @ Y.T
    print("\nRatings and their reconstruction")
    for user, predictions in zip(users, reconstruction, strict=True):
        known = "  ".join(f"{ratings.get((user, item), '?'):>4}" for item in items)
        print(f"  [{known} ]   [{'  '.join(f'{prediction:6.2f}' for prediction in predictions)} ]")


def read_factors(path: Path, id_column: str) -> tuple[list, np.ndarray]:
    """Ids and factor matrix of one side, in the order of the ids."""
    table = pq.read_table(path).sort_by(id_column)
    return table[id_column].to_pylist(), np.array(table["features"].to_pylist())


if __name__ == "__main__":
    main()
