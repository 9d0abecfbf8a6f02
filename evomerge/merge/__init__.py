"""From recipes to merged models: plan, stream of tensors, live model or checkpoint on disk."""

from evomerge.merge.disk import merge_to_disk
from evomerge.merge.kernels import Kernels
from evomerge.merge.live import LiveModel
from evomerge.merge.plan import MergePlan, Source, TensorPlan, make_plan
from evomerge.merge.preflight import Preflight, preflight
from evomerge.merge.residency import Sources, resolve_device
from evomerge.merge.stages import open_sources, steps
from evomerge.merge.statistics import StatisticsCache
from evomerge.merge.stream import Merge, stream

__all__ = [
    "Kernels",
    "LiveModel",
    "Merge",
    "MergePlan",
    "Preflight",
    "Source",
    "Sources",
    "StatisticsCache",
    "TensorPlan",
    "make_plan",
    "merge_to_disk",
    "open_sources",
    "preflight",
    "resolve_device",
    "steps",
    "stream",
]
