"""Checkpoints of the training loop: states to numbers and arrays for a store, and back, bit by bit."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mfspark.errors import ConfigError, DataError, MfsparkError
from mfspark.training.exchange import WideFactors
from mfspark.training.loop import Checkpoint, IterationRecord, SideState, State

Arrays = dict[str, NDArray[Any]]


class Store(Protocol):
    """Keeps numbers and arrays of an iteration."""

    path: str

    def get(self) -> tuple[dict[str, Any], Arrays] | None:
        """The content and arrays of the last `put`; None if there are none."""

    def put(self, iteration: int, content: dict[str, Any], arrays: Arrays) -> None:
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

    def load(self) -> Checkpoint | None:
        """The last checkpoint.

        Raises
        ------
        ConfigError    its training had other settings; names them
        DataError      its training had other ratings
        OutputError    it cannot be read
        """
        found = self.store.get()
        if found is None:
            return None
        content, arrays = found
        self._require_same("settings", ConfigError, content["settings"], self.settings)
        self._require_same("ratings", DataError, content["data"], self.data)
        state = _unpack("state", content["state"], arrays)
        best = state if content["best"] is None else _unpack("best", content["best"], arrays)
        return Checkpoint(state, best)

    def keep(self, checkpoint: Checkpoint) -> None:
        """Make this the last checkpoint."""
        state, arrays = _pack("state", checkpoint.state)
        content = {"settings": dict(self.settings), "data": dict(self.data), "state": state, "best": None}
        if checkpoint.best is not checkpoint.state:
            content["best"], of_best = _pack("best", checkpoint.best)
            arrays |= of_best
        self.store.put(len(checkpoint.state.history), content, arrays)

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


def _pack(name: str, state: State) -> tuple[dict[str, Any], Arrays]:
    users, user_arrays = _pack_side(f"{name}.users", state.users)
    items, item_arrays = _pack_side(f"{name}.items", state.items)
    history = [asdict(record) for record in state.history]
    content = {"users": users, "items": items, "history": history}
    return content, user_arrays | item_arrays


def _unpack(name: str, content: dict[str, Any], arrays: Arrays) -> State:
    users = _unpack_side(f"{name}.users", content["users"], arrays)
    items = _unpack_side(f"{name}.items", content["items"], arrays)
    return State(users, items, [IterationRecord(**record) for record in content["history"]])


def _pack_side(name: str, side: SideState) -> tuple[dict[str, Any], Arrays]:
    """All fields of a side: numbers, which JSON keeps exactly, and arrays; without the factors of a wide side."""
    values = {field.name: getattr(side, field.name) for field in fields(side)}
    if isinstance(side.factors, WideFactors):
        del values["factors"]
    arrays = {f"{name}.{key}": value for key, value in values.items() if isinstance(value, np.ndarray)}
    return {key: value for key, value in values.items() if not isinstance(value, np.ndarray)}, arrays


def _unpack_side(name: str, numbers: dict[str, Any], arrays: Arrays) -> SideState:
    prefix = f"{name}."
    of_side: dict[str, Any] = {
        key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)
    }
    return SideState(**{"factors": np.empty((0, 0), np.float32)} | numbers | of_side)
