"""What a line names: classes after those of Long Code Arena's code completion (arXiv 2406.11612), decided by the names
that syntax trees define."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from longrepo.evaluation.held import Held

CLASSES = ("committed", "in_project", "in_file", "common", "other")
CROSS_FILE = ("committed", "in_project")


class LineClasses:
    """Classes of the rows of one held-out file."""

    def __init__(self, held: Held) -> None:
        self._of = held.target.of
        self._held = held

    def names(self, row: int) -> set[int]:
        """The names (hashes) on a row."""
        of = self._of
        first, last = np.searchsorted(of.name_tokens, [of.row_token(row), of.row_token(row + 1)])
        return set(of.names[first:last].tolist())

    def telling(self, row: int) -> set[int]:
        """Those of them that don't stand all over the project, keywords among those."""
        return self.names(row) - self._held.tree.common

    def of(self, row: int) -> str:
        """The class of a row: the first of CLASSES that holds, in this order."""
        names = self.telling(row)
        if names & self._new_beside:
            return "committed"
        if any(name in self._elsewhere for name in names):
            return "in_project"
        if self.names(row) & self._own:
            return "in_file"
        return "other" if names else "common"

    @cached_property
    def _own(self) -> set[int]:
        before = self._held.tree.texts.get(self._of.path)
        return {*self._of.defines.tolist(), *(before.defines.tolist() if before else ())}

    @cached_property
    def _new_beside(self) -> set[int]:
        """What other files of the commit define and the tree before it did not."""
        return self._held.defined_beside - self._held.tree.defined_in.keys() - self._own

    @cached_property
    def _elsewhere(self) -> set[int]:
        """What other files define, few enough to tell, and this one doesn't."""
        tree = self._held.tree
        return tree.defined_in.keys() - self._own - tree.ambiguous
