"""The builder under the name the guide uses."""

from longrepo.data.builder import LongContextSequenceBuilder, Version
from longrepo.data.sequence import LongContextSequence, NotBuilt

__all__ = ["LongContextSequence", "LongContextSequenceBuilder", "NotBuilt", "Version"]
