"""Model folders: a local one, or a snapshot of a hub repository, and the JSON files in it."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from evomerge.errors import ModelError

SMALL_FILES = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "README.md")


def locate(path: str, revision: str | None, weight_files: Callable[[Path], Sequence[str]]) -> Path:
    """The folder of a local path, or of a hub id after its files were fetched or found in the cache.

    The small files come first and say which weight files are needed, so a repository that holds its weights in several
    formats costs one of them. The settings of huggingface_hub (HF_HUB_OFFLINE, HF_HOME, HF_TOKEN) hold.

    Args:
        path: local folder or hub id.
        revision: branch, tag or commit of a hub id.
        weight_files: the names of the weight files, given the folder with the small ones.

    Raises:
        ModelError: no such folder, repository or revision, or it cannot be fetched.
    """
    try:
        folder = Path(path).expanduser()
        found = sorted(folder.iterdir()) if folder.is_dir() else None
        exists = folder.exists()
    except (OSError, RuntimeError) as error:  # no permission, a name too long; no such home
        reason = getattr(error, "strerror", None) or error
        raise ModelError("cannot read the model folder", where=path, found=reason, remedy="check the path") from None
    if exists:
        if revision is not None:
            raise ModelError("revision of a local folder", where=path, found=revision, remedy="leave the revision out")
        if found is None:
            raise ModelError(
                "not a model folder", where=path, expected="a folder", found="a file", remedy="check the path"
            )
        if not found:
            raise ModelError(
                "empty model folder",
                where=path,
                expected="config.json and model.safetensors",
                remedy="download the model or check the path",
            )
        return folder
    if path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise ModelError("model folder missing", where=path, remedy="check the path")
    small = _snapshot(path, revision, SMALL_FILES)
    return _snapshot(path, small.name, weight_files(small))


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a model folder.

    Raises:
        ModelError: the file is missing, cannot be read, or does not hold a JSON object.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"{path.name} missing", where=path.parent, remedy="check that the folder is complete"
        ) from None
    except OSError as error:
        raise ModelError(f"cannot read {path.name}", where=path.parent, found=error.strerror) from None
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise ModelError(
            f"{path.name} is damaged", where=path.parent, expected="a JSON object", remedy="download or save it again"
        )
    return document


def _snapshot(path: str, revision: str | None, patterns: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(path, revision=revision, allow_patterns=list(patterns)))
    except LocalEntryNotFoundError:
        found = "neither a folder, nor a cached copy of a hub repository, nor a connection to the hub"
    except HFValidationError:
        found = "neither a folder nor a hub id"
    except OSError as error:
        found = str(error).splitlines()[0]
    where = path if revision is None else f"{path}@{revision}"
    raise ModelError("model not found", where=where, found=found, remedy="check its spelling, revision and access")
