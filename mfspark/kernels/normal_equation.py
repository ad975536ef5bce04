"""The normal equation A x = b of one destination row."""

from numba import njit


@njit(cache=True, nogil=True)
def accumulate_explicit(Y, src, ratings, A, b):  # type: ignore[no-untyped-def]
    """Fill A = Σ y yᵀ (lower triangle) and b = Σ r y over the ratings of one row.

    Parameters
    ----------
    Y : float32[n_src, rank]     source factors
    src, ratings : int32[n], float32[n]
    A, b : float64[rank, rank], float64[rank]    out; sums of thousands of ratings, hence float64

    Cost: n·rank² / 2 multiply-adds.
    """
    rank = Y.shape[1]
    A[:, :] = 0.0
    b[:] = 0.0
    for entry in range(src.size):
        y = Y[src[entry]]
        rating = ratings[entry]
        for i in range(rank):
            y_i = float(y[i])
            b[i] += rating * y_i
            for j in range(i + 1):
                A[i, j] += y_i * y[j]


@njit(cache=True, nogil=True)
def add_ridge(A, ridge):  # type: ignore[no-untyped-def]
    """Add ridge to the diagonal of A, in place."""
    for i in range(A.shape[0]):
        A[i, i] += ridge
