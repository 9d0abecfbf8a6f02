"""What reaches a device in pieces is what was sent, and what is read ahead is what comes next."""

import torch

from evomerge.merge import make_plan, prefetch, transfer
from evomerge.merge.prefetch import Prefetch
from evomerge.merge.stages import open_sources
from evomerge.merge.transfer import Transfer
from evomerge.recipe import Recipe


def test_pieces_come_in_order_and_whole(monkeypatch):
    monkeypatch.setattr(transfer, "_PIECE", 10)
    flats = (torch.arange(37), torch.arange(37).bfloat16() * 2)
    found = list(Transfer(torch.device("cpu")).pieces(flats))
    assert [(place.start, place.stop) for place, _ in found] == [(0, 10), (10, 20), (20, 30), (30, 37)]
    for number, flat in enumerate(flats):
        assert torch.equal(torch.cat([parts[number] for _, parts in found]), flat)


def test_nothing_has_no_pieces():
    assert list(Transfer(torch.device("cpu")).pieces((torch.empty(0),))) == []


class Watched:
    """A checkpoint that notes what it is asked to read ahead."""

    def __init__(self, checkpoint, asked):
        self.headers, self._asked = checkpoint.headers, asked

    def prefetch(self, name):
        self._asked.append(name)


def test_it_reads_some_way_ahead_and_no_further(untied, monkeypatch):
    recipe = Recipe.from_document({"merge_method": "passthrough", "models": [{"model": str(untied["one"])}]})
    checkpoints = open_sources(recipe)
    plan = make_plan(recipe, checkpoints)
    names = [tensor.name for tensor in plan.tensors]
    sizes = [next(iter(checkpoints.values())).headers[name].nbytes for name in names]
    asked = []
    monkeypatch.setattr(prefetch, "_AHEAD", sum(sizes[:4]))
    ahead = Prefetch(plan, {ref: Watched(each, asked) for ref, each in checkpoints.items()})
    with ahead:
        ahead.advance()
        ahead._pool.submit(lambda: None).result()
        assert asked == names[:4]
        for _ in names:
            ahead.advance()
        ahead._pool.submit(lambda: None).result()
    assert asked == names
