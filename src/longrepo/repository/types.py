"""The plain values that describe a repository, how git's bytes become text, and which language a file is in.

Nothing here knows git. A language is found by the file's name, and by its first line if the name has no suffix.
"""

from __future__ import annotations

import codecs
import re
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import NamedTuple


@dataclass(frozen=True)
class TextFile:
    """A tracked text file at a revision. `path` is git's, with each undecodable byte as U+FFFD and its hex digits."""

    path: str
    text: str
    blob: str  # git object id, 40 or 64 hex digits
    language: str  # "Python", "Rust", …, or "Other"


@dataclass(frozen=True)
class Snapshot:
    """The text files of one revision in path order, and counts by reason of what was left out."""

    commit: str
    files: tuple[TextFile, ...]
    left_out: Counter[str] = field(default_factory=Counter)  # reason -> files
    left_out_bytes: Counter[str] = field(default_factory=Counter)  # reason -> bytes


class TextChange(NamedTuple):
    """One file in one commit: its text before and after (None if it didn't exist), under its path after the commit."""

    path: str
    before: str | None
    after: str | None
    old_path: str | None = None  # set for a rename


@dataclass(frozen=True)
class Commit:
    """A non-merge commit with the text changes it made, in path order."""

    id: str
    parent: str | None
    message: str
    author_name: str
    changes: tuple[TextChange, ...]


class FileChange(NamedTuple):
    """One file in one commit, as object ids (None if it didn't exist), under its path after the commit."""

    path: str
    before: str | None
    after: str | None
    old_path: str | None = None  # set for a rename


@dataclass(frozen=True)
class CommitRecord:
    """A commit without its texts, never a merge or noise. `changes` are its regular files in path order, without
    vendored, lock and generated files; `files` counts all files that the commit changed, those included."""

    id: str
    parent: str | None
    message: str
    author_name: str
    author_email: str
    changes: tuple[FileChange, ...]
    files: int


_CONTROL_BYTES = bytes(sorted({*range(32), 127} - set(b"\t\n\r\f\v\x1b\b")))
_HIGH_BYTES = bytes(range(128, 256))
_BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def decode_path(raw: bytes) -> str:
    """Return a path as text. Each undecodable byte becomes U+FFFD and its two hex digits, so that two paths that
    differ only in such a byte stay different."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        escaped = raw.decode("utf-8", "surrogateescape")
        return "".join(f"\ufffd{ord(c) - 0xDC00:02x}" if "\udc80" <= c <= "\udcff" else c for c in escaped)


def decode_text(raw: bytes) -> str | None:
    """Return a file's text, or None if the file is binary.

    The bytes are read as UTF-8, or as UTF-16 if they begin with its byte order mark; otherwise as Latin-1, if few
    bytes are above ASCII and none is a control byte: a wrong guess then affects only those few letters.
    """
    for bom, encoding in _BOMS.items():
        if raw.startswith(bom):
            try:
                return raw.decode(encoding)
            except UnicodeDecodeError:
                return None
    if b"\0" in raw:
        return None
    with suppress(UnicodeDecodeError):
        return raw.decode("utf-8")
    high = len(raw) - len(raw.translate(None, _HIGH_BYTES))
    control = len(raw) - len(raw.translate(None, _CONTROL_BYTES))
    return raw.decode("latin-1") if not control and high <= 0.3 * len(raw) else None


OTHER_LANGUAGE = "Other"

_SUFFIXES = {
    "Python": "py pyi pyx pxd pyw",
    "Rust": "rs",
    "Go": "go",
    "JavaScript": "js jsx mjs cjs",
    "TypeScript": "ts tsx mts cts",
    "Java": "java",
    "Kotlin": "kt kts",
    "C": "c h",
    "C++": "cc cpp cxx c++ hpp hh hxx h++ ipp inl tpp cu cuh",
    "C#": "cs",
    "Ruby": "rb rake gemspec",
    "PHP": "php phtml",
    "Swift": "swift",
    "Scala": "scala sc",
    "Shell": "sh bash zsh ksh bats",
    "SQL": "sql",
    "HTML": "html htm xhtml",
    "CSS": "css scss sass less",
    "Markdown": "md markdown mdx",
    "YAML": "yaml yml",
    "TOML": "toml",
    "JSON": "json jsonc json5 ipynb geojson",
    "Lua": "lua",
    "Perl": "pl pm t",
    "Haskell": "hs",
    "Elixir": "ex exs",
    "Erlang": "erl hrl",
    "Dart": "dart",
    "R": "r",
    "Julia": "jl",
    "OCaml": "ml mli",
    "Zig": "zig",
    "Clojure": "clj cljs cljc edn",
    "Objective-C": "m mm",
    "F#": "fs fsx fsi",
    "PowerShell": "ps1 psm1",
    "Groovy": "groovy gradle",
    "Protocol Buffers": "proto",
    "Nix": "nix",
    "CMake": "cmake",
    "Terraform": "tf hcl",
    "XML": "xml xsd xsl xslt svg plist",
    "Vue": "vue",
    "Svelte": "svelte",
    "reStructuredText": "rst",
    "INI": "ini cfg conf properties editorconfig",
    "Text": "txt text",
    "CSV": "csv tsv",
    "Makefile": "mk mak",
    "Fortran": "f90 f95 f03 f08 f for",
    "Solidity": "sol",
    "Verilog": "v sv svh vh",
    "GraphQL": "graphql gql",
    "Nim": "nim nims",
    "GDScript": "gd",
    "Elm": "elm",
    "Pascal": "pas dpr",
    "Emacs Lisp": "el",
    "Common Lisp": "lisp lsp asd",
    "Vim script": "vim",
    "Thrift": "thrift",
    "D": "d di",
    "GLSL": "glsl vert frag comp geom",
    "Fish": "fish",
    "Tcl": "tcl",
}
_BY_SUFFIX = {suffix: language for language, suffixes in _SUFFIXES.items() for suffix in suffixes.split()}
_BY_NAME = {
    "makefile": "Makefile",
    "gnumakefile": "Makefile",
    "dockerfile": "Dockerfile",
    "containerfile": "Dockerfile",
    "cmakelists.txt": "CMake",
    "rakefile": "Ruby",
    "gemfile": "Ruby",
    "podfile": "Ruby",
    "vagrantfile": "Ruby",
    "jenkinsfile": "Groovy",
    "sconstruct": "Python",
    "sconscript": "Python",
    ".bashrc": "Shell",
    ".zshrc": "Shell",
    ".profile": "Shell",
    "readme": "Text",
    "license": "Text",
    "pipfile": "TOML",
}
_BY_INTERPRETER = {
    "python": "Python",
    "pypy": "Python",
    "sh": "Shell",
    "bash": "Shell",
    "dash": "Shell",
    "zsh": "Shell",
    "ksh": "Shell",
    "fish": "Fish",
    "tclsh": "Tcl",
    "node": "JavaScript",
    "deno": "TypeScript",
    "bun": "TypeScript",
    "ruby": "Ruby",
    "perl": "Perl",
    "php": "PHP",
    "lua": "Lua",
    "luajit": "Lua",
    "rscript": "R",
    "julia": "Julia",
    "elixir": "Elixir",
    "escript": "Erlang",
    "runhaskell": "Haskell",
    "swift": "Swift",
    "scala": "Scala",
    "groovy": "Groovy",
    "make": "Makefile",
}
_CPP_ONLY = re.compile(r"^\s*(class\s+\w+|namespace\b|template\s*<|using\s+\w|public:|private:)", re.MULTILINE)
NON_CODE_LANGUAGES = frozenset(
    ("Markdown", "reStructuredText", "Text", "JSON", "YAML", "TOML", "CSV", "INI", "XML", "HTML", "CSS")
)


def language_of(path: str, text: str = "") -> str:
    """Return the language's name, or "Other". `text` tells C headers from C++ ones, and holds the first line (`#!`) of
    a file without a suffix."""
    name = PurePosixPath(path).name.lower()
    if language := _BY_NAME.get(name):
        return language
    if name.startswith(("dockerfile.", "makefile.")):
        return _BY_NAME[name.partition(".")[0]]
    stem, dot, suffix = name.rpartition(".")
    if dot and stem:
        if suffix == "h" and _CPP_ONLY.search(text):
            return "C++"
        return _BY_SUFFIX.get(suffix, OTHER_LANGUAGE)
    if stem == "" and dot:  # a dot file such as .gitignore
        return OTHER_LANGUAGE
    return _shebang(text)


def _shebang(text: str) -> str:
    if not text.startswith("#!"):
        return OTHER_LANGUAGE
    words = text[2 : text.find("\n") if "\n" in text else None].split()
    programs = [word.rpartition("/")[2].lower() for word in words if not word.startswith("-") and "=" not in word]
    if programs and programs[0] == "env":
        del programs[0]
    if not programs:
        return OTHER_LANGUAGE
    return _BY_INTERPRETER.get(programs[0].rstrip("0123456789."), OTHER_LANGUAGE)
