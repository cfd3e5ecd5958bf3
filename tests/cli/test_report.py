"""`longrepo report` as a person runs it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from reports.written_run import UPDATES, evaluate, write_run
from typer.testing import CliRunner, Result

from longrepo.cli.app import app
from longrepo.errors import InputError
from longrepo.reports.html.page import make_headlines, use_commands
from longrepo.reports.run_record import read_run_record


def report(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


def test_it_prints_three_figures_and_where_the_page_lies(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    evaluate(run)
    out = report(run)
    assert out.exit_code == 0, out.output
    *figures, place = out.stdout.splitlines()
    assert figures[0] == "−5.7 %  loss on held-out lines, up to 2,048 tokens"
    assert len(figures) == 3
    assert Path(place) == run / "report.html"
    before = Path(place).read_bytes()
    assert report(run, "--output", tmp_path / "new" / "page.html").exit_code == 0
    assert (tmp_path / "new" / "page.html").read_bytes() == before


def test_an_evaluation_beside_the_run_counts_only_where_it_is_of_that_run(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    evaluate(run)
    beside = tmp_path / "evaluation-1"
    beside.mkdir()
    (run / "evaluation.json").rename(beside / "evaluation.json")
    (beside / "stage.json").write_text('{"inputs": {"run": "another"}}')
    assert read_run_record(run).evaluation is None
    (beside / "stage.json").write_text('{"inputs": {"run": "run"}}')
    assert read_run_record(run).evaluation is not None


def test_several_runs_are_compared_and_what_hinders_that_is_said(tmp_path: Path) -> None:
    one, other = write_run(tmp_path / "one"), write_run(tmp_path / "other", epochs=1, rate=0.001)
    evaluate(one)
    page = tmp_path / "page.html"
    out = report(one, other, "--output", page)
    assert out.exit_code == 0, out.output
    html = page.read_text()
    assert "other isn&#39;t finished: 1 of 2 epochs are done." in html
    assert "other: Base and tuned have not been compared yet." in html
    assert "different sequences" not in html
    row = r'<th scope="row">training\.<wbr>base_<wbr>learning_<wbr>rate</th><td>0\.003</td><td>0\.001</td>'
    assert re.search(row, html)
    assert re.search(r'<th scope="col">engine</th>', html) and re.search(
        r'<th scope="row">other</th>\s*<td>torch</td>', html
    )
    assert "model.name" not in re.sub("<wbr>", "", html.split("Where their settings differ")[1])


def test_what_training_made_worse_is_no_one_s_best(tmp_path: Path) -> None:
    one, other = write_run(tmp_path / "one"), write_run(tmp_path / "other")
    metrics = one / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace('"loss": 2.3', '"loss": 1.0'))
    found = read_run_record(one)
    assert found.history.best == (UPDATES, found.history.epochs[0].validation)
    headline = next(line for line in make_headlines(found) if line.label == "validation loss")
    assert (headline.value, headline.good) == ("+110.0 %", False)
    page = tmp_path / "page.html"
    report(one, other, "--output", page)
    assert page.read_text().count("<td>2.1000</td>") == 2
    assert "Bold: the lowest validation loss." in page.read_text()
    state = other / "checkpoints" / "phase-1" / "state.json"
    state.write_text(re.sub('"data_sha256": "[^"]*"', '"data_sha256": "another"', state.read_text()))
    report(one, other, "--output", page)
    assert "different sequences" in page.read_text() and "Bold" not in page.read_text()


@pytest.mark.parametrize("epochs", [1, 2])
def test_the_commands_it_names_exist(tmp_path: Path, epochs: int) -> None:
    lines = [one.line for one in use_commands(read_run_record(write_run(tmp_path, epochs)))]
    called = [line.split()[1:] for line in lines if line.startswith("longrepo ")]
    assert called
    for command, *rest in called:
        told = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"})
        assert told.exit_code == 0
        assert all(word in told.output for word in rest if word.startswith("--"))


def test_what_is_no_run_is_said_in_one_line(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    cases = {
        ("nowhere",): "nowhere: no such folder",
        (tmp_path,): f"give the run in it: {run}",
        (run / "adapter",): "isn't a run's folder",
        (run, run): "named twice",
        (run, "--output", tmp_path): "is a folder; give the page's name",
    }
    for arguments, expected in cases.items():
        error = report(*arguments).exception
        assert isinstance(error, InputError)
        assert expected in str(error)
        assert "\n" not in str(error)


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    file = run / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join([*lines[:2], '{"record": "update"}\n', *lines[3:]]))
    with pytest.raises(InputError, match=r"metrics\.jsonl, line 3: not a record of this version"):
        read_run_record(run)
