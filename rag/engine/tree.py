"""Tokens that llama.cpp's memory holds → who holds which, as a prefix tree: what a new prompt shares with them is not read again.

A node is a run of tokens whose cells in the memory are held by the same sequences; a sequence is a path from a root to a node's end.
Cells are never merged, only shared: two nodes may say the same where two sequences read the same words apart. So the tree's count of
tokens is the count of cells. What goes first is chosen as in GreedyDual-Size with frequency (Cherkasova, 1998), where a token's cost of
being read again is the same everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence, Set


class Node:
    """A run of tokens after its parent's. `holders` are the sequences that hold these cells."""

    __slots__ = ("children", "holders", "last", "parent", "tokens", "uses", "worth")

    def __init__(self, tokens: list[int], parent: Node | None, holders: set[int]) -> None:
        self.tokens = tokens
        self.parent = parent
        self.holders = holders
        self.children: list[Node] = []
        self.uses = 1
        self.worth = 0.0
        self.last = 0

    def path(self) -> Iterator[Node]:
        """This node and those above it, without the root."""
        node = self
        while node.parent is not None:
            yield node
            node = node.parent

    def end(self) -> int:
        """Tokens from the root to this node's end."""
        return sum(len(each.tokens) for each in self.path())


class Tree:
    """The sequences of one memory. A root for each adapter: what one adapter read is nothing to another."""

    def __init__(self) -> None:
        self._roots: dict[Hashable, Node] = {}
        self._ends: dict[int, Node] = {}
        self._floor = 0.0  # the worth of what went last; what comes counts from there, so that old fame fades
        self._clock = 0
        self.cells = 0

    def __contains__(self, sequence: int) -> bool:
        return sequence in self._ends

    def sequences(self) -> list[int]:
        return list(self._ends)

    def length(self, sequence: int) -> int:
        """Tokens that a sequence holds."""
        return self._ends[sequence].end()

    def tokens(self, sequence: int) -> list[int]:
        """The tokens that a sequence holds."""
        return [token for node in reversed(list(self._ends[sequence].path())) for token in node.tokens]

    def match(self, tokens: Sequence[int], kind: Hashable = None) -> tuple[int, int]:
        """(how many of the first tokens some sequence holds, that sequence); (0, -1) where none begins alike."""
        root = self._roots.get(kind)
        wanted = list(tokens)
        best, found = 0, -1
        ahead = [(root, 0)] if root else []
        while ahead:
            node, depth = ahead.pop()
            for child in node.children:
                count = _common(child.tokens, wanted, depth)
                if depth + count > best:
                    best, found = depth + count, next(iter(child.holders))
                if count == len(child.tokens):
                    ahead.append((child, depth + count))
        return best, found

    def begin(self, sequence: int, kind: Hashable = None) -> None:
        """A new sequence that holds nothing."""
        if sequence in self._ends:
            raise ValueError(f"sequence {sequence} exists")
        self._ends[sequence] = self._roots.setdefault(kind, Node([], None, set()))

    def branch(self, sequence: int, source: int, length: int) -> None:
        """A new sequence that shares the first `length` cells of `source`."""
        if sequence in self._ends:
            raise ValueError(f"sequence {sequence} exists")
        node = self._at(source, length)
        self._ends[sequence] = node
        for each in node.path():
            each.holders.add(sequence)
            each.uses += 1
            self._touch(each)

    def extend(self, sequence: int, tokens: Sequence[int]) -> None:
        """The sequence read these tokens after what it holds."""
        if not tokens:
            return
        node = self._ends[sequence]
        if node.parent is None or node.children or node.holders != {sequence}:
            child = Node([], node, {sequence})
            node.children.append(child)
            self._ends[sequence] = node = child
        node.tokens.extend(tokens)
        self._touch(node)
        self.cells += len(tokens)

    def cut(self, sequence: int, length: int) -> None:
        """The sequence lets go of everything behind its first `length` tokens."""
        if length >= self._ends[sequence].end():
            return
        node = self._at(sequence, length)
        let_go = [each for each in self._ends[sequence].path() if each is not node and each.end() > length]
        self._ends[sequence] = node
        for each in let_go:
            each.holders.discard(sequence)
            if each.holders:
                self._merge(each)
            else:
                self.cells -= len(each.tokens)
                if each.parent is not None:
                    each.parent.children.remove(each)
        self._merge(node)

    def remove(self, sequence: int) -> None:
        """The sequence lets go of everything."""
        self.cut(sequence, 0)
        del self._ends[sequence]

    def redundant(self, sequence: int) -> bool:
        """True where others hold every cell that this sequence holds, or it holds none."""
        node = self._ends[sequence]
        return node.parent is None or len(node.holders) > 1

    def least(self, busy: Set[int]) -> tuple[int, int] | None:
        """(sequence, length to cut it to): the leaf worth least among those no busy sequence holds; None where all are busy."""
        leaves = [node for node in set(self._ends.values()) if node.parent is not None and not node.children and not node.holders & busy]
        if not leaves:
            return None
        leaf = min(leaves, key=lambda each: (each.worth, each.last))
        self._floor = leaf.worth
        return next(iter(leaf.holders)), leaf.end() - len(leaf.tokens)

    def _touch(self, node: Node) -> None:
        self._clock += 1
        node.last, node.worth = self._clock, self._floor + 1 + math.log2(node.uses)

    def _at(self, sequence: int, length: int) -> Node:
        """The node that ends after the first `length` tokens of a sequence, the root for none; one is split where need be."""
        node = self._ends[sequence]
        end = node.end()
        if not 0 <= length <= end:
            raise ValueError(f"sequence {sequence} holds {end} tokens, not {length}")
        while node.parent is not None and end - len(node.tokens) >= length:
            end -= len(node.tokens)
            node = node.parent
        if node.parent is not None and end > length:
            self._split(node, len(node.tokens) - (end - length))
        return node

    def _split(self, node: Node, at: int) -> None:
        lower = Node(node.tokens[at:], node, set(node.holders))
        lower.uses, lower.worth, lower.last, lower.children = node.uses, node.worth, node.last, node.children
        for child in lower.children:
            child.parent = lower
        for holder in node.holders:
            if self._ends[holder] is node:
                self._ends[holder] = lower
        node.tokens, node.children = node.tokens[:at], [lower]

    def _merge(self, node: Node) -> None:
        """Join a node with its only child where the same sequences hold both and none ends between them."""
        while len(node.children) == 1 and node.parent is not None and node.children[0].holders == node.holders:
            if any(self._ends[holder] is node for holder in node.holders):
                return
            child = node.children[0]
            node.tokens, node.children = node.tokens + child.tokens, child.children
            node.uses, node.worth, node.last = child.uses, child.worth, child.last
            for each in node.children:
                each.parent = node
            for holder in node.holders:
                if self._ends[holder] is child:
                    self._ends[holder] = node


def _common(run: Sequence[int], wanted: list[int], start: int) -> int:
    """How many tokens of `run` are the same as `wanted` from `start` on."""
    if run == wanted[start : start + len(run)]:
        return len(run)
    count = 0
    for one, other in zip(run, wanted[start:], strict=False):
        if one != other:
            break
        count += 1
    return count
