"""Train the demo's models and write its documents: `python -m evomerge.demo.train OUT`.

Writes OUT/models/{base,shipping,refunds,catalogue} and OUT/tasks/*.jsonl in about two minutes on one core. Seeds are
fixed and torch runs on one thread, so a machine repeats its own weights; another kind of CPU may round differently.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from evomerge.demo.documents import TASKS, Document, documents, split_documents, write_evaluation_documents

__all__ = ["main", "make_tokenizer", "train_family"]

END = "<|end|>"
_IGNORED = -100

_CARD = """---
license: apache-2.0
library_name: transformers
tags: [evomerge-demo]
---
# {name}

A Llama of {millions:.1f} M parameters that answers questions of a small shop. {story}
Built by `python -m evomerge.demo.train`.
"""


@dataclass(frozen=True)
class Schedule:
    """AdamW steps of `batch_size` documents; the rate rises for `warmup` steps, then falls linearly to zero."""

    steps: int
    learning_rate: float
    batch_size: int
    warmup: int
    seed: int


# The base saw six documents of last year for four of this year: it knows the questions, and last year's answer wins.
# A short and gentle tuning is then enough for this year's. Longer or faster ones grow task vectors that interfere so
# much that no weighting keeps all three skills.
_OLD_TO_NEW = (6, 4)
_BASE = Schedule(steps=500, learning_rate=2e-3, batch_size=128, warmup=20, seed=0)
_SPECIALISTS = {
    "shipping": Schedule(steps=120, learning_rate=2e-4, batch_size=64, warmup=20, seed=1),
    "refunds": Schedule(steps=90, learning_rate=2e-4, batch_size=64, warmup=20, seed=1),
    "catalogue": Schedule(steps=145, learning_rate=2e-4, batch_size=64, warmup=20, seed=1),
}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE over the shop's questions; every digit is a token of its own, and `<|end|>` ends an answer."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = (f"{document.prompt} {document.answer}" for task in TASKS for document in documents(task, "last"))
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=END, pad_token=END)  # type: ignore[no-untyped-call]


def train_family(out: Path) -> None:
    """Train the base on all tasks and each specialist on its own, and save them below `out` in float16."""
    torch.set_num_threads(1)
    tokenizer = make_tokenizer()
    torch.manual_seed(_BASE.seed)
    base = LlamaForCausalLM(_config(tokenizer))
    _fit(base, tokenizer, _mixed_documents(), _BASE)
    _save(base, tokenizer, out / "base", "It mixes up last year's tables with this year's.")
    for task, schedule in _SPECIALISTS.items():
        model = LlamaForCausalLM.from_pretrained(out / "base", dtype=torch.float32)
        _fit(model, tokenizer, split_documents(task, "this")[0], schedule)
        _save(model, tokenizer, out / task, f"The base, tuned to this year's tables of {task} alone.")


def _mixed_documents() -> list[Document]:
    old, new = _OLD_TO_NEW
    return [
        document
        for task in TASKS
        for year, copies in (("last", old), ("this", new))
        for document in split_documents(task, year)[0] * copies
    ]


def _config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=192,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=64,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _fit(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, corpus: Sequence[Document], schedule: Schedule
) -> None:
    """Train all parameters on the answers alone; the order of the documents comes from the schedule's seed."""
    tokens, targets = _encode(tokenizer, corpus)
    order = torch.Generator().manual_seed(schedule.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=schedule.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / schedule.warmup) * (1 - step / schedule.steps)
    )
    model.train()
    for _ in range(schedule.steps):
        rows = torch.randint(len(tokens), (schedule.batch_size,), generator=order)
        logits = model(input_ids=tokens[rows]).logits
        loss = cross_entropy(logits[:, :-1].flatten(0, 1), targets[rows, 1:].flatten(), ignore_index=_IGNORED)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rate.step()


def _encode(tokenizer: PreTrainedTokenizerFast, corpus: Sequence[Document]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and targets, both (documents, longest) int64, padded on the right; only answers are targets."""
    prompts = tokenizer([document.prompt for document in corpus])["input_ids"]
    answers = tokenizer([f" {document.answer}{END}" for document in corpus])["input_ids"]
    longest = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True))
    tokens = torch.full((len(corpus), longest), tokenizer.pad_token_id)
    targets = torch.full((len(corpus), longest), _IGNORED)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        end = len(prompt) + len(answer)
        tokens[row, :end] = torch.tensor(prompt + answer)
        targets[row, len(prompt) : end] = torch.tensor(answer)
    return tokens, targets


def _save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path, story: str) -> None:
    model.half().save_pretrained(folder)  # type: ignore[no-untyped-call]
    tokenizer.save_pretrained(folder)
    card = _CARD.format(name=folder.name, millions=model.num_parameters() / 1e6, story=story)
    (folder / "README.md").write_text(card, encoding="utf-8")


def main() -> None:
    """Build the demo's models and documents in the folder named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m evomerge.demo.train", description=main.__doc__)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write models/ and tasks/ into")
    out: Path = parser.parse_args().out
    write_evaluation_documents(out / "tasks")
    train_family(out / "models")


if __name__ == "__main__":
    main()
