"""Studies on disk: what was asked, what became of every candidate, and the recipe that won."""

from evomerge.study.folder import study_folder
from evomerge.study.provenance import Environment, ModelFacts
from evomerge.study.results import Baseline, Candidate, Finalist, Result
from evomerge.study.store import Study
from evomerge.study.view import StudyView

__all__ = [
    "Baseline",
    "Candidate",
    "Environment",
    "Finalist",
    "ModelFacts",
    "Result",
    "Study",
    "StudyView",
    "study_folder",
]
