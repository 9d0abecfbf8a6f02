"""Candidates as Optuna's analyses and plots take them."""

from collections.abc import Iterable, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from evomerge.study.document import CandidateDocument


def sampled(candidates: Sequence[CandidateDocument], values: Iterable[float], names: Sequence[str]) -> optuna.Study:
    """Candidates as a study of Optuna's.

    Args:
        candidates: one or more.
        values: of each candidate; higher is better.
        names: the dimensions to keep.
    """
    distributions = {name: _distribution([candidate.genome[name] for candidate in candidates]) for name in names}
    trials = [
        FrozenTrial(
            number=candidate.number,
            trial_id=candidate.number,
            state=TrialState.COMPLETE,
            value=value,
            params={name: candidate.genome[name] for name in names},
            distributions=distributions,
            datetime_start=None,
            datetime_complete=None,
            user_attrs={},
            system_attrs={"constraints": list(candidate.violations.values())},
            intermediate_values={},
        )
        for candidate, value in zip(candidates, values, strict=True)
    ]
    return _Sample(trials)


class _Sample(optuna.Study):
    """Trials without a copy of each in a storage."""

    def __init__(self, trials: Sequence[FrozenTrial]) -> None:
        storage = InMemoryStorage()
        storage.create_new_study([StudyDirection.MAXIMIZE], "sample")
        super().__init__("sample", storage)
        self._trials = list(trials)

    def get_trials(self, deepcopy: bool = True, states: Any = None) -> list[FrozenTrial]:
        return self._trials


def _distribution(values: Sequence[float | str]) -> BaseDistribution:
    """The range, or the options, that were tried."""
    numbers = [value for value in values if not isinstance(value, str)]
    if len(numbers) == len(values):
        return FloatDistribution(min(numbers), max(numbers))
    return CategoricalDistribution(sorted({str(value) for value in values}))
