"""How much of what isn't code is learnt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from git_helper import Made, make_repo
from small_packages import module, words
from whole import Case, prepared

from longrepo.config.loader import load_settings
from longrepo.data.mixture import TOO_MUCH_PROSE
from longrepo.data.text import PROSE_LANGUAGES
from longrepo.data.tokenizer import RepoTokenizer

NAMES = ["ash", "bay", "elm", "fir", "oak", "yew"]


def _chapter(name: str, lines: int) -> str:
    return "\n".join(" ".join(words(name, number)).capitalize() + "." for number in range(lines)) + "\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As much prose as code, and as many changes of it."""
    files = {f"src/{name}.py": module(name, None, 8) for name in NAMES}
    files |= {f"docs/{name}.md": _chapter(f"{name} tale", 40) for name in NAMES}
    commits = [Made(files)]
    for name in NAMES:
        changed = {f"src/{name}.py": module(name, None, 10), f"docs/{name}.md": _chapter(f"{name} tale", 55)}
        commits.append(Made(changed, f"More of {name}"))
    commits += [Made({f"src/last{at}.py": module(f"last{at}", None, 3)}, f"Add {at}") for at in range(4)]
    return make_repo(tmp_path_factory.mktemp("prose") / "repo", commits)


def _prepared(folder: Path, tokenizer: RepoTokenizer, share: float) -> Case:
    return prepared(folder, tokenizer, load_settings(None, [f"data.prose_share={share}"]), phases=1)


def _prose(case: Case, kind: str) -> float:
    """The share of the weight of a kind's sequences that lies in those of prose."""
    rows = case.of("train", None, kind)
    return sum(row.loss_weights.sum() for row in rows if row.language in PROSE_LANGUAGES) / sum(
        row.loss_weights.sum() for row in rows
    )


def _account(case: Case) -> dict[str, Any]:
    (account,) = case.prepared.header.accounts.values()
    return dict(account)


def test_prose_is_bounded_in_files_and_changes_and_counted(folder: Path, tokenizer: RepoTokenizer) -> None:
    whole, some, none = (_prepared(folder, tokenizer, share) for share in (1, 0.25, 0))
    for kind in ("hierarchical", "commit_evolution"):
        assert _prose(whole, kind) > 0.4
        assert _prose(none, kind) == 0
    assert 0 < _prose(some, "hierarchical") < 0.35
    account, all_dropped = (_account(one) for one in (some, none))
    assert account["tokenized"] == account["used"] + sum(account["dropped"].values())
    assert 0 < account["dropped"][TOO_MUCH_PROSE] < all_dropped["dropped"][TOO_MUCH_PROSE]
    assert TOO_MUCH_PROSE not in _account(whole)["dropped"]


def test_where_there_is_no_code_all_of_it_is_learnt(tmp_path: Path, tokenizer: RepoTokenizer) -> None:
    commits = [Made({f"{name}.md": _chapter(name, 40) for name in NAMES})]
    commits += [Made({f"new{at}.md": _chapter(f"new{at}", 20)}, f"Add {at}") for at in range(6)]
    case = _prepared(make_repo(tmp_path / "book", commits), tokenizer, 0.1)
    assert case.of("train") and TOO_MUCH_PROSE not in _account(case)["dropped"]
