"""Threads that work for a generator, and end with it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def pool_of(count: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """A pool that is waited for at the end of the block, what has not begun in it being left undone.

    It is not waited for where the generator is given up within the block. That may be the collection of garbage's
    doing, in the midst of whatever a thread is at: in holding a lock that this pool's threads want before they end.
    """
    pool = ThreadPoolExecutor(count, thread_name_prefix=name)
    waits = True
    try:
        yield pool
    except GeneratorExit:
        waits = False
        raise
    finally:
        pool.shutdown(wait=waits, cancel_futures=True)
