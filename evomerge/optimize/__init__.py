"""Optimizers that are asked for vectors in [0,1]^d and told how each one ranked."""

from evomerge.optimize.config import CmaEsConfig, OptimizerConfig, RandomConfig, TpeConfig
from evomerge.optimize.optimizer import Optimizer, Told, make_optimizer

__all__ = [
    "CmaEsConfig",
    "Optimizer",
    "OptimizerConfig",
    "RandomConfig",
    "Told",
    "TpeConfig",
    "make_optimizer",
]
