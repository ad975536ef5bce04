"""Lines of the log for people."""

from mfspark.batch.words import lists_in_words, metrics_in_words, rows_in_words

ROWS = {
    "read": 1501,
    "rejected": {},
    "carried": 0,
    "merged_duplicates": 0,
    "train": 1349,
    "validation": 0,
    "holdout": 152,
}


def test_rows_are_named_by_their_use():
    assert rows_in_words(ROWS) == "1501 rows: 1349 for training, 152 held out"


def test_rows_that_went_elsewhere_are_named_too():
    others = {"rejected": {"rating is null": 3, "user is null": 1}, "carried": 900, "merged_duplicates": 5}
    assert rows_in_words({**ROWS, **others, "validation": 20}) == (
        "1501 rows: 1349 for training, 20 for validation, 152 held out; 900 reused from the run before; 5 merged "
        "as duplicates; 4 rejected (rating is null 3, user is null 1)"
    )


def test_lists_are_counted_by_kind():
    assert lists_in_words({"full": 6038, "short": 2, "fallback": 0, "empty": 0}) == "6038 full, 2 short"
    counts = {"full": 1, "short": 0, "fallback": 3, "empty": 4}
    assert lists_in_words(counts) == "1 full, 3 filled with popular items, 4 empty"
    assert lists_in_words(dict.fromkeys(counts, 0)) == "none"


def test_metrics_have_three_digits_and_stand_beside_the_baselines():
    metrics = {"n_pairs": 152, "n_unknown": 0, "rmse": 0.9310456789, "mae": 0.6557, "n_users": 30}
    metrics |= {"ndcg_at_10": 0.17267, "precision_at_10": 0.1633, "recall_at_10": 0.181, "coverage_at_10": 0.5}
    baselines = {
        "mean_and_biases": {"n_pairs": 152, "n_unknown": 0, "rmse": 1.10984, "mae": 0.91},
        "popularity": {"n_users": 30, "ndcg_at_10": 0.1696, "recall_at_10": None},
    }
    assert metrics_in_words(metrics, baselines) == (
        "RMSE 0.931 (mean and biases 1.110), MAE 0.656 (mean and biases 0.910), NDCG@10 0.173 (popularity 0.170), "
        "recall@10 0.181"
    )


def test_holdout_of_unknown_users_has_no_metrics():
    metrics = {"n_pairs": 9, "n_unknown": 9, "rmse": None, "mae": None, "ndcg_at_10": None}
    assert metrics_in_words(metrics, {"popularity": {"ndcg_at_10": None}}) == "no metric could be computed"
