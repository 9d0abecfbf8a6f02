"""Merge into a checkpoint on disk."""

from collections.abc import Callable, Iterator
from pathlib import Path

from torch import Tensor

from evomerge.checkpoint import TensorHeader, model_card, parse_size, write_checkpoint
from evomerge.merge.plan import make_plan, open_sources
from evomerge.merge.residency import Sources, resolve_device
from evomerge.merge.statistics import StatisticsCache
from evomerge.merge.stream import stream
from evomerge.recipe import Recipe

_RELEASE_EVERY = 1 << 26  # bytes written between givings back of mapped source pages


def merge_to_disk(
    recipe: Recipe,
    out: Path | str,
    *,
    device: str = "auto",
    max_shard_size: str = "5GB",
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Merge a recipe into a folder with weights, config, tokenizer and model card.

    Memory stays that of one tensor and a few chunks. On failure nothing is left behind.

    Args:
        recipe: what to merge and how.
        out: a folder that does not exist yet, or is empty.
        device: where to compute.
        max_shard_size: such as `5GB`.
        progress: called with the bytes written so far and the bytes in all.

    Raises:
        RecipeError: the recipe cannot be merged.
        ModelError: the models are damaged or do not fit each other; NonFiniteError if one holds NaN or Inf.
        UsageError: the output exists or cannot be written, or there is no such device.
    """
    shard_bytes = parse_size(max_shard_size)
    where = resolve_device(device)
    checkpoints = open_sources(recipe)
    plan = make_plan(recipe, checkpoints)
    sources = Sources(checkpoints, where, keep=False)
    headers = [TensorHeader(tensor.name, tensor.dtype, tensor.shape) for tensor in plan.tensors]
    total = sum(header.nbytes for header in headers)

    def tensors() -> Iterator[tuple[str, Tensor]]:
        done = released = 0
        for name, tensor in stream(plan, sources, device=where, statistics=StatisticsCache(keep=False)):
            yield name, tensor.cpu()
            done += tensor.nbytes
            if done - released >= _RELEASE_EVERY:
                sources.release()
                released = done
            if progress is not None:
                progress(done, total)

    write_checkpoint(
        Path(out),
        tensors(),
        headers=headers,
        config=plan.config,
        tokenizer_from=plan.tokenizer_folder,
        max_shard_size=shard_bytes,
        card=model_card(recipe, Path(out).name, {ref: each.licence for ref, each in checkpoints.items()}),
        chat_template=plan.chat_template,
    )
