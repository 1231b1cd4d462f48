"""In which order projects that need each other are built: what is needed comes first, and what needs each other goes together."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Generic, TypeVar

from msgspec import Struct, field

Node = TypeVar("Node", bound=str)


def components(needs: Mapping[Node, Collection[Node]]) -> tuple[tuple[Node, ...], ...]:
    """The strongly connected components of a graph, each one after all that it needs; sorted where the order is free.

    ``needs`` maps each node to those that it needs directly; a node that is only needed counts as one that needs nothing. A
    component of several nodes is a cycle (or several that are entangled): its members can only be used together.

    The algorithm is Tarjan's (SIAM J. Comput. 1, 1972), with a stack of its own: a chain of dependencies may be longer than
    Python's recursion allows.
    """
    walk = _Walk(needs)
    for node in sorted({*needs, *(other for others in needs.values() for other in others)}):
        if node not in walk.number:
            walk.visit(node)
    return tuple(walk.found)


def reachable(needs: Mapping[Node, Collection[Node]], start: Iterable[Node]) -> frozenset[Node]:
    """``start`` and everything that it needs, directly or not."""
    seen: set[Node] = set()
    waiting = list(start)
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            waiting.extend(needs.get(node, ()))
    return frozenset(seen)


class _Walk(Struct, Generic[Node]):
    """The state of Tarjan's walk: numbers in the order of discovery, and the lowest number that each node reaches."""

    needs: Mapping[Node, Collection[Node]]
    number: dict[Node, int] = field(default_factory=dict)
    lowest: dict[Node, int] = field(default_factory=dict)
    open: dict[Node, None] = field(default_factory=dict)  # not yet in a component, in the order of discovery
    found: list[tuple[Node, ...]] = field(default_factory=list)

    def visit(self, start: Node) -> None:
        path = [(start, self._discover(start))]
        while path:
            node, others = path[-1]
            fresh = next(others, None)
            if fresh is None:
                path.pop()
                if path:
                    above = path[-1][0]
                    self.lowest[above] = min(self.lowest[above], self.lowest[node])
                self._close(node)
            elif fresh not in self.number:
                path.append((fresh, self._discover(fresh)))
            elif fresh in self.open:
                self.lowest[node] = min(self.lowest[node], self.number[fresh])

    def _discover(self, node: Node) -> Iterator[Node]:
        self.number[node] = self.lowest[node] = len(self.number)
        self.open[node] = None
        return iter(sorted(self.needs.get(node, ())))

    def _close(self, node: Node) -> None:
        """If nothing above is reached from here, what was discovered since is one component."""
        if self.lowest[node] != self.number[node]:
            return
        members = []
        while node in self.open:
            members.append(self.open.popitem()[0])
        self.found.append(tuple(sorted(members)))
