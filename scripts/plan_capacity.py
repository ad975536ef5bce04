"""Plan a cluster for a training: estimate memory, bytes moved and seconds per iteration from the sizes.

    python scripts/plan_capacity.py --users 1e8 --items 1e6 --ratings 1e9 --rank 64 \
        --executors 50 --cores 8 --memory 48 --driver-memory 32 --network 1.2

Factors that are too large to broadcast are exchanged block to block, by the rule of training. The plan also estimates
two methods that solve a side without moving the rows of the other side: summing the normal equations of all rows over
the blocks of the other side, and summing the steps of conjugate gradients in the same way.

The rates come from two cores of one machine. In one process the estimate is within 15 % of the measured seconds per
iteration, at 1, 10, 20 and 100 million ratings. scripts/bench_capacity.py measures every figure on two executors and
prints it beside the plan. These have no network between them, so network time is an estimate. The memory of a JVM is
its live heap; it needs the same amount again to work.
"""

import argparse
import json
import math
from dataclasses import dataclass

# For one core: a half-iteration takes A + B k + C k² nanoseconds per rating and D k³ per row.
KERNEL_NS = (4.0, 0.12, 0.0045)
ROW_NS = 0.008
# Nanoseconds per byte on one core: blocks to arrays and back, factors through pickles and sockets.
BLOCK_BYTE_NS = 1.0
FACTOR_BYTE_NS = 1.5
# The same on the driver, for broadcast and collected factors.
DRIVER_BYTE_NS = 4.5
# Extra cost between processes: per such byte on the driver, per byte of rows between blocks, per half-iteration.
REMOTE_BYTE_NS, DELIVERED_BYTE_NS, REMOTE_JOB_S = 2.5, 14.0, 0.2
# Overhead of a task and of a job.
TASK_S, JOB_S = 0.01, 0.03
# Blocks per core, and most ratings in a block: the choice of numUserBlocks = 0.
BLOCKS_A_CORE, RATINGS_IN_BLOCK = 2, 1 << 23
# Most copies of broadcast factors in the driver, an executor's JVM and each Python worker; and of an executor's rows of
# a wide side in its JVM and its Python workers.
DRIVER_COPIES, JVM_COPIES, PYTHON_COPIES = 5.5, 2.0, 2.1
WIDE_JVM_COPIES, WIDE_PYTHON_COPIES = 6.5, 5.2
# Required heap of a JVM, relative to its live data.
WORKING = 2.0
# GiB of empty processes; rows of a wide side pass through two more Python workers.
DRIVER_GIB, JVM_GIB, PYTHON_GIB, WIDE_PYTHON_GIB = 0.3, 0.06, 0.26, 0.6
GIB = 2**30


@dataclass(frozen=True)
class Work:
    """Sizes of the training."""

    users: float
    items: float
    ratings: float
    rank: int
    rating_bytes: int = 1
    """Bytes of a rating: 1 with at most 256 values, else 4; 8 with weights."""
    id_bytes: int = 8


@dataclass(frozen=True)
class Cluster:
    """The cluster."""

    executors: int
    cores: int
    memory_gib: float
    driver_gib: float
    network_gbytes: float
    """Gigabytes per second of one executor."""
    max_broadcast_bytes: float = 0
    """train.max_broadcast_bytes; 0: chosen by the memory of the executors."""
    max_result_gib: float = 1
    """spark.driver.maxResultSize."""

    @property
    def all_cores(self) -> int:
        """Cores of all executors."""
        return self.executors * self.cores

    @property
    def broadcast_bytes(self) -> float:
        """Size of a side's factors beyond which they are exchanged.

        Half an executor's memory, by its cores, and what the driver may collect.
        """
        own = min(0.5 * self.memory_gib / self.cores, 0.9 * self.max_result_gib) * GIB
        return self.max_broadcast_bytes or own


@dataclass(frozen=True)
class Side:
    """One half-iteration: the rows of a side solved."""

    name: str
    rows: float
    sources: float
    is_wide: bool
    are_sources_wide: bool
    blocks: int


def plan(work: Work, cluster: Cluster) -> dict[str, float | str | int]:
    """Predicted figures of one training, by name."""
    blocks = blocks_of(work, cluster)
    are_wide = [4 * work.rank * rows > cluster.broadcast_bytes for rows in (work.users, work.items)]
    users = Side("user", work.users, work.items, are_wide[0], are_wide[1], blocks)
    items = Side("item", work.items, work.users, are_wide[1], are_wide[0], blocks)
    halves = [half(work, cluster, side) for side in (items, users)]
    block_bytes = sum(
        work.ratings * (source_bytes(side) + work.rating_bytes) + 4 * side.rows for side in (users, items)
    )
    narrow = sum(side.rows for side in (users, items) if not side.is_wide)
    broadcast = 4 * work.rank * max((side.rows for side in (users, items) if not side.is_wide), default=0)
    wide = 4 * work.rank * sum(side.rows for side in (users, items) if side.is_wide) / cluster.executors
    python = (WIDE_PYTHON_GIB if wide else PYTHON_GIB) * GIB + PYTHON_COPIES * broadcast
    return {
        "user factors": "exchanged" if users.is_wide else "broadcast",
        "item factors": "exchanged" if items.is_wide else "broadcast",
        "blocks a side": blocks,
        "blocks GiB, all executors": block_bytes / GIB,
        "factors GiB": 4 * work.rank * (work.users + work.items) / GIB,
        "driver GiB": narrow * (DRIVER_COPIES * 4 * work.rank + 2 * work.id_bytes) / GIB + DRIVER_GIB,
        "executor JVM GiB": (block_bytes / cluster.executors + JVM_COPIES * broadcast + WIDE_JVM_COPIES * wide) / GIB
        + JVM_GIB,
        "executor Python GiB": (cluster.cores * python + WIDE_PYTHON_COPIES * wide) / GIB,
        "moved GiB an iteration": sum(moved for _, moved in halves) / GIB,
        "seconds an iteration": sum(seconds for seconds, _ in halves),
    }


def blocks_of(work: Work, cluster: Cluster) -> int:
    """Number of blocks of a side."""
    return int(max(BLOCKS_A_CORE * cluster.all_cores, work.ratings // RATINGS_IN_BLOCK))


def half(work: Work, cluster: Cluster, side: Side) -> tuple[float, float]:
    """(seconds, bytes over the network) of a half-iteration."""
    k, cores = work.rank, cluster.all_cores
    a, b, c = KERNEL_NS
    kernel = (work.ratings * (a + b * k + c * k * k) + side.rows * ROW_NS * k**3) / cores
    unpack = BLOCK_BYTE_NS * (work.ratings * (source_bytes(side) + work.rating_bytes)) / cores
    nanoseconds, moved = kernel + unpack, 0.0
    is_remote = cluster.executors > 1
    driver_byte_ns = DRIVER_BYTE_NS + REMOTE_BYTE_NS * is_remote
    factor_bytes, source_factor_bytes = 4 * k * side.rows, 4 * k * side.sources
    if side.are_sources_wide:
        delivered = 4 * k * side.sources * blocks_touched(work.ratings / side.sources, side.blocks)
        nanoseconds += DELIVERED_BYTE_NS * delivered / cores
        moved += delivered * (1 - 1 / cluster.executors)
    else:
        nanoseconds += (driver_byte_ns + FACTOR_BYTE_NS) * source_factor_bytes
        moved += source_factor_bytes * cluster.executors
    if side.is_wide:
        nanoseconds += FACTOR_BYTE_NS * factor_bytes / cores
    else:
        nanoseconds += driver_byte_ns * factor_bytes
        moved += factor_bytes
    tasks = side.blocks * (2 if side.are_sources_wide else 1)
    network = moved / (cluster.network_gbytes * 1e9 * cluster.executors)
    return nanoseconds * 1e-9 + network + (REMOTE_JOB_S if is_remote else JOB_S) + TASK_S * tasks / cores, moved


def other_ways(work: Work, cluster: Cluster, steps: int) -> dict[str, float]:
    """GiB that the item half-iteration moves without moving user factors, and with the exchange."""
    blocks = blocks_of(work, cluster)
    k, of_item = work.rank, work.ratings / work.items
    exchange = 4 * k * work.users * blocks_touched(work.ratings / work.users, blocks)
    rows = work.items * blocks_touched(of_item, blocks)
    return {
        "exchange of user rows": exchange / GIB,
        "summed normal equations": rows * 4 * (k * (k + 1) / 2 + k) / GIB,
        f"conjugate gradients, {steps} steps": 2 * rows * 4 * k * (steps + 1) / GIB,
    }


def settings(figures: dict[str, float | str | int], cluster: Cluster) -> list[str]:
    """Flags of spark-submit and of a job for a plan."""

    def gib(of: str, times: float) -> str:
        return f"{math.ceil(times * float(figures[f'{of} GiB']))}g"

    return [
        f"--driver-memory {gib('driver', WORKING)}",
        f"--executor-memory {gib('executor JVM', WORKING)}",
        f"--conf spark.executor.memoryOverhead={gib('executor Python', 1.1)}",
        *(f"--set train.num_{side}_blocks={figures['blocks a side']}" for side in ("user", "item")),
        f"--set train.max_broadcast_bytes={int(cluster.broadcast_bytes)}",
    ]


def blocks_touched(n_entries: float, blocks: int) -> float:
    """Expected number of distinct blocks with at least one of a row's entries."""
    return blocks * (1 - (1 - 1 / blocks) ** n_entries)


def source_bytes(side: Side) -> int:
    """Bytes of a source index in a block."""
    return 2 if side.sources <= 1 << 16 else 4


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("users", "items", "ratings"):
        parser.add_argument(f"--{name}", type=float, required=True)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--executors", type=int, default=1)
    parser.add_argument("--cores", type=int, default=2, help="cores of an executor")
    parser.add_argument("--memory", type=float, default=8, help="GiB of an executor's JVM")
    parser.add_argument("--driver-memory", type=float, default=8, help="GiB of the driver")
    parser.add_argument("--max-result", type=float, default=1, help="GiB of spark.driver.maxResultSize")
    parser.add_argument("--network", type=float, default=1.2, help="gigabytes a second of an executor")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    work = Work(options.users, options.items, options.ratings, options.rank)
    cluster = Cluster(
        options.executors, options.cores, options.memory, options.driver_memory, options.network,
        max_result_gib=options.max_result,
    )  # fmt: skip
    figures = plan(work, cluster)
    if options.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:28}{value if isinstance(value, str | int) else f'{value:.3g}'}")
    print("at least:", *settings(figures, cluster))
    for of, gib in (("driver", cluster.driver_gib), ("executor JVM", cluster.memory_gib)):
        if WORKING * float(figures[f"{of} GiB"]) > gib:
            print(f"the {of} has too little memory: raise it, or lower maxBroadcastBytes")
    for name, gib in other_ways(work, cluster, steps=10).items():
        print(f"item half, GiB moved by {name}: {gib:.3g}")


if __name__ == "__main__":
    main()
