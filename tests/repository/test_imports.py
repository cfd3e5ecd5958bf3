"""The import graph: which file of the repository each language's imports mean, and the orders that follow from it."""

from __future__ import annotations

import random

import pytest

from longrepo.repository.imports import ImportGraph, import_graph
from longrepo.repository.languages import language_of
from longrepo.repository.model import TextFile


def graph(files: dict[str, str]) -> ImportGraph:
    made = [TextFile(path, text, "0" * 40, language_of(path, text)) for path, text in files.items()]
    random.Random(1).shuffle(made)  # the answer may not depend on the order files come in
    return import_graph(made)


def edges(files: dict[str, str]) -> dict[str, tuple[str, ...]]:
    return {path: found for path, found in graph(files).imports.items() if found}


def test_python_with_src_layout_relative_imports_and_submodules() -> None:
    found = edges(
        {
            "src/pkg/__init__.py": "from .core import run\n",
            "src/pkg/core.py": "import os, sys\nfrom . import util, missing\nfrom .sub import deep as d\n",
            "src/pkg/util.py": "def f():\n    from ..pkg import core\n    import pkg.sub.deep\n",
            "src/pkg/sub/__init__.py": "",
            "src/pkg/sub/deep.py": "from ..util import f\nfrom ... import nothing\n",
            "src/pkg/os.py": "# from . import core\ns = 'import pkg.core'\n",
            "tests/test_core.py": "from pkg.core import run\nfrom pkg import util\nimport helper\n",
            "tests/helper.py": "import pkg\n",
        }
    )
    assert found == {
        "src/pkg/__init__.py": ("src/pkg/core.py",),
        "src/pkg/core.py": ("src/pkg/__init__.py", "src/pkg/util.py", "src/pkg/sub/deep.py"),
        "src/pkg/util.py": ("src/pkg/core.py", "src/pkg/sub/deep.py"),
        "src/pkg/sub/deep.py": ("src/pkg/util.py",),
        "tests/test_core.py": ("src/pkg/core.py", "src/pkg/util.py", "tests/helper.py"),
        "tests/helper.py": ("src/pkg/__init__.py",),
    }


def test_rust_modules_and_crates() -> None:
    found = edges(
        {
            "core/src/lib.rs": "mod a;\npub mod b;\nuse b::c::Thing;\n",
            "core/src/a.rs": "use crate::b::{c::Thing, d};\nuse super::b as other;\nuse std::fmt;\n",
            "core/src/b/mod.rs": "mod c;\nmod d;\nmod inline { }\n",
            "core/src/b/c.rs": "use super::d::*;\n",
            "core/src/b/d.rs": "use serde::Serialize;\n",
            "cli/src/main.rs": "use core::a::x;\n",
        }
    )
    assert found == {
        "core/src/lib.rs": ("core/src/a.rs", "core/src/b/mod.rs", "core/src/b/c.rs"),
        "core/src/a.rs": ("core/src/b/c.rs", "core/src/b/d.rs", "core/src/b/mod.rs"),
        "core/src/b/mod.rs": ("core/src/b/c.rs", "core/src/b/d.rs"),
        "core/src/b/c.rs": ("core/src/b/d.rs",),
        "cli/src/main.rs": ("core/src/a.rs",),
    }


def test_go_packages_through_go_mod() -> None:
    found = edges(
        {
            "go.mod": "module example.com/tool\n\ngo 1.22\n",
            "main.go": 'package main\nimport (\n\t"fmt"\n\tu "example.com/tool/internal/util"\n)\n',
            "internal/util/a.go": "package util\n",
            "internal/util/b.go": 'package util\nimport "example.com/toolbox/x"\n',
            "internal/util/a_test.go": "package util\n",
        }
    )
    assert found == {"main.go": ("internal/util/a.go", "internal/util/b.go")}


def test_javascript_and_typescript_relative_paths() -> None:
    found = edges(
        {
            "src/app.tsx": "import {a} from './lib';\nimport b from '../shared/b.js';\nexport * from './c';\n",
            "src/lib/index.ts": "import type {C} from '../c';\nconst x = await import('./lazy');\n",
            "src/lib/lazy.js": "import 'react';\nconst c = require('../c');\nrequire(name);\n",
            "src/c.d.ts": "export type C = 1;\n",
            "shared/b.ts": "",
        }
    )
    assert found == {
        "src/app.tsx": ("src/lib/index.ts", "shared/b.ts", "src/c.d.ts"),
        "src/lib/index.ts": ("src/c.d.ts", "src/lib/lazy.js"),
        "src/lib/lazy.js": ("src/c.d.ts",),
    }


def test_java_and_kotlin_packages() -> None:
    found = edges(
        {
            "app/src/main/java/org/x/App.java": "import org.x.util.*;\nimport static org.x.util.Text.trim;\n",
            "lib/src/main/java/org/x/util/Text.java": "package org.x.util;\nimport java.util.List;\n",
            "lib/src/main/java/org/x/util/More.java": "package org.x.util;\n",
            "app/src/main/kotlin/org/x/K.kt": "package org.x\nimport org.x.util.More\n",
        }
    )
    assert found == {
        "app/src/main/java/org/x/App.java": (
            "lib/src/main/java/org/x/util/More.java",
            "lib/src/main/java/org/x/util/Text.java",
        ),
        "app/src/main/kotlin/org/x/K.kt": ("lib/src/main/java/org/x/util/More.java",),
    }


def test_c_and_cpp_quoted_includes() -> None:
    found = edges(
        {
            "src/main.c": '#include <stdio.h>\n#include "util.h"\n#include "tool/api.h"\n#include "../deps/only.h"\n',
            "src/util.h": "",
            "include/tool/api.h": '#include "inner.h"\n',
            "include/tool/inner.h": "",
            "deps/only.h": "",
            "a/two.h": "",
            "b/two.h": "",
            "x/y.cpp": '#include "only.h"\n#include "two.h"\n',
        }
    )
    assert found == {
        "src/main.c": ("src/util.h", "include/tool/api.h", "deps/only.h"),
        "include/tool/api.h": ("include/tool/inner.h",),
        "x/y.cpp": ("deps/only.h",),
    }


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


@pytest.mark.parametrize("text", ["from . import", "import", "from .... import x", "use ;", 'import "', "#include"])
def test_broken_imports_leave_no_edge(text: str) -> None:
    for path in ("a.py", "a.rs", "a.go", "a.ts", "a.java", "a.c"):
        assert edges({path: text, "b.py": ""}) == {}
