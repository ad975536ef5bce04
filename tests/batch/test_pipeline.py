"""Steps of a run, without their work."""

import errno
from contextlib import contextmanager
from types import SimpleNamespace
from unittest import mock

import pytest

from mfspark.batch import pipeline
from mfspark.errors import OutputError, TrainingError


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "a disk under spark.local.dir is full"),
        (MemoryError("Unable to allocate 8 TiB"), "memory ran out: MemoryError: Unable to allocate 8 TiB; raise"),
    ],
)
@pytest.mark.parametrize(("step", "error_type"), [("train", TrainingError), ("recommend", OutputError)])
def test_a_step_that_the_cluster_fails_ends_with_its_exit_code(error, message, step, error_type):
    @contextmanager
    def time_step(_name):
        yield

    run = SimpleNamespace(
        is_published=False,
        is_unchanged=False,
        catalogs=(),
        run_id="run",
        is_done=lambda name: name != step,
        step=time_step,
        spark=mock.Mock(),
    )
    with (
        mock.patch.dict(pipeline.STEPS, {step: mock.Mock(side_effect=error)}),
        pytest.raises(error_type, match=f"{message}.*; then continue with --resume"),
    ):
        pipeline.run_steps(None, run, [step])
