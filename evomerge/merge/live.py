"""A transformers model whose weights are overwritten in place by one merge after another."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evomerge.errors import ModelError
from evomerge.merge.plan import MergePlan, TensorPlan
from evomerge.merge.stream import Merge

_DTYPE_KEYS = ("dtype", "torch_dtype")


class LiveModel:
    """A causal language model that merges are loaded into.

    Args:
        config: config.json of the models to be loaded; code from a model's repository is never run.
        dtype: of the parameters.
        device: of the parameters.

    Attributes:
        model: the transformers module, in eval mode, without gradients. `load` replaces it when the depth changes.

    Raises:
        ModelError: transformers has no causal language model for this config.
    """

    def __init__(self, config: Mapping[str, Any], *, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype = dtype
        self.device = device
        self.model: Any
        self._config: dict[str, Any]
        self._targets: dict[str, Tensor]
        self._generation_from: Path | None
        self._build(config)

    def load(self, plan: MergePlan, merges: Iterable[Merge]) -> None:
        """Write a merge into the model.

        Args:
            plan: what `merges` came from.
            merges: every output tensor once, on the model's device.

        Raises:
            NonFiniteError: a source or a merged tensor holds NaN or Inf.
            ModelError: integer tensors differ between models; a tensor has no place in the model or another shape; or a
                parameter was not written exactly once. The weights are then part of the old and part of the new ones.
        """
        if _without_dtype(plan.config) != self._config:
            self._build(plan.config)
        self._take_generation_config(plan.tokenizer.folder)
        written: set[int] = set()
        for merge in merges:
            target = self._target(merge.tensor, written)
            if target.dtype == merge.tensor.dtype and target.is_contiguous():
                merge.write(target.view(-1), 0)
            else:
                target.copy_(merge.whole())
        self._check_written(written)

    def check(self, plan: MergePlan) -> None:
        """Check that the model has a place for every tensor of a merge, and no other; for the merges of one depth.

        Raises:
            ModelError: as of `load`.
        """
        written: set[int] = set()
        for tensor in plan.tensors:
            self._target(tensor, written)
        self._check_written(written)

    def _check_written(self, written: set[int]) -> None:
        missing = [name for name, target in self._targets.items() if id(target) not in written]
        if missing:
            raise ModelError(
                "parameters not written",
                where=type(self.model).__name__,
                expected=f"a tensor for each of {len(self._targets)} names",
                found=f"none for {', '.join(missing[:3])}" + (" ..." if len(missing) > 3 else ""),
                remedy="the checkpoint and transformers name the weights differently; merge to disk and score that",
            )

    def _take_generation_config(self, folder: Path) -> None:
        """Generate as a checkpoint on disk would, which gets the generation config of this folder."""
        if folder == self._generation_from:
            return
        from transformers import GenerationConfig

        if (folder / "generation_config.json").exists():
            self.model.generation_config = GenerationConfig.from_pretrained(folder)
        else:
            self.model.generation_config = GenerationConfig.from_model_config(self.model.config)
        self._generation_from = folder

    def _target(self, tensor: TensorPlan, written: set[int]) -> Tensor:
        """Where an output tensor goes, which is then counted as written."""
        name, shape = tensor.name, tensor.shape
        target = self._targets.get(name)
        if target is None:  # a checkpoint of the bare network leaves the prefix out
            target = self._targets.get(f"{self.model.base_model_prefix}.{name}")
        if target is None:
            raise ModelError(
                "tensor without a place in the model",
                where=name,
                expected=f"a name of {type(self.model).__name__}, such as {next(iter(self._targets))}",
                remedy="the checkpoint and transformers name the weights differently; merge to disk and score that",
            )
        if tuple(target.shape) != shape:
            raise ModelError("shape does not fit the model", where=name, expected=list(target.shape), found=list(shape))
        if id(target) in written:
            raise ModelError(
                "parameter written twice",
                where=name,
                expected="one tensor for tied weights",
                remedy="set tie_word_embeddings in config.json to what the weights are",
            )
        written.add(id(target))
        return target.data

    def _build(self, config: Mapping[str, Any]) -> None:
        from transformers import CONFIG_MAPPING, AutoModelForCausalLM
        from transformers.initialization import no_init_weights

        self.model, self._targets, self._generation_from = None, {}, None  # the old one goes before the new one comes
        self._config = {}  # of no model, until this one is built
        kind = str(config.get("model_type"))
        try:
            described = CONFIG_MAPPING[kind].from_dict(_without_dtype(config))
            with torch.device(self.device), no_init_weights():
                model = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
                    described, dtype=self.dtype, trust_remote_code=False
                )
        except (torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:  # a config that is damaged fails anywhere in transformers, in any way
            raise ModelError(
                "no live model for this config",
                where=f"model_type {kind!r}",
                expected="a causal language model of transformers",
                found=" ".join(str(error).split()) or type(error).__name__,
                remedy="merge to disk instead",
            ) from None
        model.tie_weights()
        self.model = model.eval().requires_grad_(False)
        self._targets = dict(self.model.state_dict(keep_vars=True))
        self._config = _without_dtype(config)


def _without_dtype(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in _DTYPE_KEYS}
