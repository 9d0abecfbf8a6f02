"""Genomes: vectors in [0,1]^d <-> recipes, with a readable name for every dimension."""

from evomerge.genome.config import GenomeConfig, Range
from evomerge.genome.genome import Genome, naming_base
from evomerge.genome.layout import ModelShape
from evomerge.genome.names import short_names

__all__ = ["Genome", "GenomeConfig", "ModelShape", "Range", "naming_base", "short_names"]
