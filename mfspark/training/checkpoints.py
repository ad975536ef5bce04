"""Checkpoints of the training loop: states to numbers and arrays for a store, and back, bit by bit."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import DataFrame

from mfspark.blocks.blocked import BlockedRatings
from mfspark.blocks.records import OTHER, Side
from mfspark.errors import ConfigError, DataError, MfsparkError
from mfspark.training.exchange import WideFactors
from mfspark.training.loop import Checkpoint, IterationRecord, SideState, State
from mfspark.training.wide import StoredFactors, placed, stored

Arrays = dict[str, NDArray[Any]]
Tables = dict[str, DataFrame]


class Store(Protocol):
    """Keeps numbers, arrays and tables of an iteration."""

    path: str

    def get(self) -> tuple[dict[str, Any], Arrays, Tables] | None:
        """The content, arrays and tables of the last `put`; None if there are none."""

    def put(self, iteration: int, content: dict[str, Any], arrays: Arrays, tables: Tables) -> None:
        """Store the content of an iteration and delete earlier iterations."""


@dataclass(frozen=True)
class StoredCheckpoints:
    """The checkpoints of one training in a store.

    Each checkpoint has the settings and the data fingerprint of its training; `load` refuses any other training.
    """

    store: Store
    interval: int
    """Iterations from one checkpoint to the next."""
    settings: Mapping[str, Any]
    """Parameters that change the result, by name; JSON values."""
    data: Mapping[str, Any]
    """Fingerprint of the ratings; JSON values. Keys that only one of two fingerprints has are not compared."""

    def load(self, ratings: BlockedRatings, rank: int) -> Checkpoint | None:
        """The last checkpoint; see `placed` for the factors.

        Raises
        ------
        ConfigError    its training had other settings; names them
        DataError      its training had other ratings
        OutputError    it cannot be read
        """
        found = self.store.get()
        if found is None:
            return None
        content, arrays, tables = found
        self._require_same("settings", ConfigError, content["settings"], self.settings)
        self._require_same("ratings", DataError, content["data"], self.data)
        state = _unpack(ratings, rank, "state", content["state"], arrays, tables)
        best = state if content["best"] is None else _unpack(ratings, rank, "best", content["best"], arrays, tables)
        return Checkpoint(state, best)

    def keep(self, checkpoint: Checkpoint) -> None:
        """Make this the last checkpoint."""
        arrays: Arrays = {}
        tables: Tables = {}
        state = _pack("state", checkpoint.state, arrays, tables)
        is_best = checkpoint.best is checkpoint.state
        best = None if is_best else _pack("best", checkpoint.best, arrays, tables)
        content = {"settings": dict(self.settings), "data": dict(self.data), "state": state, "best": best}
        self.store.put(len(checkpoint.state.history), content, arrays, tables)

    def _require_same(
        self, what: str, error: type[MfsparkError], before: Mapping[str, Any], now: Mapping[str, Any]
    ) -> None:
        different = [
            f"{key} ({before[key]!r} then, {now[key]!r} now)"
            for key in sorted(before.keys() & now.keys())
            if before[key] != now[key]
        ]
        if different:
            raise error(
                f"the checkpoint in '{self.store.path}' was made with other {what}: {', '.join(different)}; use the "
                f"same {what} or another checkpointPath"
            )


def _pack(name: str, state: State, arrays: Arrays, tables: Tables) -> dict[str, Any]:
    """The numbers of a state, which JSON keeps exactly; adds its arrays, and the factors of wide sides as tables."""
    content: dict[str, Any] = {"history": [asdict(record) for record in state.history]}
    for side, of_side in (("users", state.users), ("items", state.items)):
        values = {field.name: getattr(of_side, field.name) for field in fields(of_side)}
        for key, value in values.items():
            if isinstance(value, WideFactors):
                found = stored(value)
                tables[f"{name}.{side}.{key}"] = found.table
                values[key] = {"scale": found.scale}
        arrays |= {f"{name}.{side}.{key}": value for key, value in values.items() if isinstance(value, np.ndarray)}
        content[side] = {key: value for key, value in values.items() if not isinstance(value, np.ndarray)}
    return content


def _unpack(
    ratings: BlockedRatings, rank: int, name: str, content: dict[str, Any], arrays: Arrays, tables: Tables
) -> State:
    users, items = (_unpack_side(ratings, rank, name, side, content, arrays, tables) for side in OTHER)
    return State(users, items, [IterationRecord(**record) for record in content["history"]])


def _unpack_side(
    ratings: BlockedRatings, rank: int, name: str, side: Side, content: dict[str, Any], arrays: Arrays, tables: Tables
) -> SideState:
    prefix = f"{name}.{side}s"
    values: dict[str, Any] = dict(content[f"{side}s"])
    values |= {key.removeprefix(f"{prefix}."): value for key, value in arrays.items() if key.startswith(f"{prefix}.")}
    for key, rank_of in (("factors", rank), ("accumulated", 1)):
        if f"{prefix}.{key}" in tables:
            values[key] = StoredFactors(tables[f"{prefix}.{key}"], **values[key])
        if values[key] is not None:
            values[key] = placed(ratings, side, values[key], rank_of)
    return SideState(**values)
