"""The documented import: from training.long_context_scheduler import LongContextPhaseScheduler."""

from longrepo.curriculum.schedule import LongContextPhaseScheduler

__all__ = ["LongContextPhaseScheduler"]
