"""Several jobs that take a lock at the same time."""

import threading
from concurrent.futures import ThreadPoolExecutor

from mfspark.errors import OutputError


def only_holder(locks):
    """Let each lock's job take it at the same moment; the one that got it, after seeing that the others were told."""
    barrier = threading.Barrier(len(locks))

    def take(lock):
        barrier.wait()
        try:
            lock.acquire()
        except OutputError as error:
            return str(error)
        return "won"

    with ThreadPoolExecutor(len(locks)) as takers:
        ends = list(takers.map(take, locks))
    assert ends.count("won") == 1, ends
    assert sum("is locked by" in end for end in ends) == len(locks) - 1, ends
    (holder,) = (lock for lock in locks if lock._path)
    holder.require_held()
    return holder
