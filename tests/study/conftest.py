from collections.abc import Callable
from pathlib import Path

import pytest

from evomerge.study import Candidate, Environment, ModelFacts, Result, Study
from fitness.items import Scores, TaskScores

SPACE = {"weight.layers_0_3.shipping": (0.0, 1.2), "density.layers_0_3.shipping": (0.1, 1.0), "source": ("a", "b")}
ENVIRONMENT = Environment(
    python="3.11.9",
    platform="Linux",
    packages={"torch": "2.13.0"},
    models=(ModelFacts(ref="org/base", digest="ab" * 32, licence="apache-2.0"),),
)


def item_scores(value: float, documents: int = 4) -> Scores:
    ids = tuple(range(0, 2 * documents, 2))
    answers = ("8 crowns", *[None] * (documents - 1))
    return {
        "shipping": TaskScores("shipping", "exact_match", ids, (value,) * documents, value, True, answers=answers),
        "prose": TaskScores(
            "prose", "word_perplexity", ids[:2], (-value, -2 * value), 10 * value, False, weights=(5.0, 7.0)
        ),
    }


def create(folder: Path, **config: object) -> Study:
    return Study.create(folder, {"study": folder.name, "seed": 0, **config}, ENVIRONMENT)


def add(study: Study, objective: float | None, violation: float = 0.0, **scores: float) -> Candidate:
    """A whole candidate, recorded."""
    x = (0.25, 0.5, 0.75)
    genome = {"weight.layers_0_3.shipping": 0.3, "density.layers_0_3.shipping": 0.55, "source": "b"}
    number = study.start(x, genome, SPACE, f"merge_method: ties  # {len(study.candidates())}\n")
    result = Result(
        scores=scores or {"shipping": 0.5, "prose": 7.0},
        violations={"shipping": violation},
        objective=objective,
        timings={"merge": 0.5, "score": 1.5},
        reason="worker died" if objective is None else None,
    )
    return study.finish(number, result, None if objective is None else item_scores(objective))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "night"


@pytest.fixture
def study(folder: Path) -> Study:
    with create(folder) as opened:
        yield opened


@pytest.fixture
def recorded() -> Callable[..., Candidate]:
    return add


@pytest.fixture
def created() -> Callable[..., Study]:
    return create


@pytest.fixture
def scores() -> Callable[..., Scores]:
    return item_scores
