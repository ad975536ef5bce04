"""Slow, obvious versions of every kernel, in float64; what the tests hold the fast ones to."""

import numpy as np


def rows_of(in_block):
    """(sources, ratings) of each destination row."""
    for start, end in zip(in_block.offsets[:-1], in_block.offsets[1:], strict=True):
        yield in_block.src[start:end], in_block.ratings[start:end].astype(np.float64)


def solve_explicit(in_block, src_factors, regularization):
    """(Σ y yᵀ + λ n I) x = Σ r y, row by row, by a general solver."""
    Y = src_factors.astype(np.float64)
    rank = Y.shape[1]
    X = np.zeros((in_block.n_rows, rank))
    for row, (src, ratings) in enumerate(rows_of(in_block)):
        if len(src):
            A = Y[src].T @ Y[src] + regularization * len(src) * np.eye(rank)
            X[row] = np.linalg.solve(A, Y[src].T @ ratings)
    return X


def squared_error(in_block, dst_factors, src_factors):
    """Σ (r − x·y)²."""
    X, Y = dst_factors.astype(np.float64), src_factors.astype(np.float64)
    return sum(float(((ratings - Y[src] @ X[row]) ** 2).sum()) for row, (src, ratings) in enumerate(rows_of(in_block)))


def top_n(scores, n, seen):
    """Per row the first n unseen columns by descending score, then ascending column."""
    best = []
    for row, row_scores in enumerate(scores):
        order = sorted(range(len(row_scores)), key=lambda item: (-row_scores[item], item))
        best.append([item for item in order if item not in seen[row]][:n])
    return best


def penalty(in_block, dst_factors):
    """Σ |x|² over the ratings, each naming its destination row's x."""
    X = dst_factors.astype(np.float64)
    return sum(float((X[row] ** 2).sum()) for row, (src, _) in enumerate(rows_of(in_block)) for _ in src)
