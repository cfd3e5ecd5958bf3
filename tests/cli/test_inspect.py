from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from longrepo.cli.app import app, main
from longrepo.config.schema import DataSettings
from longrepo.data import dataset
from longrepo.data.builder import LongContextSequenceBuilder, Version
from longrepo.data.dataset import write_sequences
from longrepo.data.metadata import Header, RepositoryFacts, TokenizerFacts
from longrepo.data.rows import SequenceRow, row_from_sequence
from longrepo.data.sequence import LongContextSequence
from longrepo.data.tokenizer_loading import load_tokenizer

Look = Callable[..., tuple[int, str, str]]
CODE = "import os\n\n\ndef total(amounts):\n    return sum(amounts)\n"
HELD_OUT = ("first = 1\n", "second = 2\n", "third = 3")  # the second line is scored


def made_rows() -> list[SequenceRow]:
    """Files, a commit, a question, a fill-in-the-middle, and a held-out row."""
    tokenizer = load_tokenizer("embedded")
    plain = LongContextSequenceBuilder(tokenizer, data=DataSettings(fim_share=0))
    fim = LongContextSequenceBuilder(tokenizer, data=DataSettings(fim_share=1))
    changed = Version("a" * 40, "Sum less", CODE.replace("sum(amounts)", "sum(amounts[1:])"))
    built = [
        plain.build_hierarchical_sequence([("shop/a.py", CODE), ("shop/b.py", "x = '\x1b[31m'\n")]),
        plain.build_commit_evolution_sequence("shop/a.py", [changed], CODE),
        plain.build_qa_sequence([("shop/a.py", CODE)], "Where is total?", "shop/a.py"),
        fim.build_hierarchical_sequence([("shop/a.py", CODE * 3)]),
    ]
    rows = [row_from_sequence(one) for one in built if isinstance(one, LongContextSequence)]
    assert len(rows) == 4
    weights = [
        np.full(len(tokenizer.encode(one)), weight, np.float32) for one, weight in zip(HELD_OUT, (0, 1, 0), strict=True)
    ]
    ids = np.array([id for one in HELD_OUT for id in tokenizer.encode(one)], np.int32)
    about = ("hierarchical", "hard", 0.6, {"unseen": 0.6}, ["shop/c.py"], ["b" * 40], "Rust", "test", "shop")
    return [*rows, SequenceRow(ids, np.concatenate(weights), *about)]


@pytest.fixture(scope="module")
def sequences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inspect") / "out"
    bands = [{"phase": 1, "floor": 0, "low": 20, "cap": 64}, {"phase": 2, "floor": 64, "low": 70, "cap": 512}]
    facts = TokenizerFacts.of(load_tokenizer("embedded"))
    write_sequences(folder, made_rows(), Header(facts, [RepositoryFacts("shop", "h" * 40)], bands=bands))
    return folder


@pytest.fixture
def look(sequences: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Look:
    """Runs the command; gives exit status, standard output and standard error."""

    def run(*options: str, path: Path = sequences, **environment: str) -> tuple[int, str, str]:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["longrepo", "inspect", str(path), *options])
        status = 0
        try:
            main()
        except SystemExit as end:
            status = int(end.code or 0)
        return status, *capsys.readouterr()

    return run


def cells(out: str, name: str) -> list[str]:
    return next(line.split() for line in out.splitlines() if line.strip().startswith(name))


def test_the_summary_counts_by_phase_and_kind(look: Look) -> None:
    status, out, err = look()
    assert (status, err) == (0, "")
    assert "shop at hhhhhhhhhh" in out and "sequences: 5, " in out
    assert "phase 1 (≤64)  phase 2 (≤512)" in out
    assert cells(out, "train") == ["train", "2", "2", "4"]
    assert cells(out, "commit_evolution")[1:] == ["0", "1", "1"]
    assert cells(out, "test") == ["test", "1", "0", "1"]
    assert cells(out, "files in a sequence")[4:] == ["1", "1", "2"]


def test_shares_are_of_what_was_chosen(look: Look) -> None:
    _, out, _ = look("--split", "test")
    lengths = [len(load_tokenizer("embedded").encode(one)) for one in HELD_OUT]
    assert f"sequences: 1 (split test), {sum(lengths)} tokens of embedded" in out
    assert cells(out, "tokens by loss weight")[4:7] == ["target", "(1)", f"{lengths[1] / sum(lengths):.1%}"]
    assert cells(out, "language")[1:3] == ["Rust", "100.0%"]
    assert cells(out, "unseen")[1:4] == ["0.60", "0.60", "0.60"]
    assert "context" not in out and "Python" not in out


def test_filters_combine(look: Look) -> None:
    assert "sequences: 2 (kind hierarchical, split train)" in look("--kind", "hierarchical", "--split", "train")[1]
    assert "sequences: 1 (difficulty hard, split test)" in look("--difficulty", "hard", "--split", "test")[1]
    assert "0 of 1 (row 4): hierarchical, test, phase 1" in look("--phase", "1", "--split", "test", "--index", "0")[1]


def test_a_sequence_is_shown_with_its_weights_in_the_margin(look: Look) -> None:
    status, out, _ = look("--index", "1")
    assert status == 0 and "\x1b" not in out
    head, _, body = out.partition("\n\n")
    assert "1 of 5: commit_evolution, train, phase 2" in head and "commits     aaaaaaaaaa" in head
    assert re.search(r"difficulty  \w+, 0\.\d\d \(distance 0\.\d\d, ", head)
    lines = body.splitlines()
    assert lines[0] == "▒ <|FILE_START|> shop/a.py"
    assert "▌ <|FILE_END|>" not in lines and "▒ <|FILE_END|>" in lines
    assert "▌ <|COMMIT_START|> aaaaaaaa Sum less" in lines
    assert "▒ -    return sum(amounts)" in lines and "█ +    return sum(amounts[1:])" in lines
    assert lines[-1] == "█ <|COMMIT_END|><|endoftext|>"


def test_every_kind_of_mark_is_shown_where_it_stands(look: Look) -> None:
    question = look("--kind", "qa", "--index", "0")[1]
    assert "▒ <|SNIPPET_0|> shop/a.py\n" in question and "▌ ANSWER: shop/a.py<|endoftext|>" in question
    middle = look("--index", "3")[1]
    assert "<fim_prefix>" in middle and "<fim_suffix>" in middle and "<fim_middle>" in middle


def test_a_held_out_row_marks_its_scored_lines(look: Look) -> None:
    body = look("--split", "test", "--index", "0")[1].partition("\n\n")[2]
    assert body.splitlines() == ["  first = 1", "█ second = 2", "  third = 3"]


def test_a_terminal_gets_styles_and_wrapped_lines(look: Look) -> None:
    out = look("--index", "0", FORCE_COLOR="1", COLUMNS="30", TERM="xterm")[1]
    assert "\x1b[7;36m<|FILE_START|>\x1b[0m\x1b[1;36m shop/a.py\x1b[0m" in out.replace("\x1b[36;7m", "\x1b[7;36m")
    assert "\x1b[1mdef total(amounts):\x1b[0m" in out
    plain = re.sub(r"\x1b\[[\d;]*m", "", out)
    assert max(map(len, plain.splitlines())) <= 30
    assert "x = '␛[31m'" in plain, "what the repository says is shown, not obeyed"


def test_bad_choices_say_what_there_is(look: Look, tmp_path: Path) -> None:
    for options, said in (
        (("--kind", "file"), "--kind file: no such sequences"),
        (("--split", "test", "--kind", "qa"), "--split test: no such sequences"),
        (("--phase", "3"), "there are: 1, 2"),
        (("--index", "5"), "--index 5: there are 5 such sequences; give 0 to 4"),
        (("--index", "0", "--model", str(tmp_path)), "holds no tokenizer.json"),
    ):
        status, _, err = look(*options)
        assert status == 2 and said in err and len(err.splitlines()) == 1
    assert look(path=tmp_path / "none")[0] == 2


def test_a_model_with_another_tokenizer_is_named(look: Look, tmp_path: Path) -> None:
    from longrepo import embedded

    text = (embedded.path() / "tokenizer.json").read_text("utf-8").replace("<fim_pad>", "<fim_paddle>")
    (tmp_path / "tokenizer.json").write_text(text, "utf-8")
    status, _, err = look("--index", "0", "--model", str(tmp_path))
    assert status == 2 and "is not the one that the sequences were made with (embedded, " in err


@pytest.mark.parametrize("command", ["inspect", "check-leaks"])
def test_ctrl_c_is_answered(command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(dataset, "read_sequences", interrupted)
    stopped = CliRunner().invoke(app, [command, str(tmp_path)])
    assert (stopped.exit_code, stopped.output) == (130, "stopped\n")


@pytest.fixture
def asked_twice(tmp_path: Path) -> Path:
    question = made_rows()[2]
    bands = [{"phase": 2, "floor": 0, "low": 20, "cap": 512}]
    facts = TokenizerFacts.of(load_tokenizer("embedded"))
    write_sequences(tmp_path / "out", [question, question], Header(facts, [RepositoryFacts("shop", "h")], bands=bands))
    return tmp_path / "out"


def test_lint_fails_loudly_and_shows_where(look: Look, asked_twice: Path) -> None:
    status, out, err = look("--lint", path=asked_twice)
    assert status == 1 and err.startswith("error: ") and "1 findings in 2 sequences" in err
    assert len(err.splitlines()) == 1
    assert cells(out, "repeated-question")[1:4] == ["2", "1", "1"]
    assert out.splitlines()[-1] == "  repeated-question: phase 2, sequence 1: Where is total?"


def test_lint_of_what_is_clean_says_so(look: Look) -> None:
    status, out, err = look("--lint")
    assert (status, err) == (0, "") and out.splitlines()[-1] == "Nothing found in 5 sequences."
    assert cells(out, "few-targets")[1:4] == ["4", "0", "0"] and cells(out, "cut-file-end")[1:3] == ["2", "0"]
    assert look("--lint", "--split", "test")[1].splitlines()[-1] == "Nothing found in 1 sequences."


def test_lint_as_json_counts_by_rule(look: Look, asked_twice: Path) -> None:
    status, out, _ = look("--lint", "--json", path=asked_twice)
    found = json.loads(out)
    assert status == 1 and (found["sequences"], found["findings"]) == (2, 1)
    rule = found["rules"]["repeated-question"]
    assert (rule["checked"], rule["found"], rule["sequences"]) == (2, 1, 1)
    assert rule["examples"] == [{"phase": 2, "row": 1, "shows": "Where is total?"}]
    assert found["rules"]["cut-file-end"]["checked"] == 0


@pytest.mark.parametrize("options", [("--json",), ("--lint", "--index", "0")])
def test_lint_with_options_that_do_not_go_together(look: Look, options: tuple[str, ...]) -> None:
    status, out, err = look(*options)
    assert status == 2 and out == "" and "--lint" in err and len(err.splitlines()) == 1
