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


def equations_of(in_block, src_factors, equations):
    """A, b of each row of the normal equations; None where the row has no ratings."""
    Y = src_factors.astype(np.float64)
    rank = Y.shape[1]
    K = round(len(equations.gram) ** 0.5) if equations.gram is not None else 0
    common = 0 if equations.gram is None else equations.gram.astype(np.float64).reshape(K, K)[:rank, :rank]
    for row, (start, end) in enumerate(zip(in_block.offsets[:-1], in_block.offsets[1:], strict=True)):
        if start == end:
            yield None
            continue
        y = Y[in_block.src[start:end]]
        w = np.ones(end - start) if equations.weights is None else equations.weights[start:end].astype(np.float64)
        ridge = np.diag(equations.scales[row] * equations.regularization[:rank])
        yield y.T @ (w[:, None] * y) + common + ridge, y.T @ equations.targets[start:end].astype(np.float64)


def solve(in_block, src_factors, equations):
    """Each row's x by a general solver."""
    systems = equations_of(in_block, src_factors, equations)
    zero = np.zeros(src_factors.shape[1])
    return np.array([zero if system is None else np.linalg.solve(*system) for system in systems])


def error_of(in_block, src_factors, equations, factors):
    """Σ w (x·y)² − 2 t x·y + x·G x + the constants; without weights Σ (t − x·y)²."""
    total = 0.0
    for row, system in enumerate(equations_of(in_block, src_factors, equations)):
        if system is not None:
            A, b = system
            x = factors[row].astype(np.float64)
            start, end = in_block.offsets[row], in_block.offsets[row + 1]
            ridge = np.diag(equations.scales[row] * equations.regularization[: len(x)])
            squares = (equations.targets[start:end].astype(np.float64) ** 2).sum()
            constant = squares if equations.constants is None else equations.constants[row]
            total += x @ (A - ridge) @ x - 2 * x @ b + constant
    return total


def conjugate_gradients(in_block, src_factors, dst_factors, equations, steps):
    """`steps` steps from the old x towards each row's solution, with the matrix at hand."""
    X = np.zeros(dst_factors.shape)
    for row, system in enumerate(equations_of(in_block, src_factors, equations)):
        if system is None:
            continue
        A, b = system
        x = dst_factors[row].astype(np.float64)
        r = b - A @ x
        p = r
        for _ in range(steps):
            if r @ r <= 1e-24 * (b @ b):
                break
            step = (r @ r) / (p @ A @ p)
            x, old_r, r = x + step * p, r, r - step * (A @ p)
            p = r + (r @ r) / (old_r @ old_r) * p
        X[row] = x
    return X


def subspaces(in_block, src_factors, dst_factors, equations, width):
    """`width` coordinates of each row after the other solved exactly from the old x, the others held fixed."""
    X = np.zeros(dst_factors.shape)
    for row, system in enumerate(equations_of(in_block, src_factors, equations)):
        if system is None:
            continue
        A, b = system
        x = dst_factors[row].astype(np.float64)
        for first in range(0, len(x), width):
            chosen = slice(first, first + width)
            x[chosen] += np.linalg.solve(A[chosen, chosen], (b - A @ x)[chosen])
        X[row] = x
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


def balanced_als(by_user, by_item, user_factors, item_factors, regularization, n_iterations):
    """ALS whose sides are scaled to equal penalties before each half-iteration; (X, Y) and the objectives."""
    X, Y = user_factors.astype(np.float64), item_factors.astype(np.float64)
    objectives = []
    for _ in range(n_iterations):
        scale = (penalty(by_item, Y) / penalty(by_user, X)) ** 0.25
        Y = solve_explicit(by_item, X * scale, regularization)
        scale = (penalty(by_user, X * scale) / penalty(by_item, Y)) ** 0.25
        Y = Y * scale
        X = solve_explicit(by_user, Y, regularization)
        both_penalties = penalty(by_user, X) + penalty(by_item, Y)
        objectives.append(squared_error(by_user, X, Y) + regularization * both_penalties)
    return X, Y, objectives
