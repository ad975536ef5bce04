"""Small dense products and factorizations on tiles of 16 columns, as numba intrinsics.

All matrices are row-major float32 with a row length of K, a multiple of 16; an argument `at` is the offset of the first
element. The functions are called from compiled code and check nothing.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from mfspark.kernels import simd
from mfspark.kernels.simd import INT64, LANES, ONES, ZEROS, integer

_int = types.int64


def _make_gather_gram(n_rows: int, n_vectors: int, first_block_row: bool) -> Any:
    """C[0:R, 0:16V] += Σ_i w_i Y[src[i], left:left+R]ᵀ Y[src[i], right:right+16V], with R = n_rows, V = n_vectors.

    If `weights` is None, all w_i are 1, and the code has no multiplication by weights.

    The rows of Y are read by index, because it measured slower to copy them together first. For the first block row
    of C the same pass also adds Σ_i targets[i] Y[src[i], right:right+16V] to b, and prefetches the cache lines of the
    rating `distance` further on (at most `last`); without this the gather waits for memory.
    """

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        Y, left, right, K, src, start, count, C, at, targets, weights, b, distance, last = arguments
        array = signature.args
        Y = simd.element(builder, array[0], Y, context)
        src = simd.element(builder, array[4], src, context)
        C = simd.element(builder, array[7], C, context, at)
        targets = simd.element(builder, array[9], targets, context, start)
        is_weighted = array[10] != types.none
        if is_weighted:
            weights = simd.element(builder, array[10], weights, context, start)
        b = simd.element(builder, array[11], b, context, right)
        from_left, from_right = builder.gep(Y, [left]), builder.gep(Y, [right])
        first_src, ahead = builder.gep(src, [start]), builder.add(start, distance)

        def offset_of_row(address: Any) -> Any:
            return builder.mul(builder.sext(builder.load(address), INT64), K)

        def ask_for(i: Any, vectors: list[int]) -> None:
            entry = builder.add(ahead, i)
            entry = builder.select(builder.icmp_signed("<", entry, last), entry, last)
            row = offset_of_row(builder.gep(src, [entry]))
            for vector in vectors:
                simd.prefetch(builder, builder.gep(from_right, [builder.add(row, integer(LANES * vector))]))

        for row, row_end, vector, vector_end in simd.register_tiles(context, n_rows, n_vectors):
            adds_b = first_block_row and row == 0
            lines = _lines_to_ask_for(row, vector, vector_end) if first_block_row else []

            def body(i: Any, sums: list[Any]) -> list[Any]:
                y = offset_of_row(builder.gep(first_src, [i]))
                ask_for(i, lines)
                strip = [simd.load(builder, builder.gep(from_right, [y]), LANES * j) for j in range(vector, vector_end)]
                scalars = [builder.gep(from_left, [builder.add(y, integer(r))]) for r in range(row, row_end)]
                if not is_weighted:
                    if adds_b:
                        scalars.append(builder.gep(targets, [i]))
                    return _outer_products(builder, scalars, strip, sums)
                weight = simd.spread(builder, builder.load(builder.gep(weights, [i])))
                weighted = [builder.fmul(weight, line) for line in strip]
                n_sums = len(scalars) * len(strip)
                sums_of_b = (
                    _outer_products(builder, [builder.gep(targets, [i])], strip, sums[n_sums:]) if adds_b else []
                )
                return _outer_products(builder, scalars, weighted, sums[:n_sums]) + sums_of_b

            places = [
                builder.gep(C, [builder.add(builder.mul(K, integer(r)), integer(LANES * v))])
                for r in range(row, row_end)
                for v in range(vector, vector_end)
            ]
            if adds_b:
                places += [builder.gep(b, [integer(LANES * v)]) for v in range(vector, vector_end)]
            sums = simd.loop(builder, count, [ZEROS] * len(places), body)
            for place, total in zip(places, sums, strict=True):
                simd.store(builder, builder.fadd(simd.load(builder, place), total), place)
        return context.get_dummy_value()

    @intrinsic
    def gather_gram(typing, Y, left, right, K, src, start, count, C, at, targets, weights, b, distance, last):  # type: ignore[no-untyped-def]
        signature = types.void(Y, _int, _int, _int, src, _int, _int, C, _int, targets, weights, b, _int, _int)
        return signature, emit

    return gather_gram


def _lines_to_ask_for(row: int, vector: int, vector_end: int) -> list[int]:
    """The cache lines that a register tile prefetches, so that each line of a strip is prefetched once.

    If a strip is two vectors wide, its two register tiles share the lines.
    """
    if vector_end - vector == 2:
        return [vector + (row > 0)]
    return [vector] if row == 0 else []


def _outer_products(builder: Any, scalars: list[Any], strip: list[Any], sums: list[Any]) -> list[Any]:
    """Add scalars ⊗ strip to the sums, row by row; the scalars are given by their addresses."""
    spreads = [simd.spread(builder, builder.load(scalar)) for scalar in scalars]
    products = [(s, line) for s in spreads for line in strip]
    return [simd.multiply_add(builder, s, v, old) for (s, v), old in zip(products, sums, strict=True)]


def _make_product(n_rows: int, n_vectors: int, subtract: bool) -> Any:
    """C[0:R, 0:16V] −= (or =) Σ_p A[p, 0:R]ᵀ M[p, 0:16V]; rows of A have length K_A, those of M and C length K.

    With '=', C may be M itself, because all sums are computed before the first store.
    """

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        A, at_A, K_A, M, at_M, K, count, C, at_C = arguments
        array = signature.args
        A = simd.element(builder, array[0], A, context, at_A)
        M = simd.element(builder, array[3], M, context, at_M)
        C = simd.element(builder, array[7], C, context, at_C)
        results = []
        for row, row_end, vector, vector_end in simd.register_tiles(context, n_rows, n_vectors):

            def body(p: Any, sums: list[Any]) -> list[Any]:
                strip = [
                    simd.load(builder, builder.gep(M, [builder.mul(p, K)]), LANES * j)
                    for j in range(vector, vector_end)
                ]
                first = builder.mul(p, K_A)
                scalars = [builder.gep(A, [builder.add(first, integer(r))]) for r in range(row, row_end)]
                return _outer_products(builder, scalars, strip, sums)

            places = [(r, v) for r in range(row, row_end) for v in range(vector, vector_end)]
            sums = simd.loop(builder, count, [ZEROS] * len(places), body)
            for (r, v), total in zip(places, sums, strict=True):
                offset = builder.add(builder.mul(K, integer(r)), integer(LANES * v))
                results.append((builder.gep(C, [offset]), total))
        for target, total in results:
            value = builder.fsub(simd.load(builder, target), total) if subtract else total
            simd.store(builder, value, target)
        return context.get_dummy_value()

    @intrinsic
    def product(typing, A, at_A, K_A, M, at_M, K, count, C, at_C):  # type: ignore[no-untyped-def]
        return types.void(A, _int, _int, M, _int, _int, _int, C, _int), emit

    return product


def _greater_lanes(context: Any, builder: Any, signature: Any, arguments: Any) -> list[Any]:
    """Bit i of two integers of 16 bits: whether C[i] and C[16 + i] are greater than the bound."""
    C, at_C, bound = arguments
    C = simd.element(builder, signature.args[0], C, context, at_C)
    bounds = simd.spread(builder, bound)
    vectors = (simd.load(builder, C, LANES * vector) for vector in range(2))
    return [builder.bitcast(builder.fcmp_ordered(">", v, bounds), ir.IntType(LANES)) for v in vectors]


def _type_any_greater_32(typing, C, at_C, bound):  # type: ignore[no-untyped-def]
    """Whether any of C[0:32] is greater than the bound."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        first, second = _greater_lanes(context, builder, signature, arguments)
        return builder.icmp_unsigned("!=", builder.or_(first, second), ir.Constant(ir.IntType(LANES), 0))

    return types.boolean(C, _int, types.float32), emit


any_greater_32: Any = intrinsic(_type_any_greater_32)


def _type_greater_32(typing, C, at_C, bound):  # type: ignore[no-untyped-def]
    """Bit i: whether C[i] is greater than the bound, for i in 0:32."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        first, second = (builder.zext(v, INT64) for v in _greater_lanes(context, builder, signature, arguments))
        return builder.or_(first, builder.shl(second, integer(LANES)))

    return _int(C, _int, types.float32), emit


greater_32: Any = intrinsic(_type_greater_32)


def _type_lowest_bit(typing, bits):  # type: ignore[no-untyped-def]
    """The position of the lowest bit that is 1; there is one."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return _int(_int), emit


lowest_bit: Any = intrinsic(_type_lowest_bit)


@intrinsic
def subtract_row_products(typing, M, at_M, K, n_vectors, x, at_x, at_result):  # type: ignore[no-untyped-def]
    """x[result:result+16] −= M[0:16, 0:16V] x[at_x:at_x+16V], with V = n_vectors."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        M, at_M, K, n_vectors, x, at_x, at_result = arguments
        M = simd.element(builder, signature.args[0], M, context, at_M)
        result = simd.element(builder, signature.args[4], x, context, at_result)
        x = simd.element(builder, signature.args[4], x, context, at_x)
        rows = [builder.gep(M, [builder.mul(K, integer(r))]) for r in range(LANES)]

        def body(p: Any, sums: list[Any]) -> list[Any]:
            column = builder.mul(p, integer(LANES))
            v = simd.load(builder, builder.gep(x, [column]))
            return [
                simd.multiply_add(builder, simd.load(builder, builder.gep(row, [column])), v, old)
                for row, old in zip(rows, sums, strict=True)
            ]

        sums = simd.loop(builder, n_vectors, [ZEROS] * LANES, body)
        total = simd.sum_lanes(builder, sums)
        simd.store(builder, builder.fsub(simd.load(builder, result), total), result)
        return context.get_dummy_value()

    return types.void(M, _int, _int, _int, x, _int, _int), emit


def _make_factor(n_pivots: int) -> Any:
    """Factor the symmetric 16 × 16 block of C as Uᵀ U; the rows from n_pivots on must be those of the identity.

    U goes to C (upper triangle), W = U⁻ᵀ to W[at_W:at_W+256] and Wᵀ to the next 256 floats. Returns a bit mask of the
    pivots that are NaN or not greater than their entry of `smallest`.

    The method is Gaussian elimination of [C | I]. The right half of row p needs only lanes that the left half no longer
    needs, so one register holds both. The square roots of the pivots are taken together at the end, off the critical
    path.
    """

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        C, at_C, K, W, at_W, smallest = arguments
        C = simd.element(builder, signature.args[0], C, context, at_C)
        W = simd.element(builder, signature.args[3], W, context, at_W)
        smallest = simd.element(builder, signature.args[5], smallest, context)
        addresses = [builder.gep(C, [builder.mul(K, integer(r))]) for r in range(LANES)]
        rows = [simd.load(builder, address) for address in addresses]
        pivots = ONES
        for p in range(n_pivots):
            pivot_row = rows[p]
            pivot = simd.spread_lane(builder, pivot_row, p)
            pivots = simd.replace_lane(builder, pivots, p, pivot)
            # Lane q has the factor by which the pivot row is added to row q.
            factors = builder.fsub(ZEROS, builder.fmul(pivot_row, builder.fdiv(ONES, pivot)))
            pivot_row = simd.replace_lane(builder, pivot_row, p, ONES)
            for q in range(p + 1, n_pivots):
                cleared = simd.replace_lane(builder, rows[q], p, ZEROS)
                rows[q] = simd.multiply_add(builder, simd.spread_lane(builder, factors, q), pivot_row, cleared)
        roots = builder.fdiv(ONES, simd.square_root(builder, pivots))
        inverse = []
        for p in range(LANES):
            row = builder.fmul(rows[p], simd.spread_lane(builder, roots, p))
            simd.store(builder, row, addresses[p])
            lower = simd.shuffle(builder, row, ZEROS, [i if i < p else LANES + i for i in range(LANES)])
            inverse.append(simd.replace_lane(builder, lower, p, roots))
            simd.store(builder, inverse[p], builder.gep(W, [integer(LANES * p)]))
        for p, row in enumerate(_transpose(builder, inverse)):
            simd.store(builder, row, builder.gep(W, [integer(LANES * (LANES + p))]))
        is_bad = builder.not_(builder.fcmp_ordered(">", pivots, simd.load(builder, smallest)))
        return builder.zext(builder.bitcast(is_bad, ir.IntType(LANES)), INT64)

    @intrinsic
    def factor(typing, C, at_C, K, W, at_W, smallest):  # type: ignore[no-untyped-def]
        return types.int64(C, _int, _int, W, _int, smallest), emit

    return factor


def _transpose(builder: Any, rows: list[Any]) -> list[Any]:
    """Transpose a 16 × 16 matrix in registers."""
    rows = list(rows)
    width = 1
    while width < LANES:
        for i in range(LANES):
            if not i & width:
                rows[i], rows[i + width] = simd.interleave(builder, rows[i], rows[i + width], width)
        width *= 2
    return rows


# For the first block row of A together with b: by its height (8 is enough for a small rank) and its width in vectors.
gather_gram_8x1_with_b = _make_gather_gram(8, 1, first_block_row=True)
gather_gram_12x1_with_b = _make_gather_gram(12, 1, first_block_row=True)
gather_gram_16x1_with_b = _make_gather_gram(16, 1, first_block_row=True)
gather_gram_16x2_with_b = _make_gather_gram(16, 2, first_block_row=True)
gather_gram_16x1 = _make_gather_gram(16, 1, first_block_row=False)
gather_gram_16x2 = _make_gather_gram(16, 2, first_block_row=False)
subtract_product_1x1 = _make_product(1, 1, subtract=True)
subtract_product_16x1 = _make_product(16, 1, subtract=True)
subtract_product_16x2 = _make_product(16, 2, subtract=True)
assign_product_1x1 = _make_product(1, 1, subtract=False)
assign_product_16x1 = _make_product(16, 1, subtract=False)
assign_product_16x2 = _make_product(16, 2, subtract=False)
factor_8 = _make_factor(8)
factor_12 = _make_factor(12)
factor_16 = _make_factor(16)
