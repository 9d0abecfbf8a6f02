"""Methods that combine models by their angles, against hand-worked cases and the vectors in float64.

The methods know inner products only; here everything is worked out on the vectors themselves, entry by entry.
"""

import math
from itertools import combinations, permutations

import pytest
import torch

from evomerge.errors import RecipeError
from evomerge.methods import get_method

ROOT_HALF = math.sqrt(0.5)


def expect(found, expected, tolerance=1e-6):
    """Within the tolerance, relative to the entry or to a tenth of the largest one, where terms may cancel."""
    expected = torch.as_tensor(expected, dtype=torch.float64).reshape(-1)
    room = tolerance * expected.abs().max().item() / 10 if expected.numel() else 0.0
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=room)


@pytest.fixture
def vectors():
    """A base and three models, (12, 20), whose task vectors are at all angles and of different lengths."""
    generator = torch.Generator().manual_seed(5)
    base, common, *own = (torch.randn(12, 20, generator=generator) for _ in range(5))
    return base, [base + size * (common + each) for size, each in zip((0.1, 0.3, 0.02), own, strict=True)]


def arc(first, second, t):
    """Between two float64 vectors, in the frame of the first and of what is orthogonal to it in the second."""
    one = first / first.norm()
    across = second - (second @ one) * one
    two = across / across.norm()
    angle = math.atan2(float(second @ two), float(second @ one))
    ahead = (first.norm() * math.sin((1 - t) * angle) + (second @ one) * math.sin(t * angle)) / math.sin(angle)
    return ahead * one + second.norm() * math.sin(t * angle) * two


def arcs(first, second, t, along):
    """The arcs between rows, between columns (along the first axis) or between whole tensors."""
    if along == "all":
        return arc(first.reshape(-1), second.reshape(-1), t).view(first.shape)
    axis = -1 if along == "rows" else 0
    first, second = first.movedim(axis, -1), second.movedim(axis, -1)
    pairs = zip(first.reshape(-1, first.shape[-1]), second.reshape(-1, first.shape[-1]), strict=True)
    return torch.stack([arc(*pair, t) for pair in pairs]).view(first.shape).movedim(-1, axis)


ALONG = {
    "all": {},
    "rows": {"nuslerp_flatten": False},
    "columns": {"nuslerp_flatten": False, "nuslerp_row_wise": True},
}


class TestNuslerp:
    @pytest.mark.parametrize(
        ("first", "second", "weight", "expected"),
        [
            ([1.0, 0.0], [0.0, 2.0], [1.0, 1.0], [ROOT_HALF, 2 * ROOT_HALF]),
            ([1.0, 0.0], [0.0, 2.0], [2.0, 1.0], [math.sqrt(0.75), 1.0]),
            ([1.0, 0.0], [0.0, 2.0], [-1.0, 3.0], [-ROOT_HALF, 2 * ROOT_HALF]),  # t = 1.5 goes beyond the second
            ([1.0, 0.0], [0.0, 2.0], [1.0, -1.0], [ROOT_HALF, 2 * ROOT_HALF]),  # no share: half way
            ([1.0, 2.0], [2.0, 4.0], [3.0, 1.0], [1.25, 2.5]),  # collinear: a straight line
            ([0.1, 0.2], [-0.3, -0.6], [3.0, 1.0], [0.0, 0.0]),  # antipodal, too
            ([3.0, 4.0], [0.0, 0.0], [1.0, 1.0], [3 * ROOT_HALF, 4 * ROOT_HALF]),  # no direction: a right angle
            ([0.0, 0.0], [0.0, 0.0], [1.0, 1.0], [0.0, 0.0]),
            ([5.0], [2.0], [1.0, 1.0], [3.5]),
            ([], [], [1.0, 1.0], []),
        ],
    )
    def test_by_hand(self, merge_one, first, second, weight, expected):
        found = merge_one("nuslerp", None, [first, second], weight=weight)
        torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-6, atol=1e-7)

    @pytest.mark.parametrize("along", list(ALONG))
    @pytest.mark.parametrize("has_base", [True, False])
    def test_against_arcs_of_the_vectors(self, merge_one, vectors, along, has_base):
        base, (first, second, _) = vectors
        origin = base if has_base else torch.zeros_like(base)
        deltas = [(model - origin).double() for model in (first, second)]
        expected = origin.double() + arcs(*deltas, 0.7, along)
        found = merge_one("nuslerp", base if has_base else None, [first, second], weight=[0.6, 1.4], **ALONG[along])
        expect(found, expected)

    @pytest.mark.parametrize("along", ["rows", "columns"])
    @pytest.mark.parametrize("shape", [(3, 4, 5), (60,), (2, 30)])
    def test_pieces_that_end_within_a_row(self, operands, merge_operands, along, shape):
        generator = torch.Generator().manual_seed(1)
        first, second = (torch.randn(shape, generator=generator) for _ in range(2))
        made_of = operands("nuslerp", None, [first, second], weight=[1.0, 3.0], **ALONG[along])
        whole = merge_operands("nuslerp", made_of)
        expect(whole, arcs(first.double(), second.double(), 0.75, along))
        assert torch.equal(merge_operands("nuslerp", made_of, cuts=(1, 7, 31, 59)), whole)

    def test_one_row_may_be_collinear_and_another_not(self, merge_one):
        models = [[[1.0, 2.0], [1.0, 0.0], [1.0, 1.0]], [[3.0, 6.0], [0.0, 1.0], [0.0, 0.0]]]
        found = merge_one("nuslerp", None, models, weight=1.0, nuslerp_flatten=False)
        expect(found, [2.0, 4.0, ROOT_HALF, ROOT_HALF, ROOT_HALF, ROOT_HALF])

    @pytest.mark.parametrize("along", list(ALONG))
    def test_ends_are_the_models_themselves(self, merge_one, vectors, along):
        _, (first, second, _) = vectors
        found = [
            merge_one("nuslerp", None, [first, second], weight=w, **ALONG[along]) for w in ([1.0, 0.0], [0.0, 1.0])
        ]
        assert torch.equal(found[0], first.view(-1))
        assert torch.equal(found[1], second.view(-1))

    @pytest.mark.parametrize("along", list(ALONG))
    def test_swapping_models_with_their_weights_changes_nothing(self, merge_one, vectors, along):
        base, (first, second, _) = vectors
        found = merge_one("nuslerp", base, [first, second], weight=[0.2, 0.5], **ALONG[along])
        expect(merge_one("nuslerp", base, [second, first], weight=[0.5, 0.2], **ALONG[along]), found)

    @pytest.mark.parametrize("scale", [1e-30, 1e30])
    def test_huge_and_tiny_models_keep_their_angle(self, merge_one, scale):
        # Below a norm of 1e-7 vectors count as orthogonal, which these are.
        found = merge_one("nuslerp", None, [[scale, 0.0], [0.0, 2 * scale]], weight=1.0)
        expect(found, [scale * ROOT_HALF, 2 * scale * ROOT_HALF])

    @pytest.mark.parametrize("angle", [1e-4, math.pi - 1e-4])
    def test_what_float32_calls_straight_is_straight(self, merge_one, angle):
        found = merge_one("nuslerp", None, [[1.0, 0.0], [math.cos(angle), math.sin(angle)]], weight=[3.0, 1.0])
        expect(found, [0.75 + 0.25 * math.cos(angle), 0.25 * math.sin(angle)])


def tangent_mean(deltas, weights, eps=1e-8):
    """The published steps of multislerp, on float64 vectors: mean, tangent space, weighted sum there, and back."""
    units = [delta / (delta.norm() + eps) for delta in deltas]
    mean = sum(weight * unit for weight, unit in zip(weights, units, strict=True))
    mean = mean / mean.norm()
    tangents = [unit - (unit * mean).sum() * mean for unit in units]
    step = sum(weight * tangent for weight, tangent in zip(weights, tangents, strict=True))
    size = step.norm() + eps
    point = torch.cos(size) * mean + torch.sin(size) / size * step
    return sum(weight * delta.norm() for weight, delta in zip(weights, deltas, strict=True)) * point


class TestMultislerp:
    @pytest.mark.parametrize(
        ("models", "weight", "expected"),
        [
            ([[2.0, 0.0], [0.0, 4.0]], [1.0, 1.0], [3 * ROOT_HALF, 3 * ROOT_HALF]),
            ([[5.0, 0.0], [0.0, 1.0]], [4.0, 3.0], [4 * 0.8 * 23 / 28, 0.6 * 4 * 23 / 28]),
            ([[1.0, 2.0], [3.0, 6.0]], [1.0, 1.0], [2.0, 4.0]),  # collinear
            ([[1.0, 2.0], [-3.0, -6.0]], [1.0, 1.0], [-1.0, -2.0]),  # antipodal: a straight line
            ([[1.0, 2.0], [0.0, 0.0]], [1.0, 1.0], [0.5, 1.0]),  # one direction, half the length
            ([[0.0], [0.0], [0.0]], [1.0, 2.0, 3.0], [0.0]),
            ([[3.0], [5.0]], [1.0, 3.0], [4.5]),
            ([[], [], []], [1.0, 1.0, 1.0], []),
        ],
    )
    def test_by_hand(self, merge_one, models, weight, expected):
        expect(merge_one("multislerp", None, models, weight=weight), expected)

    @pytest.mark.parametrize("has_base", [True, False])
    @pytest.mark.parametrize("normalize", [True, False])
    @pytest.mark.parametrize("weights", [[0.5, 0.3, 0.7], [1.0, -0.4, 0.2], [0.0, 1.0, 0.0]])
    def test_against_the_tangent_space(self, merge_one, vectors, has_base, normalize, weights):
        base, models = vectors
        origin = base if has_base else torch.zeros_like(base)
        shares = [weight / sum(weights) for weight in weights] if normalize else weights
        expected = origin.double() + tangent_mean([(model - origin).double() for model in models], shares)
        settings = {"weight": weights, "normalize_weights": normalize}
        expect(merge_one("multislerp", base if has_base else None, models, **settings), expected)

    def test_a_large_eps_shortens_directions(self, merge_one, vectors):
        base, models = vectors
        # The definition goes by eps along a step of zero, which shortens the mean direction by its cosine.
        mean = tangent_mean([(model - base).double() for model in models], [0.2, 0.3, 0.5], 0.1) / math.cos(0.1)
        expect(merge_one("multislerp", base, models, weight=[0.2, 0.3, 0.5], eps=0.1), base.double() + mean)

    @pytest.mark.parametrize("normalize", [True, False])
    def test_one_model_is_that_model(self, merge_one, vectors, normalize):
        base, (model, *_) = vectors
        found = merge_one("multislerp", base, [model], weight=0.0, normalize_weights=normalize)
        torch.testing.assert_close(found, model.view(-1), rtol=0.0, atol=2e-7)
        assert torch.equal(merge_one("multislerp", None, [model], weight=0.0), model.view(-1))

    def test_unchanged_models_give_the_base_bit_for_bit(self, merge_one, vectors):
        base, _ = vectors
        assert torch.equal(merge_one("multislerp", base, [base] * 3, weight=[0.4, 0.9, 0.2]), base.view(-1))

    def test_the_order_of_models_does_not_matter(self, merge_one, vectors):
        base, models = vectors
        first = merge_one("multislerp", base, models, weight=[0.5, 0.3, 0.7])
        for order in permutations(range(3)):
            weights = [[0.5, 0.3, 0.7][place] for place in order]
            expect(merge_one("multislerp", base, [models[place] for place in order], weight=weights), first)

    def test_three_models_that_cancel_are_refused(self, merge_one):
        models = [[1.0, 0.0], [-0.5, math.sqrt(0.75)], [-0.5, -math.sqrt(0.75)]]
        with pytest.raises(RecipeError, match=r"the models cancel each other.*model\.norm.*change a weight") as caught:
            merge_one("multislerp", None, models, weight=1.0, tensor="model.norm")
        assert "\n" not in str(caught.value)

    def test_weights_that_sum_to_zero_are_refused_where_they_are_divided_by_it(self):
        check = get_method("multislerp").check
        with pytest.raises(RecipeError, match=r"weights sum to zero.*1, -1.*normalize_weights: false"):
            check({"normalize_weights": True}, {"weight": (1.0, -1.0)}, "parameters")
        check({"normalize_weights": False}, {"weight": (1.0, -1.0)}, "parameters")
        check({"normalize_weights": True}, {"weight": (0.0,)}, "parameters")

    @pytest.mark.parametrize("scale", [1e-6, 1e30])
    def test_huge_and_tiny_models(self, merge_one, scale):
        found = merge_one("multislerp", None, [[2 * scale, 0.0], [0.0, 4 * scale]], weight=1.0, eps=0.0)
        expect(found, [3 * scale * ROOT_HALF, 3 * scale * ROOT_HALF])


def logarithm(point, unit):
    """The tangent at a unit vector that leads to another one along a great circle."""
    across = unit - (unit @ point) * point
    angle = math.atan2(float(across.norm()), float(unit @ point))
    return across / across.norm() * angle if angle > 1e-12 else across * 0


def karcher(models, steps):
    """Gradient descent on float64 vectors from the normalized mean, and back to the mean length."""
    units = [model / model.norm() for model in models]
    point = sum(units) / sum(units).norm()
    for _ in range(steps):
        step = sum(logarithm(point, unit) for unit in units) / len(units)
        if step.norm() < 1e-5:
            break
        point = math.cos(step.norm()) * point + math.sin(step.norm()) * step / step.norm()
    return point * sum(model.norm() for model in models) / len(models)


class TestKarcher:
    @pytest.mark.parametrize(
        ("models", "expected"),
        [
            ([[2.0, 0.0], [0.0, 4.0]], [3 * ROOT_HALF, 3 * ROOT_HALF]),
            ([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 2.0]], [2 / math.sqrt(3)] * 3),
            ([[1.0, 2.0], [3.0, 6.0]], [2.0, 4.0]),  # collinear
            ([[0.1, 0.2], [-0.3, -0.6]], [0.2, 0.4]),  # antipodal: the first model's direction
            ([[3.0, 4.0], [0.0, 0.0]], [1.5, 2.0]),  # one direction, half the length
            ([[0.0, 0.0], [0.0, 0.0]], [0.0, 0.0]),
            ([[3.0], [5.0]], [4.0]),
            ([[], []], []),
            ([[1.5, -2.0]], [1.5, -2.0]),
        ],
    )
    def test_by_hand(self, merge_one, models, expected):
        expect(merge_one("karcher", None, models), expected)

    def test_on_a_circle_it_is_the_mean_angle(self, merge_one):
        angles = [0.1, 0.4, 1.9]
        models = [[math.cos(angle), math.sin(angle)] for angle in angles]
        expect(merge_one("karcher", None, models, max_iter=50), [math.cos(0.8), math.sin(0.8)], 1e-5)

    @pytest.mark.parametrize("steps", [0, 1, 2, 10])
    def test_against_descent_on_the_vectors(self, merge_one, vectors, steps):
        base, models = vectors
        deltas = [model - base for model in models]  # far apart, so that the steps are large
        found = merge_one("karcher", None, deltas, max_iter=steps)
        expect(found, karcher([delta.double().view(-1) for delta in deltas], steps))

    def test_models_that_are_nearly_one(self, merge_one, vectors):
        _, models = vectors
        models = [models[0] + 1e-3 * model for model in models]
        expect(merge_one("karcher", None, models), karcher([model.double().view(-1) for model in models], 10))

    def test_where_it_ends_the_logarithms_cancel(self, merge_one, vectors):
        base, models = vectors
        deltas = [model - base for model in models]
        found = merge_one("karcher", None, deltas, max_iter=100, tol=1e-7).double()
        units = [delta.double().view(-1) / delta.double().norm() for delta in deltas]
        assert sum(logarithm(found / found.norm(), unit) for unit in units).norm() < 1e-6

    def test_a_norm_up_to_tol_counts_only_as_a_length(self, merge_one):
        expect(merge_one("karcher", None, [[3.0, 0.0], [0.0, 0.5]], tol=0.5), [1.75, 0.0])

    def test_a_model_opposite_to_the_mean_of_the_others_does_not_pull(self, merge_one):
        models = [[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]]
        expect(merge_one("karcher", None, models), [1.0, 0.0])

    def test_the_order_of_models_does_not_matter(self, merge_one, vectors):
        _, models = vectors
        first = merge_one("karcher", None, models)
        for order in permutations(models):
            expect(merge_one("karcher", None, list(order)), first)

    def test_huge_models(self, merge_one):
        expect(merge_one("karcher", None, [[2e30, 0.0], [0.0, 4e30]]), [3e30 * ROOT_HALF, 3e30 * ROOT_HALF])


def stock(base, models):
    """t times the mean of the models plus (1 - t) times the base, of float64 vectors."""
    cosines = []
    for first, second in combinations(models, 2):
        first, second = first - base, second - base
        product = max(float(first.norm() * second.norm()), 1e-6)
        cosines.append(float(first @ second) / product)
    cosine = sum(cosines) / len(cosines)
    t = len(models) * cosine / (1 + (len(models) - 1) * cosine)
    return t * sum(models) / len(models) + (1 - t) * base


class TestModelStock:
    @pytest.mark.parametrize(
        ("base", "models", "expected"),
        [
            ([1.0, 1.0], [[2.0, 1.0], [4.0, 5.0]], [2.5, 2.5]),  # cosine 0.6: t = 1.2 / 1.6
            ([1.0, 1.0], [[2.0, 1.0], [1.0, 3.0]], [1.0, 1.0]),  # orthogonal: the base
            ([1.0, 1.0], [[2.0, 3.0], [2.0, 3.0]], [2.0, 3.0]),  # the same: their mean
            ([1.0, 1.0], [[2.0, 1.0], [-3.0, 1.0]], [1.0, 1.0]),  # opposed: no estimate, the base
            ([1.0, 1.0], [[1.0, 1.0], [2.0, 1.0]], [1.0, 1.0]),
            ([2.0], [[3.0], [5.0]], [4.0]),
            ([], [[], []], []),
        ],
    )
    def test_by_hand(self, merge_one, base, models, expected):
        expect(merge_one("model_stock", base, models), expected)

    @pytest.mark.parametrize("count", [2, 3])
    def test_against_the_vectors(self, merge_one, vectors, count):
        base, models = vectors
        flat = [model.double().view(-1) for model in models[:count]]
        expect(merge_one("model_stock", base, models[:count]), stock(base.double().view(-1), flat))

    @pytest.mark.parametrize("shape", [(12, 20), (240,), (3, 4, 20)])
    def test_by_filter_against_the_rows(self, operands, merge_operands, vectors, shape):
        base, models = vectors[0].view(shape), [model.view(shape) for model in vectors[1]]
        rows = [each.double().reshape(-1, shape[-1]) for each in (base, *models)]
        expected = torch.stack([stock(origin, each) for origin, *each in zip(*rows, strict=True)])
        made_of = operands("model_stock", base, models, filter_wise=True)
        expect(merge_operands("model_stock", made_of), expected)
        expect(merge_operands("model_stock", made_of, cuts=(3, 41, 100)), expected)

    def test_tiny_task_vectors_count_as_less_alike(self, merge_one):
        base, models = [0.0, 0.0], [[5e-4, 0.0], [5e-4, 0.0]]  # a product of norms of 2.5e-7, a cosine of 0.25
        expect(merge_one("model_stock", base, models), [5e-4 * 0.4, 0.0])

    def test_unchanged_models_give_the_base_bit_for_bit(self, merge_one, vectors):
        base, _ = vectors
        for filter_wise in (False, True):
            found = merge_one("model_stock", base, [base] * 3, filter_wise=filter_wise)
            assert torch.equal(found, base.view(-1))

    def test_the_order_of_models_does_not_matter(self, merge_one, vectors):
        base, models = vectors
        first = merge_one("model_stock", base, models)
        for order in permutations(models):
            expect(merge_one("model_stock", base, list(order)), first)


CASES = [
    ("nuslerp", 2, {"weight": [0.4, 0.6]}),
    ("nuslerp", 2, {"weight": [0.4, 0.6], "nuslerp_flatten": False}),
    ("nuslerp", 2, {"weight": [0.4, 0.6], "nuslerp_flatten": False, "nuslerp_row_wise": True}),
    ("multislerp", 3, {"weight": [0.4, 0.6, 0.1]}),
    ("karcher", 3, {}),
    ("model_stock", 3, {}),
    ("model_stock", 3, {"filter_wise": True}),
]


@pytest.mark.parametrize(("name", "count", "settings"), CASES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_bad_number_comes_through(merge_one, vectors, name, count, settings, bad):
    for place in range(count + 1):
        sources = [vectors[0].clone(), *(model.clone() for model in vectors[1][:count])]
        sources[place][3, 4] = bad
        base, models = sources[0], sources[1:]
        if get_method(name).base == "unused":
            base, models = None, sources
        assert not merge_one(name, base, models, **settings)[3 * 20 + 4].isfinite()


@pytest.mark.parametrize(("name", "count", "settings"), CASES)
def test_bfloat16_sources_give_what_their_values_give_in_float32(
    operands, merge_operands, vectors, name, count, settings
):
    base, models = vectors[0].bfloat16(), [model.bfloat16() for model in vectors[1][:count]]
    base = None if get_method(name).base == "unused" else base
    narrow = merge_operands(name, operands(name, base, models, **settings))
    base = None if base is None else base.float()
    assert torch.equal(narrow, merge_operands(name, operands(name, base, [m.float() for m in models], **settings)))
