"""Parts: the argument of a map function."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from fanfold import names
from fanfold.errors import WorkerError
from fanfold.plan import Inputs, Plan
from fanfold.storage import Storage, Writer
from fanfold.streams import Stream

Map = Callable[["Part"], "Mapping[str, int | float] | None"]


class Part(Stream):
    """The part that a map works on, one of `num_parts`. The map must read all of it. In mode files:
    one file of the part, with its `name` in WORK_DIR and its `item` in the list."""

    name: str = ""
    item: object = None
    broken: Exception | None = None  # an error of the node or the storage, not of the file

    def __init__(
        self, number: int, plan: Plan, place: tuple[Inputs, int, int],
        stores: tuple[Storage, Storage], output: Writer,
    ) -> None:  # fmt: skip
        (files, at, stop), (inputs, run) = place, stores
        self.id, self.num_parts, self._output = str(number), plan.num_parts, output
        copy = names.PART_COPY.format(plan.id, number) if plan.mode == "copy" else ""
        super().__init__(stop - at, partial(files.segments, at, stop), inputs, (run, copy))

    def write(self, data: bytes) -> None:
        """Append to the output of the part, which the last step joins with the outputs of the other
        parts. In mode files: append to the output of the file."""
        self._output.write(data)

    def files(self) -> Iterator[Part]:
        """Yield the files to map now. In mode files this is one file: the function is called for
        each file of the part."""
        if not self.name:
            raise WorkerError(
                "SPLIT_MODE must be files for a map that takes files, got parts of lines: set "
                "SPLIT_MODE=files, or let the map use .lines() or .pieces()"
            )
        yield self
