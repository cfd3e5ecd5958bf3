"""The documented import: from training.long_context_scheduler import LongContextPhaseScheduler."""

from longrepo.curriculum.scheduler import LongContextPhaseScheduler

__all__ = ["LongContextPhaseScheduler"]
