"""What is shown of other files before a place: what the text above it uses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest

from longrepo.data.bm25 import BM25Index
from longrepo.data.repo_tree import RepoTree
from longrepo.data.template import FilePiece, TemplateSizes
from longrepo.data.text import TokenizedText
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.data.used_context import Place, UsedContext, defined_spans
from longrepo.repository.imports.graph import ImportGraph, build_import_graph
from longrepo.repository.imports.visibility import Edge
from longrepo.repository.types import TextFile

Read = Callable[[str, str], TokenizedText]
TALK = "\n".join(f"    noise_{at} = 'nothing at all {at}'" for at in range(60))
SHAPES = f'''"""Shapes."""

class Circle:
    """Round."""

    def area(self, factor: int) -> int:
        """Its area."""
{TALK}
        return factor

    def rim(self, factor: int) -> int:
{TALK}
        return factor

class Square:
    def edge(self, factor: int) -> int:
{TALK}
        return factor

def tiny(number: int) -> int:
    return number + 41

def vast(number: int) -> int:
{TALK}
    return number + 42
'''
FILES = {
    "pack/shapes.py": SHAPES,
    "pack/far.py": f"# Far away.\n\ndef distant_helper(number):\n{TALK}\n    return number\n",
    "pack/common.py": "def run(one):\n    return one\n",
    **{f"pack/run{at}.py": "def run(one):\n    return one\n" for at in range(4)},
    "notes.md": "# Circle\n\nA circle has an area and a rim; the circle is drawn with make_circle.\n",
}
OWN = """from pack.shapes import Circle, tiny

def make_circle(size):
    circle = Circle(size)
    run(size)
    return tiny(circle.area(size))

def after_the_place(size):
    return vast(distant_helper(size))
"""


@pytest.fixture(scope="module")
def texts(read: Read) -> dict[str, TokenizedText]:
    return {path: read(path, text) for path, text in sorted(FILES.items())}


@pytest.fixture(scope="module")
def own(read: Read) -> TokenizedText:
    return read("pack/use.py", OWN)


def graph_of(texts: Mapping[str, TokenizedText], own: TokenizedText) -> ImportGraph:
    return build_import_graph([TextFile(of.path, of.text, "", of.language) for of in (*texts.values(), own)])


def chosen(
    texts: Mapping[str, TokenizedText],
    place: Place,
    tokenizer: RepoTokenizer,
    room: int,
    near: tuple[str, ...] = (),
    without: tuple[str, ...] = (),
    shown: set[str] | None = None,
) -> list[FilePiece]:
    used = UsedContext(texts, lambda: BM25Index(list(texts.values())))
    edges = graph_of(texts, place.of).edges(place.of.path)
    found = used.pieces([place], edges, near, without, room, TemplateSizes(tokenizer), shown)
    assert sum(map(TemplateSizes(tokenizer).file, found)) <= room
    assert len({piece.of.path for piece in found}) == len(found)
    return found


def said(piece: FilePiece) -> str:
    ranges = [*piece.head, (piece.start, piece.end)]
    return "".join(piece.of.slice_text(*one) for one in ranges)


def place_before(own: TokenizedText, line: str) -> Place:
    return Place(own, own.token_at(own.text.index(line)))


def test_spans_are_whole_lines_and_know_their_owner(texts: dict[str, TokenizedText]) -> None:
    of = texts["pack/shapes.py"]
    spans = defined_spans(of)
    heads = [of.slice_text(span.start, span.body).strip() for span in spans]
    assert heads[0] == "class Circle:" and heads[2] == "def rim(self, factor: int) -> int:"
    assert [span.owner for span in spans] == [-1, 0, 0, -1, 3, -1, -1]
    assert [span.is_type for span in spans] == [True, False, False, True, False, False, False]
    assert (
        of.slice_text(spans[5].start, spans[5].end).strip() == "def tiny(number: int) -> int:\n    return number + 41"
    )


def test_what_is_used_is_shown_as_signatures_and_small_functions_whole(
    texts: dict[str, TokenizedText], own: TokenizedText, tokenizer: RepoTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("longrepo.data.used_context.DEFINITION_SHARE", 1.0)
    monkeypatch.setattr("longrepo.data.used_context.SIMILAR_PIECES", 0)
    found = chosen(texts, place_before(own, "\ndef after"), tokenizer, 300)
    assert [piece.of.path for piece in found] == ["pack/shapes.py"]
    text = said(found[0])
    assert "class Circle:\n" in text and "    def area(self, factor: int) -> int:\n" in text
    assert "def tiny(number: int) -> int:\n    return number + 41\n" in text
    assert "Square" not in text and "vast" not in text and "noise" not in text
    assert text.index("Circle") < text.index("tiny")


def test_text_behind_the_place_decides_nothing(
    texts: dict[str, TokenizedText], own: TokenizedText, read: Read, tokenizer: RepoTokenizer
) -> None:
    other = read("pack/use.py", OWN.replace("vast(distant_helper(size))", "Square().edge(size)"))
    line = "\ndef after"
    for room in (120, 300, 900):
        found = chosen(texts, place_before(own, line), tokenizer, room, ("pack/far.py",))
        assert found == chosen(texts, place_before(other, line), tokenizer, room, ("pack/far.py",))


def test_the_text_after_a_gap_decides_too(
    texts: dict[str, TokenizedText], own: TokenizedText, tokenizer: RepoTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("longrepo.data.used_context.DEFINITION_SHARE", 1.0)
    place = place_before(own, "    run(size)")
    rest = FilePiece(own, own.token_at(own.text.index("\ndef after")), len(own), (), False)
    without, with_rest = (chosen(texts, one, tokenizer, 400) for one in (place, Place(own, place.at, rest)))
    assert "vast" not in "".join(map(said, without)) and "pack/far.py" not in [piece.of.path for piece in without]
    assert "def vast(" in "".join(map(said, with_rest)) and "pack/far.py" in [piece.of.path for piece in with_rest]


def test_a_name_that_many_files_define_counts_only_where_it_is_imported(
    texts: dict[str, TokenizedText], read: Read, tokenizer: RepoTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("longrepo.data.used_context.DEFINITION_SHARE", 1.0)
    monkeypatch.setattr("longrepo.data.used_context.SIMILAR_PIECES", 0)
    body = "def walk(size):\n    run(size)\n"
    for head, expected in (("", []), ("from pack.run2 import run\n", ["pack/run2.py"])):
        of = read("pack/walk.py", head + body)
        found = chosen(texts, Place(of, len(of)), tokenizer, 400)
        assert [piece.of.path for piece in found] == expected


def test_similar_pieces_are_code_of_the_same_language_and_come_with_what_follows(
    texts: dict[str, TokenizedText], own: TokenizedText, tokenizer: RepoTokenizer
) -> None:
    place = place_before(own, "\ndef after")
    found = chosen(texts, place, tokenizer, 1500)
    assert "notes.md" not in [piece.of.path for piece in found]
    assert "noise_4" in said(next(piece for piece in found if piece.of.path == "pack/shapes.py"))
    hidden = chosen(texts, place, tokenizer, 1500, without=("pack/shapes.py",))
    assert "pack/shapes.py" not in [piece.of.path for piece in hidden]


def test_above_the_first_definition_the_beginnings_of_near_files_are_shown(
    texts: dict[str, TokenizedText], own: TokenizedText, tokenizer: RepoTokenizer
) -> None:
    for line, expected in (("\ndef make", True), ("    run(size)", False)):
        place = place_before(own, line)
        assert place.is_on_top == expected
        found = chosen(texts, place, tokenizer, 2000, ("pack/far.py",))
        assert (found[0].of.path == "pack/far.py") == expected
        assert said(next(one for one in found if one.of.path == "pack/far.py")).startswith("# Far away.")


@pytest.mark.parametrize("room", [0, 31, 47, 64, 100, 333, 5000])
def test_any_room_is_kept_and_the_choice_is_always_the_same(
    texts: dict[str, TokenizedText], own: TokenizedText, tokenizer: RepoTokenizer, room: int
) -> None:
    near = tuple(texts)
    for line in ("from pack", "\ndef make", "    run(size)", "\ndef after"):
        place = place_before(own, line)
        assert chosen(texts, place, tokenizer, room, near) == chosen(texts, place, tokenizer, room, near)
    assert not chosen({}, place, tokenizer, room, near)


def test_a_piece_without_a_name_of_what_is_shown_is_left_out(
    texts: dict[str, TokenizedText], own: TokenizedText, tokenizer: RepoTokenizer
) -> None:
    place = place_before(own, "\ndef after")
    for name in ("distant_helper", "rim", "number_of_nothing", "return"):
        found = chosen(texts, place, tokenizer, 5000, tuple(texts), shown={name})
        assert all(name in said(piece) for piece in found)
        assert bool(found) == (name in ("distant_helper", "rim"))
    everyday = chosen(texts, place, tokenizer, 5000, tuple(texts), shown={"run"})
    assert not everyday and chosen(texts, place, tokenizer, 5000, tuple(texts), shown=None)


def test_lines_to_come_and_files_that_are_no_context_choose_nothing(
    read: Read, tokenizer: RepoTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is in the tree as a whole, as a held-out one is; only what is above the place may tell what it uses."""
    java = {
        name: f"package p;\n\nclass {name} {{\n  int value{name}() {{ return 1; }}\n}}\n" for name in ("Early", "Late")
    }
    files = {f"p/{name}.java": text for name, text in java.items()}
    files["p/Use.java"] = "package p;\n\nclass Use {\n  Early early;\n  int n;\n  Late late;\n}\n"
    files |= {"gradlew": "Early early\n", "p/LICENSE": "Early n\n"}
    texts = {path: read(path, text) for path, text in sorted(files.items())}
    tree, seen = RepoTree("", texts, {}), list[tuple[str, ...]]()

    def edges_used(_: object, places: object, edges: Sequence[Edge], *rest: object) -> list[FilePiece]:
        seen.append(tuple(edge.path for edge in edges if edge.kind == "package"))
        return []

    monkeypatch.setattr(UsedContext, "pieces", edges_used)
    for line in ("  int n", "}\n"):
        at = texts["p/Use.java"].token_at(files["p/Use.java"].rindex(line))
        tree.context(Place(texts["p/Use.java"], at), (), 500, TemplateSizes(tokenizer))
    assert seen == [("p/Early.java",), ("p/Early.java", "p/Late.java")]
    assert set(tree.used.paths) == {"p/Early.java", "p/Late.java", "p/Use.java"}
    assert {piece.of.path for piece in tree.index.search("Early early int n", (), 9)} == set(tree.used.paths)


def test_a_cut_file_is_shown_behind_its_licence_and_where_code_is_to_come_behind_its_imports(
    own: TokenizedText, read: Read, tokenizer: RepoTokenizer
) -> None:
    licence = "# Copyright 2020 Somebody.\n# Licensed as the file LICENCE says.\n"
    imports = "\n" + "".join(f"import module_{at}\n" for at in range(30)) + "\n"
    files = {
        "pack/near.py": f"{licence}{imports}def near():\n{TALK}\n",
        "pack/small.py": f"{licence}\nimport it\n\nit.go()\n",
        "pack/__init__.py": f"{licence}{imports}",
    }
    texts = {path: read(path, text) for path, text in files.items()}
    for line, at_top in (("from pack", True), ("\ndef make", False), ("    run(size)", False)):
        place = place_before(own, line)
        for path, room, begins in (
            ("pack/near.py", 400, "# Copy" if at_top else "import module_0" if place.is_on_top else "def near"),
            ("pack/small.py", 400, "# Copy" if at_top else "import it"),
            ("pack/__init__.py", 150, "# Copy" if at_top else "import module_0"),
        ):
            used = UsedContext(texts, lambda: BM25Index([]))  # nothing is similar
            (piece,) = used.pieces([place], (), (path,), (), room, TemplateSizes(tokenizer))
            assert said(piece).startswith(begins), (line, path)
