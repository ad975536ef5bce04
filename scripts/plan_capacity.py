"""What a training needs of a cluster: memory, bytes moved and seconds an iteration, from sizes alone.

    python scripts/plan_capacity.py --users 1e8 --items 1e6 --ratings 1e9 --rank 64 \
        --executors 50 --cores 8 --memory 48 --driver-memory 32 --network 1.2

Where a side's factors are too large to be broadcast they are exchanged block to block, as training decides it. The two
other ways to solve a side without moving the rows of the other one are priced beside it: the normal equations of all
rows summed over the blocks of the other side, and conjugate gradients whose steps are summed in the same way.

The rates are those of two cores of one machine, where the model is within 15 % of the seconds an iteration that were
measured at 1, 10, 20 and 100 million ratings. A cluster's network, and the seconds of exchanged factors, are not
measured but reckoned. Memory is what has to be kept; the garbage of a large heap comes on top.
"""

import argparse
import json
from dataclasses import dataclass

# Of one core. A half-iteration's nanoseconds a rating are A + B k + C k², a row's are D k³.
KERNEL_NS = (4.0, 0.12, 0.0045)
ROW_NS = 0.008
# Bytes of a block to arrays and back, of factors through pickles and sockets: nanoseconds a byte, of one core.
BLOCK_BYTE_NS = 1.0
FACTOR_BYTE_NS = 1.5
# The driver alone: broadcast and collected factors.
DRIVER_BYTE_NS = 4.5
# A task, beside what it computes, and a job.
TASK_S, JOB_S = 0.01, 0.03
# Blocks a core, and ratings in one at most: what numUserBlocks = 0 chooses.
BLOCKS_A_CORE, RATINGS_IN_BLOCK = 2, 1 << 23
# Copies of the blocks and factors in flight, beside what is kept.
WORKING_SHARE = 1.5
GIB = 2**30


@dataclass(frozen=True)
class Work:
    """What is to be trained."""

    users: float
    items: float
    ratings: float
    rank: int
    rating_bytes: int = 1
    """Of one rating: 1 where there are at most 256 values, 4 else, 8 with weights."""
    id_bytes: int = 8


@dataclass(frozen=True)
class Cluster:
    """What it is trained on."""

    executors: int
    cores: int
    memory_gib: float
    driver_gib: float
    network_gbytes: float
    """Gigabytes a second of one executor."""
    max_broadcast_bytes: float = 0
    """train.max_broadcast_bytes; 0: chosen by the memory of the executors."""

    @property
    def all_cores(self) -> int:
        """Cores of all executors."""
        return self.executors * self.cores

    @property
    def broadcast_bytes(self) -> float:
        """Size of a side's factors beyond which they are exchanged: half an executor's memory, by its cores."""
        return self.max_broadcast_bytes or 0.5 * self.memory_gib * GIB / self.cores


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
    blocks = int(max(BLOCKS_A_CORE * cluster.all_cores, work.ratings // RATINGS_IN_BLOCK))
    are_wide = [4 * work.rank * rows > cluster.broadcast_bytes for rows in (work.users, work.items)]
    users = Side("user", work.users, work.items, are_wide[0], are_wide[1], blocks)
    items = Side("item", work.items, work.users, are_wide[1], are_wide[0], blocks)
    halves = [half(work, cluster, side) for side in (items, users)]
    narrow = sum(side.rows for side in (users, items) if not side.is_wide)
    block_bytes = sum(
        work.ratings * (source_bytes(side) + work.rating_bytes) + 4 * side.rows for side in (users, items)
    )
    factor_bytes = 4 * work.rank * (work.users + work.items)
    broadcast = max((4 * work.rank * side.rows for side in (users, items) if not side.is_wide), default=0)
    executor = WORKING_SHARE * (block_bytes + factor_bytes) / cluster.executors
    workers = cluster.cores * (broadcast * 2 + WORKING_SHARE * block_bytes / blocks / 2)
    return {
        "user factors": "exchanged" if users.is_wide else "broadcast",
        "item factors": "exchanged" if items.is_wide else "broadcast",
        "blocks a side": blocks,
        "blocks GiB, all executors": block_bytes / GIB,
        "factors GiB": factor_bytes / GIB,
        "driver GiB": (narrow * (3 * 4 * work.rank + 2 * work.id_bytes)) / GIB + 0.5,
        "executor JVM GiB": executor / GIB + 0.5,
        "executor Python GiB": workers / GIB + 0.15 * cluster.cores,
        "moved GiB an iteration": sum(moved for _, moved in halves) / GIB,
        "seconds an iteration": sum(seconds for seconds, _ in halves),
    }


def half(work: Work, cluster: Cluster, side: Side) -> tuple[float, float]:
    """(seconds, bytes over the network) of a half-iteration."""
    k, cores = work.rank, cluster.all_cores
    a, b, c = KERNEL_NS
    kernel = (work.ratings * (a + b * k + c * k * k) + side.rows * ROW_NS * k**3) / cores
    unpack = BLOCK_BYTE_NS * (work.ratings * (source_bytes(side) + work.rating_bytes)) / cores
    nanoseconds, moved = kernel + unpack, 0.0
    factor_bytes, source_factor_bytes = 4 * k * side.rows, 4 * k * side.sources
    if side.are_sources_wide:
        delivered = 4 * k * side.sources * blocks_touched(work.ratings / side.sources, side.blocks)
        nanoseconds += 2 * FACTOR_BYTE_NS * delivered / cores
        moved += delivered * (1 - 1 / cluster.executors)
    else:
        nanoseconds += DRIVER_BYTE_NS * source_factor_bytes + FACTOR_BYTE_NS * source_factor_bytes
        moved += source_factor_bytes * cluster.executors
    if side.is_wide:
        nanoseconds += FACTOR_BYTE_NS * factor_bytes / cores
    else:
        nanoseconds += DRIVER_BYTE_NS * factor_bytes
        moved += factor_bytes
    tasks = side.blocks * (2 if side.are_sources_wide else 1)
    network = moved / (cluster.network_gbytes * 1e9 * cluster.executors)
    return nanoseconds * 1e-9 + network + JOB_S + TASK_S * tasks / cores, moved


def other_ways(work: Work, cluster: Cluster, steps: int) -> dict[str, float]:
    """GiB that the item half-iteration moves while no user factor does, beside what the exchange moves."""
    blocks = int(max(BLOCKS_A_CORE * cluster.all_cores, work.ratings // RATINGS_IN_BLOCK))
    k, of_item = work.rank, work.ratings / work.items
    exchange = 4 * k * work.users * blocks_touched(work.ratings / work.users, blocks)
    rows = work.items * blocks_touched(of_item, blocks)
    return {
        "exchange of user rows": exchange / GIB,
        "summed normal equations": rows * 4 * (k * (k + 1) / 2 + k) / GIB,
        f"conjugate gradients, {steps} steps": 2 * rows * 4 * k * (steps + 1) / GIB,
    }


def blocks_touched(n_entries: float, blocks: int) -> float:
    """Expected number of distinct blocks that so many entries of a row fall into."""
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
    parser.add_argument("--cores", type=int, default=2, help="of an executor")
    parser.add_argument("--memory", type=float, default=8, help="GiB of an executor's JVM")
    parser.add_argument("--driver-memory", type=float, default=8, help="GiB of the driver")
    parser.add_argument("--network", type=float, default=1.2, help="gigabytes a second of an executor")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    work = Work(options.users, options.items, options.ratings, options.rank)
    cluster = Cluster(options.executors, options.cores, options.memory, options.driver_memory, options.network)
    figures = plan(work, cluster)
    if options.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:28}{value if isinstance(value, str | int) else f'{value:.3g}'}")
    if float(figures["driver GiB"]) > cluster.driver_gib:
        print("the driver has too little memory: raise --driver-memory, or lower maxBroadcastBytes")
    for name, gib in other_ways(work, cluster, steps=10).items():
        print(f"item half, GiB moved by {name}: {gib:.3g}")


if __name__ == "__main__":
    main()
