"""Merge into a checkpoint on disk."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from evomerge.checkpoint import TensorHeader, check_output, leftovers, model_card, parse_size, write_checkpoint
from evomerge.merge.kernels import Kernels, Mode
from evomerge.merge.plan import MergePlan, make_plan
from evomerge.merge.prefetch import Prefetch
from evomerge.merge.residency import Sources, resolve_device
from evomerge.merge.stages import open_sources
from evomerge.merge.statistics import StatisticsCache
from evomerge.merge.stream import stream
from evomerge.recipe import Recipe

_PIECE_BYTES = 1 << 25  # of the output, made while the one before is written
_RELEASE_EVERY = 1 << 26  # bytes written between givings back of mapped source pages


def merge_to_disk(
    recipe: Recipe,
    out: Path | str,
    *,
    device: str = "auto",
    max_shard_size: str = "5GB",
    kernels: Mode = "auto",
    card: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> MergePlan:
    """Merge a recipe into a folder with weights, config, tokenizer and model card.

    Reading, computing and writing overlap, in memory of a few pieces of a tensor; of whole tensors where an adapter is
    applied, a vocabulary is aligned or a stage is read. On failure nothing is left behind.

    Args:
        recipe: what to merge and how.
        out: a folder that does not exist yet, or is empty.
        device: where to compute.
        max_shard_size: such as `5GB`.
        kernels: whether to compile.
        card: the model card; by default one of this recipe.
        progress: called with the bytes made so far and the bytes in all, first before anything is read.

    Returns:
        What was done, with its warnings.

    Raises:
        RecipeError: the recipe cannot be merged.
        ModelError: the models are damaged or do not fit each other; NonFiniteError if one holds NaN or Inf.
        UsageError: the output exists or cannot be written, or there is no such device.
    """
    shard_bytes = parse_size(max_shard_size)
    where = resolve_device(device)
    checkpoints = open_sources(recipe)
    plan = make_plan(recipe, checkpoints)
    if left := leftovers(check_output(Path(out))):
        plan = replace(plan, warnings=(*plan.warnings, left))
    sources = Sources(checkpoints, where, keep=False)
    headers = [TensorHeader(tensor.name, tensor.dtype, tensor.shape) for tensor in plan.tensors]
    total = sum(header.nbytes for header in headers)

    def pieces() -> Iterator[tuple[str, int, Tensor]]:
        buffers = [torch.empty(_PIECE_BYTES, dtype=torch.uint8, pin_memory=where.type == "cuda") for _ in range(2)]
        done = released = turn = 0
        if progress is not None:
            progress(0, total)
        with Prefetch(plan, checkpoints) as prefetch:
            for merge in stream(
                plan,
                sources,
                device=where,
                statistics=StatisticsCache(keep=False),
                kernels=Kernels(kernels),
            ):
                prefetch.advance()
                dtype = merge.tensor.dtype
                step = _PIECE_BYTES // dtype.itemsize
                for start in range(0, merge.count, step):
                    part = buffers[turn][: min(step, merge.count - start) * dtype.itemsize].view(dtype)
                    if where.type == "cpu":
                        merge.write(part, start)
                    else:
                        made = torch.empty(part.shape, dtype=dtype, device=where)
                        merge.write(made, start)
                        part.copy_(made)
                    yield merge.tensor.name, start, part
                    turn = 1 - turn
                    done += part.nbytes
                    if progress is not None:
                        progress(done, total)
                if done - released >= _RELEASE_EVERY:
                    sources.release()
                    released = done

    write_checkpoint(
        Path(out),
        pieces(),
        headers=headers,
        config=plan.config,
        tokenizer=plan.tokenizer,
        max_shard_size=shard_bytes,
        card=card or model_card(recipe, Path(out).name, {ref: each.licence for ref, each in checkpoints.items()}),
    )
    return plan
