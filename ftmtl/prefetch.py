"""Work done ahead: the next items are made ready while the current one is used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Ready = TypeVar("Ready")


def ahead(
    prepare: Callable[[Item], Ready], items: Iterable[Item], *, depth: int = 2
) -> Iterator[Ready]:
    """`prepare(item)` of every item, in order, from `depth` threads.

    At most `depth` items are ready or under way beside the one in use, so memory does not grow
    with their number. What `prepare` raises is raised here, in its place.
    """
    waiting: deque[Future[Ready]] = deque()
    with ThreadPoolExecutor(depth, thread_name_prefix="ahead") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(prepare, item))
                if len(waiting) > depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # whoever takes the items may stop before the end
            for left in waiting:
                left.cancel()
