"""What a file can name without an import: its package, what tests see, and how much of it is listed."""

from __future__ import annotations

import random
import time
from dataclasses import replace

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
    assert test[f"{TEST}Helper.java"] == "package" and test[f"{MAIN}Use.java"] == "tested"
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


def test_a_file_is_seen_by_another_text_of_it_alone() -> None:
    """As an editor has it, or without the lines that are to come; a new file too."""
    found = graph(JAVA)
    use, need, free = (f"{MAIN}{name}.java" for name in ("Use", "Need", "Free"))
    above = found.seen_from(TextFile(use, "package a.b;\nclass Use { Free f;", "", "Java"), ())
    assert kinds(above, use) == {free: "package", need: "package member", f"{MAIN}Near.java": "package member"}
    assert above.related(use, 1) == [free] and above.edges(need) == found.edges(need)
    new = found.seen_from(TextFile(f"{TEST}NewTest.java", "package a.b; Helper h;", "", "Java"), (need,))
    assert list(kinds(new, f"{TEST}NewTest.java").items())[:2] == [(need, "import"), (f"{TEST}Helper.java", "package")]
    assert found.edges(f"{TEST}NewTest.java") == ()
    for name, text in {"p/n.go": "package p\nfunc n() { b() }", "p/n.cs": "namespace P; class N { B b; }"}.items():
        suffix = name.rpartition(".")[2]
        other = {"go": "package p\nfunc b() {}", "cs": "namespace P; class X {}\nclass B {}"}[suffix]
        small = graph({f"p/b.{suffix}": other})
        made = small.seen_from(TextFile(name, text, "", language_of(name)), ())
        assert kinds(made, name) == {f"p/b.{suffix}": "package"}


def test_what_is_used_without_an_import_is_defined_first_too() -> None:
    """B needs A and Z; A and C need each other, and Z needs nothing; so does what a test is named after."""
    names = {"A": "C", "B": "A Z", "C": "A", "Z": ""}
    files = {f"p/{name}.java": f"package p;\nclass {name} {{ {used} }}\n" for name, used in names.items()}
    files["a_test.py"], files["b/a.py"] = "", ""
    ordered = graph(files).definitions_first(files)
    assert ordered == ["b/a.py", "a_test.py", "p/A.java", "p/C.java", "p/Z.java", "p/B.java"]


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
        "p/a.go": "tested",
        "p/help_test.go": "package",
        "p/b.go": "package member",
        "p/b_windows.go": "package member",
    }
    assert kinds(found, "p/outer_test.go") == {"p/a.go": "import"}
    assert kinds(found, "p/gen.go") == kinds(found, "q/b.go") == {}


def test_kotlins_common_code_sees_no_platforms() -> None:
    sets = ("commonMain", "jvmMain", "androidMain", "nativeMain", "appleMain", "jvmTest")
    found = graph({f"m/src/{one}/{one}.kt": f"package p\nclass In{one}\n" for one in sets})

    def seen(one: str) -> set[str]:
        return {path.rpartition("/")[2].removesuffix(".kt") for path in found.visible(f"m/src/{one}/{one}.kt")}

    assert seen("commonMain") == set()
    assert seen("jvmMain") == {"commonMain", "androidMain"}
    assert seen("appleMain") == {"commonMain", "nativeMain"}
    assert seen("jvmTest") == {"commonMain", "jvmMain", "androidMain"}


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


def test_csharp_files_see_their_namespaces_those_around_and_global_usings() -> None:
    found = graph(
        {
            "App/App.csproj": '<Project><ItemGroup><Using Include="Common.Text" /></ItemGroup></Project>',
            "App/Usings.cs": "global using Common.More;\n",
            "App/Main.cs": "using Other;\nusing static Other.Maths;\nusing L = Other.Long<int>;\nnamespace A.B.C;\n"
            'class Main : Base { [Mark] void F() { Near n; "x".Shout(); Pad p; More m; Used u; } class Inner {} }\n',
            "App/Near.cs": "namespace A.B.C\n{\n    public class Near { class More {} }\n}\n",
            "App/Base.cs": "namespace A.B;\npublic abstract class Base {}\n",
            "App/Mark.cs": "namespace A;\ninternal sealed class MarkAttribute {}\n",
            "App/Beside.cs": "namespace A.B.D;\nclass Near {}\n",
            "Common/Pad.cs": "namespace Common.Text;\npublic record struct Pad(int N);\n",
            "Common/More.cs": "namespace Common.More;\npublic enum More { A }\n",
            "Other/Text.cs": "namespace Other;\nstatic class T { public static string Shout(this string s) => s; }\n",
            "Other/Maths.cs": "namespace Other;\nstatic class Maths {}\n",
            "Other/Long.cs": "namespace Other;\nclass Long<T> {}\n",
            "Other/Unused.cs": "namespace Other;\nclass Unused {}\ndelegate void Handler(int x);\n",
        }
    )
    assert found.imports["App/Main.cs"] == ("Other/Text.cs", "Other/Maths.cs", "Other/Long.cs")
    without_own = {path: kind for path, kind in kinds(found, "App/Main.cs").items() if kind != "import"}
    assert without_own == {
        "App/Near.cs": "package",
        "App/Base.cs": "package",
        "App/Mark.cs": "package",
        "Common/Pad.cs": "package",
        "Common/More.cs": "package",
    } | {"App/Usings.cs": "package member"}
    assert "App/Near.cs" not in kinds(found, "App/Beside.cs")


def test_swift_files_see_their_module_and_import_others() -> None:
    found = graph(
        {
            "Package.swift": 'let p = Package(targets: [.target(name: "Core", path: "lib/core")])',
            "lib/core/Api.swift": "import Foundation\nlet a = make(B.self).C\n",
            "lib/core/B.swift": "public final class B {\n    class D {}\n}\n",
            "lib/core/sub/Make.swift": "@inlinable public func make<T>(_ t: T) -> T { t }\n",
            "lib/core/C.swift": "enum C {}\n",
            "Tests/CoreTests/ApiTests.swift": "@testable import Core\nimport struct Core.C\nlet b = B()\n",
            "Tests/CoreTests/Help.swift": "func help() {}\n",
        }
    )
    core = kinds(found, "lib/core/Api.swift")
    assert core == {"lib/core/B.swift": "package", "lib/core/sub/Make.swift": "package"} | {
        "lib/core/C.swift": "package member"
    }
    tests = kinds(found, "Tests/CoreTests/ApiTests.swift")
    assert found.imports["Tests/CoreTests/ApiTests.swift"] == ("lib/core/B.swift", "lib/core/C.swift")
    assert tests["lib/core/Api.swift"] == "tested" and tests["Tests/CoreTests/Help.swift"] == "package member"


def test_names_that_an_imported_file_hands_on_lead_to_where_they_are_defined() -> None:
    found = graph(
        {
            "pkg/__init__.py": "from .core import run, stop\nfrom .wild import *\nfrom .other import thing\n",
            "pkg/core.py": "from .deep import start\ndef run(): start()\n",
            "pkg/wild.py": "w = 1\n",
            "pkg/other.py": "thing = 1\n",
            "pkg/deep.py": "def start(): pass\n",
            "use.py": "import pkg\npkg.run()\n",
            "web/index.ts": "export * from './a'\nexport * from './more'\nexport { b as c, d } from './b'\n"
            "export type { E } from './e'\n",
            "web/a.ts": "export const a = 1\n",
            "web/more/index.ts": "export * from './f'\nexport * from '..'\n",
            "web/more/f.ts": "export default function f() {}\n",
            "web/b.ts": "export const b = 1\n",
            "web/e.ts": "export type E = 1\n",
            "use.ts": "import { c, f } from './web'\n",
            "src/lib.rs": "pub mod a; pub mod b; mod c;\npub use a::One;\npub use b::*;\n",
            "src/a.rs": "pub struct One;\n",
            "src/b.rs": "pub fn two() {}\n",
            "src/c.rs": "pub fn three() {}\n",
            "tests/use.rs": "use made::{One, two};\nfn f() { crate_free(); }\n",
            "Cargo.toml": '[package]\nname = "made"\nedition = "2021"\n',
        }
    )
    assert kinds(found, "use.py") == {
        "pkg/__init__.py": "import",
        "pkg/core.py": "re-export",
        "pkg/wild.py": "re-export",
    }
    handed = {path: kind for path, kind in kinds(found, "use.ts").items() if kind == "re-export"}
    assert list(handed) == ["web/b.ts", "web/more/f.ts"]
    assert kinds(found, "tests/use.rs") == {"src/lib.rs": "import", "src/a.rs": "re-export", "src/b.rs": "re-export"}


def test_rust_paths_in_code_and_macros_need_no_use() -> None:
    found = graph(
        {
            "Cargo.toml": '[package]\nname = "made"\nedition = "2021"\n',
            "src/main.rs": 'mod a; mod b; mod c; mod m;\nfn main() { a::inner::f(); /* b::g() */ loud!("c::h"); }\n',
            "src/a/mod.rs": "pub mod inner;\nfn k<'a>(x: &'a str) { super::b::g(); other::c::f() }\n",
            "src/a/inner.rs": "fn f() -> Vec<crate::c::C> { vec![] }\n",
            "src/b.rs": "fn g() {}\n",
            "src/c.rs": "struct C;\n",
            "src/m.rs": "macro_rules! loud { () => {} }\nmacro_rules! quiet { () => {} }\n",
        }
    )
    main = {path: kind for path, kind in kinds(found, "src/main.rs").items() if kind != "import"}
    assert main == {"src/a/inner.rs": "path"} and kinds(found, "src/a/inner.rs") == {"src/c.rs": "path"}
    assert kinds(found, "src/a/mod.rs") == {"src/a/inner.rs": "import", "src/b.rs": "path"}
    assert "src/m.rs" in found.imports["src/main.rs"]


def test_headers_lead_to_their_sources_and_pass_on_what_they_include() -> None:
    found = graph(
        {
            "include/p/store.h": '#include "p/base.h"\n',
            "include/p/base.h": "int base;\n",
            "src/store_impl.cc": '#include "p/store.h"\n',
            "src/base.c": "int base;\n",
            "other/store.cc": "int no;\n",
            "src/main.cc": '#include "p/store.h"\n',
        }
    )
    assert kinds(found, "src/main.cc") == {
        "include/p/store.h": "import",
        "include/p/base.h": "re-export",
        "src/store_impl.cc": "counterpart",
    }
    assert kinds(found, "include/p/base.h") == {"src/base.c": "counterpart"}
    assert kinds(found, "src/base.c") == {"include/p/base.h": "counterpart"}


@pytest.mark.parametrize(
    ("test", "subject"),
    [
        ("tests/data/test_rows.py", "src/p/data/rows.py"),
        ("web/__tests__/grid.test.tsx", "web/grid.ts"),
        ("src/test/java/x/GridTest.java", "src/main/java/x/Grid.java"),
        ("src/test/java/x/TestGrid.java", "src/main/java/x/Grid.java"),
        ("lib/grid_test.cc", "lib/grid.cc"),
        ("tests/grid.rs", "src/grid.rs"),
        ("A.Tests/GridTests.cs", "A/Grid.cs"),
    ],
)
def test_tests_see_what_they_are_named_after(test: str, subject: str) -> None:
    beside = {subject.replace("p/data", "p/other"): "", "far/away/" + subject.rpartition("/")[2]: "", "rows.md": ""}
    found = graph(beside | {test: "", subject: ""})
    assert [path for path, kind in kinds(found, test).items() if kind == "tested"] == [subject]
    assert "tested" not in kinds(found, subject).values()


def test_fixtures_of_a_conftest_are_visible_to_tests_that_name_them() -> None:
    conftest = (
        "import pytest\n\n@pytest.fixture(scope='session')\ndef box() -> int:\n    return 1\n\ndef plain(): pass\n"
    )
    found = graph(
        {
            "tests/conftest.py": conftest,
            "tests/a/test_one.py": "def test_one(box): assert box\n",
            "tests/a/test_two.py": "def test_two(): plain()\n",
            "src/three.py": "box = 1\n",
        }
    )
    assert kinds(found, "tests/a/test_one.py") == {"tests/conftest.py": "package"}
    assert kinds(found, "tests/a/test_two.py") == {"tests/conftest.py": "package member"}
    assert kinds(found, "src/three.py") == {}


def test_a_package_of_thousands_of_files_is_cut_off_and_takes_no_quadratic_time() -> None:
    files = {f"p/C{n:04}.java": f"package p;\nclass C{n:04} {{ C{n * 7 % 2000:04} x; }}\n" for n in range(2000)}
    found = graph(files)
    start = time.process_time()
    assert [len(found.visible(path)) for path in [*files][:40]] == [MAX_VISIBLE_FILES] * 40
    assert found.visible("p/C0002.java")[0] == "p/C0014.java"
    assert all(found.related(path, 40)[0] == f"p/C{n * 7 % 2000:04}.java" for n, path in [*enumerate(files)][1:200])
    assert time.process_time() - start < 2


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize(
    "name", ["a.go", "a.kt", "a.java", "a.cs", "a.swift", "lib.rs", "index.ts", "conftest.py", "a.h"]
)
def test_texts_that_make_searching_slow_take_no_time(name: str, text: str) -> None:
    path = f"tests/b{name}"
    made = [TextFile(one, text, "0" * 40, language_of(one)) for one in (name, path, "tests/conftest.py")]
    start = time.process_time()
    found = build_import_graph(made, {name: [Import("x", (), 0, 1)]})
    replace(found, imports={name: (path,), path: (name,)}).edges(path)
    assert time.process_time() - start < 2
