"""Retention: the served, previous, undecided and pinned versions stay, and explanations that others need."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

KEEP_REJECTED = 50


@dataclass(frozen=True, slots=True)
class Plan:
    """Versions that lose their graph and keep their explanation, and versions that are removed altogether."""

    graphs: tuple[int, ...]
    versions: tuple[int, ...]


def plan(with_graph: Sequence[int], without: Sequence[int], protected: Collection[int], keep: int) -> Plan:
    """Plan of what retention removes.

    Args:
        with_graph: decided versions that still have a graph, ascending.
        without: rejected versions that are an explanation only, ascending, none of them a parent.
        protected: numbers that stay as they are.
        keep: of `with_graph`, so many of the newest stay, the protected ones counted among them.
    """
    newest = set(sorted(with_graph)[-keep:])
    graphs = [n for n in with_graph if n not in newest and n not in protected]
    versions = [n for n in sorted(without)[:-KEEP_REJECTED] if n not in protected]
    return Plan(tuple(graphs), tuple(versions))
