"""Public benchmarks: data sets whose evaluation splits must not steer a search, or the reported number means nothing.

A data set is known by its Hub name, never by the name of the task that reads it. Local files are the user's own.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Names are compared without owner, case and punctuation. A stem also covers translations and variants (m_hellaswag).
_STEMS: Mapping[str, str] = {
    "agieval": "test",
    "aime": "train test",
    "arcchallenge": "validation test",
    "arceasy": "validation test",
    "babilong": "test",
    "belebele": "test",
    "bigbench": "test validation",
    "blimp": "train test",
    "boolq": "validation test",
    "ceval": "validation test",
    "codexglue": "test",
    "commonsenseqa": "validation test",
    "copa": "validation test",
    "gpqa": "train validation test",
    "gsm8k": "test",
    "gsmplus": "test",
    "hellaswag": "validation test",
    "humaneval": "test",
    "ifeval": "train test",
    "lambada": "validation test",
    "livebench": "train test",
    "livecodebench": "train test",
    "longbench": "train test",
    "mbpp": "test",
    "metabench": "test",
    "mgsm": "test",
    "mmlu": "test",
    "openbookqa": "test",
    "piqa": "validation test",
    "storycloze": "validation test",
    "squad": "validation test",
    "superglue": "validation test",
    "tinyarc": "validation test",
    "triviaqa": "validation test",
    "truthfulqa": "train validation test",
    "winograd": "validation test",
    "winogrande": "validation test",
    "xnli": "validation test",
}
_NAMES: Mapping[str, str] = {
    "acpbench": "test",
    "advglue": "validation test",
    "ai2arc": "validation test",
    "anli": "test",
    "asdiv": "validation test",
    "babi": "test",
    "bbh": "test train",
    "bbq": "test",
    "cnndailymail": "test",
    "coqa": "validation test",
    "crowspairsmultilingual": "test",
    "cruxeval": "test",
    "drop": "validation test",
    "eqbench": "validation test",
    "flores": "test",
    "glue": "validation test",
    "headqa": "test",
    "hendrycksethics": "test",
    "hendrycksmath": "test",
    "includebase44": "validation test",
    "instructionfollowingeval": "train test",
    "legalbench": "test",
    "lingoly": "test",
    "logiqa": "test",
    "logiqa2": "test",
    "marc": "validation test",
    "math500": "test",
    "mathlighteval": "test",
    "mathqa": "test",
    "mctaco": "test",
    "medmcqa": "validation test",
    "medqausmle4options": "test",
    "medqausmle4optionshf": "test",
    "mlqa": "validation test",
    "mmmu": "validation test",
    "musr": "train test",
    "mutual": "validation test",
    "nqopen": "validation test",
    "pawsx": "test",
    "paloma": "validation test",
    "ptbtextonly": "test",
    "pubmedqa": "train test",
    "qasper": "test",
    "race": "test",
    "realtoxicityprompts": "train test",
    "sciq": "test",
    "sib200": "validation test",
    "siqa": "validation test",
    "socialiqa": "validation test",
    "swag": "validation test",
    "toxigendata": "test",
    "tydiqa": "validation test",
    "unscramble": "validation test",
    "webquestions": "test",
    "wikitext": "test",
    "wikitextdocumentlevel": "test",
    "winogender": "test",
    "wmdp": "test",
    "wmt14": "test",
    "wmt16": "test",
    "xquad": "validation test",
    "xsum": "test",
}
_LOADERS = ("arrow", "csv", "json", "parquet", "text", "webdataset", "xml")
_HUB_FILE = re.compile(r"(?:hf://|huggingface\.co/)datasets/([^/\"'\s]+/[^/@\"'\s]+)")


def benchmark(
    dataset_path: str | None, dataset_name: str | None, split: str, dataset_kwargs: Mapping[str, Any] | None = None
) -> str | None:
    """Which public benchmark a task would be scored on.

    Args:
        dataset_path: the task's data set: a Hub name, a folder, or a loader such as `json`.
        dataset_name: its configuration, if any.
        split: the split that is scored, slices and sums included (`test[:50]+validation`).
        dataset_kwargs: the loader's arguments; files read straight from the Hub count as their data set.

    Returns:
        The data set and split, such as "Rowan/hellaswag (validation)"; None when it is not known, is local, or when
        the split is one to train on.
    """
    if dataset_path is None:
        return None
    if dataset_path in _LOADERS:
        candidates = [(name, _known(name, exact=True)) for name in _HUB_FILE.findall(str(dataset_kwargs))]
    elif Path(dataset_path).exists():
        return None
    else:
        candidates = [(dataset_path, _known(dataset_path, exact=True))]
        if dataset_name is not None:
            # A mirror may hold many benchmarks as configurations; common words there prove nothing, so stems only.
            candidates.append((f"{dataset_path} {dataset_name}", _known(dataset_name, exact=False)))
    used = {_role(part) for part in split.split("+")}
    return next((f"{name} ({split})" for name, splits in candidates if used & splits), None)


def _known(name: str, exact: bool) -> set[str]:
    """The roles of the splits that a benchmark is evaluated on; empty when the name is not one."""
    bare = re.sub(r"[^a-z0-9]", "", name.rsplit("/", 1)[-1].lower())
    splits = _NAMES.get(bare, "") if exact else ""
    return set((splits or next((splits for stem, splits in _STEMS.items() if stem in bare), "")).split())


def _role(split: str) -> str:
    """What a split is for: a split by any other name than train or validation is taken for a test."""
    bare = split.strip().split("[")[0].lower()
    if "test" in bare:
        return "test"
    if bare.startswith(("val", "dev", "eval")):
        return "validation"
    return "train" if bare.startswith("train") else "test"
