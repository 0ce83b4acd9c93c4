"""How deep a value from a file may be nested, so that what reads it may recurse."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graftgan.checkpoints.imported import refuse

MAX_NESTING = 100


class Buildable:
    """An inert object that may be given its state by the stream."""

    def __setstate__(self, state: object) -> None:
        raise NotImplementedError


def check_nesting(root: Any, path: Path) -> None:
    """Make sure that a value can be walked by recursion.

    Raises:
        CheckpointError: It contains itself, or is nested deeper than `MAX_NESTING`.
    """
    heights: dict[int, int] = {}
    on_path = {id(root)}
    walk = [_Visit(root, iter(_children(root)))]
    while walk:
        visit = walk[-1]
        child = next(visit.children, walk)
        if child is walk:
            walk.pop()
            on_path.discard(id(visit.value))
            heights[id(visit.value)] = visit.height
            if walk:
                walk[-1].height = max(walk[-1].height, 1 + visit.height)
        elif id(child) in heights:
            visit.height = max(visit.height, 1 + heights[id(child)])
        elif isinstance(child, (dict, list, tuple, Buildable)):
            if id(child) in on_path:
                raise refuse(path, f"holds a {type(child).__name__} that contains itself")
            on_path.add(id(child))
            walk.append(_Visit(child, iter(_children(child))))
        if len(walk) + visit.height > MAX_NESTING:
            raise refuse(path, f"is nested deeper than {MAX_NESTING} levels")


@dataclass
class _Visit:
    value: Any
    children: Iterator[Any]
    height: int = 0


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, (list, tuple)):
        return value
    return vars(value).values() if isinstance(value, Buildable) else ()
