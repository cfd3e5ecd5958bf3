"""What is nearly right is answered with what was meant; what commands print, they take."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from small_repository import small_repository
from typer.testing import CliRunner, Result

from longrepo import cli
from longrepo.__main__ import main
from longrepo.cli.app import app
from longrepo.errors import InputError


def longrepo(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("near")
    small_repository(folder / "shop")
    words = ("prepare", "--repo", folder / "shop", "--output-dir", folder / "prep", "--model", "embedded")
    done = longrepo(*words, "--phases", "1", "--set", "long_context.phase1_max_length=256")
    assert done.exit_code == 0, done.output
    (folder / "run" / "checkpoints" / "phase-1").mkdir(parents=True)
    (folder / "run" / "settings.yaml").write_text("")
    return folder


CASES = {
    ("prepare", "--repo", "SHOP", "--output-dir", "new", "--model", "embeded"): "did you mean embedded?",
    ("plan", "--model", "Embedded"): "did you mean embedded?",
    ("prepare", "--repo", "SHOP", "--output-dir", "new", "--model", "embedded", "--phases", "9"): "settings have 3",
    ("inspect", "PREP/sequences/header.json"): "give that folder",
    ("inspect", "PREP/sequences/data-00000-of-00001.arrow"): "give that folder",
    ("inspect", "PREP/preparation_summary.json"): "holds no sequences; give what prepare or tokenize wrote",
    ("report", "RUN/checkpoints/phase-1"): "give the run it belongs to: ",
    ("report", "RUN/checkpoints"): "give the run it belongs to: ",
    ("models", "show", "150m_1024"): "the nearest name is 150M_1024",
    ("models", "params", "starcoder2-3b"): "the model is bigcode/starcoder2-3b",
    ("models", "params", "zebra"): "names are a size and a context",
    ("pretrain", "--output", "new", "--preset", "150M", "--input", "nowhere.txt"): "--input nowhere.txt: no such file",
    ("plan", "--model", "embedded", "--budget-gb", "0"): "expected a number above 0",
    ("plan", "--model", "embedded", "--budget-gb", "-3"): "expected a number above 0",
}


@pytest.mark.parametrize("words", CASES, ids=" ".join)
def test_the_error_names_what_was_meant(
    words: tuple[str, ...], prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(prepared)
    places = {"SHOP": "shop", "PREP": "prep", "RUN": "run"}
    first = [word.replace(word.split("/")[0], places.get(word.split("/")[0], word.split("/")[0]), 1) for word in words]
    done = longrepo(*first)
    assert isinstance(done.exception, InputError), done.output
    assert CASES[words] in str(done.exception) and len(str(done.exception).splitlines()) == 1
    assert not (prepared / "new").exists() or not list((prepared / "new").iterdir())


@pytest.mark.parametrize(
    "option, typed, stored",
    [
        ("--kind", "files", "hierarchical"),
        ("--kind", "Questions", "qa"),
        ("--kind", "hier", "hierarchical"),
        ("--split", "val", "validation"),
        ("--difficulty", "very-hard", "very_hard"),
        ("--difficulty", "hard", "hard"),
    ],
)
def test_inspect_takes_the_words_that_its_tables_print(option: str, typed: str, stored: str, prepared: Path) -> None:
    found, same = (longrepo("inspect", prepared / "prep", option, one) for one in (typed, stored))
    assert found.exit_code == 0, found.exception
    assert found.output == same.output


def test_an_unknown_word_still_lists_those_there_are(prepared: Path) -> None:
    done = longrepo("inspect", prepared / "prep", "--split", "x")
    assert "there are: test, train, validation" in str(done.exception)


def test_ctrl_c_while_modules_are_imported_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupting:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "longrepo.cli.app":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "longrepo.cli.app")
    monkeypatch.delattr(cli, "app")
    monkeypatch.setattr(sys, "meta_path", [Interrupting(), *sys.meta_path])
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code, capsys.readouterr().err) == (130, "stopped\n")
