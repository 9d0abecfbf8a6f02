"""What sequences share, against plain restatements."""

import random
from itertools import permutations

import pytest

from fitness.batches import BatchSize
from fitness.generation import Endings
from fitness.prefix import LEAST, SHORTEST, clusters, common, trees


def sequences(seed):
    """Sequences over few tokens, so that many share something; one of them twice."""
    generator = random.Random(seed)
    found = [tuple(generator.choices((1, 2), k=generator.randrange(1, 9))) for _ in range(12)]
    return [*found, found[0]]


def test_the_prefix_that_saves_most_is_found_first():
    """40 sequences share 50 tokens, 12 of them 300: 39 x 50 = 1,950 tokens against 11 x 300 = 3,300."""
    outer, inner = tuple(range(50)), tuple(range(1000, 1250))
    many = [(*outer, 9000 + number, 7) for number in range(28)]
    few = [(*outer, *inner, 9000 + number) for number in range(12)]
    odd = [(5, 5, number) for number in range(3)]
    every = [*odd, *many, *few]
    found = clusters(every, [len(each) - 1 for each in every])
    assert [(each.length, sorted(each.members)) for each in found] == [
        (300, list(range(31, 43))),
        (50, list(range(3, 31))),
        (0, [0, 1, 2]),
    ]


def test_a_prefix_never_reaches_where_it_may_not():
    tokens = tuple(range(100))
    every = [(*tokens, number) for number in range(40)]
    [cluster] = clusters(every, [70] * 40)
    assert cluster.length == 70
    every[7] = tokens[1:]  # one whose beginning was cut
    found = clusters(every, [70] * 7 + [0] + [70] * 32)
    assert [(each.length, len(each.members)) for each in found] == [(70, 39), (0, 1)]


@pytest.mark.parametrize(
    "length, count",
    [(SHORTEST - 1, 1000), (SHORTEST, LEAST // SHORTEST)],
)
def test_a_prefix_that_saves_little_is_left_alone(length, count):
    every = [(*range(length), 1000 + number) for number in range(count)]
    assert [each.length for each in clusters(every, [length] * count)] == [0]


@pytest.mark.parametrize("branching", [True, False])
@pytest.mark.parametrize("seed", range(20))
def test_every_path_of_a_tree_spells_its_sequence(seed, branching):
    every = sequences(seed)
    start = seed % 2 if min(map(len, every)) > 1 else 0
    order = sorted(range(len(every)), key=every.__getitem__)
    rows = list(trees(every, order, start, branching))
    assert sorted(member for row in rows for member in row.paths) == sorted(order)
    for row in rows:
        for member, path in row.paths.items():
            assert tuple(row.tokens[node] for node in path) == every[member][start:]
            assert [row.parents[node] for node in path] == [-1, *path[:-1]][: len(path)]
            assert [row.depths[node] for node in path] == list(range(len(path)))
        distinct = {
            every[member][start:][: depth + 1] for member, path in row.paths.items() for depth in range(len(path))
        }
        assert len(row.tokens) == len(distinct), "what is shared occurs once"
        assert branching or not row.branches
    assert len(rows) < len(every)


def test_common():
    assert [common(left, right) for left, right in (((1, 2), (1, 3)), ((), (1,)), ((1, 2), (1, 2, 3)))] == [1, 0, 2]


@pytest.mark.parametrize(
    "size, cached, expected",
    [
        (BatchSize(3, 0), 0, [3, 3, 1]),
        (BatchSize(3, 0).halved(), 0, [1] * 7),
        (BatchSize(None, 40), 0, [2, 2, 3]),  # 20, 20 | 20, 10 | 10, 10, 10
        (BatchSize(None, 40), 300, [1] * 7),  # 40 tokens computed, but 320 kept at most
        (BatchSize(None, 5), 0, [1] * 7),
    ],
)
def test_batches(size, cached, expected):
    lengths = [20, 20, 20, 10, 10, 10, 10]
    cuts = list(size.cut(lengths, cached))
    assert [len(lengths[cut]) for cut in cuts] == expected
    assert [length for cut in cuts for length in lengths[cut]] == lengths


class Letters:
    """A tokenizer of single letters."""

    def encode(self, text, add_special_tokens):
        return [ord(letter) for letter in text]

    def decode(self, tokens, skip_special_tokens):
        return "".join(map(chr, tokens))


@pytest.mark.parametrize("until", [("b",), ("ab", "bb"), ("ba", "ab"), ("aab", "a"), ("c", "bab"), ("bb", "b")])
def test_a_row_ends_only_when_its_text_is_settled(until):
    """Whatever would have come after a row has ended, the text is the same."""
    endings = Endings(Letters(), frozenset([ord("z")]))
    ended = 0
    for seed in range(200):
        tokens = [ord(letter) for letter in random.Random(seed).choices("abc", k=8)]
        for order in permutations(until):
            whole = endings.text(tokens, order)
            for length in range(1, 9):
                if endings.ended(tokens[:length], order):
                    assert endings.text(tokens[:length], order) == whole
                    ended += 1
    assert (ended == 0) is (until in {("ab", "bb"), ("ba", "ab"), ("aab", "a")})
    assert endings.ended([ord("c"), ord("z")], until)
