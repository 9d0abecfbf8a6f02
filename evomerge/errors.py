"""Errors that a user can mend, and the exit code of each.

OneLineError (fitness.errors)
 +-- UsageError             2   wrong usage
 |    +-- ConfigError       2   a config key or value
 |    +-- RecipeError       2   a recipe document
 +-- NothingFeasibleError   3   no candidate clears every gate
 +-- ModelError             4   models that are incompatible or damaged
 |    +-- NonFiniteError    4   NaN or Inf in a source or in a merged tensor
 +-- StudyError             5   a study that cannot be read or written
 |    +-- StudyInUseError   5   another process holds the study
 +-- SuiteError             2   (fitness.errors)
 +-- ScoringError           4   (fitness.errors)
"""

from fitness.errors import OneLineError, ScoringError, SuiteError, nearest

__all__ = [
    "ConfigError",
    "ModelError",
    "NonFiniteError",
    "NothingFeasibleError",
    "OneLineError",
    "RecipeError",
    "ScoringError",
    "StudyError",
    "StudyInUseError",
    "SuiteError",
    "UsageError",
    "exit_code",
    "nearest",
]


class UsageError(OneLineError):
    """The command line asks for something that cannot be."""


class ConfigError(UsageError):
    """A config key is unknown or its value is out of range."""


class RecipeError(UsageError):
    """A recipe document is not valid."""


class NothingFeasibleError(OneLineError):
    """No candidate of the study clears every gate."""


class ModelError(OneLineError):
    """A model folder is missing, damaged, or does not fit the others."""


class NonFiniteError(ModelError):
    """A tensor holds NaN or Inf."""


class StudyError(OneLineError):
    """A study cannot be read or written."""


class StudyInUseError(StudyError):
    """Another process is writing to the study."""


_EXIT_CODES: tuple[tuple[type[OneLineError], int], ...] = (
    (UsageError, 2),
    (SuiteError, 2),
    (NothingFeasibleError, 3),
    (ModelError, 4),
    (ScoringError, 4),
    (StudyError, 5),
)


def exit_code(error: OneLineError) -> int:
    """The exit code of an error, in 2..5; 1 for one that has no code of its own."""
    return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), 1)
