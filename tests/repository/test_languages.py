"""Which language a file is in, by its name and its text, and that text is code unless it is known not to be."""

from __future__ import annotations

import pytest

from longrepo.repository.grammars import GRAMMARS
from longrepo.repository.languages import PROSE_LANGUAGES, language_of

XML = '<?xml version="1.0" encoding="utf-8"?>\n'
ANDROID = XML + '<LinearLayout xmlns:android="http://schemas.android.com/apk/res/android">\n</LinearLayout>\n'
PROSE = "This is the list of everybody who has ever helped with this project, in no order at all.\n" * 4


@pytest.mark.parametrize(
    ("path", "text", "language"),
    [
        ("a/B.PY", "", "Python"),
        ("a.d.ts", "", "TypeScript"),
        ("x.h", "int f(void);\n", "C"),
        ("x.h", "namespace a {\n}\n", "C++"),
        ("bin/run", "#!/usr/bin/env -S python3.11 -u\n", "Python"),
        ("bin/run", "#!/bin/bash", "Shell"),
        ("bin/run", "#!\n", "Other"),
        ("Makefile", "", "Makefile"),
        ("docker/Dockerfile.dev", "", "Dockerfile"),
        (".gitignore", "", "Data"),
        ("nothing", "x", "Other"),
        ("a.zzz", "#!/bin/sh\n", "Shell"),
        ("a.m", "@interface A\n@end\n", "Objective-C"),
        ("a.m", "function y = f(x)\n  y = x;\nend\n", "MATLAB"),
        ("a.cls", "public class A {}\n", "Apex"),
        ("a.cls", "\\ProvidesClass{thesis}\n", "TeX"),
        ("config.h.in", "", "C"),
        ("values.json.tmpl", "", "JSON"),
    ],
)
def test_languages_go_by_name_then_by_the_text(path: str, text: str, language: str) -> None:
    assert language_of(path, text) == language


CODE = (
    "cbl vhd adb asm S bat rkt vy cls tex j2 erb cshtml sas abap apex trigger lean hlsl bicep rego twig hbs "
    "mustache jinja2 ejs liquid pug haml slim razor vb bas nsi qml ino scad stan awk dts wgsl metal cairo move hx "
    "gleam cr odin jsonnet cue prisma ftl mako vm pp feature robot f77x pl6 fnl moon janet html xaml fxml xsl "
    "astro unheardof"
)


@pytest.mark.parametrize("suffix", CODE.split())
def test_text_is_code_in_any_language(suffix: str) -> None:
    assert language_of(f"src/a.{suffix}", "x\n") not in PROSE_LANGUAGES


DATA = (
    "md rst txt adoc org json yaml yml toml csv tsv ini properties xml svg po srt patch lock pem obj fasta log "
    "meta prefab resx xlf csproj dat geojson"
)


@pytest.mark.parametrize("suffix", DATA.split())
def test_prose_and_data_are_not_code(suffix: str) -> None:
    assert language_of(f"src/a.{suffix}", "x\n") in PROSE_LANGUAGES


@pytest.mark.parametrize(
    ("path", "text", "code"),
    [
        ("app/src/main/res/layout/main.xml", ANDROID, True),
        ("app/src/main/res/menu-land/main.xml", "", True),
        ("app/src/main/res/values/strings.xml", XML + "<resources><string>a</string></resources>\n", False),
        ("views/sale.xml", XML + '<odoo>\n<record id="a"/>\n</odoo>\n', True),
        ("build.xml", XML + '<project name="a" default="b">\n<target name="b"/>\n</project>\n', True),
        ("data/cities.xml", XML + "<cities><city>a</city></cities>\n", False),
        ("i18n/de.ts", XML + "<!DOCTYPE TS>\n<TS/>\n", False),
        ("main.ts", "const a = 1;\n", True),
        ("AUTHORS", PROSE, False),
        ("docs/history", PROSE, False),
        ("bin/tool", "proc main { print 1 }\n", True),
        ("points", "1.0 2.0 3.5\n" * 30, False),
        ("settings", '{\n  "a": 1\n}\n', False),
        ("tool.1", ".TH TOOL 1\n.SH NAME\n", False),
        ("LICENSE-MIT", "", False),
        ("license.py", "", True),
        ("todo.slint", "export component A {}\n", True),
        ("README.de", "", False),
        (".irbrc", "", True),
        (".env.production", "", False),
        ("app.settings", "[main]\na = 1\nb = 2\n", False),
        ("SHA256SUMS", f"{'a' * 64}  x.tar.gz\n" * 3, False),
        ("key.asc", "-----BEGIN PGP PUBLIC KEY BLOCK-----\n", False),
        ("Emakefile", '{"src/*", [debug_info]}.\n', True),
    ],
)
def test_a_text_whose_name_says_little_is_judged_by_what_it_holds(path: str, text: str, code: bool) -> None:
    assert (language_of(path, text) not in PROSE_LANGUAGES) == code


def test_every_language_with_a_grammar_has_a_suffix() -> None:
    from longrepo.repository import languages

    assert set(GRAMMARS) <= set(languages._BY_SUFFIX.values())


@pytest.mark.parametrize(
    ("path", "language"),
    [
        ("a.rkt", "Racket"),
        ("proof/a.lean", "Lean"),
        ("a.agda", "Agda"),
        ("a.rego", "Rego"),
        ("SConstruct", "Python"),
        ("de/messages.po", "Data"),
        ("notes.tid", "Text"),
        ("a.nosuchlanguage", "Other"),
    ],
)
def test_languages_without_a_grammar_here_have_the_names_of_a_kept_list(path: str, language: str) -> None:
    assert language_of(path) == language


BYTES = "\n".join("  " + ", ".join(f"0x{(n * 7919 + k) % 256:02x}" for k in range(12)) + "," for n in range(400))
ROWS = [f"({n}, 'name {n}', {n * 7919 % 1009})" for n in range(1200)]
COPIED = "\n".join(f"{n}\tname {n}\t\\N" for n in range(2000))
SCHEMA = "\n".join(f"CREATE TABLE t{n} (\n  id int,\n  name text\n);" for n in range(600))
CONSTANTS = "\n".join(f"#define REGISTER_{n} 0x{n:04x}" for n in range(1200))


@pytest.mark.parametrize(
    ("path", "text", "language"),
    [
        ("image.h", f"static const unsigned char image[] = {{\n{BYTES}\n}};\n", "Data"),
        ("asset.go", "var asset = []byte{\n" + BYTES.replace("0x", "0X") + "\n}\n", "Data"),
        ("blob.c", "char *blob =\n" + '  "\\x1f\\x8b\\x08\\x00\\101"\n' * 1000 + ";\n", "Data"),
        ("font.py", 'FONT = """\n' + ("QUJD" * 19 + "\n") * 400 + '"""\n', "Data"),
        ("dump.sql", "INSERT INTO `t` VALUES " + ",".join(ROWS) + ";\n", "Data"),
        ("dump.sql", "\n".join(f"insert into t values {row};" for row in ROWS), "Data"),
        ("dump.sql", f"SET x;\nCOPY public.t (a, b, c) FROM stdin;\n{COPIED}\n\\.\n", "Data"),
        ("structure.sql", f"-- PostgreSQL database dump\n{SCHEMA}\n", "SQL"),
        ("seeds.sql", "INSERT INTO t VALUES\n" + ",\n".join(ROWS[:90]) + ";\n", "SQL"),
        ("crc.h", f"static const unsigned char table[] = {{\n{BYTES[:9000]}\n}};\n", "C"),
        ("registers.h", CONSTANTS, "C"),
        ("half.c", f"static const unsigned char image[] = {{\n{BYTES}\n}};\n{CONSTANTS}", "C"),
        ("test_f.py", "\n".join(f"    assert f({n}) == {n * 7}" for n in range(1500)), "Python"),
    ],
)
def test_large_files_of_code_that_are_mostly_values_are_data(path: str, text: str, language: str) -> None:
    assert language_of(path, text) == language
