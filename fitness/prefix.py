"""What token sequences share: prefixes that many begin with, and trees of sequences that part late.

Pure work on token ids, done once per item set; nothing here sees a model.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import ne

SHORTEST = 32  # tokens; below it a pass of its own costs more than it saves
LEAST = 1024  # tokens that a shared prefix must save over all its sequences


@dataclass(frozen=True)
class Cluster:
    """Sequences that begin with the same tokens.

    Attributes:
        length: how many tokens they share, >= 0.
        members: indices of the sequences, in the order of their tokens.
    """

    length: int
    members: tuple[int, ...]


@dataclass(frozen=True)
class Tree:
    """Token sequences laid out as one row in which equal beginnings occur once.

    Attributes:
        tokens: the token of each node; a node comes after its parent.
        parents: the index of each node's parent, -1 for the first token of a sequence.
        depths: how many nodes precede each in its own sequence.
        paths: sequence -> the nodes of its tokens, in order.
    """

    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    depths: tuple[int, ...]
    paths: dict[int, tuple[int, ...]]

    @property
    def branches(self) -> bool:
        """Whether a node does not simply follow the one before it."""
        return any(parent != node - 1 for node, parent in enumerate(self.parents))


def clusters(sequences: Sequence[tuple[int, ...]], limits: Sequence[int]) -> list[Cluster]:
    """Group sequences by the prefixes whose sharing saves most.

    In the order of their tokens, the sequences that share a prefix are neighbours, and what a run of them shares is the
    least that two neighbours do: the best prefix is the largest rectangle under that curve.

    Args:
        sequences: token ids.
        limits: for each sequence, how many of its tokens may be part of a prefix.

    Returns:
        Every sequence in exactly one cluster; those that share nothing worth while come last, in one of length 0.
    """
    order = sorted(range(len(sequences)), key=sequences.__getitem__)
    shared = [
        min(common(sequences[left], sequences[right]), limits[left], limits[right]) for left, right in pairwise(order)
    ]
    found: list[Cluster] = []
    rest: list[int] = []
    pending = [(0, len(order))]
    while pending:
        low, high = pending.pop()
        length, first, last = _rectangle(shared, low, high - 1)
        if length * (last - first - 1) < LEAST:
            rest += order[low:high]
            continue
        found.append(Cluster(length, tuple(order[first:last])))
        pending += [(last, high), (low, first)]
    return found + ([Cluster(0, tuple(rest))] if rest else [])


def _rectangle(shared: Sequence[int], low: int, high: int) -> tuple[int, int, int]:
    """(length, first, last): of the runs of sequences in `low` to `high`, the one whose prefix saves most tokens."""
    best = (0, low, low + 1)
    open_: list[tuple[int, int]] = []  # (where a run begins, what it shares), ever longer prefixes
    for place in range(low, high + 1):
        here = shared[place] if place < high and shared[place] >= SHORTEST else 0
        start = place
        while open_ and open_[-1][1] >= here:
            start, length = open_.pop()
            if length * (place - start) > best[0] * (best[2] - best[1] - 1):
                best = (length, start, place + 1)
        if here:
            open_.append((start, here))
    return best


def common(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens two sequences share from their beginning."""
    length = min(len(left), len(right))
    return next((place for place, differs in enumerate(map(ne, left, right)) if differs), length)


def trees(sequences: Sequence[tuple[int, ...]], members: Sequence[int], start: int, branching: bool) -> Iterator[Tree]:
    """Lay sequences out in rows that compute what they share once.

    A sequence joins the row of the one before it when that one is its beginning. With `branching` it also joins when it
    shares at least half of itself and the row stays below twice its longest sequence: attention grows with the square.

    Args:
        sequences: token ids.
        members: the sequences to lay out, in the order of their tokens.
        start: how many leading tokens of each to leave out.
        branching: whether the model can read rows in which sequences part.
    """
    tokens: list[int] = []
    parents: list[int] = []
    depths: list[int] = []
    paths: dict[int, tuple[int, ...]] = {}
    before: tuple[int, ...] = ()
    path: tuple[int, ...] = ()
    longest = 0
    for member in members:
        sequence = sequences[member][start:]
        shared = common(before, sequence)
        new = len(sequence) - shared
        parts = branching and shared >= new and len(tokens) + new <= 2 * max(longest, len(sequence))
        if paths and not (shared == len(before) or parts):
            yield Tree(tuple(tokens), tuple(parents), tuple(depths), paths)
            tokens, parents, depths, paths, path, shared, longest = [], [], [], {}, (), 0, 0
        path = path[:shared]
        for depth in range(shared, len(sequence)):
            parents.append(path[-1] if path else -1)
            path += (len(tokens),)
            tokens.append(sequence[depth])
            depths.append(depth)
        paths[member] = path
        before, longest = sequence, max(longest, len(sequence))
    if paths:
        yield Tree(tuple(tokens), tuple(parents), tuple(depths), paths)
