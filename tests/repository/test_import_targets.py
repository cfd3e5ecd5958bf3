"""Which file of the repository an import means, by the rules of each language and its manifests."""

from __future__ import annotations

import random

import pytest

from longrepo.repository.imports.graph import build_import_graph
from longrepo.repository.languages import language_of
from longrepo.repository.types import TextFile


def edges(files: dict[str, str]) -> dict[str, tuple[str, ...]]:
    made = [TextFile(path, text, "0" * 40, language_of(path, text)) for path, text in files.items()]
    random.Random(1).shuffle(made)  # the answer may not depend on the order files come in
    return {path: found for path, found in build_import_graph(made).imports.items() if found}


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


def test_python_packages_whose_init_file_is_empty_and_so_not_among_the_files() -> None:
    """A module of a package doesn't mean its neighbour by a bare name; a script does."""
    found = edges(
        {
            "lib/pkg/text/yaml.py": "import yaml\nfrom pkg.text.json import dumps\n",
            "lib/pkg/text/json.py": "import json\nfrom pkg import util\n",
            "lib/pkg/util.py": "from .text import yaml\n",
            "scripts/run.py": "import shared\nimport json\n",
            "scripts/shared.py": "from pkg.util import f\n",
            "tests/test_pkg.py": "from tests.helper import x\nimport helper\n",
            "tests/helper.py": "import missing.module\n",
        }
    )
    assert found == {
        "lib/pkg/text/yaml.py": ("lib/pkg/text/json.py",),
        "lib/pkg/text/json.py": ("lib/pkg/util.py",),
        "lib/pkg/util.py": ("lib/pkg/text/yaml.py",),
        "scripts/run.py": ("scripts/shared.py",),
        "scripts/shared.py": ("lib/pkg/util.py",),
        "tests/test_pkg.py": ("tests/helper.py",),
    }


def test_python_takes_the_package_before_the_module_and_reads_declared_roots() -> None:
    found = edges(
        {
            "pyproject.toml": '[tool.pytest.ini_options]\npythonpath = ["code/python"]\n',
            "code/python/tool/__init__.py": "x = 1\n",
            "code/python/tool.py": "x = 1\n",
            "checks/test_tool.py": "import tool\n",
            "stubs/tool.pyi": "import part\n",
            "stubs/part.pyi": "x: int\n",
        }
    )
    tool = ("code/python/tool/__init__.py",)
    assert found == {"checks/test_tool.py": tool, "stubs/tool.pyi": ("stubs/part.pyi",)}


WORKSPACE = {
    "Cargo.toml": '[workspace]\nmembers = ["core", "cli"]\n[workspace.dependencies]\nmy-core = { path = "core" }\n',
    "core/Cargo.toml": '[package]\nname = "my-core"\nedition = "2021"\n',
    "core/src/lib.rs": "mod a;\npub mod b;\nuse b::c::Thing;\npub use a::x;\n",
    "core/src/a.rs": "use crate::b::{c::Thing, d};\nuse super::b as other;\nuse std::fmt;\n",
    "core/src/b/mod.rs": 'mod c;\nmod d;\nmod inline { use super::c; }\n#[path = "odd.rs"]\nmod e;\n',
    "core/src/b/c.rs": "use super::d::*;\n",
    "core/src/b/d.rs": "use serde::Serialize;\nmod tests {\n    use super::*;\n    use crate::a::x;\n}\n",
    "core/src/b/odd.rs": "use self::Local;\n",
}


def test_rust_modules() -> None:
    assert edges(WORKSPACE) == {
        "core/src/lib.rs": ("core/src/a.rs", "core/src/b/mod.rs", "core/src/b/c.rs"),
        "core/src/a.rs": ("core/src/b/c.rs", "core/src/b/d.rs", "core/src/b/mod.rs"),
        "core/src/b/mod.rs": ("core/src/b/c.rs", "core/src/b/d.rs", "core/src/b/odd.rs"),
        "core/src/b/c.rs": ("core/src/b/d.rs",),
        "core/src/b/d.rs": ("core/src/a.rs",),
    }


@pytest.mark.parametrize("dependency", ["my-core.workspace = true", 'my-core = { path = "../core" }'])
def test_rust_crates_of_a_workspace(dependency: str) -> None:
    cli = {
        "cli/Cargo.toml": f'[package]\nname = "cli"\nautotests = false\n[dependencies]\n{dependency}\nlog = "1"\n'
        '[[test]]\nname = "all"\n',
        "cli/src/main.rs": "use my_core::b::c::Thing;\nuse my_core::a;\nuse log::info;\n",
        "cli/src/log.rs": "extern crate my_core;\n",
        "cli/tests/all.rs": "mod part;\nuse crate::part::x;\n",
        "cli/tests/part.rs": "use crate::helper;\n",
        "log/src/lib.rs": "",
    }
    found = {path: found for path, found in edges(WORKSPACE | cli).items() if path.startswith("cli")}
    assert found == {
        "cli/src/main.rs": ("core/src/b/c.rs", "core/src/lib.rs", "cli/src/log.rs"),
        "cli/src/log.rs": ("core/src/lib.rs",),
        "cli/tests/all.rs": ("cli/tests/part.rs",),
        "cli/tests/part.rs": ("cli/tests/all.rs",),
    }


def test_rust_renamed_dependencies_and_the_first_edition() -> None:
    found = edges(
        {
            "old/Cargo.toml": '[package]\nname = "old"\n'
            '[dependencies]\nshort = { path = "../long", package = "long-name" }\n',
            "old/src/main.rs": "mod util;\nmod cmd;\n",
            "old/src/util.rs": "",
            "old/src/cmd.rs": "use util::f;\nuse short::Thing;\nuse long_name::Thing;\n",
            "long/Cargo.toml": '[package]\nname = "long-name"\n[lib]\npath = "code.rs"\n',
            "long/code.rs": "pub struct Thing;\n",
        }
    )
    assert found["old/src/main.rs"] == ("old/src/util.rs", "old/src/cmd.rs")
    assert found["old/src/cmd.rs"] == ("old/src/util.rs", "long/code.rs")


def test_go_imports_mean_the_files_that_define_what_is_used() -> None:
    found = edges(
        {
            "go.mod": "module example.com/tool\n\ngo 1.22\n",
            "main.go": 'package main\nimport (\n\t"fmt"\n\tu "example.com/tool/internal/util"\n)\n'
            'func main() { u.Run(u.Name); fmt.Println("u.Other"); menu.Other() // u.Other\n}\n',
            "plain.go": 'package main\nimport "example.com/tool/internal/util"\nvar x = named.Other{}\n',
            "blank.go": 'package main\nimport _ "example.com/tool/internal/util"\n',
            "dot.go": 'package main\nimport . "example.com/tool/internal/util"\nvar y = Name\n',
            "internal/util/a.go": "package named\n\nfunc Run(s string) {}\n\nfunc Hidden() {}\n",
            "internal/util/b.go": "package named\n\nconst (\n\tFirst, Name = iota, iota\n)\n\nfunc init() {}\n",
            "internal/util/c.go": 'package named\nimport "example.com/toolbox/x"\n\ntype Other struct {\n}\n',
            "internal/util/a_test.go": "package named\n\nfunc Run() {}\n",
            "internal/util/b_test.go": 'package x_test\nimport "example.com/tool/internal/util"\nvar z = named.Run\n',
        }
    )
    assert found == {
        "main.go": ("internal/util/a.go", "internal/util/b.go"),
        "plain.go": ("internal/util/c.go",),
        "blank.go": ("internal/util/b.go",),
        "dot.go": ("internal/util/b.go",),
        "internal/util/b_test.go": ("internal/util/a.go", "internal/util/a_test.go"),
    }


def test_javascript_and_typescript_relative_paths() -> None:
    found = edges(
        {
            "src/app.tsx": "import {a} from './lib';\nimport b from '../shared/b.js';\nexport * from './c';\n",
            "src/lib/index.ts": "import type {C} from '../c';\nconst x = await import('./lazy');\n",
            "src/lib/lazy.js": "import 'react';\nconst c = require('../c');\nrequire(name);\nimport './app.css?a';\n",
            "src/lib/app.css": "a {}\n",
            "src/c.d.ts": "export type C = 1;\n",
            "shared/b.ts": "import top = require('..');\n",
            "index.js": "import two from './two'\n",
            **dict.fromkeys(("two.js", "two.ts"), ""),
        }
    )
    assert found == {
        "src/app.tsx": ("src/lib/index.ts", "shared/b.ts", "src/c.d.ts"),
        "src/lib/index.ts": ("src/c.d.ts", "src/lib/lazy.js"),
        "src/lib/lazy.js": ("src/c.d.ts", "src/lib/app.css"),
        "shared/b.ts": ("index.js",),
        "index.js": ("two.js",),
    }


def test_typescript_aliases_of_the_nearest_configuration() -> None:
    found = edges(
        {
            "package.json": '{"name": "tool", "workspaces": ["packages/*"]}',
            "tsconfig.base.json": '{"compilerOptions": {"baseUrl": ".", "paths": {"@tool/*": ["packages/*/src"]}}}',
            "tsconfig.json": '{// "paths": {}\n"extends": "./tsconfig.base", }',
            "packages/a/package.json": '{"name": "@tool/a"}',
            "packages/a/src/index.ts": "import '@tool/b';\nimport '@tool/b/deep';\nimport 'packages/b/more';\n",
            "packages/b/src/index.ts": "",
            "packages/b/more.ts": "",
            "examples/own/package.json": '{"name": "own", "dependencies": {"@tool/b": "^1"}}',
            "examples/own/main.ts": "import {b} from '@tool/b';\nimport {c} from '@/c';\n",
            "examples/own/src/c.ts": "",
        }
    )
    assert found == {
        "packages/a/src/index.ts": ("packages/b/src/index.ts", "packages/b/more.ts"),
        "examples/own/main.ts": ("examples/own/src/c.ts",),
    }


def test_javascript_packages_of_the_repository_by_name() -> None:
    exports = (
        '{".": {"types": "./types.d.ts", "require": "./main.cjs", "default": "./main.js"}, "./in/*": "./lib/*.js"}'
    )
    found = edges(
        {
            "package.json": '{"name": "top", "workspaces": {"packages": ["packages/**"]}}',
            "packages/a/package.json": '{"name": "@x/a", "main": "dist/index.js", "imports": {"#own": "./src/own.js"}}',
            "packages/a/src/index.js": "import b from 'b';\nimport 'b/in/deep';\nimport '#own';\nimport 'b/secret';\n",
            "packages/a/src/own.js": "const b = require('b');\n",
            "packages/a/src/typed.ts": "import b from 'b';\n",
            "packages/b/package.json": f'{{"name": "b", "exports": {exports}}}',
            "packages/b/main.js": "import a from '@x/a';\nimport 'left-pad';\n",
            **dict.fromkeys((f"packages/b/{one}" for one in ("main.cjs", "types.d.ts", "lib/deep.js")), ""),
            "demo/package.json": '{"name": "demo", "dependencies": {"b": "file:../packages/b", "@x/a": "1.0"}}',
            "demo/index.js": "import 'b';\nimport '@x/a';\n",
        }
    )
    assert found == {
        "packages/a/src/index.js": ("packages/b/main.js", "packages/b/lib/deep.js", "packages/a/src/own.js"),
        "packages/a/src/own.js": ("packages/b/main.cjs",),
        "packages/a/src/typed.ts": ("packages/b/types.d.ts",),
        "packages/b/main.js": ("packages/a/src/index.js",),
        "demo/index.js": ("packages/b/main.js",),
    }


def test_java_kotlin_and_scala_packages() -> None:
    found = edges(
        {
            "app/src/main/java/org/x/App.java": "import org.x.util.*;\nimport static org.x.util.Text.trim;\n"
            "import org.x.util.Text.Inner;\nimport org.x.util.FilesKt;\nclass App { More more; }\n",
            "lib/src/main/java/org/x/util/Text.java": "package org.x.util;\nimport java.util.List;\n",
            "lib/src/main/java/org/x/util/More.java": "package org.x.util;\n",
            "lib/src/main/java/org/x/util/Unused.java": "package org.x.util;\n",
            "app/src/main/kotlin/K.kt": "package org.x\nimport org.x.util.More\nimport org.x.util.read as r\n",
            "lib/src/main/kotlin/Files.kt": "package org.x.util\ninternal fun String.read(): String = this\n",
            "app/src/main/scala/S.scala": "package org\npackage x\nimport org.x.util.{More, Text => T}, org.x.K\n",
        }
    )
    util = "lib/src/main/java/org/x/util"
    assert found == {
        "app/src/main/java/org/x/App.java": ("lib/src/main/kotlin/Files.kt", f"{util}/More.java", f"{util}/Text.java"),
        "app/src/main/kotlin/K.kt": (f"{util}/More.java", "lib/src/main/kotlin/Files.kt"),
        "app/src/main/scala/S.scala": (f"{util}/More.java", f"{util}/Text.java"),
    }


def test_of_two_classes_of_one_name_the_nearer_is_meant() -> None:
    found = edges(
        {
            "a/src/org/x/Main.java": "package org.x;\n",
            "b/src/org/x/Main.java": "package org.x;\n",
            "b/test/org/y/T.java": "package org.y;\nimport org.x.Main;\n",
        }
    )
    assert found == {"b/test/org/y/T.java": ("b/src/org/x/Main.java",)}


def test_c_and_cpp_includes() -> None:
    found = edges(
        {
            "src/main.c": '#include <stdio.h>\n#include "util.h"\n#include "tool/api.h"\n#include "../deps/only.h"\n',
            "src/util.h": "",
            "compat/stdio.h": "",
            "include/tool/api.h": '#include "inner.h"\n',
            "include/tool/inner.h": "",
            "deps/only.h": "",
            **dict.fromkeys(("a/two.h", "b/two.h"), ""),
            "a/deep/z.c": '#include "two.h"\n',
            "x/y.cpp": '#include "only.h"\n#include "two.h"\n#include <tool/api.h>\n',
        }
    )
    assert found == {
        "src/main.c": ("src/util.h", "include/tool/api.h", "deps/only.h"),
        "include/tool/api.h": ("include/tool/inner.h",),
        "a/deep/z.c": ("a/two.h",),
        "x/y.cpp": ("deps/only.h", "include/tool/api.h"),
    }


@pytest.mark.parametrize("name", ["Cargo.toml", "package.json", "tsconfig.json", "pyproject.toml", "go.mod"])
@pytest.mark.parametrize("text", ["[", "{", "[]", "null", "package = 1", '{"exports": [1], "workspaces": 3}', "\ufffd"])
def test_broken_manifests_are_taken_for_none(name: str, text: str) -> None:
    files = {name: text, "a.rs": "use b::c;\n", "a.ts": "import 'b';\n", "a.py": "import b\n", "a.go": 'import "b/c"\n'}
    assert edges(files | {"b.py": ""}) == {"a.py": ("b.py",)}


@pytest.mark.parametrize("text", ["from . import", "import", "from .... import x", "use ;", 'import "', "#include"])
def test_broken_imports_leave_no_edge(text: str) -> None:
    for path in ("a.py", "a.rs", "a.go", "a.ts", "a.java", "a.c"):
        assert edges({path: text, "b.py": ""}) == {}
