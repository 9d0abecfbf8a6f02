"""Studies on disk: what was asked, what became of every candidate, and the recipe that won."""

from evomerge.study.folder import check_new, study_folder
from evomerge.study.provenance import Environment, ModelFacts, describe_environment
from evomerge.study.results import Baseline, Candidate, Finalist, Result
from evomerge.study.store import MAX_ATTEMPTS, Study
from evomerge.study.view import StudyView

__all__ = [
    "MAX_ATTEMPTS",
    "Baseline",
    "Candidate",
    "Environment",
    "Finalist",
    "ModelFacts",
    "Result",
    "Study",
    "StudyView",
    "check_new",
    "describe_environment",
    "study_folder",
]
