"""Checkpoints: lazy reads by header, LoRA adapters, tokenizers, and an atomic writer in shards."""

from evomerge.checkpoint.card import model_card
from evomerge.checkpoint.chat_templates import chat_template
from evomerge.checkpoint.checkpoint import DEPTH_KEYS, Checkpoint, open_checkpoint
from evomerge.checkpoint.dtypes import dtype_name, dtype_of
from evomerge.checkpoint.layers import layer_of, rename_layer, stack_of
from evomerge.checkpoint.shard import TensorHeader
from evomerge.checkpoint.tokenizer import AddedToken, OutputTokenizer, Vocabulary
from evomerge.checkpoint.writer import check_output, leftovers, parse_size, write_checkpoint

__all__ = [
    "DEPTH_KEYS",
    "AddedToken",
    "Checkpoint",
    "OutputTokenizer",
    "TensorHeader",
    "Vocabulary",
    "chat_template",
    "check_output",
    "dtype_name",
    "dtype_of",
    "layer_of",
    "leftovers",
    "model_card",
    "open_checkpoint",
    "parse_size",
    "rename_layer",
    "stack_of",
    "write_checkpoint",
]
