"""A small repository on which every kind of question can be asked, and questions on repositories at HEAD."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from git_helper import Made

from longrepo.data.questions.definition_questions import Question
from longrepo.data.questions.generate import make_questions
from longrepo.data.questions.sources import ChangedFile, SourceFile, read_excluded_files, read_subjects
from longrepo.repository.imports.graph import build_import_graph
from longrepo.repository.outline import build_outline
from longrepo.repository.repository import Repository

SHAPES = '''"""Shapes."""


class Outline:
    """Any shape."""

    def measured_length(self, scale: int, unit: str = "mm") -> int:
        return scale


class Circle(Outline):
    pass


def widen_outline(amount, factor=2):
    return amount * factor
'''
DRAWING = '''"""Drawing."""

from package.shapes import widen_outline


def draw_everything(canvas):
    return widen_outline(canvas)
'''
TESTS = """from package.drawing import draw_everything


def test_everything():
    assert draw_everything(1)
"""
SERVER = """package server

type Listener struct{}

// AcceptLoop runs.
func (l *Listener) AcceptLoop(limit int) error {
	return nil
}

func openSocket(address string, retries int) error {
	return nil
}
"""
COMMITS = [
    Made({"package/__init__.py": "", "package/shapes.py": f"{SHAPES}\n", "go/server.go": SERVER}, "Begin"),
    Made({"package/shapes.py": SHAPES}, "End after widen_outline"),
    Made({"package/drawing.py": DRAWING, "tests/test_rendering.py": TESTS}, "Draw on a canvas"),
    Made({"package/drawing.py": DRAWING + "\n\nVERSION = 2\n"}, "Say which version this is"),
]


def ask(
    folder: Path, leave: frozenset[str] = frozenset(), limit: int | None = None, reverse: bool = False
) -> tuple[list[Question], Counter[str]]:
    """Questions on a repository at HEAD with some of its files left out."""
    with Repository.open(folder) as repository:
        commit = repository.resolve()
        files = [file for file in repository.snapshot(commit).files if file.path not in leave]
        changes = [
            ChangedFile(one.id, change.path, one.message, one.files)
            for one in repository.log(commit)
            for change in one.changes
        ]
    sources = [
        SourceFile(file.path, file.text, file.language, build_outline(file.text, file.language)) for file in files
    ]
    if reverse:
        sources.reverse()
    outside = read_excluded_files(folder, commit, [file.path for file in files])
    subjects = read_subjects(folder, commit)
    return make_questions(sources, build_import_graph(files), changes, 7, limit, outside, subjects)


def answers(made: list[Question]) -> dict[str, str]:
    """Question -> answer."""
    return {one.text: one.answer for one in made}
