"""Racing: which items a candidate is scored on first, and whether it is scored on the others.

The rungs are those of successive halving (Jamieson and Talwalkar, arXiv 1502.07943), climbed by the candidates of one
generation together, over documents in an order that is drawn anew for each generation. A gate stops a candidate by
itself, as soon as it is certain to be missed; see `confidence`.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from hashlib import sha256

from fitness.confidence import certain_to_miss
from fitness.estimates import item_range
from fitness.gates import GateResult
from fitness.items import Scores, TaskScores
from fitness.ranking import Standing, ranks
from fitness.suite import SuiteConfig

Items = Mapping[str, tuple[int, ...]]
"""Task -> ids of its documents."""


@dataclass(frozen=True)
class Rung:
    """One rung.

    Attributes:
        items: task -> documents to score on it, ascending; a task with nothing to score is left out.
        seen: task -> how many documents of its order have been scored once this rung is climbed.
    """

    items: Items
    seen: Mapping[str, int]


@dataclass(frozen=True)
class Course:
    """What candidates race over.

    Attributes:
        orders: task -> its documents, in a random order: that in which they are scored.
        raceable: task -> whether its metric has a value per document; a task without one is scored in full at once.
        additive: task -> whether its score is the mean of these values; others are made from all documents each time.
    """

    orders: Items
    raceable: Mapping[str, bool]
    additive: Mapping[str, bool]

    def prefix(self, share: float) -> dict[str, tuple[int, ...]]:
        """The documents up to a rung: the same share of every task, in (0, 1], and one document at least."""
        return {task: _first(share, order) if self.raceable[task] else order for task, order in self.orders.items()}

    def shuffled(self, *key: int) -> "Course":
        """The same documents in another random order, which follows from the key and the present order alone.

        Tasks that have the same documents in the same order keep them so.
        """
        return replace(self, orders={task: _shuffled(order, key) for task, order in self.orders.items()})


# Of the first rung, for the likelihood of reference answers: a document says more by it than by right or wrong.
_ANSWERED = 0.25


class Race:
    """The race that a suite asks for.

    Args:
        suite: with `racing`, and the gates.
        course: the documents.
        full: the scores of a model on all documents, which tell the range of each metric that the suite does not state.

    Attributes:
        rungs: from the first to the one with all documents.
        answered: task -> documents whose reference answers are read before the first rung, ascending; the same in
            every race that is drawn from this one.
        notes: what the user should know of tasks that do not fit, a line for each.
    """

    def __init__(self, suite: SuiteConfig, course: Course, full: Scores) -> None:
        assert suite.racing is not None
        self._racing, self._course = suite.racing, course
        self._ranges = {
            task.name: item_range(full[task.name], task.range)
            for task in suite.tasks
            # a bound on the mean counts all documents
            if task.gate and course.additive[task.name] and len(full[task.name].values) == len(course.orders[task.name])
        }
        self.rungs = tuple(self._climb())
        share = _ANSWERED * self._racing.rungs[0]
        self.answered = {task: tuple(sorted(_first(share, order))) for task, order in course.orders.items()}
        self.notes = [
            f"task {task}: {full[task].metric} has no value for each document, so it is scored in full and never raced"
            for task in course.orders
            if not course.raceable[task]
        ]
        first = self._racing.rungs[0]
        self.notes += [
            f"task {task}: a rung of {first:g} of its {len(order)} documents takes one"
            for task, order in course.orders.items()
            if course.raceable[task] and first * len(order) < 1
        ]

    def drawn(self, *key: int) -> "Race":
        """The same race over the documents in another random order, which follows from the key alone.

        An optimizer that met the same documents first all through a search would learn these few by heart.
        """
        race = copy(self)
        race._course = self._course.shuffled(*key)
        race.rungs = tuple(race._climb())
        return race

    def _climb(self) -> Iterator[Rung]:
        seen = dict.fromkeys(self._course.orders, 0)
        for share in self._racing.rungs:
            prefix = self._course.prefix(share)
            items = {
                task: tuple(sorted(documents[seen[task] if self._course.additive[task] else 0 :]))
                for task, documents in prefix.items()
                if len(documents) > seen[task]
            }
            seen = {task: len(documents) for task, documents in prefix.items()}
            if items:  # a rung without new documents tells nothing new
                yield Rung(items, seen)

    @property
    def gated(self) -> bool:
        """Whether any gate can stop a candidate before its last rung."""
        return any(self._ranges.values())

    def partial(self, rung: int) -> frozenset[str]:
        """The tasks of which documents are left after a rung, by its index."""
        return frozenset(task for task, seen in self.rungs[rung].seen.items() if seen < len(self._course.orders[task]))

    def doomed(self, scores: Scores, gates: Sequence[GateResult], rung: int) -> str | None:
        """Why a candidate cannot clear its gates, None while it may.

        Over all candidates that would clear every gate on all items, and over all rungs, the share that is told so is
        alpha at most; the gates divide it (Bonferroni).

        Args:
            scores: on the items of this rung and of those before.
            gates: how these scores stand to their gates.
            rung: index of the rung.
        """
        raced = [(gate, limits) for gate in gates if (limits := self._ranges.get(gate.task)) is not None]
        for gate, limits in raced:
            order = self._course.orders[gate.task]
            values = dict(zip(scores[gate.task].doc_ids, scores[gate.task].values, strict=True))
            seen = order[: self.rungs[rung].seen[gate.task]]
            if any(item not in values for item in seen):  # a task's own code may have no value for some
                continue
            climbed = [values[item] for item in seen]
            alpha, at_most = self._racing.alpha / len(raced), not scores[gate.task].higher_is_better
            if certain_to_miss(climbed, len(order), gate.bound, alpha, *limits, at_most=at_most):
                return f"certain to miss the gate of {gate.task}"
        return None

    def survivors(self, standings: Sequence[Standing | None]) -> list[bool]:
        """Who goes on to the next rung: the best share of those on this one, the earlier among equals.

        Args:
            standings: of all who came to this rung, in the order in which they were asked; None for one that cannot
                go on, because it failed or a gate stopped it.
        """
        running = [index for index, standing in enumerate(standings) if standing is not None]
        places = ranks([standing for standing in standings if standing is not None])
        room = math.ceil(self._racing.keep * len(standings))
        best = {index for _, index in sorted(zip(places, running, strict=True))[:room]}
        return [index in best for index in range(len(standings))]


def joined(before: Scores, after: Scores) -> Scores:
    """The scores over the items of two rungs.

    A task that the later rung scored again on all of its items takes what that says; else the score is the mean.

    Args:
        before: up to the earlier rung.
        after: what the later one scored.
    """
    return before | {task: _union(before[task], scores) if task in before else scores for task, scores in after.items()}


def likelihood(answers: Scores, suite: SuiteConfig) -> float | None:
    """One number for the likelihood of the reference answers: the tasks' weighted mean, None if no task has any.

    Args:
        answers: task -> mean log-likelihood per token of its reference answers.
        suite: gives the weights.
    """
    weights = {task.name: task.weight for task in suite.tasks if task.name in answers}
    if not weights:
        return None
    return sum(weight * answers[task].score for task, weight in weights.items()) / sum(weights.values())


def _first(share: float, order: tuple[int, ...]) -> tuple[int, ...]:
    return order[: max(1, round(share * len(order)))]


def _shuffled(order: tuple[int, ...], key: tuple[int, ...]) -> tuple[int, ...]:
    # by hashes of places: the same on any platform and with any version of a generator
    places = sorted(range(len(order)), key=lambda place: sha256(f"{key}/{place}".encode()).digest())
    return tuple(order[place] for place in places)


def _union(before: TaskScores, after: TaskScores) -> TaskScores:
    if set(before.doc_ids) <= set(after.doc_ids):
        return after
    values = dict(zip(before.doc_ids, before.values, strict=True)) | dict(zip(after.doc_ids, after.values, strict=True))
    ids = tuple(sorted(values))
    ordered = tuple(values[item] for item in ids)
    answers = None
    if before.answers is not None or after.answers is not None:
        said = _answers(before) | _answers(after)
        answers = tuple(said[item] for item in ids)
    return replace(after, doc_ids=ids, values=ordered, score=sum(ordered) / len(ordered), answers=answers)


def _answers(scores: TaskScores) -> dict[int, str | None]:
    # a study of an older evomerge has none
    return dict(zip(scores.doc_ids, scores.answers or [None] * len(scores.doc_ids), strict=True))
