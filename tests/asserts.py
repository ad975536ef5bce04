"""Comparisons that are as strict as their names."""

import numpy as np


def factors_by_id(table) -> dict:
    """Factor table as {id: float32 vector}."""
    return {hashable(row["id"]): np.array(row["features"], np.float32) for row in table.collect()}


def hashable(raw_id):
    """A raw id as a key: before Spark 4.1 a binary one comes back as a bytearray."""
    return bytes(raw_id) if isinstance(raw_id, bytearray) else raw_id


def assert_factors_close(actual: dict, expected: dict, rtol: float, atol: float = 0.0) -> None:
    """Same ids, all finite, all elements close.

    pyspark.testing.assertDataFrameEqual would take NaN for equal to anything.
    """
    assert actual.keys() == expected.keys()
    left = np.array([actual[key] for key in sorted(actual)])
    right = np.array([expected[key] for key in sorted(actual)])
    assert np.isfinite(left).all()
    assert np.isfinite(right).all()
    np.testing.assert_allclose(left, right, rtol=rtol, atol=atol)


def assert_same_bytes(actual: dict, expected: dict) -> None:
    """Same ids and the same bits in every element."""
    assert actual.keys() == expected.keys()
    assert all(actual[key].tobytes() == expected[key].tobytes() for key in actual)
