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
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.errors import InputError
from longrepo.repository.languages import PROSE_LANGUAGES

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


def test_settings_decide_which_files_are_prepared_and_the_summary_names_the_rules(
    folder: Path, tokenizer: RepoTokenizer
) -> None:
    asked = ["data.exclude=[docs/, last*.py, docss/]", "data.prose_share=1"]
    case = prepared(folder, tokenizer, load_settings(None, asked), phases=1)
    assert {path for row in case.rows for path in row.files} <= {f"src/{name}.py" for name in NAMES}
    files = case.prepared.summary["repositories"][0]["files"]
    assert files["left_out"] == {"excluded": 6} and files["notebooks"] == 0
    assert files["left_out_files"]["excluded"][0] == {"path": "docs/ash.md", "rule": "data.exclude: docs/"}
    assert "data.exclude: docss/ matches no file" in case.prepared.header.notes


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("data.exclude=*", "16 excluded"),
        ("data.path=nowhere", "--path nowhere"),
        ("data.exclude=['!']", "data.exclude"),
    ],
)
def test_a_choice_that_leaves_nothing_is_refused(
    folder: Path, tokenizer: RepoTokenizer, settings: str, words: str
) -> None:
    with pytest.raises(InputError) as caught:
        prepared(folder, tokenizer, load_settings(None, [settings]), phases=1)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_one_folder_alone_is_read(folder: Path, tokenizer: RepoTokenizer) -> None:
    case = prepared(folder, tokenizer, load_settings(None, ["data.path=./docs/"]), phases=1)
    assert {path.split("/")[0] for row in case.rows for path in row.files} == {"docs"}


def _ledger(name: str) -> str:
    """COBOL, or anything else that looks like no language with a grammar here."""
    rows = [f"           ADD {len(word)} TO WS-{word.upper()}." for word in words(name, 0)]
    return f"       PROGRAM-ID. {name.upper()}.\n" + "\n".join(rows * 12) + "\n"


@pytest.mark.parametrize("suffix", ["cbl", "adb", "unheard-of", "html"])
def test_code_in_any_language_is_learnt_and_held_out_as_code(
    tmp_path: Path, tokenizer: RepoTokenizer, suffix: str
) -> None:
    files = {f"src/{name}{at}.{suffix}": _ledger(f"{name}{at}") for name in NAMES for at in range(2)}
    files |= {f"tools/{name}.py": module(name, None, 4) for name in NAMES[:2]}
    files |= {f"docs/{name}.md": _chapter(name, 60) for name in NAMES}
    case = _prepared(make_repo(tmp_path / "repo", [Made(files)]), tokenizer, 0.05)
    rows = case.of("train")
    assert sum(any(path.endswith(suffix) for path in row.files) for row in rows) > len(rows) / 2
    held = [path for paths in case.prepared.header.repositories[0].held_out_files.values() for path in paths]
    assert held and not any(path.endswith(".md") for path in held)
