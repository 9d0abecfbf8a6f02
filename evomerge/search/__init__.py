"""Searches: Ray workers, the loop, the finalists."""

from evomerge.search.dry_run import DryRun, dry_run
from evomerge.search.launch import Ending, launch, resume

__all__ = ["DryRun", "Ending", "dry_run", "launch", "resume"]
