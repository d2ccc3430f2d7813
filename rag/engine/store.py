"""Prompts that were read → their keys and values, kept beside llama.cpp's memory as a prefix tree: what two share is kept once.

llama.cpp's own memory holds running prompts only. A shared buffer in which idle prompts lie beside running ones was measured and left:
every word then looks past all of them (docs/decisions.md). Bringing back what was kept costs a copy, a hundredth of reading it again.
What goes first when the store is full is chosen as in GreedyDual-Size with frequency (Cherkasova, 1998), where a token's cost of being
read again is the same everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence

import numpy

from rag.engine.state import Bytes, pages


class Node:
    """A run of tokens after its parent's, and their rows."""

    __slots__ = ("children", "last", "parent", "pinned", "rows", "tokens", "uses", "worth")

    def __init__(self, tokens: list[int], rows: Bytes, parent: Node | None) -> None:
        self.tokens = tokens
        self.rows = rows
        self.parent = parent
        self.children: dict[int, Node] = {}  # by their first token
        self.uses = 0
        self.worth = 0.0
        self.last = 0
        self.pinned = False


class Store:
    """At most `most_bytes` of rows, but for what is pinned. A tree for each kind: what one adapter read is nothing to another."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._roots: dict[Hashable, Node] = {}
        self._floor = 0.0  # the worth of what went last; what comes counts from there, so that old fame fades
        self._clock = 0
        self.bytes = 0
        self.tokens = 0

    def match(self, tokens: Sequence[int], kind: Hashable = None) -> int:
        """How many of the first tokens are kept."""
        return sum(count for _, count in self._walk(tokens, kind))

    def load(self, tokens: Sequence[int], length: int, kind: Hashable = None) -> list[Bytes]:
        """The rows of the first `length` tokens, which `match` found, in pieces."""
        pieces, missing = list[Bytes](), length
        for node, count in self._walk(tokens, kind):
            taken = min(count, missing)
            if taken <= 0:
                break
            self._touch(node)
            pieces.append(node.rows[:, :taken])
            missing -= taken
        return pieces

    def save(self, tokens: Sequence[int], start: int, rows: Bytes, kind: Hashable = None) -> None:
        """Keep the rows of tokens[start:], which nobody else may change; what lies before `start` is kept already, as `match` says."""
        if len(tokens) - start != rows.shape[1]:
            raise ValueError(f"{rows.shape[1]} rows for {len(tokens) - start} tokens")
        path = self._walk(tokens[:start], kind)
        if sum(count for _, count in path) != start:
            raise ValueError("the tokens before are not kept")
        for node, _ in path:
            self._touch(node)
        if start == len(tokens) or rows.nbytes > self._most:
            return
        parent = self._roots.setdefault(kind, Node([], numpy.empty((0, 0, 0), numpy.uint8), None))
        if path:
            node, count = path[-1]
            parent = self._split(node, count) if count < len(node.tokens) else node
        added = Node(list(tokens[start:]), rows, parent)
        parent.children[added.tokens[0]] = added
        self.bytes, self.tokens = self.bytes + rows.nbytes, self.tokens + len(added.tokens)
        self._touch(added)
        self._shrink(added)

    def pin(self, tokens: Sequence[int], kind: Hashable = None) -> None:
        """What is kept of these tokens is not let go."""
        for node, count in self._walk(tokens, kind):
            (self._split(node, count) if count < len(node.tokens) else node).pinned = True

    def clear(self) -> None:
        """Let everything go that is not pinned."""
        for leaf in list(self._leaves()):
            at = leaf
            while at.parent is not None and not at.children and not at.pinned:
                self._let_go(at)
                at = at.parent

    def _walk(self, tokens: Sequence[int], kind: Hashable) -> list[tuple[Node, int]]:
        """(node, how many of its tokens agree) along the tokens; only the last may agree in part."""
        node, wanted, found = self._roots.get(kind), list(tokens), list[tuple[Node, int]]()
        depth = 0
        while node is not None and depth < len(wanted):
            child = node.children.get(wanted[depth])
            if child is None:
                break
            count = common(child.tokens, wanted[depth : depth + len(child.tokens)])
            found.append((child, count))
            if count < len(child.tokens):
                break
            node, depth = child, depth + count
        return found

    def _split(self, node: Node, at: int) -> Node:
        """Part a node after `at` of its tokens; returns the upper part."""
        lower = Node(node.tokens[at:], _own(node.rows[:, at:]), node)
        lower.children, lower.uses, lower.worth, lower.last, lower.pinned = node.children, node.uses, node.worth, node.last, node.pinned
        for child in lower.children.values():
            child.parent = lower
        node.tokens, node.rows, node.children = node.tokens[:at], _own(node.rows[:, :at]), {lower.tokens[0]: lower}
        return node

    def _touch(self, node: Node) -> None:
        self._clock += 1
        node.uses += 1
        node.last, node.worth = self._clock, self._floor + 1 + math.log2(node.uses)

    def _shrink(self, keep: Node) -> None:
        while self.bytes > self._most:
            leaves = [each for each in self._leaves() if not each.pinned]
            if not leaves:
                return
            leaf = min(leaves, key=lambda each: (each is keep, each.worth, each.last))  # what just came goes last
            self._floor = leaf.worth
            self._let_go(leaf)

    def _let_go(self, node: Node) -> None:
        if node.parent is None:
            raise ValueError("a root holds nothing")
        del node.parent.children[node.tokens[0]]
        self.bytes, self.tokens = self.bytes - node.rows.nbytes, self.tokens - len(node.tokens)

    def _leaves(self) -> Iterator[Node]:
        ahead = list(self._roots.values())
        while ahead:
            node = ahead.pop()
            ahead += node.children.values()
            if not node.children and node.parent is not None:
                yield node


def _own(rows: Bytes) -> Bytes:
    """A copy, so that the rows beside them can be let go."""
    copied = pages(*rows.shape)
    copied[...] = rows
    return copied


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two runs share at their start."""
    if one == other:
        return len(one)
    count = min(len(one), len(other))
    differ = numpy.flatnonzero(numpy.asarray(one[:count]) != numpy.asarray(other[:count]))
    return int(differ[0]) if len(differ) else count
