"""LLVM vectors for kernels that keep a tile of sums in registers, which numba's own loops cannot do.

All functions here emit code at compile time. A vector has 16 float32, one cache line; on machines with narrower
registers LLVM splits it. Addresses are pointers to float32 or int32; offsets count elements.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils

LANES = 16

_FLOAT, _INT32, _BYTES = ir.FloatType(), ir.IntType(32), ir.IntType(8).as_pointer()
INT64 = ir.IntType(64)
VECTOR = ir.VectorType(_FLOAT, LANES)
DOUBLE_ZEROS = ir.Constant(ir.VectorType(ir.DoubleType(), LANES), [0.0] * LANES)
ZEROS, ONES = ir.Constant(VECTOR, [0.0] * LANES), ir.Constant(VECTOR, [1.0] * LANES)

# Any, because llvmlite has no type annotations.
Value = Any
Builder = Any


def integer(number: int) -> Value:
    """Constant of 64 bits."""
    return ir.Constant(INT64, number)


def element(builder: Builder, array_type: Any, array: Value, context: Any, offset: Value | None = None) -> Value:
    """Address of an element of a contiguous numpy array that was passed to an intrinsic."""
    data = context.make_array(array_type)(context, builder, array).data
    return data if offset is None else builder.gep(data, [offset])


def load(builder: Builder, address: Value, offset: int = 0) -> Value:
    """16 floats."""
    if offset:
        address = builder.gep(address, [integer(offset)])
    return builder.load(builder.bitcast(address, VECTOR.as_pointer()), align=4)


def least(builder: Builder, x: Value, y: Value) -> Value:
    """The lesser of two integers."""
    return builder.select(builder.icmp_signed("<", x, y), x, y)


def first_lanes(builder: Builder, count: Value) -> Value:
    """Mask of the lanes below `count`."""
    numbers = ir.Constant(ir.VectorType(INT64, LANES), list(range(LANES)))
    return builder.icmp_signed("<", numbers, spread(builder, count))


def load_lanes(builder: Builder, address: Value, mask: Value) -> Value:
    """16 floats, those outside the mask zeros and not read."""
    address = builder.bitcast(address, VECTOR.as_pointer())
    return _call(builder, "llvm.masked.load.v16f32.p0", VECTOR, address, ir.Constant(_INT32, 4), mask, ZEROS)


def store(builder: Builder, vector: Value, address: Value) -> None:
    """16 floats."""
    builder.store(vector, builder.bitcast(address, VECTOR.as_pointer()), align=4)


def prefetch(builder: Builder, address: Value) -> None:
    """Prefetch a cache line that is read soon."""
    flags = [ir.Constant(_INT32, flag) for flag in (0, 3, 1)]  # read, keep, data
    _call(builder, "llvm.prefetch.p0", ir.VoidType(), builder.bitcast(address, _BYTES), *flags)


def multiply_add(builder: Builder, x: Value, y: Value, z: Value) -> Value:
    """x·y + z; one instruction if the machine has it."""
    return _call(builder, "llvm.fmuladd.v16f32", VECTOR, x, y, z)


def square_root(builder: Builder, vector: Value) -> Value:
    """√ of each lane."""
    return _call(builder, "llvm.sqrt.v16f32", VECTOR, vector)


def shuffle(builder: Builder, v: Value, w: Value, lanes: list[int]) -> Value:
    """Lane i is lane lanes[i] of v followed by w."""
    return builder.shuffle_vector(v, w, ir.Constant(ir.VectorType(_INT32, LANES), lanes))


def spread_lane(builder: Builder, vector: Value, lane: int) -> Value:
    """A vector with the value of one lane in all lanes."""
    return shuffle(builder, vector, vector, [lane] * LANES)


def spread(builder: Builder, scalar: Value) -> Value:
    """A vector with the same number in all lanes."""
    undefined = ir.Constant(ir.VectorType(scalar.type, LANES), ir.Undefined)
    return spread_lane(builder, builder.insert_element(undefined, scalar, ir.Constant(_INT32, 0)), 0)


def replace_lane(builder: Builder, v: Value, lane: int, w: Value) -> Value:
    """`v` with one lane taken from `w`."""
    return shuffle(builder, v, w, [LANES + i if i == lane else i for i in range(LANES)])


def interleave(builder: Builder, v: Value, w: Value, width: int) -> tuple[Value, Value]:
    """The 2 × 2 transposition of lanes, `width` apart: one step of transposing 16 vectors."""
    low = [LANES + i - width if i & width else i for i in range(LANES)]
    high = [LANES + i if i & width else i + width for i in range(LANES)]
    return shuffle(builder, v, w, low), shuffle(builder, v, w, high)


def sum_lanes(builder: Builder, vectors: list[Value]) -> Value:
    """The vector of the sums of 16 vectors."""
    width = 1
    while width < LANES:
        pairs = zip(vectors[::2], vectors[1::2], strict=True)
        vectors = [builder.fadd(*interleave(builder, v, w, width)) for v, w in pairs]
        width *= 2
    return vectors[0]


def sum_doubles(builder: Builder, vector: Value) -> Value:
    """Sum of 16 float64."""
    width = LANES // 2
    while width:
        vector = builder.fadd(vector, shuffle(builder, vector, vector, [(i + width) % LANES for i in range(LANES)]))
        width //= 2
    return builder.extract_element(vector, ir.Constant(_INT32, 0))


def loop(
    builder: Builder, count: Value, initial: list[Value], body: Callable[[Value, list[Value]], list[Value]]
) -> list[Value]:
    """Emit: values = initial; for i in range(count): values = body(i, values); the values stay in registers."""
    before = builder.block
    head, done = builder.append_basic_block("loop"), builder.append_basic_block("done")
    builder.cbranch(builder.icmp_signed(">", count, integer(0)), head, done)
    builder.position_at_end(head)
    i = builder.phi(INT64)
    values = [builder.phi(value.type) for value in initial]
    following = body(i, values)
    next_i = builder.add(i, integer(1))
    last = builder.block
    builder.cbranch(builder.icmp_signed("<", next_i, count), head, done)
    for phi, first, new in [(i, integer(0), next_i), *zip(values, initial, following, strict=True)]:
        phi.add_incoming(first, before)
        phi.add_incoming(new, last)
    builder.position_at_end(done)
    results = [builder.phi(value.type) for value in initial]
    for phi, first, new in zip(results, initial, following, strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(new, last)
    return results


def register_tiles(context: Any, n_rows: int, n_vectors: int) -> list[tuple[int, int, int, int]]:
    """Cut a tile of n_rows × n_vectors sums into tiles that fit in registers: (row, end, vector, end) each.

    With AVX-512, tiles are 8 × 2, or 16 × 1 if there is only one vector: of the 32 registers this leaves enough for the
    operands, and reaches the peak of two multiply-adds per cycle. Other machines, where a vector is two or four
    registers, get tiles of 4 × 1.
    """
    is_wide = "+avx512f" in context.codegen().magic_tuple()[2]
    rows, vectors = ((16, 1) if n_vectors == 1 else (8, 2)) if is_wide else (4, 1)
    return [
        (row, min(row + rows, n_rows), vector, min(vector + vectors, n_vectors))
        for vector in range(0, n_vectors, vectors)
        for row in range(0, n_rows, rows)
    ]


def _call(builder: Builder, name: str, result: Any, *arguments: Value) -> Value:
    signature = ir.FunctionType(result, [argument.type for argument in arguments])
    function = cgutils.get_or_insert_function(builder.module, signature, name)  # type: ignore[no-untyped-call]
    return builder.call(function, arguments)
