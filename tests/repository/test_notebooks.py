"""Notebooks are read as scripts: sources in order, markdown as comments, no outputs; broken ones are counted."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from git_helper import make_repo

from longrepo.repository.encodings import BROKEN_NOTEBOOK, read_notebook
from longrepo.repository.repository import Repository

PICTURE = "iVBORw0KGgo" * 400


def notebook(*sources: str, markdown: str = "", language: str = "python", **more: Any) -> str:
    """Return a notebook with outputs, markdown first."""
    cells: list[dict[str, Any]] = [{"cell_type": "markdown", "metadata": {}, "source": [markdown]}] if markdown else []
    output = {"output_type": "display_data", "metadata": {}, "data": {"image/png": PICTURE}}
    for number, source in enumerate(sources):
        lines = source.splitlines(keepends=True)
        cell = {"cell_type": "code", "execution_count": number, "metadata": {}, "outputs": [output], "source": lines}
        cells.append(cell)
    metadata = {"language_info": {"name": language}}
    return json.dumps({"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5, **more}, indent=1)


def format_3(source: str) -> str:
    cell = {"cell_type": "code", "collapsed": False, "input": [source], "language": "python", "outputs": []}
    heading = {"cell_type": "heading", "level": 2, "metadata": {}, "source": ["Title"]}
    sheet = {"cells": [heading, cell], "metadata": {}}
    return json.dumps({"metadata": {"name": "old"}, "nbformat": 3, "nbformat_minor": 0, "worksheets": [sheet]})


@pytest.mark.parametrize(
    ("text", "script", "language"),
    [
        (notebook("x = 1\ny = 2", "z = 3"), "x = 1\ny = 2\n\nz = 3\n", "Python"),
        (
            notebook("x = 1", "  \n", "y = 2", markdown="# Title\n\nText"),
            "# # Title\n#\n# Text\n\nx = 1\n\ny = 2\n",
            "Python",
        ),
        (notebook("x <- 1", markdown="a", language="R"), "# a\n\nx <- 1\n", "R"),
        (notebook("val x = 1", markdown="a", language="scala"), "// a\n\nval x = 1\n", "Scala"),
        (notebook("SELECT 1", markdown="a", language="sql"), "-- a\n\nSELECT 1\n", "SQL"),
        (notebook("x = 1", metadata={"kernelspec": {"name": "julia-1.9", "language": "julia"}}), "x = 1\n", "Julia"),
        (notebook("x = 1", metadata={}), "x = 1\n", "Python"),
        (notebook("x = 1", markdown=f"![](data:image/png;base64,{PICTURE}) b"), "# ![](data:) b\n\nx = 1\n", "Python"),
        (format_3("x = 1"), "# ## Title\n\nx = 1\n", "Python"),
        (notebook(), "", "Python"),
    ],
)
def test_a_notebook_becomes_its_sources(text: str, script: str, language: str) -> None:
    assert read_notebook(text) == (script, language)


@pytest.mark.parametrize(
    "text",
    [
        notebook("x = 1")[:-200],
        notebook("x = 1")[: len(notebook("x = 1")) // 2],
        format_3("x = 1")[:-40],
        notebook("x = 1", nbformat=99),
        notebook("x = 1", cells=[{"source": "x"}]),
        notebook("x = 1").replace('"metadata": {}', "<<<<<<< HEAD", 1),
    ],
)
def test_a_broken_notebook_is_said_to_be_one(text: str) -> None:
    with pytest.raises(ValueError):
        read_notebook(text)


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1}\n',
        '{"cells": [{"cell_type": "code"}]}\n',
        '{"metadata": {"cell_type": 1}}\n{"metadata": {}}\n',
        "# %%\nx = 1\n# %% [markdown]\n# Text\n",
        "import marimo\n\napp = marimo.App()\n",
        'NOTEBOOK = \'{"cells": [], "nbformat": 4, "cell_type": 1}\'\n',
    ],
)
def test_what_is_no_notebook_stays_as_it_is(text: str) -> None:
    assert read_notebook(text) is None


def test_notebooks_are_code_in_snapshots_and_history_whatever_their_outputs_take(tmp_path: Path) -> None:
    many = [f"x{n} = {n}" for n in range(20)]
    files = {
        "a.ipynb": notebook("x = 1"),
        "large.ipynb": notebook(*many),
        "r.ipynb": notebook("x <- 1", language="R"),
        "cut.ipynb": notebook("x = 1")[:-30],
        "huge.ipynb": notebook("x = 1\n" * 9000),
    }
    rerun = notebook("x = 1").replace('"execution_count": 0', '"execution_count": 7')
    commits = [files, {"a.ipynb": rerun}, {"a.ipynb": notebook("x = 2"), "large.ipynb": notebook(*many, "y = 1")}]
    with Repository.open(make_repo(tmp_path / "repo", commits, checkout=False)) as repository:
        snapshot, left_out = repository.snapshot("HEAD", max_file_bytes=50_000), Counter[str]()
        history = list(repository.commits("HEAD", left_out=left_out, max_file_bytes=50_000))
    found = {file.path: (file.language, file.text) for file in snapshot.files}
    assert found == {
        "a.ipynb": ("Python", "x = 2\n"),
        "large.ipynb": ("Python", "\n\n".join([*many, "y = 1"]) + "\n"),
        "r.ipynb": ("R", "x <- 1\n"),
    }
    assert snapshot.left_out == {BROKEN_NOTEBOOK: 1, "oversized": 1}
    newest = history[0].changes[0]
    assert (newest.path, newest.before, newest.after) == ("a.ipynb", "x = 1\n", "x = 2\n")
    assert left_out == {"formatting": 1, f"change: {BROKEN_NOTEBOOK}": 1, "change: oversized": 1}
