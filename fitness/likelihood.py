"""Log-likelihoods of given continuations: one pass per batch, logits only where an answer is read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812

from fitness.batches import BatchSize
from fitness.network import Network
from fitness.prefix import Tree, clusters, trees


@dataclass(frozen=True)
class Read:
    """A continuation to be read off a sequence.

    Attributes:
        tokens: what is fed, at least one: the context, then the continuation without its last token.
        targets: the continuation; its tokens are predicted at the last places of `tokens`.
    """

    tokens: tuple[int, ...]
    targets: tuple[int, ...]


@dataclass(frozen=True)
class _Batch:
    """`nodes`, `targets`, `counted` are [reads, longest continuation]; `nodes` points into the rows of the logits."""

    reads: tuple[int, ...]
    ids: torch.Tensor  # int64 [rows, length], padded on the right
    positions: torch.Tensor | None  # int64 [rows, length]
    ancestors: torch.Tensor | None  # bool [rows or 1, length, length]
    rows: torch.Tensor  # int64 [places], as are the columns: where logits are computed
    columns: torch.Tensor
    nodes: torch.Tensor
    targets: torch.Tensor
    counted: torch.Tensor


@dataclass(frozen=True)
class _Pass:
    prefix: tuple[int, ...]
    batches: tuple[_Batch, ...]


class Likelihoods:
    """Fixed batches that read the log-likelihood of many continuations.

    Sequences that begin alike share that beginning: long prefixes of many sequences are computed once and kept as keys
    and values; sequences that part late, such as the options of a question, share a row.

    Args:
        reads: what to read.
        network: whose device and architecture the batches are made for.
        size: of a batch.
    """

    def __init__(self, reads: Sequence[Read], network: Network, size: BatchSize) -> None:
        self._count = len(reads)
        sequences = [read.tokens for read in reads]
        # a prefix ends before the first place that is read
        limits = [len(read.tokens) - len(read.targets) if len(read.tokens) <= network.span else 0 for read in reads]
        passes = []
        for cluster in clusters(sequences, limits):
            batches: list[_Batch] = []
            # where sequences part, the batch has a mask of its own, and no window of the model would be heeded
            for parts in (True, False):
                members = [each for each in cluster.members if (len(sequences[each]) <= network.span) is parts]
                rows = sorted(
                    trees(sequences, members, cluster.length, branching=parts), key=lambda tree: -len(tree.tokens)
                )
                cuts = size.cut([len(tree.tokens) for tree in rows], cluster.length)
                batches += [_batch(rows[cut], reads, cluster.length, network.device) for cut in cuts]
            passes.append(_Pass(sequences[cluster.members[0]][: cluster.length], tuple(batches)))
        self._passes = tuple(passes)
        self.widest = max((len(batch.ids) for each in passes for batch in each.batches), default=0)

    def run(self, network: Network) -> list[tuple[float, bool]]:
        """Read all of them off a network.

        Returns:
            For each read: the log-likelihood of its continuation in nats, and whether its tokens are the likeliest.

        Raises:
            ScoringError: logits are not finite.
        """
        answers: list[tuple[float, bool]] = [(0.0, False)] * self._count
        for each in self._passes:
            prefix = network.prefix(each.prefix) if each.prefix else None
            for batch in each.batches:
                for read, answer in zip(batch.reads, _read(network, batch, prefix, len(each.prefix)), strict=True):
                    answers[read] = answer
        return answers


def _read(
    network: Network, batch: _Batch, prefix: list[tuple[torch.Tensor, torch.Tensor]] | None, cached: int
) -> Iterator[tuple[float, bool]]:
    rows, length = batch.ids.shape
    allowed = None
    if batch.ancestors is not None:
        seen = batch.ancestors.new_ones((len(batch.ancestors), length, cached))
        allowed = torch.cat([seen, batch.ancestors], dim=-1)[:, None]
    cache = network.cache(prefix, rows) if prefix else None
    logits = network.logits(batch.ids, batch.rows, batch.columns, batch.positions, allowed, cache)
    # in the model's own dtype, as lm-eval has it
    logarithms = F.log_softmax(logits, dim=-1)
    greedy = (logarithms.argmax(dim=-1)[batch.nodes] == batch.targets) | ~batch.counted
    values = logarithms[batch.nodes, batch.targets].masked_fill(~batch.counted, 0)
    yield from zip(values.sum(dim=-1).tolist(), greedy.all(dim=-1).tolist(), strict=True)


def _batch(rows: Sequence[Tree], reads: Sequence[Read], cached: int, device: torch.device) -> _Batch:
    length = max(len(tree.tokens) for tree in rows)
    ids = torch.tensor([_padded(tree.tokens, length) for tree in rows], device=device)
    positions = ancestors = None
    if any(tree.branches for tree in rows):
        positions = torch.tensor([_padded(tree.depths, length) for tree in rows], device=device) + cached
        ancestors = torch.stack([_ancestors(tree, length) for tree in rows]).to(device)
    elif cached:
        positions = torch.arange(cached, cached + length, device=device)[None].expand(len(rows), -1)
        ancestors = torch.ones((1, length, length), dtype=torch.bool, device=device).tril()
    places: dict[tuple[int, int], int] = {}
    nodes: list[list[int]] = []
    members: list[int] = []
    for row, tree in enumerate(rows):
        for member, path in tree.paths.items():
            members.append(member)
            last = path[-len(reads[member].targets) :]
            nodes.append([places.setdefault((row, node), len(places)) for node in last])
    longest = max(map(len, nodes))
    targets = [reads[member].targets for member in members]
    return _Batch(
        reads=tuple(members),
        ids=ids,
        positions=positions,
        ancestors=ancestors,
        rows=torch.tensor([row for row, _ in places], device=device),
        columns=torch.tensor([node for _, node in places], device=device),
        nodes=torch.tensor([_padded(each, longest) for each in nodes], device=device),
        targets=torch.tensor([_padded(each, longest) for each in targets], device=device),
        counted=torch.tensor([_padded([1] * len(each), longest) for each in targets], device=device).bool(),
    )


def _padded(values: Sequence[int], length: int) -> list[int]:
    """Zeros on the right: causal attention never looks there, and nothing is read there."""
    return [*values, *[0] * (length - len(values))]


def _ancestors(tree: Tree, length: int) -> torch.Tensor:
    """Which nodes each node sees: itself and those before it in its own sequence. Padding sees itself."""
    seen = torch.eye(length, dtype=torch.bool)
    for node, parent in enumerate(tree.parents):
        if parent >= 0:
            seen[node] |= seen[parent]
    return seen
