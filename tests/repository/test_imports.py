"""The import graph: the orders that follow from which file imports which."""

from __future__ import annotations

import random
import time
from itertools import takewhile
from pathlib import PurePosixPath

import pytest

from longrepo.repository.imports.graph import ImportGraph, build_import_graph
from longrepo.repository.imports.statements import Import, read_imports
from longrepo.repository.languages import language_of
from longrepo.repository.types import TextFile


def graph(files: dict[str, str]) -> ImportGraph:
    made = [TextFile(path, text, "0" * 40, language_of(path, text)) for path, text in files.items()]
    random.Random(1).shuffle(made)  # the answer may not depend on the order files come in
    return build_import_graph(made)


CHAIN = {
    "a.py": "import b\n",
    "b.py": "import c\nimport d\n",
    "c.py": "import b\n",
    "d.py": "",
    "test_c.py": "import c\n",
    "z.py": "x\n",
}


def test_definitions_come_before_use_and_circles_end() -> None:
    found = graph(CHAIN)
    ordered = found.definitions_first(CHAIN)
    assert ordered == ["d.py", "b.py", "c.py", "a.py", "test_c.py", "z.py"]
    assert found.definitions_first(["b.py", "a.py", "a.py", "unknown"]) == ["b.py", "a.py", "unknown"]
    assert found.imported_by["b.py"] == ("a.py", "c.py") and found.imported_by["z.py"] == ()


def test_a_circle_does_not_push_its_users_before_it() -> None:
    files = {f"m{n}.py": f"import m{(n + 1) % 5}\nimport m{(n + 2) % 5}\n" for n in range(5)} | {"a.py": "import m3\n"}
    assert graph(files).definitions_first(files)[-1] == "a.py"


def test_a_long_chain_needs_no_recursion() -> None:
    files = {f"m{n:05}.py": f"import m{n + 1:05}\n" for n in range(1500)}
    found = graph(files)
    assert found.definitions_first(files) == sorted(files, reverse=True)


def test_related_files_are_near_by_imports_then_by_name_then_by_folder() -> None:
    files = CHAIN | {"spec/c.spec.ts": "", "far/away/x.py": "", "far/z_test.py": ""}
    found = graph(files)
    assert found.related("c.py", 4) == ["b.py", "test_c.py", "d.py", "a.py"]
    assert found.related("z.py", 3) == ["far/z_test.py", "a.py", "b.py"]
    assert len(found.related("c.py", 100)) == len(files) - 1 and found.related("c.py", 0) == []
    assert found.related("c.py", 5)[4] == "spec/c.spec.ts"


def slowly_related(graph: ImportGraph, path: str, limit: int) -> list[str]:
    """The definition of `related` as a sort of all other paths."""
    near: dict[str, None] = {}
    layer = [path]
    while layer:
        around = [other for one in layer for other in (*graph.imports[one], *graph.imported_by[one])]
        layer = [other for other in dict.fromkeys(around) if other != path and other not in near]
        near |= dict.fromkeys(layer)

    def rank(other: str) -> tuple[bool, int, str]:
        here, there = PurePosixPath(path).parent.parts, PurePosixPath(other).parent.parts
        common = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(here, there, strict=False))))
        return stem(other) != stem(path), len(here) + len(there) - 2 * common, other

    rest = sorted((other for other in graph.imports if other != path and other not in near), key=rank)
    return [*near, *rest][:limit]


def stem(path: str) -> str:
    return PurePosixPath(path).stem.removeprefix("test_").removesuffix("_test")


@pytest.mark.parametrize("few", [0, 256])
def test_related_finds_without_sorting_what_sorting_would(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("longrepo.repository.imports.paths._FEW_PATHS", few)
    draw = random.Random(4)
    folders = ["", "a/", "a/b/", "a/b/c/", "a/bc/", "a-b/", "z/y/x/w/", "z/y/v/"]
    names = ["x.py", "y.py", "test_x.py", "y_test.py", *(f"n{n}.py" for n in range(20))]
    paths = sorted({draw.choice(folders) + draw.choice(names) for _ in range(60)})
    imports = {path: tuple(draw.sample(paths[:12], draw.choice([0, 0, 1, 2]))) for path in paths}
    users = {path: tuple(one for one in paths if path in imports[one]) for path in paths}
    for made in (ImportGraph(imports, users), ImportGraph(dict.fromkeys(paths, ()), dict.fromkeys(paths, ()))):
        for path in paths:
            for limit in (1, 5, 17, 100):
                assert made.related(path, limit) == slowly_related(made, path, limit)


def test_related_files_are_worth_showing_or_imported() -> None:
    files = {"a.js": "import x from './LICENSE.md'\n", "b.js": "", "LICENSE.md": "", "gradlew": "", "fixtures/c.js": ""}
    found = graph(files)
    assert found.related("a.js", 9) == ["LICENSE.md", "b.js"]
    assert found.related("b.js", 9) == ["a.js"] and found.related("gradlew", 9) == ["a.js", "b.js"]
    assert graph(dict.fromkeys(["LICENSE", "NEWS.md"], "")).related("LICENSE", 9) == ["NEWS.md"]


def test_statements_read_before_are_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    files = [TextFile(path, text, "0" * 40, "Python") for path, text in CHAIN.items()]
    read = {file.path: read_imports(file) for file in files}
    monkeypatch.setattr("longrepo.repository.imports.graph.statements_of", None)
    assert build_import_graph(files, read).imports["b.py"] == ("c.py", "d.py")
    assert build_import_graph(files, {"a.py": read["a.py"]}).imports["b.py"] == ()


HOSTILE = {
    "comments": "/* " * 60_000,
    "strings": '"\\' * 90_000,
    "groups": "var (\n" * 30_000,
    "blank": "\n" * 180_000,
    "words": "aaa\n" * 45_000,
    "functions": "fun <" * 36_000,
    "nested": '{"a":' * 36_000,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_texts_that_make_searching_slow_take_no_time(text: str) -> None:
    """A search that starts over from every place it may begin takes minutes on these texts."""
    names = ["go.mod", "p/a.go", "a.kt", "a.scala", "Cargo.toml", "src/lib.rs", "package.json", "tsconfig.json"]
    files = dict.fromkeys(names, text) | {"go.mod": f"module m\n{text}", "b.go": "", "b.kt": "", "b.ts": ""}
    made = [TextFile(path, one, "0" * 40, language_of(path, one)) for path, one in files.items()]
    read = {"b.go": [Import("m/p", (), 0, 1)], "b.kt": [Import("a.b", (), 0, 1)], "b.ts": [Import("x", (), 0, 1)]}
    start = time.process_time()
    build_import_graph(made, read | {"src/lib.rs": [Import("crate::a", (), 0, 1)]})
    assert time.process_time() - start < 5
