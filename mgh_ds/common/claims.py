"""Several processes that make the files of one folder: each file is made by one of them.

What is done is seen in the folder, so that nothing is handed out: a process takes what is neither done nor
held by another one. A process that is killed holds nothing any more, and what it had begun is begun anew.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mgh_ds.common import files

WAIT_S = 1.0


@contextmanager
def claimed(folder: Path, name: str) -> Iterator[bool]:
    """Whether this process may make the file `name` in `folder`; no other one may, until the block ends.

    What a killed process left of it (`files.new_file`) is removed first. Where the file system knows no
    locks several processes may make it, which costs time alone: whoever ends last replaces the same bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / f".{name}.lock"
    try:
        held = files.hold(lock)
    except files.HeldError:
        yield False
        return
    if held is None:
        yield True
        return
    with held:
        for path in folder.glob(f".{name}.*"):
            if path != lock:
                path.unlink(missing_ok=True)
        yield True
        # Who has opened it and waits finds the file done; so does who opens another one of this name.
        lock.unlink(missing_ok=True)


def made(folder: Path, name: str, done: Callable[[], bool], make: Callable[[], object]) -> bool:
    """Calls `make` unless `name` is done, or held by another process; whether it is done now."""
    if done():
        return True
    with claimed(folder, name) as mine:
        if mine and not done():
            make()
    return done()


def once(folder: Path, name: str, done: Callable[[], bool], make: Callable[[], object]) -> None:
    """As `made`, and waits while another process makes it."""
    while not made(folder, name, done, make):
        time.sleep(WAIT_S)


def until_none_left(names: Iterable[int], make: Callable[[set[int]], set[int]]) -> None:
    """Calls `make` with the numbers that are left until there are none. It returns those that were done when
    it came to them or that it made; where that is none, other processes are at work, and it waits."""
    left = set(names)
    while left:
        finished = make(left)
        left -= finished
        if left and not finished:
            time.sleep(WAIT_S)
