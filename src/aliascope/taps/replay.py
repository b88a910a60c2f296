"""Recorded calls made again on other maps: from some maps of a forward to a later one."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from aliascope.taps.dataflow import Program


class Undefined(Exception):  # noqa: N818
    """Why something cannot be said of a layer, or computed again."""


class Replay:
    """The calls from some to another, made again: a function of what the first ones made.

    Args:
        programs: of a trace.
        starts: the calls whose maps are given.
        end: the call whose map is wanted.

    Raises:
        Undefined: a call on the way was not seen, or a path to the end leads past the starts.
    """

    def __init__(self, programs: Mapping[int, Program], starts: Sequence[int], end: int) -> None:
        self._end = end
        waiting, needed = [end], set()
        while waiting:
            if (index := waiting.pop()) in needed or index in starts:
                continue
            needed.add(index)
            program = programs.get(index)
            if program is None:
                what = "what follows it cannot be computed again"
                raise Undefined(what if index else "it is not on all paths from the picture")
            waiting += program.reads()
        self._steps = [(index, programs[index]) for index in sorted(needed)]
        self._writes = any(program.in_place for _, program in self._steps)
        last = {read: index for index, program in self._steps for read in program.reads()}
        self._done: dict[int, list[int]] = {}
        """Call → the maps that no later one reads."""
        for read, index in last.items():
            if read != end:
                self._done.setdefault(index, []).append(read)

    def __call__(self, maps: Mapping[int, Tensor]) -> Any:
        """Make them again, from the maps of the starts."""
        made: dict[int, Any] = {
            index: x.clone() if self._writes else x for index, x in maps.items()
        }
        for index, program in self._steps:
            made[index] = program.run(made)
            for read in self._done.get(index, ()):
                del made[read]
        return made[self._end]
