from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from longrepo.cli.app import main
from longrepo.data.dataset import write_sequences
from longrepo.data.metadata import Header, RepositoryFacts, TokenizerFacts
from longrepo.data.rows import SequenceRow
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.data.tokenizer_loading import load_tokenizer

Check = Callable[..., tuple[int, str, str]]
TRAINED = "def total(amounts):\n    return sum(amounts)\n\x1b[2Jprint('\u202e')\n"


def row(tokenizer: RepoTokenizer, split: str, text: str, weight: float) -> SequenceRow:
    ids = np.array(tokenizer.encode(f"first = 1\n{text}"), np.int32)
    weights = np.full(len(ids), weight, np.float32)
    weights[: len(tokenizer.encode("first = 1\n"))] = 0
    return SequenceRow(ids, weights, "hierarchical", "easy", 0.5, {}, ["shop/a.py"], [], "Python", split, "shop")


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Check:
    """Runs the command on rows of (split, text, weight); gives exit status, standard output and standard error."""
    tokenizer = load_tokenizer("embedded")

    def run(*rows: tuple[str, str, float], named: str = "embedded", options: tuple[str, ...] = ()):
        facts = TokenizerFacts.of(tokenizer)
        facts.name = named
        header = Header(facts, [RepositoryFacts("shop", "h" * 40)])
        write_sequences(tmp_path / "out", [row(tokenizer, *one) for one in rows], header)
        monkeypatch.setattr(sys, "argv", ["longrepo", "check-leaks", str(tmp_path / "out"), *options])
        status = 0
        try:
            main()
        except SystemExit as end:
            status = int(end.code or 0)
        return status, *capsys.readouterr()

    return run


def test_clean_sequences_pass_and_it_says_what_was_checked(check: Check) -> None:
    status, out, err = check(("train", TRAINED, 1.0), ("test", "def mean(amounts):\n    return 1 / 0\n", 1.0))
    assert (status, err) == (0, "")
    assert "held-out sequences: 1 (test 1), to train on: 1 (4 lines)" in out
    assert "No leak" in out
    assert next(line.split() for line in out.splitlines() if "scored lines" in line) == ["scored", "lines", "2", "0"]


def test_a_leak_fails_loudly_and_shows_where(check: Check) -> None:
    status, out, err = check(("train", TRAINED, 0.1), ("validation", TRAINED, 1.0), ("test", "other = 1\n", 1.0))
    assert status == 1
    assert err.startswith("error: ") and "3 leaks in 1 held-out sequences" in err and len(err.splitlines()) == 1
    assert "line: validation row 1 (shop/a.py) in line 2 of row 0 (train): def total(amounts):" in out
    assert "No leak" not in out


def test_what_it_shows_can_neither_move_the_cursor_nor_reorder_text(check: Check) -> None:
    _, out, _ = check(("train", TRAINED, 0.1), ("validation", TRAINED, 1.0))
    assert "␛[2Jprint('‹202E›')" in out
    assert "\x1b" not in out and "\u202e" not in out


def test_many_leaks_are_counted_and_the_first_few_shown(check: Check) -> None:
    letters = [one + other for one in "abcdefghij" for other in "abcdefghij"]
    text = "".join(f"price_{name} = tax_{name}\n" for name in letters)
    status, out, err = check(("train", text, 1.0), ("test", text, 1.0))
    assert status == 1 and "101 leaks in 1 held-out sequences" in err
    assert out.count("  line: ") == 5 and "… and 95 more" in out
    assert "near-duplicate: test row 1 (shop/a.py) in row 0 (train): 100% of its scored block" in out


def test_sequences_without_a_held_out_split_have_nothing_that_could_leak(check: Check) -> None:
    status, out, _ = check(("train", TRAINED, 1.0))
    assert status == 0 and "there is nothing that could leak" in out and "No leak" not in out


def test_another_tokenizer_is_refused(check: Check, tmp_path: Path) -> None:
    rows = ("train", TRAINED, 1.0)
    moved = str(tmp_path / "moved")
    status, _, err = check(rows, named=moved)
    assert status == 2 and f"error: --model {moved}: no such folder" in err
    status, _, _ = check(rows, named=moved, options=("--model", "embedded"))
    assert status == 0


def test_what_is_missing_or_altered_is_refused(
    check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    check(("train", TRAINED, 1.0))
    header = tmp_path / "out" / "header.json"
    header.write_text(header.read_text().replace('"rows": 1', '"rows": 2'))
    for path, said in ((tmp_path / "out", "cut short: 1 of 2"), (tmp_path / "none", "no such sequences")):
        monkeypatch.setattr(sys, "argv", ["longrepo", "check-leaks", str(path)])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 2 and said in capsys.readouterr().err
