"""One pass over the ratings of a row: computes their errors and adds them to the residual of the normal equation."""

from functools import partial
from typing import Any

from numba import types
from numba.extending import intrinsic

from mfspark.kernels import simd
from mfspark.kernels.compiled import njit
from mfspark.kernels.simd import INT64, LANES, ZEROS, integer

_int = types.int64
# How many ratings ahead of its use a source row is prefetched.
_DISTANCE = 2 * LANES
# Row lengths with their own code, in which the loops over strips are unrolled. It is up to twice as fast, but takes
# 0.2 s to compile for each length.
_UNROLLED = (LANES, 2 * LANES, 4 * LANES)


@njit(cache=True, nogil=True)
def add_residual(Y, ratings, row, share, x, residual):  # type: ignore[no-untyped-def]
    """Add Σ e y to `residual`, where e = share·t − w x·y, over the ratings of a row.

    With share 1, residual = −(G + ridge) x becomes b − A x of the row's normal equation A x = b. It is computed from
    the errors, so that no two large sums cancel. With share 0 it becomes −A x.

    Parameters
    ----------
    Y : float32[n_src, K]      source factors, padded rows
    ratings : Ratings          of the block
    row : Row
    share : float32
    x, residual : float32[K]   in; in and out

    Returns
    -------
    float    without weights Σ e²; with weights −Σ x·y (share·t + e) = Σ w (x·y)² − 2 share Σ t x·y, which without
        weights differs from Σ e² only by a constant

    Cost: 2·n_ratings·K multiply-adds in float32; the result is summed in float64.
    """
    src = ratings.src
    return _add_residual(
        Y,
        x.size,
        src,
        ratings.targets,
        ratings.weights,
        row.start,
        row.end,
        share,
        x,
        residual,
        src.size - LANES,
    )


def _type_residual(typing, Y, K, src, targets, weights, start, end, share, x, residual, last):  # type: ignore[no-untyped-def]
    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        arguments = list(arguments)
        arrays = [0, 2, 3, 8, 9]
        if signature.args[4] == types.none:
            arguments[4] = None
        else:
            arrays.append(4)
        for i in arrays:
            arguments[i] = simd.element(builder, signature.args[i], arguments[i], context)
        Y, K, *others = arguments
        blocks = {length: builder.append_basic_block(f"rows_of_{length or 'any'}") for length in (*_UNROLLED, 0)}
        done = builder.append_basic_block("done")
        switch = builder.switch(K, blocks[0])
        sums = []
        for length, block in blocks.items():
            if length:
                switch.add_case(integer(length), block)
            builder.position_at_end(block)
            total = _emit_pass(builder, Y, integer(length) if length else K, *others)
            sums.append((total, builder.block))
            builder.branch(done)
        builder.position_at_end(done)
        result = builder.phi(sums[0][0].type)
        for total, block in sums:
            result.add_incoming(total, block)
        return result

    return types.float64(Y, _int, src, targets, weights, _int, _int, types.float32, x, residual, _int), emit


_add_residual: Any = intrinsic(_type_residual)


def _emit_pass(
    builder: Any,
    Y: Any,
    K: Any,
    src: Any,
    targets: Any,
    weights: Any,
    start: Any,
    end: Any,
    share: Any,
    x: Any,
    residual: Any,
    last: Any,
) -> Any:
    """Emit the pass: 16 ratings at a time, in strips of 16 columns, with the 16 sums of the errors in registers.

    It reads the rows of Y twice, without copying them; the second time they are in the L1 cache. It also prefetches
    the rows of the 16 ratings _DISTANCE further on, but none after `last`.
    """
    share, n_strips = simd.spread(builder, share), builder.udiv(K, integer(LANES))
    n_whole = builder.udiv(builder.sub(end, start), integer(LANES))
    rest = builder.add(start, builder.mul(n_whole, integer(LANES)))
    last_rating = builder.sub(end, integer(1))

    def row(entry: Any) -> Any:
        return builder.gep(Y, [builder.mul(builder.sext(builder.load(builder.gep(src, [entry])), INT64), K)])

    def add_ratings(i: Any, totals: list[Any], is_whole: bool) -> list[Any]:
        first = builder.add(start if is_whole else rest, builder.mul(i, integer(LANES)))
        entries = [builder.add(first, integer(lane)) for lane in range(LANES)]
        ahead = []
        if is_whole:
            known = simd.load(builder, builder.gep(targets, [first]))
            weight = None if weights is None else simd.load(builder, builder.gep(weights, [first]))
            first_ahead = simd.least(builder, builder.add(first, integer(_DISTANCE)), last)
            ahead = [row(builder.add(first_ahead, integer(lane))) for lane in range(LANES)]
        else:
            # After the end, the last rating is repeated with an error of zero.
            entries = [simd.least(builder, entry, last_rating) for entry in entries]
            is_rating = simd.first_lanes(builder, builder.sub(end, first))
            known = simd.load_lanes(builder, builder.gep(targets, [first]), is_rating)
            weight = None if weights is None else simd.load_lanes(builder, builder.gep(weights, [first]), is_rating)
        rows = [row(entry) for entry in entries]

        def add_products(strip: Any, sums: list[Any]) -> list[Any]:
            column = builder.mul(strip, integer(LANES))
            for address in ahead:
                simd.prefetch(builder, builder.gep(address, [column]))
            v = simd.load(builder, builder.gep(x, [column]))
            lines = [simd.load(builder, builder.gep(address, [column])) for address in rows]
            return [simd.multiply_add(builder, line, v, old) for line, old in zip(lines, sums, strict=True)]

        predictions = simd.sum_lanes(builder, simd.loop(builder, n_strips, [ZEROS] * LANES, add_products))
        shared = builder.fmul(share, known)
        errors = builder.fsub(shared, predictions if weight is None else builder.fmul(weight, predictions))
        if not is_whole:
            errors = builder.select(is_rating, errors, ZEROS)
        spreads = [simd.spread_lane(builder, errors, lane) for lane in range(LANES)]

        def add_rows(strip: Any, _: list[Any]) -> list[Any]:
            column = builder.mul(strip, integer(LANES))
            target = builder.gep(residual, [column])
            sums = [simd.load(builder, target), ZEROS, ZEROS, ZEROS]  # four chains hide the latency
            for lane, address in enumerate(rows):
                line = simd.load(builder, builder.gep(address, [column]))
                sums[lane % 4] = simd.multiply_add(builder, line, spreads[lane], sums[lane % 4])
            total = builder.fadd(builder.fadd(sums[0], sums[1]), builder.fadd(sums[2], sums[3]))
            simd.store(builder, total, target)
            return []

        simd.loop(builder, n_strips, [], add_rows)
        # After the end, targets and weights are zeros too.
        left, right = (errors, errors) if weight is None else (builder.fneg(predictions), builder.fadd(shared, errors))
        product = builder.fmul(builder.fpext(left, totals[0].type), builder.fpext(right, totals[0].type))
        return [builder.fadd(totals[0], product)]

    totals = simd.loop(builder, n_whole, [simd.DOUBLE_ZEROS], partial(add_ratings, is_whole=True))
    n_rest = builder.zext(builder.icmp_signed("<", rest, end), INT64)
    (total,) = simd.loop(builder, n_rest, totals, partial(add_ratings, is_whole=False))
    return simd.sum_doubles(builder, total)
