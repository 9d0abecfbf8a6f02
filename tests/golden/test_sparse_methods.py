"""Methods that keep some entries of task vectors, against hand-worked cases and against sorting in float64."""

import math
from itertools import permutations

import numpy as np
import pytest
import torch

from evomerge.methods._arcee_fusion import importance

CPU = torch.device("cpu")
ALL = ["breadcrumbs", "breadcrumbs_ties", "della", "della_linear", "sce", "ram", "ramplus_tl", "arcee_fusion"]
WEIGHED = ALL[:4]
FREE_ORDER = ["breadcrumbs", "breadcrumbs_ties", "sce", "ram", "ramplus_tl"]  # a mask belongs to a model's place
COUNT = 300


def expect(found, expected, tolerance=1e-6):
    """Within the tolerance, relative to the entry or to a tenth of the largest one, where terms may cancel."""
    expected = torch.as_tensor(expected, dtype=torch.float64).reshape(-1)
    room = tolerance * expected.abs().max().item() / 10 if expected.numel() else 0.0
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=room)


def parents(name):
    return 1 if name == "arcee_fusion" else 3


def needed(name):
    return {"weight": 0.7, "density": 0.5} if name in WEIGHED else {}


@pytest.fixture
def vectors():
    """A base and three models, (15, 20), whose task vectors are exact and have no two entries of one magnitude."""
    generator = torch.Generator().manual_seed(3)
    base = torch.randint(-1000, 1000, (15, 20), generator=generator) / 1024
    models = []
    for _ in range(3):
        sizes = (torch.randperm(COUNT, generator=generator) + 1) / 2048
        signs = torch.randint(0, 2, (COUNT,), generator=generator) * 2 - 1
        models.append(base + (sizes * signs).view(15, 20))
    return base, models


def deltas(base, models):
    return [(model.double() - base.double()).reshape(-1).tolist() for model in models]


def add_up(base, trimmed, *, weights, scale=1.0, normalize=False, elected=False):
    """base + lambda * the sum, entry by entry, of all or of those with the elected sign."""
    expected = []
    for place, start in enumerate(base.double().reshape(-1).tolist()):
        entries = [weight * vector[place] for weight, vector in zip(weights, trimmed, strict=True)]
        sign = 1.0 if sum(entries) >= 0 else -1.0
        chosen = [index for index, entry in enumerate(entries) if not elected or entry * sign > 0]
        share = sum(weights[index] for index in chosen) if normalize else 1.0
        expected.append(start + scale * sum(entries[index] for index in chosen) / (share or 1.0))
    return expected


class TestBreadcrumbs:
    BASE = (0.0,) * 5
    MODEL = (0.5, -0.1, 0.3, -0.2, 0.4)

    @pytest.mark.parametrize(
        ("density", "gamma", "kept"),
        [
            (0.4, 0.2, (0.3, 0.4)),  # one dropped at the top, two at the bottom
            (0.4, 0.0, (0.4, 0.5)),
            (0.4, 0.6, (0.1, 0.2)),
            (0.8, 0.4, (0.1, 0.2, 0.3, 0.4)),  # one dropped at the top: a second would be one too many
            (0.4, 1.0, (0.1, 0.2)),
            (0.1, 0.2, ()),
            (1.0, 0.4, (0.1, 0.2, 0.3, 0.4, 0.5)),
        ],
    )
    def test_which_entries_are_kept_by_hand(self, density, gamma, kept, merge_one):
        found = merge_one("breadcrumbs", self.BASE, [self.MODEL], weight=1.0, density=density, gamma=gamma)
        expect(found, [entry if abs(entry) in kept else 0.0 for entry in self.MODEL])

    @pytest.mark.parametrize(
        ("density", "gamma", "kept"),
        [
            (0.5, 0.25, [1, -1, 2, 0]),  # the two smallest tie
            (0.25, 0.25, [0, 0, 2, 0]),
            (0.25, 0.5, [1, -1, 0, 0]),
        ],
    )
    def test_ties_are_kept_together_by_hand(self, density, gamma, kept, merge_one):
        model = [1.0, -1.0, 2.0, 3.0]
        expect(merge_one("breadcrumbs", [0.0] * 4, [model], weight=1.0, density=density, gamma=gamma), kept)

    def test_what_ties_with_the_largest_kept_is_kept(self, merge_one):
        settings = {"weight": 1.0, "density": 0.25, "gamma": 0.25}
        expect(merge_one("breadcrumbs", [0.0] * 4, [[1.0, 2.0, -2.0, 0.0]], **settings), [0.0, 2.0, -2.0, 0.0])

    def test_rescale_restores_the_l1_norm_by_hand(self, merge_one):
        settings = {"weight": 0.5, "density": 0.4, "gamma": 0.2, "rescale": True}
        factor = 0.5 * 1.5 / 0.7
        found = merge_one("breadcrumbs", self.BASE, [self.MODEL], **settings)
        expect(found, [0, 0, 0.3 * factor, 0, 0.4 * factor])

    @pytest.mark.parametrize("name", ["breadcrumbs", "breadcrumbs_ties"])
    @pytest.mark.parametrize("normalize", [True, False])
    @pytest.mark.parametrize("rescale", [True, False])
    def test_against_sorting(self, name, normalize, rescale, vectors, merge_one):
        base, models = vectors
        weights, densities, gammas = [0.7, 1.1, -0.4], [0.3, 0.55, 0.9], [0.01, 0.1, 0.2]
        trimmed = []
        for delta, density, gamma in zip(deltas(base, models), densities, gammas, strict=True):
            order = sorted(range(COUNT), key=lambda place: abs(delta[place]))
            first = max(0, COUNT - int(density * COUNT) - int(gamma * COUNT))
            kept = set(order[first : first + int(density * COUNT)])
            growth = sum(map(abs, delta)) / sum(abs(delta[place]) for place in kept) if rescale else 1.0
            trimmed.append([growth * entry if place in kept else 0.0 for place, entry in enumerate(delta)])
        elected = name == "breadcrumbs_ties"
        expected = add_up(base, trimmed, weights=weights, scale=0.8, normalize=normalize, elected=elected)
        if normalize and not elected:
            expected = add_up(base, trimmed, weights=weights, scale=0.8 / sum(weights))
        settings = {"weight": weights, "density": densities, "gamma": gammas, "lambda": 0.8}
        expect(merge_one(name, base, models, normalize=normalize, rescale=rescale, **settings), expected)

    def test_without_gamma_it_is_ties(self, vectors, merge_one):
        base, models = vectors
        settings = {"weight": 0.9, "density": 0.3, "normalize": False}
        found = merge_one("breadcrumbs_ties", base, models, gamma=0.0, **settings)
        assert torch.equal(found, merge_one("ties", base, models, **settings))

    @pytest.mark.parametrize("rescale", [True, False])
    @pytest.mark.parametrize("spread", [1.0, 1e-4])
    def test_a_large_tensor_against_sorting(self, spread, rescale, merge_one):
        count, density, gamma = 200_000, 0.4, 0.05
        delta = torch.randn(count, generator=torch.Generator().manual_seed(4)) * spread
        delta += delta.sign()
        settings = {"weight": 1.0, "density": density, "gamma": gamma, "rescale": rescale}
        found = merge_one("breadcrumbs", torch.zeros(count), [delta], **settings)
        values = delta.double().numpy()
        order, kept = np.argsort(np.abs(values)), int(density * count)
        first = count - kept - int(gamma * count)
        low, high = np.abs(values)[order[[first, first + kept - 1]]]
        expected = np.where((np.abs(values) >= low) & (np.abs(values) <= high), values, 0.0)
        expect(found, expected * (np.abs(values).sum() / np.abs(expected).sum() if rescale else 1.0))


class TestDella:
    """Which entries are kept is tested elsewhere; here, what becomes of them."""

    @pytest.mark.parametrize("name", ["della", "della_linear"])
    @pytest.mark.parametrize("normalize", [True, False])
    @pytest.mark.parametrize("rescale", [True, False])
    def test_against_thinned_task_vectors(self, name, normalize, rescale, vectors, merge_one):
        base, models = vectors
        weights, densities, epsilons, scale = [0.7, 1.1, -0.4], [0.3, 0.55, 1.0], [0.1, 0.4, 0.2], 0.8
        settings = {"density": densities, "epsilon": epsilons, "random_seed": 5, "rescale": rescale}
        trimmed = []
        for place, (delta, density, epsilon) in enumerate(zip(deltas(base, models), densities, epsilons, strict=True)):
            alone = {"weight": 1.0, "density": density, "epsilon": epsilon, "random_seed": 5, "rescale": False}
            thinned = merge_one("della_linear", base * 0, [models[place] - base], numbers=(place + 1,), **alone)
            vector = []
            for start in range(0, COUNT, 20):
                row = delta[start : start + 20]
                for entry, keep in zip(row, thinned[start : start + 20].tolist(), strict=True):
                    rank = sum(abs(other) < abs(entry) for other in row)
                    chance = 1.0 if density == 1.0 else density + epsilon * (2 * rank / 19 - 1)
                    vector.append((entry / chance if rescale else entry) if keep else 0.0)
            trimmed.append(vector)
        elected = name == "della"
        expected = add_up(base, trimmed, weights=weights, scale=scale, normalize=normalize, elected=elected)
        if normalize and not elected:
            expected = add_up(base, trimmed, weights=weights, scale=scale / sum(weights))
        settings |= {"weight": weights, "lambda": scale, "normalize": normalize}
        expect(merge_one(name, base, models, **settings), expected)


class TestSce:
    def test_select_calculate_and_erase_by_hand(self, merge_one):
        # Variances 4, 0, 1, 4: int(0.4 * 3) = 1 is selected, and what ties with it. Mean squares 20 / 4 and 4 / 4.
        models = [[4.0, 0.0, 1.0, 2.0], [0.0, 0.0, 3.0, -2.0]]
        expect(merge_one("sce", [0.0] * 4, models, select_topk=0.4), [4.0, 0.0, 0.0, 2.0])

    def test_weights_are_mean_squares_by_hand(self, merge_one):
        # Squares 1 + 9 and 9 + 1 + 4 over 3 entries; the last entry of the first is erased.
        models = [[1.0, 0.0, -3.0], [3.0, 1.0, 4.0]]
        expect(merge_one("sce", [0.0] * 3, models), [(10 * 1 + 26 * 3) / 36, 1.0, 4.0])

    def test_task_vectors_next_to_zero_weigh_the_same(self, merge_one):
        found = merge_one("sce", [0.0], [[1e-4], [3e-4]])
        torch.testing.assert_close(found, torch.tensor([2e-4]))

    def test_weights_next_to_zero_are_not_divided_by(self, merge_one):
        # Squares 1e6 and 1e-6: where the second model is alone, its weight of 1e-12 is divided by 1e-6.
        expect(merge_one("sce", [0.0, 0.0], [[1e3, 0.0], [0.0, 1e-3]]) * torch.tensor([1.0, 1e12]), [1e3, 1e3])

    def test_where_models_do_not_vary_nothing_is_selected(self, merge_one):
        same = [[0.1] * 8] * 3  # task vectors whose rounded mean is not quite their value
        expect(merge_one("sce", [1.0] * 8, same, select_topk=0.9), [1.0] * 8)
        expect(merge_one("sce", [1.0, 2.0], [[3.0, 4.0]], select_topk=0.9), [1.0, 2.0])
        expect(merge_one("sce", [1.0, 2.0], [[3.0, 4.0], [5.0, 6.0]], select_topk=0.0), [1.0, 2.0])

    @pytest.mark.parametrize("select", [1.0, 0.7, 0.1, 0.001])
    @pytest.mark.parametrize("shrink", [1.0, 1e-4])
    def test_against_sorting(self, select, shrink, vectors, merge_one):
        base, models = vectors[0] * 0, [(model - vectors[0]) * shrink for model in vectors[1]]
        stacked = np.array([model.double().reshape(-1).numpy() for model in models])
        if select < 1:
            variance = stacked.var(axis=0)
            dropped = np.argsort(-variance, kind="stable")[int(np.count_nonzero(variance) * select) :]
            stacked[:, dropped] = 0
        energy = (stacked**2).mean(axis=1)
        weights = energy / energy.sum() if energy.sum() >= 1e-6 else np.full(3, 1 / 3)
        agree = np.sign(stacked) == np.where(stacked.sum(axis=0) >= 0, 1, -1)
        shares = agree * weights[:, None]
        expected = (stacked * shares).sum(axis=0) / np.maximum(shares.sum(axis=0), 1e-6)
        expect(merge_one("sce", base, models, select_topk=select), expected, 2e-6)

    def test_a_large_tensor_against_sorting(self, merge_one):
        count, select = 150_000, 0.2
        generator = torch.Generator().manual_seed(4)
        models = [torch.randint(1, 1 << 12, (count,), generator=generator) / 1024 for _ in range(2)]
        models[1][: count // 2] = models[0][: count // 2]
        stacked = torch.stack(models).double().numpy()
        variance = stacked.var(axis=0)  # exact, of so few bits
        bound = np.sort(variance)[::-1][int(np.count_nonzero(variance) * select) - 1]
        stacked[:, variance < bound] = 0
        energy = (stacked**2).mean(axis=1)
        weights = energy / energy.sum()
        kept = stacked[0] > 0  # all entries are positive, so that all agree
        expected = np.where(kept, weights @ stacked, 0.0)
        expect(merge_one("sce", torch.zeros(count), models, select_topk=select), expected, 2e-6)


class TestRam:
    BASE = (1.0,) * 5
    MODELS = ((2.0, 1.0, 3.0, 1.0, -1.0), (4.0, 1.0, 1.0, 6.0, 1.0))  # +1 0 +2 0 -2, +3 0 0 +5 0

    def test_by_hand(self, merge_one):
        expect(merge_one("ram", self.BASE, self.MODELS), [3.0, 1.0, 3.0, 6.0, -1.0])

    def test_entries_not_larger_than_epsilon_do_not_count_by_hand(self, merge_one):
        models = [[0.5, 0.5, 0.75], [1.0, 0.25, -0.5]]
        expect(merge_one("ram", [0.0] * 3, models, epsilon=0.5), [1.0, 0.0, 0.75])

    @pytest.mark.parametrize(("alpha", "factors"), [(0.2, (1.1, 1.1)), (0.8, (1.25, 1.4)), (9.0, (1.25, 1.5))])
    def test_plus_by_hand(self, alpha, factors, merge_one):
        # One entry is shared; the first model alone changes two, the second one.
        found = merge_one("ramplus_tl", self.BASE, self.MODELS, r=0.5, alpha=alpha)
        expect(found, [3.0, 1.0, 1 + 2 * factors[0], 1 + 5 * factors[1], 1 - 2 * factors[0]])

    @pytest.mark.parametrize("epsilon", [0.0, 1e-5])
    def test_models_that_change_nothing_alone(self, epsilon, merge_one):
        models = [[1.0, 0.0, 0.0], [3.0, 2.0, 0.0], [0.0, 0.0, 0.0]]
        expect(merge_one("ramplus_tl", [0.0] * 3, models, r=1.0, alpha=9.0, epsilon=epsilon), [2.0, 4.0, 0.0])

    @pytest.mark.parametrize("name", ["ram", "ramplus_tl"])
    def test_against_sets(self, name, vectors, merge_one):
        base, models = vectors
        settings = {"epsilon": 0.06} | ({} if name == "ram" else {"r": 0.3, "alpha": 1.5})
        changes = [
            {place: entry for place, entry in enumerate(delta) if abs(entry) > 0.06} for delta in deltas(*vectors)
        ]
        factors = []
        for index, own in enumerate(changes):
            others = set().union(*(other for place, other in enumerate(changes) if place != index))
            overlap = len(own.keys() & others) / len(own.keys() - others)
            factors.append(1.0 if name == "ram" else 1 + 0.3 * min(overlap, 1.5))
        expected = base.double().reshape(-1).tolist()
        for place in range(COUNT):
            found = [(own[place], factor) for own, factor in zip(changes, factors, strict=True) if place in own]
            if len(found) == 1:
                expected[place] += math.prod(found[0])
            elif found:
                expected[place] += sum(entry for entry, _ in found) / len(found)
        expect(merge_one(name, base, models, **settings), expected)


def importances(base, model):
    """|model - base| times the divergence of the rows' softmax, in float64."""
    base, model = base.double().numpy(), model.double().numpy()

    def softmax(rows):
        powers = np.exp(rows - rows.max(axis=-1, keepdims=True))
        return powers / powers.sum(axis=-1, keepdims=True) + 1e-8

    p, q = softmax(model), softmax(base)
    return np.abs(model - base) * (p * np.log(p / q)).sum(axis=-1, keepdims=True)


class TestArceeFusion:
    def test_by_hand(self, merge_one):
        # One row, so importance goes with the change. Of 8 sorted entries, at 1, 3 and 5: 2, 4 and 6; 4 + 1.5 * 4 = 10.
        model = [5.0, 3.0, 20.0, 1.0, 7.0, 2.0, 6.0, 4.0]
        expect(merge_one("arcee_fusion", [0.0] * 8, [model]), [0, 0, 20, 0, 0, 0, 0, 0])

    def test_a_row_that_diverges_more_comes_first_by_hand(self, merge_one):
        # A change common to a row diverges by nothing; the quartiles are zero, and so is the threshold: all is taken.
        base, model = torch.zeros(4, 2), torch.tensor([[5.0, 5.0]] * 3 + [[0.0, 1.0]])
        expect(merge_one("arcee_fusion", base, [model]), model)

    @pytest.mark.parametrize("shape", [(15, 20), (300,), (3, 4, 25), (1, 300), (5, 60)])
    def test_against_sorting(self, shape, merge_one):
        generator = torch.Generator().manual_seed(6)
        base = torch.randn(shape, generator=generator)
        model = base + torch.randn(shape, generator=generator) * torch.rand((*shape[:-1], 1), generator=generator)
        matter = importances(base, model)
        quartiles = [sorted(matter.reshape(-1).tolist())[int(share * 299)] for share in (0.25, 0.5, 0.75)]
        taken = torch.from_numpy(matter >= quartiles[1] + 1.5 * (quartiles[2] - quartiles[0]))
        assert 0 < taken.sum() < 100
        expect(merge_one("arcee_fusion", base, [model]), torch.where(taken, model, base))

    def test_divergences_by_hand(self):
        base, model = torch.tensor([0.0, 0.0, 0.0, 60.0]), torch.tensor([0.0, math.log(3), 0.0, 0.0])
        found = importance((base, model), (2, 2), CPU).divergences
        # (1/4, 3/4) from (1/2, 1/2), and (1/2, 1/2) from (0, 1), where 1e-8 stands in for the zero.
        expected = [0.25 * math.log(0.5) + 0.75 * math.log(1.5), 0.5 * math.log(0.5e8) + 0.5 * math.log(0.5)]
        expect(found, expected)

    def test_quartiles_of_a_large_tensor_are_those_of_all_its_entries(self):
        generator = torch.Generator().manual_seed(7)
        base = torch.randn(300, 400, generator=generator) * 0.02
        model = base + torch.randn(300, 400, generator=generator) * 0.002
        found = importance((base.view(-1), model.view(-1)), base.shape, CPU)
        matter = np.sort(importances(base, model), axis=None)
        quartiles = [matter[int(share * (matter.size - 1))] for share in (0.25, 0.5, 0.75)]
        assert found.threshold == pytest.approx(quartiles[1] + 1.5 * (quartiles[2] - quartiles[0]), rel=1e-6)


@pytest.mark.parametrize("name", ALL)
class TestEnds:
    def test_zero_task_vectors_give_the_base(self, name, vectors, merge_one):
        base = vectors[0]
        assert torch.equal(merge_one(name, base, [base] * parents(name), **needed(name)), base.view(-1))

    def test_one_model_kept_whole_is_that_model(self, name, vectors, merge_one):
        base, models = vectors
        settings = {"weight": 1.0, "density": 1.0} if name in WEIGHED else {}
        if name == "arcee_fusion":
            base, models = base[:, :1], [models[0][:, :1]]  # rows of one: nothing diverges
        expect(merge_one(name, base, models[:1], **settings), models[0], 3e-7)

    @pytest.mark.parametrize("shape", [(1,), (1, 1), ()])
    def test_one_element(self, name, shape, merge_one):
        models = [torch.full(shape, 3.0)] * parents(name)
        settings = {"weight": 1.0, "normalize": True} if name in WEIGHED else {}
        expect(merge_one(name, torch.ones(shape), models, **settings), [3.0])

    @pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0)])
    def test_empty(self, name, shape, merge_one):
        found = merge_one(name, torch.empty(shape), [torch.empty(shape)] * parents(name), **needed(name))
        assert found.shape == (0,)

    def test_without_models_the_base_is_left(self, name, vectors, merge_one):
        if name != "arcee_fusion":
            assert torch.equal(merge_one(name, vectors[0], [], **needed(name)), vectors[0].view(-1))

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("place", [0, 7, 299])
    def test_a_bad_number_comes_through_where_it_is(self, name, bad, place, vectors, merge_one):
        base, models = vectors[0], vectors[1][: parents(name)]
        for index in range(len(models)):
            damaged = [model.clone() for model in models]
            damaged[index].view(-1)[place] = bad
            assert not merge_one(name, base, damaged, **needed(name))[place].isfinite()


@pytest.mark.parametrize("name", FREE_ORDER)
@pytest.mark.parametrize("order", list(permutations(range(3)))[1:])
def test_the_order_of_parents_does_not_matter(name, order, vectors, merge_one):
    base, models = vectors
    settings = {"weight": [0.5, 0.7, 0.9], "density": [0.3, 0.5, 0.8], "gamma": [0.0, 0.1, 0.02]}
    if name not in WEIGHED:
        settings = {"select_topk": 0.5} if name == "sce" else {"epsilon": 0.05}
    moved = {key: [value[at] for at in order] if isinstance(value, list) else value for key, value in settings.items()}
    found = merge_one(name, base, [models[at] for at in order], **moved)
    expect(found, merge_one(name, base, models, **settings).double())
