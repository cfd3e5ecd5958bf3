"""What `prepare` prints about history: changes are counted out of all, with the reasons for the others."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from longrepo.data.metadata import Header, RepositoryFacts, TokenizerFacts
from longrepo.data.tokenizer_loading import load_tokenizer
from longrepo.reports.sequences import show_preparation


def printed(changes: int, changes_left_out: dict[str, int], commits_left_out: dict[str, int]) -> str:
    history = {"changes": changes, "changes_left_out": changes_left_out, "commits_left_out": commits_left_out}
    files = {"languages": {"Python": {"files": 2}}, "count": 2, "training_tokens": 90, "left_out": {}}
    summary = {"repositories": [{"files": files, "history": history, "dependencies": {"edges": 1}}]}
    header = Header(TokenizerFacts.of(load_tokenizer("embedded")), [RepositoryFacts("shop", "a" * 40)])
    out = StringIO()
    show_preparation(Console(file=out, width=200), header, summary, "there", 1.0)
    return out.getvalue()


@pytest.mark.parametrize(
    "changes, changes_left_out, commits_left_out, expected",
    [
        (28, {"file added": 19, "file deleted": 3}, {}, ["28 of 50 changes", "file added (19); file deleted (3)"]),
        (28, {"file deleted": 3}, {"change: lock file": 1200}, ["28 of 1,231 changes", "lock file (1,200); file del"]),
        (28, {}, {"merge": 4, "revert": 1}, ["28 changes to files", "commits left out: merge (4); revert (1)"]),
        (1, {}, {}, ["1 change to files"]),
        (0, {"file added": 1}, {}, ["0 of 1 change to files", "changes left out: file added (1)"]),
    ],
)
def test_changes_are_counted_out_of_all_with_the_reasons(
    changes: int, changes_left_out: dict[str, int], commits_left_out: dict[str, int], expected: list[str]
) -> None:
    text = printed(changes, changes_left_out, commits_left_out)
    assert all(words in text for words in expected), text
    assert ("changes left out" in text) == bool(changes_left_out or "change: lock file" in commits_left_out)
