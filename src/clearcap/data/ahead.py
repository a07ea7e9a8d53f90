"""Work done ahead of time in threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def ahead(
    function: Callable[[Item], Made], items: Iterable[Item], *, threads: int, depth: int
) -> Iterator[Made]:
    """``map(function, items)``, in order, whose next results are made by threads while one is in use.

    An exception is raised where its result would have come. When the iterator is closed, what has not begun is left.

    Args:
        function: what makes a result; it runs in a thread, so it must not depend on when it is called.
        items: its arguments.
        threads: how many work at once.
        depth: results at most that are made, or waited for, while one is in use.
    """
    coming: deque[Future[Made]] = deque()
    left = iter(items)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="ahead")
    try:
        coming.extend(pool.submit(function, item) for item in islice(left, depth))
        while coming:
            made = coming.popleft().result()
            coming.extend(pool.submit(function, item) for item in islice(left, 1))
            yield made
    finally:
        pool.shutdown(cancel_futures=True)
