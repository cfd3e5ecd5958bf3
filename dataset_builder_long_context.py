"""The builder under the name the guide uses."""

from longrepo.sequences.builder import LongContextSequenceBuilder, Version
from longrepo.sequences.sequence import LongContextSequence, NotBuilt

__all__ = ["LongContextSequence", "LongContextSequenceBuilder", "NotBuilt", "Version"]
