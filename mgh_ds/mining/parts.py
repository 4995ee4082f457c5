"""Files that several workers make, a part each."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from tqdm import tqdm

from mgh_ds.common.claims import made, until_none_left
from mgh_ds.distributed.workers import Worker
from mgh_ds.encoding.work import parts_of


def make_parts(
    parts: int, me: Worker, path: Callable[[int], Path], make: Callable[[int], object], what: str
) -> None:
    """Has all parts made that are not there: a worker's own first, then those that nobody holds; waits for
    the rest. `make` writes a part whole or not at all (`files.new_file`)."""
    with tqdm(total=parts, desc=what, unit=" parts", disable=None, leave=False) as bar:

        def work(wanted: set[int]) -> set[int]:
            finished = set()
            for part in sorted(wanted):
                if made(path(part).parent, path(part).stem, path(part).exists, partial(make, part)):
                    finished.add(part)
                    bar.update()
            return finished

        own = set(parts_of(me, parts))
        until_none_left(own, work)
        until_none_left(set(range(parts)) - own, work)
