"""Threads: runs a function over many items in parallel and yields the answers in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from queue import SimpleQueue
    from typing import TypeVar

    Item = TypeVar("Item")
    Answer = TypeVar("Answer")
    Done = SimpleQueue[list[Answer] | BaseException]

LANES = 8  # threads per call: a mounted bucket takes milliseconds to answer
MAX_LANES = 64  # also the maximum of the settings

terminated = False  # set after SIGTERM: threads must not start new work


def map_in_order(
    function: Callable[[Item], Answer],
    items: Iterable[Item],
    batch: int = 1,
    lanes: int = LANES,
    ahead: int = 2 * LANES,
    *,
    reads: bool = True,
) -> Iterator[Answer]:
    """Yield function(item) for every item, in order. A thread takes `batch` items at a time. At
    most `ahead` batches run or wait to be used. lanes=0 runs the items one at a time, lazily. At
    SIGTERM, threads that only read are abandoned: a request may hang for a minute."""
    lanes = min(lanes, MAX_LANES)
    waiting = iter(items)
    groups = iter(lambda: list(islice(waiting, batch)), [])
    first = list(islice(groups, 2))
    groups = chain(first, groups)
    if len(first) < 2 or not lanes:
        yield from map(function, chain.from_iterable(groups))
        return
    # Not concurrent.futures: it takes half as long to import as all other imports of a worker.
    from queue import SimpleQueue
    from threading import Thread

    tasks: SimpleQueue[tuple[list[Item], Done[Answer]] | None] = SimpleQueue()
    running: deque[Done[Answer]] = deque()
    threads: list[Thread] = []
    wanted = True

    def serve() -> None:
        while (task := tasks.get()) and wanted:
            group, done = task
            try:
                done.put(list(map(function, group)))
            except BaseException as error:  # raised where the answer is used
                done.put(error)

    def fill() -> None:
        for group in islice(groups, ahead - len(running)):
            running.append(SimpleQueue())
            tasks.put((group, running[-1]))
            if len(threads) < lanes:
                threads.append(Thread(target=serve, daemon=True))
                threads[-1].start()

    def join() -> None:
        for thread in threads:
            thread.join()

    global terminated  # noqa: PLW0603 - as run_worker does
    abandon = False
    try:
        fill()
        while running:
            answers = running.popleft().get()
            if isinstance(answers, BaseException):
                raise answers
            fill()
            yield from answers
    except BaseException as error:
        abandon = reads and not isinstance(error, Exception)
        terminated = terminated or isinstance(error, KeyboardInterrupt)
        raise
    finally:
        wanted = False
        for _ in threads:
            tasks.put(None)
        if not abandon:
            try:
                join()
            except BaseException:  # SIGTERM, raised only once
                join()
                raise
