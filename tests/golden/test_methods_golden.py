"""Every method against cases worked by hand, and against its paper's equations in float64, entry by entry."""

import math

import pytest
import torch

from evomerge.methods import METHODS

COUNT = 257


def expect(found, expected, tolerance=2e-6):
    torch.testing.assert_close(
        found.double(), torch.as_tensor(expected, dtype=torch.float64), rtol=tolerance, atol=tolerance
    )


@pytest.fixture
def vectors():
    """A base and three models, (257,), with some entries that equal the base's."""
    generator = torch.Generator().manual_seed(3)
    base = torch.randn(COUNT, generator=generator)
    deltas = [torch.randn(COUNT, generator=generator) * 0.1 for _ in range(3)]
    for delta in deltas:
        delta[torch.rand(COUNT, generator=generator) < 0.1] = 0
    return base, [base + delta for delta in deltas]


class TestLinear:
    def test_normalized_by_hand(self, merge_one):
        expect(merge_one("linear", None, [[1.0, -2.0], [5.0, 2.0]], weight=[1.0, 3.0]), [4.0, 1.0])

    def test_not_normalized_by_hand(self, merge_one):
        found = merge_one("linear", None, [[1.0, -2.0], [5.0, 2.0]], weight=[1.0, 3.0], normalize=False)
        expect(found, [16.0, 4.0])

    def test_weights_that_sum_to_zero_by_hand(self, merge_one):
        expect(merge_one("linear", None, [[1.0], [3.0]], weight=[1.0, -1.0], normalize=False), [-2.0])


class TestSlerp:
    @pytest.mark.parametrize(
        ("base", "model", "t", "expected"),
        [
            ([1.0, 0.0], [0.0, 2.0], 0.5, [math.sqrt(0.5), math.sqrt(2.0)]),
            ([1.0, 0.0], [0.0, 2.0], 1 / 3, [math.sqrt(0.75), 1.0]),
            ([2.0, 0.0], [0.5, math.sqrt(0.75)], 0.5, [2.5 / math.sqrt(3), 0.5]),  # 60 degrees
            ([1.0, 2.0], [2.0, 4.0], 0.25, [1.25, 2.5]),  # collinear: a straight line
            ([1.0, 2.0], [-2.0, -4.0], 0.25, [0.25, 0.5]),  # antipodal: a straight line, too
            ([3.0, 4.0], [0.0, 0.0], 0.5, [3 * math.sqrt(0.5), 4 * math.sqrt(0.5)]),  # no direction: a right angle
            ([5.0], [2.0], 0.5, [3.5]),
        ],
    )
    def test_by_hand(self, base, model, t, expected, merge_one):
        expect(merge_one("slerp", base, [model], t=t), expected)

    def test_norms_of_unit_vectors_are_kept_along_the_arc(self, vectors, merge_one):
        base, model = (each / each.double().norm().float() for each in (vectors[0], vectors[1][0].flip(0)))
        for t in (0.1, 0.5, 0.8):
            merged = merge_one("slerp", base, [model], t=t).double()
            assert merged.norm() == pytest.approx(1.0, abs=1e-6)
            whole = math.acos(base.double() @ model.double())
            assert math.acos(base.double() @ merged) == pytest.approx(t * whole, abs=1e-4)

    def test_nearly_parallel_vectors_are_joined_by_a_straight_line(self, merge_one):
        found = merge_one("slerp", [1.0, 0.0], [[math.cos(0.03), math.sin(0.03)]], t=0.5)  # cos 0.03 = 0.99955
        expect(found, [(1 + math.cos(0.03)) / 2, math.sin(0.03) / 2], 1e-7)

    def test_ends_are_the_models_themselves(self, vectors, merge_one):
        base, (model, *_) = vectors
        assert torch.equal(merge_one("slerp", base, [model.flip(0)], t=0.0), base)
        assert torch.equal(merge_one("slerp", base, [model.flip(0)], t=1.0), model.flip(0))

    def test_huge_and_tiny_vectors_keep_their_angle(self, merge_one):
        found = merge_one("slerp", [1e30, 0.0], [[0.0, 1e-6]], t=0.5)
        expect(found / torch.tensor([1e30, 1e-6]), [math.sqrt(0.5), math.sqrt(0.5)])


class TestTaskArithmetic:
    def test_by_hand(self, merge_one):
        found = merge_one("task_arithmetic", [1.0, 1.0], [[2.0, 0.0], [1.0, 5.0]], weight=[0.5, 0.25])
        expect(found, [1.5, 1.5])

    def test_lambda_and_normalize_by_hand(self, merge_one):
        settings = {"weight": [0.5, 0.25], "lambda": 3.0, "normalize": True}
        expect(merge_one("task_arithmetic", [1.0, 1.0], [[2.0, 0.0], [1.0, 5.0]], **settings), [3.0, 3.0])

    def test_weights_that_cancel_are_not_normalized(self, merge_one):
        settings = {"weight": [0.5, -0.5], "normalize": True}
        expect(merge_one("task_arithmetic", [0.0], [[4.0], [2.0]], **settings), [1.0])


class TestTies:
    """Task vectors A = (0.4, -0.1, 0.2, -0.3), B = (-0.6, 0.5, 0.1, -0.1); density 0.5 keeps two entries of each."""

    BASE = (1.0, 1.0, 1.0, 1.0)
    MODELS = ((1.4, 0.9, 1.2, 0.7), (0.4, 1.5, 1.1, 0.9))

    def test_trim_elect_and_mean_by_hand(self, merge_one):
        # kept: A (0.4, 0, 0, -0.3), B (-0.6, 0.5, 0, 0); elected signs: -, +, any, -
        expect(merge_one("ties", self.BASE, self.MODELS, weight=1.0, density=0.5), [0.4, 1.5, 1.0, 0.7])

    def test_the_larger_mass_wins_not_the_majority_of_votes(self, merge_one):
        models = [[1.3], [1.3], [0.1]]  # +0.3, +0.3, -0.9
        expect(merge_one("ties", [1.0], models, weight=1.0), [0.1])

    def test_weights_count_in_election_and_mean(self, merge_one):
        # A * 2 = (0.8, ...), B = (-0.6, ...): now A wins the first entry
        found = merge_one("ties", self.BASE, self.MODELS, weight=[2.0, 1.0], density=0.5)
        expect(found, [1.4, 1.5, 1.0, 0.7])

    def test_lambda_without_normalize_by_hand(self, merge_one):
        settings = {"weight": 1.0, "density": 1.0, "lambda": 2.0, "normalize": False}
        # sums of those that agree: -0.6, 0.5, 0.3, -0.4
        expect(merge_one("ties", self.BASE, self.MODELS, **settings), [-0.2, 2.0, 1.6, 0.2])

    @pytest.mark.parametrize("spread", [0.5, 1e-4])  # of the magnitudes; an optimizer's first steps are alike
    def test_of_a_large_tensor_exactly_the_largest_are_kept(self, spread, merge_one):
        generator = torch.Generator().manual_seed(5)
        model = (1 + spread * torch.rand(100_000, generator=generator)) * torch.randn(
            100_000, generator=generator
        ).sign()
        found = merge_one("ties", torch.zeros(100_000), [model], weight=1.0, density=0.3)
        least = model.double().abs().sort(descending=True).values[30_000 - 1]
        expect(found, torch.where(model.double().abs() >= least, model.double(), 0.0))

    def test_rescale_restores_the_l1_norm(self, merge_one):
        # A keeps 0.7 of 1.0 and grows by 10/7; B keeps 1.1 of 1.3
        settings = {"weight": 1.0, "density": 0.5, "rescale": True}
        expected = [1 - 0.6 * 1.3 / 1.1, 1 + 0.5 * 1.3 / 1.1, 1.0, 1 - 0.3 / 0.7]
        expect(merge_one("ties", self.BASE, self.MODELS, **settings), expected)

    def test_at_least_one_entry_is_kept_and_ties_are_kept_together(self, merge_one):
        expect(merge_one("ties", [0.0] * 4, [[0.1, -0.4, 0.2, 0.3]], weight=1.0, density=0.01), [0.0, -0.4, 0.0, 0.0])
        expect(merge_one("ties", [0.0] * 4, [[0.1, -0.4, 0.2, 0.4]], weight=1.0, density=0.25), [0.0, -0.4, 0.0, 0.4])

    @pytest.mark.parametrize("normalize", [True, False])
    def test_against_the_equations(self, vectors, normalize, merge_one):
        base, models = vectors
        weights, densities, scale = [0.7, 1.1, -0.4], [0.3, 0.55, 0.9], 0.8
        settings = {"weight": weights, "density": densities, "lambda": scale, "normalize": normalize}
        trimmed = []
        for model, weight, density in zip(models, weights, densities, strict=True):
            delta = (model - base).tolist()
            kept = sorted(range(COUNT), key=lambda index: -abs(delta[index]))[: int(density * COUNT)]
            trimmed.append([weight * delta[index] if index in kept else 0.0 for index in range(COUNT)])
        expected = []
        for index in range(COUNT):
            entries = [vector[index] for vector in trimmed]
            sign = 1.0 if sum(entries) >= 0 else -1.0
            agree = [place for place, entry in enumerate(entries) if entry * sign > 0]
            total = sum(entries[place] for place in agree)
            share = sum(weights[place] for place in agree) if normalize else 1.0
            expected.append(base[index].item() + scale * total / (share or 1.0))
        expect(merge_one("ties", base, models, **settings), expected, 5e-6)


class TestDare:
    def masks(self, densities, seed, tensor="x"):
        from evomerge.methods._dare import kept, limit, salt

        places = torch.arange(COUNT, dtype=torch.int32)
        return [
            kept(places, torch.tensor(salt(seed, number, tensor, 0)), torch.tensor(limit(density))).double()
            for number, density in enumerate(densities, 1)
        ]

    def test_linear_against_the_equations(self, vectors, merge_one):
        base, models = vectors
        weights, densities = [0.7, 1.1, -0.4], [0.3, 0.55, 0.9]
        settings = {"weight": weights, "density": densities, "lambda": 0.8, "random_seed": 5}
        expected = base.double()
        for model, weight, density, mask in zip(models, weights, densities, self.masks(densities, 5), strict=True):
            expected = expected + 0.8 * weight * mask * (model.double() - base.double()) / density
        expect(merge_one("dare_linear", base, models, **settings), expected)

    def test_without_rescale_the_kept_entries_stay_as_they_are(self, vectors, merge_one):
        base, models = vectors
        mask = self.masks([0.4], 0)[0]
        found = merge_one("dare_linear", base, models[:1], weight=1.0, density=0.4, rescale=False)
        expect(found, base.double() + mask * (models[0].double() - base.double()))

    def test_ties_against_the_equations(self, vectors, merge_one):
        base, models = vectors
        weights, densities = [0.7, 1.1, 0.4], [0.3, 0.55, 0.9]
        entries = torch.stack(
            [
                weight * mask * (model.double() - base.double()) / density
                for model, weight, density, mask in zip(
                    models, weights, densities, self.masks(densities, 9), strict=True
                )
            ]
        )
        up, down = entries.clamp(min=0).sum(0), entries.clamp(max=0).sum(0)
        expected = base.double() + torch.where(up + down >= 0, up, down)
        found = merge_one("dare_ties", base, models, weight=weights, density=densities, random_seed=9)
        expect(found, expected, 5e-6)


class TestPassthrough:
    def test_copies_bit_for_bit(self, vectors, merge_one):
        assert torch.equal(merge_one("passthrough", None, [vectors[0]]), vectors[0])

    def test_scale_by_hand(self, merge_one):
        expect(merge_one("passthrough", None, [[1.0, -2.0]], scale=[0.25]), [0.25, -0.5])


WEIGHTED = ["task_arithmetic", "ties", "dare_linear", "dare_ties"]


@pytest.mark.parametrize("name", WEIGHTED)
class TestEndsOfTaskVectorMethods:
    def test_weight_one_and_density_one_give_the_model(self, name, vectors, merge_one):
        base, models = vectors
        expect(merge_one(name, base, models[:1], weight=1.0), models[0])

    def test_no_change_gives_the_base_bit_for_bit(self, name, vectors, merge_one):
        base, _ = vectors
        density = {} if name == "task_arithmetic" else {"density": 0.3}
        assert torch.equal(merge_one(name, base, [base, base], weight=[0.4, 0.9], **density), base)

    def test_weight_zero_gives_the_base_bit_for_bit(self, name, vectors, merge_one):
        base, models = vectors
        assert torch.equal(merge_one(name, base, models, weight=0.0), base)

    def test_the_base_alone_gives_the_base(self, name, vectors, merge_one):
        assert torch.equal(merge_one(name, vectors[0], []), vectors[0])

    def test_density_one_is_the_method_without_dropping(self, name, vectors, merge_one):
        base, models = vectors
        plain = "ties" if name.endswith("ties") else "task_arithmetic"
        settings = {"weight": [0.3, 0.5, 0.2], "normalize": False}
        assert torch.equal(merge_one(name, base, models, **settings), merge_one(plain, base, models, **settings))


def test_one_model_of_any_weight_is_that_model(vectors, merge_one):
    expect(merge_one("linear", None, [vectors[0]], weight=0.3), vectors[0])


@pytest.mark.parametrize("name", ["linear", "slerp", *WEIGHTED, "passthrough"])
@pytest.mark.parametrize("size", [0, 1])
def test_tensors_of_no_and_of_one_element(name, size, merge_one):
    method = METHODS[name]
    base, model = torch.full((size,), 2.0), torch.full((size,), 4.0)
    settings = {"slerp": {"t": 0.5}, "passthrough": {}, "linear": {"weight": 1.0}}.get(
        name, {"weight": 1.0, "density": 1.0 if "dare" in name else 0.5}
    )
    expected = {"slerp": 3.0}.get(name, 4.0)
    found = merge_one(name, base if method.base == "required" else None, [model], **settings)
    assert torch.equal(found, torch.full((size,), expected))


SPARSE = ["ties", "dare_linear", "dare_ties", "della", "della_linear", "breadcrumbs", "breadcrumbs_ties"]


@pytest.mark.parametrize("name", SPARSE)
def test_a_density_of_zero_leaves_a_model_out(name, vectors, merge_one):
    base, models = vectors
    without = merge_one(name, base, models[:2], weight=[0.3, 0.5], density=1.0, normalize=False)
    found = merge_one(name, base, models, weight=[0.3, 0.5, 0.9], density=[1.0, 1.0, 0.0], normalize=False)
    assert torch.equal(found, without)
    assert torch.equal(merge_one(name, base, models, weight=0.5, density=0.0), base)
