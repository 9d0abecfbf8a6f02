"""Searches: Ray workers, the loop, the finalists."""

from evomerge.search.launch import Ending, launch, resume

__all__ = ["Ending", "launch", "resume"]
