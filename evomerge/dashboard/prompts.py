"""What the documents of a study ask, as text: read off its suite once, by a process of its own, and kept beside it.

A study keeps a number for each document. To show the documents themselves its tasks have to be loaded, which takes
lm-eval and runs the task files' own code, so no page does it by itself:

    python -m evomerge.dashboard.prompts STUDY
"""

import sys
from collections.abc import Collection, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from evomerge.errors import OneLineError, StudyError, exit_code
from evomerge.study import StudyView
from evomerge.study.folder import StudyFolder, replace_file, writing
from fitness.suite import SuiteConfig
from fitness.validation import validated

SCHEMA = pa.schema(
    [
        ("task", pa.dictionary(pa.int32(), pa.string())),
        ("doc_id", pa.int64()),
        ("prompt", pa.string()),
        ("target", pa.string()),
        ("options", pa.list_(pa.string())),
    ]
)


class Prompt(BaseModel):
    """A document as a person reads it.

    Attributes:
        prompt: what is asked, without few-shot examples; empty for a text whose likelihood is measured as a whole.
        target: the reference answer, or that text.
        options: to choose among; empty unless it is a question of choices.
    """

    model_config = ConfigDict(frozen=True)

    prompt: str
    target: str
    options: tuple[str, ...]


def prompts_path(folder: StudyFolder) -> Path:
    """Where the prompts of a study are kept."""
    return folder.path / "prompts.parquet"


def prompts_of(folder: StudyFolder, task: str, doc_ids: Collection[int]) -> dict[int, Prompt] | None:
    """Documents of a task: id -> prompt; None if the study's prompts have not been read yet.

    Raises:
        StudyError: the file is damaged.
    """
    path = prompts_path(folder)
    if not path.is_file():
        return None
    try:
        rows = pq.read_table(path, filters=[("task", "==", task), ("doc_id", "in", set(doc_ids))]).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise StudyError("prompts cannot be read", where=path, found=error, remedy="remove the file") from error
    return {row["doc_id"]: Prompt(prompt=row["prompt"], target=row["target"], options=row["options"]) for row in rows}


def write_prompts(study: StudyView) -> Path:
    """Read the prompts of a study off its suite, and keep them beside it.

    Returns:
        The path of the file.

    Raises:
        SuiteError: a task cannot be loaded.
        StudyError: its documents are not those that the study was scored on, or the disk cannot be written.
    """
    from fitness.questions import questions  # brings lm-eval

    suite = validated(SuiteConfig, study.config.get("suite"), str(study.folder.config), StudyError)
    rows = []
    for task in questions(suite):
        if task.digest != study.environment.tasks.get(task.name):
            raise StudyError(
                "task is not what the study was scored on",
                where=f"task {task.name}",
                expected=f"digest {study.environment.tasks.get(task.name)}",
                found=task.digest,
                remedy="restore its file and its data to show its prompts",
            )
        rows += [{"task": task.name, "doc_id": doc_id, **vars(each)} for doc_id, each in task.documents.items()]
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), buffer)
    path = prompts_path(study.folder)
    with writing(path):
        replace_file(path, buffer.getvalue().to_pybytes())
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the prompts of the study whose folder is given; its exit code is that of `evomerge`."""
    [folder] = sys.argv[1:] if arguments is None else arguments
    try:
        print(write_prompts(StudyView(Path(folder))))
    except OneLineError as error:
        print(f"evomerge: {error}", file=sys.stderr)
        return exit_code(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
