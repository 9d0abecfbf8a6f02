"""What pages and figures work out of a study's document, once for each document."""

from dataclasses import dataclass
from functools import cached_property
from weakref import WeakKeyDictionary

from evomerge.study.document import CandidateDocument, StudyDocument
from evomerge.study.results import Candidate
from evomerge.study.tasks import TaskFacts, task_facts
from evomerge.study.verdict import Kind, kind_of, ranked
from evomerge.study.view import StudyView


@dataclass(frozen=True, eq=False)
class StudyFacts:
    """A study at one moment.

    Attributes:
        document: the study.
        tasks: of its suite.
        results: every candidate of the document, as the search has recorded it.
    """

    document: StudyDocument
    tasks: tuple[TaskFacts, ...]
    results: tuple[Candidate, ...]

    @cached_property
    def order(self) -> list[CandidateDocument]:
        """The candidates that can be ranked, in the order in which winners are chosen."""
        return ranked(self.document.candidates)

    @cached_property
    def places(self) -> dict[int, int]:
        """The number of a candidate that can be ranked -> its place, from 1."""
        return {candidate.number: place for place, candidate in enumerate(self.order, 1)}

    @cached_property
    def kinds(self) -> list[Kind]:
        """What became of each candidate, by number."""
        return [kind_of(candidate) for candidate in self.document.candidates]

    @property
    def recipe(self) -> str | None:
        """Of the candidate to export, as YAML; None if there is none."""
        best = self.document.best
        return None if best is None else self.results[best.number].recipe


_facts: "WeakKeyDictionary[StudyView, StudyFacts]" = WeakKeyDictionary()


def study_facts(study: StudyView, document: StudyDocument) -> StudyFacts:
    """The facts of a study; asked for the same document again, the same.

    Raises:
        StudyError: the study is damaged.
    """
    facts = _facts.get(study)
    if facts is None or facts.document is not document:
        facts = StudyFacts(document, task_facts(study, document), study.candidates()[: len(document.candidates)])
        _facts[study] = facts
    return facts
