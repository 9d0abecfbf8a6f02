"""The space that a study searches: its genome over its models."""

from evomerge.checkpoint.checkpoint import StoredCheckpoint
from evomerge.config import SearchConfig
from evomerge.genome import Genome, ModelShape


def genome_of(config: SearchConfig, base: StoredCheckpoint) -> Genome:
    """The genome of a config, given its base model opened.

    Raises:
        ConfigError: the genome does not fit the models.
    """
    return Genome(
        config.genome,
        base=config.models.base.ref,
        parents=[parent.ref for parent in config.models.parents],
        shape=ModelShape(base.num_layers, tuple(base.headers)),
        dtype=config.models.dtype,
        tokenizer=config.models.tokenizer,
        seed=config.seed,
    )
