"""Which language a file is written in: by its name, then by its first line where the name has no suffix."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

OTHER = "Other"

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


def language_of(path: str, text: str = "") -> str:
    """The language's name, or "Other". `text` decides a C header's language and a suffixless file's shebang."""
    name = PurePosixPath(path).name.lower()
    if language := _BY_NAME.get(name):
        return language
    if name.startswith(("dockerfile.", "makefile.")):
        return _BY_NAME[name.partition(".")[0]]
    stem, dot, suffix = name.rpartition(".")
    if dot and stem:
        if suffix == "h" and _CPP_ONLY.search(text):
            return "C++"
        return _BY_SUFFIX.get(suffix, OTHER)
    if stem == "" and dot:  # a dot file such as .gitignore
        return OTHER
    return _shebang(text)


def _shebang(text: str) -> str:
    if not text.startswith("#!"):
        return OTHER
    words = text[2 : text.find("\n") if "\n" in text else None].split()
    programs = [word.rpartition("/")[2].lower() for word in words if not word.startswith("-") and "=" not in word]
    if programs and programs[0] == "env":
        del programs[0]
    if not programs:
        return OTHER
    return _BY_INTERPRETER.get(programs[0].rstrip("0123456789."), OTHER)
