"""What a file can name without an import: its package, what tests see, and how much of it is listed."""

from __future__ import annotations

import random
import time

import pytest
from tests.repository.test_imports import HOSTILE

from longrepo.repository.imports.graph import ImportGraph, build_import_graph
from longrepo.repository.imports.statements import Import
from longrepo.repository.imports.visibility import MAX_VISIBLE_FILES
from longrepo.repository.languages import language_of
from longrepo.repository.types import TextFile


def graph(files: dict[str, str]) -> ImportGraph:
    made = [TextFile(path, text, "0" * 40, language_of(path, text)) for path, text in files.items()]
    random.Random(1).shuffle(made)  # the answer may not depend on the order files come in
    return build_import_graph(made)


def kinds(found: ImportGraph, path: str) -> dict[str, str]:
    return {edge.path: edge.kind for edge in found.edges(path)}


MAIN, TEST = "core/src/main/java/a/b/", "core/src/test/java/a/b/"
JAVA = {
    f"{MAIN}Use.java": "package a.b;\nimport a.c.Other;\n"
    "class Use { Need n = new Need(); /* Near */ String s = Free.X + 'Q'; }",
    f"{MAIN}Need.java": "package a.b;\npublic class Need {}",
    f"{MAIN}Free.java": "package a.b;\npublic class Free { int Need; }",
    f"{MAIN}Near.java": "package a.b;\npublic class Near { Helper h; }",
    f"{TEST}Helper.java": "package a.b;\npublic class Helper {}",
    f"{TEST}UseTest.java": "package a.b;\nclass UseTest { Use u; Helper h; }",
    "core/src/main/java/a/c/Other.java": "package a.c;\npublic class Other { Need n; }",
    "more/src/test/java/a/b/MoreTest.java": "package a.b;\nclass MoreTest { Helper h; Need n; }",
}


def test_java_files_see_their_package_and_tests_see_the_classes_they_test() -> None:
    found = graph(JAVA)
    assert kinds(found, f"{MAIN}Use.java") == {
        "core/src/main/java/a/c/Other.java": "import",
        f"{MAIN}Need.java": "package",
        f"{MAIN}Free.java": "package",
        f"{MAIN}Near.java": "package member",  # named in a comment alone
    }
    assert found.visible(f"{MAIN}Use.java")[:3] == (
        "core/src/main/java/a/c/Other.java",
        f"{MAIN}Need.java",
        f"{MAIN}Free.java",
    )
    near, test = kinds(found, f"{MAIN}Near.java"), kinds(found, f"{TEST}UseTest.java")
    assert f"{TEST}Helper.java" not in near and near[f"{MAIN}Use.java"] == "package member"
    assert test[f"{TEST}Helper.java"] == test[f"{MAIN}Use.java"] == "package"
    more = kinds(found, "more/src/test/java/a/b/MoreTest.java")  # another module's tests aren't its own
    assert more[f"{MAIN}Need.java"] == "package" and f"{TEST}Helper.java" not in more
    assert kinds(found, "core/src/main/java/a/c/Other.java") == {}
    assert found.imports[f"{MAIN}Use.java"] == ("core/src/main/java/a/c/Other.java",)  # statements alone


def test_related_files_are_those_used_before_those_beside() -> None:
    found = graph(JAVA)
    assert found.related(f"{MAIN}Use.java", 3) == [
        "core/src/main/java/a/c/Other.java",
        f"{MAIN}Need.java",
        f"{MAIN}Free.java",
    ]
    assert found.related(f"{TEST}UseTest.java", 2) == [f"{MAIN}Use.java", f"{TEST}Helper.java"]


def test_go_files_see_their_package_but_no_tests_and_no_other_package_of_the_folder() -> None:
    found = graph(
        {
            "go.mod": "module m\n",
            "p/a.go": "package p\nfunc A() { b(); x.tool() }\n",
            "p/b.go": "package p\nfunc b() {}\nfunc (t T) B() {}\n",
            "p/b_windows.go": "package p\nfunc b() {}\n",
            "p/gen.go": "package main\nfunc tool() { b() }\n",
            "p/a_test.go": "package p\nfunc TestA() { A(); tool(); help() }\n",
            "p/help_test.go": "package p\nfunc help() {}\n",
            "p/outer_test.go": 'package p_test\nimport "m/p"\nfunc TestB() { p.A(); help() }\n',
            "q/b.go": "package p\nfunc b() {}\n",
        }
    )
    assert kinds(found, "p/a.go") == {"p/b.go": "package", "p/b_windows.go": "package"}
    assert kinds(found, "p/b.go") == {"p/a.go": "package member", "p/b_windows.go": "package member"}
    assert kinds(found, "p/a_test.go") == {
        "p/a.go": "package",
        "p/help_test.go": "package",
        "p/b.go": "package member",
        "p/b_windows.go": "package member",
    }
    assert kinds(found, "p/outer_test.go") == {"p/a.go": "import"}
    assert kinds(found, "p/gen.go") == kinds(found, "q/b.go") == {}


def test_a_go_name_bound_in_the_file_is_not_the_packages() -> None:
    """Fields, keys, parameters and local variables, unless what they are made of has the same name."""
    shared = (
        "package p\ntype Size struct{}\nfunc label() {}\nfunc shell() {}\ntype revision int\nvar _ = 1\nconst Key = 1\n"
    )
    code = {
        "field": "type T struct { Size int }",
        "parameter": "func f(label string) { use(label) }",
        "local": "func f() { label, err := g(); use(label) }",
        "blank": "func f() { _ = g() }",
        "key": "var x = T{Key: 1}",
        "member": "func f() { x.shell() }",
        "case": "func f() { switch { case Key: } }",
        "own call": "func f() { shell, err := shell() }",
        "own type": "type T struct { revision revision }",
        "type": "func f(s *Size) {}",
    }
    found = {
        name: kinds(graph({"p/a.go": f"package p\n{text}\n", "p/shared.go": shared}), "p/a.go")["p/shared.go"]
        for name, text in code.items()
    }
    assert [name for name, kind in found.items() if kind == "package"] == ["case", "own call", "own type", "type"]


def test_java_does_not_name_kotlins_functions_but_their_class() -> None:
    found = graph(
        {
            "a/One.kt": "package x\nfun create() = 1\n",
            "a/Two.kt": "package x\ninterface Two\n",
            "a/Create.java": "package x;\nclass Create { Two two = create(); }\n",
            "a/Facade.java": "package x;\nclass Facade { int n = OneKt.create(); }\n",
        }
    )
    assert kinds(found, "a/Create.java")["a/One.kt"] == "package member"
    assert kinds(found, "a/Create.java")["a/Two.kt"] == kinds(found, "a/Facade.java")["a/One.kt"] == "package"


def test_kotlin_and_scala_share_functions_and_outer_packages_by_clause() -> None:
    found = graph(
        {
            "a/One.kt": "package x.y\nfun String.shout() = this\nval limit = 3\n",
            "b/Two.kt": "package x.y\nfun f() = name.shout()\n",
            "b/Three.kt": "package x\nfun g() = name.shout()\n",
            "s/Chain.scala": "package u\npackage v\nobject Chain { Outer.f(); Inner.g() }\n",
            "s/Joined.scala": "package u.v\nobject Joined { Outer.f(); Inner.g() }\n",
            "s/Outer.scala": "package u\nobject Outer\n",
            "s/Inner.scala": "package u.v\nobject Inner\n",
        }
    )
    assert kinds(found, "b/Two.kt") == {"a/One.kt": "package"} and kinds(found, "b/Three.kt") == {}
    chain, joined = kinds(found, "s/Chain.scala"), kinds(found, "s/Joined.scala")
    assert chain["s/Outer.scala"] == chain["s/Inner.scala"] == joined["s/Inner.scala"] == "package"
    assert "s/Outer.scala" not in joined


def test_a_package_of_thousands_of_files_is_cut_off_and_takes_no_quadratic_time() -> None:
    files = {f"p/C{n:04}.java": f"package p;\nclass C{n:04} {{ C{n * 7 % 4000:04} x; }}\n" for n in range(4000)}
    found = graph(files)
    start = time.process_time()
    assert [len(found.visible(path)) for path in [*files][:40]] == [MAX_VISIBLE_FILES] * 40
    assert found.visible("p/C0002.java")[0] == "p/C0014.java"
    assert all(found.related(path, 40)[0] == f"p/C{n * 7 % 4000:04}.java" for n, path in [*enumerate(files)][1:400])
    assert time.process_time() - start < 2


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("name", ["a.go", "a.kt", "a.scala", "a.java"])
def test_texts_that_make_searching_slow_take_no_time(name: str, text: str) -> None:
    made = [TextFile(path, text, "0" * 40, language_of(path, text)) for path in (name, f"b{name}")]
    start = time.process_time()
    build_import_graph(made, {name: [Import("x", (), 0, 1)]}).edges(name)
    assert time.process_time() - start < 2
