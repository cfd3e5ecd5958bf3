"""Which language a file is in, and which languages are code.

Names come from the tables below and then from Pygments, whose list of file names is kept up to date. Text is code
unless it is known to be prose or data: a file that no list names is code in the language "Other".
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import PurePosixPath

OTHER_LANGUAGE = "Other"  # code in a language that no list here names
_CODE_SUFFIXES = {
    "Python": "py pyi pyx pxd pyw ipynb",
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
    "Vue": "vue",
    "Svelte": "svelte",
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
    # Pygments has these under another name or not at all.
    "Apex": "apex trigger",
    "Assembly": "asm s nasm inc65 a65",
    "Astro": "astro",
    "Batch": "bat cmd",
    "Bicep": "bicep bicepparam",
    "COBOL": "cbl cob cobol cpy ccp",
    "CUE": "cue",
    "EJS": "ejs jst",
    "ERB": "erb rhtml ecr",
    "FXML": "fxml",
    "Game Maker": "gml",
    "Handlebars": "hbs handlebars mustache",
    "Jinja": "j2 jinja jinja2 njk",
    "Liquid": "liquid",
    "Metal": "metal",
    "MDX": "mdx",
    "Qt UI": "ui",
    "Razor": "cshtml razor vbhtml",
    "Starlark": "bzl star bazel",
    "SuperCollider": "scd",
    "TeX": "tex sty dtx ltx",
    "VHDL": "vhd vhdl",
    "Visual Basic": "vb bas vba frm",
    "XAML": "xaml axaml",
    "XC": "xc",
    "XSLT": "xsl xslt",
    "Other": "inc asc pro",  # of PHP, C, assembly, …; of AGS and armored keys; of qmake and Prolog
}
_PROSE_SUFFIXES = {
    "Markdown": "md markdown mdown mkd mdwn mkdn mkdown ronn livemd",
    "reStructuredText": "rst rest",
    "Text": "txt text adoc asciidoc org textile wiki mediawiki wikitext creole pod pod6 rdoc texi texinfo txi man rtf "
    "log gmi muse",
    "YAML": "yaml yml rviz reek yaml-tmlanguage",
    "TOML": "toml",
    "JSON": "json jsonc json5 geojson jsonl ndjson jsonld topojson gltf har avsc webmanifest tfstate arb sarif "
    "webapp mcmeta yyp slnlaunch hujson code-workspace code-snippets json-tmlanguage",
    "CSV": "csv tsv psv",
    "INI": "ini cfg conf cnf properties editorconfig env desktop service socket timer target mount prefs "
    "network container url dof gitconfig lektorproject",
    "XML": "xml xsd svg plist rss atom gpx kml rdf owl resx resw xlf xliff csproj fsproj vbproj vcxproj filters props "
    "targets nuspec iml wsdl xmi xib storyboard dae x3d classpath tmx dtd wxl natvis",
    "Data": "dat data lst obj mtl stl ply pdb mol sdf cif xyz fasta fa fastq gff gtf bed sam vcf arff libsvm conll "
    "conllu textgrid bdf afm xpm xbm m3u m3u8 srt vtt po pot ics ical vcard eml mbox ldif pem crt cer key pub csr "
    "sha1 sha256 sha512 md5 sfv lock patch diff rej hex ihex srec mif coe map sum ttl nt nq n3 trig reg gcode "
    "meta asset prefab unity mat anim mask tscn tres kicad_pcb kicad_sch kicad_mod kicad_sym brd sch gbr drl sln "
    "pbxproj strings stringsdict snap golden expected out err trace aux toc bbl bib bst tap sgf pgn fen "
    "textproto pbtxt graphml osm vmf sfd 2da ged sha256sum spdx tlog cast dvc "
    "nb cdf kdl ron hocon neon cson vdf glyphs vhost apacheconf nginx nginxconf gbl gbo gbp gbs gko gpb gpt gtl gto "
    "gtp flf dzn txtpb arpa ston gitignore outjob prjpcb schdoc pcbdoc",
}
PROSE_LANGUAGES = frozenset(_PROSE_SUFFIXES)  # prose and data: everything that isn't code
NON_CODE_LANGUAGES = PROSE_LANGUAGES | {"HTML", "CSS"}  # nothing in these is called by name from elsewhere
_BY_SUFFIX = {
    suffix: language
    for languages in (_CODE_SUFFIXES, _PROSE_SUFFIXES)
    for language, suffixes in languages.items()
    for suffix in suffixes.split()
}
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
    "snakefile": "Python",
    "build": "Starlark",
    "workspace": "Starlark",
    "buck": "Starlark",
    ".bashrc": "Shell",
    ".zshrc": "Shell",
    ".profile": "Shell",
    ".bash_profile": "Shell",
    ".envrc": "Shell",
    "pkgbuild": "Shell",
    "pipfile": "TOML",
    "androidmanifest.xml": "Android XML",
    **dict.fromkeys((".emacs", ".gnus", ".spacemacs", ".abbrev_defs"), "Emacs Lisp"),
    **dict.fromkeys((".bash_aliases", ".bash_functions", ".zshenv", ".zprofile", ".xinitrc", ".kshrc"), "Shell"),
    **dict.fromkeys((".irbrc", ".pryrc", ".simplecov"), "Ruby"),
    **dict.fromkeys((".php", ".php_cs", ".php_cs.dist"), "PHP"),
    ".nvimrc": "Vim script",
    ".luacheckrc": "Lua",
    ".latexmkrc": "Perl",
    ".gclient": "Python",
    **dict.fromkeys(("go.mod", "go.work", "manifest.mf", "crontab", "hosts", "browserslist", "_redirects"), "Data"),
    **dict.fromkeys(("ssh_config", "sshd_config", "ssh-config", "torrc", "inputrc", "nanorc", "gtkrc"), "Data"),
    **dict.fromkeys(("commit_editmsg", "fp-lib-table", "xcompose", "ackrc"), "Data"),
    "codeowners": "Text",
    "version": "Text",
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
# Pygments' names of prose and of data.
_PYGMENTS_PROSE = "Groff|Markdown|Org Mode|Rd|Text only|Todotxt|reStructuredText|scdoc|tiddler"
_PYGMENTS_DATA = (
    "ASCII armored|Bash Session|BibTeX|Darcs Patch|Debian Control file|Debian Sourcelist|Debian Sources file|"
    "Desktop file|Diff|Dylan session|E-mail|Erlang erl session|GAP session|Gettext Catalog|INI|IRC logs|JSON|JSON-LD|"
    "JSON5|Kernel log|LDIF|NestedText|Numba_IR|PacmanConf|PkgConfig|PostgreSQL EXPLAIN dialect|Properties|PyPy Log|"
    "ApacheConf|Caddyfile|LDAP configuration file|Lighttpd configuration file|Nginx configuration file|SquidConf|"
    "Python 2.x Traceback|Python Traceback|RConsole|SNBT|SmartGameFormat|Srcinfo|Systemd|TAP|TOML|Termcap|Terminfo|"
    "Turtle|USD|WDiff|World of Warcraft TOC|XML|Xorg|YAML|Zone|c-objdump|cpp-objdump|d-objdump|g-code|objdump|"
    "objdump-nasm|reg|sqlite3con"
)
_PROSE_NAME = re.compile(
    r"^((licen[cs]e|copying|copyright|notice)([-_.].*)?|(readme|authors|contributors|maintainers|credits|thanks|changelog|"
    r"changes|news|history|install|todo|hacking|contributing|patents|releases|announce|bugs|faq)([-_][^.]*)?"
    r"(\.[a-z]{2}([-_][a-z]{2})?|\.\d+)?)$"
)
_TEMPLATE_SUFFIXES = frozenset(
    ("in", "tmpl", "tpl", "gotmpl", "template", "dist", "example", "sample", "orig", "default")
)
_ANDROID_FOLDER = re.compile(
    r"(^|/)res/(anim|animator|color|drawable|interpolator|layout|menu|mipmap|navigation|transition|xml)(-[^/]+)?/"
)
# What makes XML a program rather than data: its vocabulary, near the top.
_XML_PROGRAMS = (
    ("Android XML", re.compile(r"http://schemas\.android\.com/apk/")),
    ("XAML", re.compile(r"schemas\.microsoft\.com/(winfx/2006/xaml|dotnet/2021/maui)|github\.com/avaloniaui")),
    ("XSLT", re.compile(r"http://www\.w3\.org/1999/XSL/Transform")),
    ("FXML", re.compile(r"http://javafx\.com/|<\?import\s+javafx")),
    ("Ant", re.compile(r"<project\b[^>]*\sdefault=|<project\b[^>]*>\s*<(target|property|import)\b")),
    ("Odoo", re.compile(r"<(odoo|openerp)\b")),
    ("MyBatis", re.compile(r"<mapper\s+namespace=")),
    ("Spring", re.compile(r"http://www\.springframework\.org/schema/|http://camel\.apache\.org/schema/")),
    ("Facelets", re.compile(r"http://(java\.sun\.com|xmlns\.jcp\.org)/jsf|jakarta\.faces")),
    ("Robot description", re.compile(r"<(launch|robot)\b[^>]*>")),
    ("ZUL", re.compile(r"http://www\.zkoss\.org/|<zk\b")),
    ("Liquibase", re.compile(r"http://www\.liquibase\.org/xml/")),
)
_XML_HEAD = re.compile(r"\s*(<\?xml\b|<!DOCTYPE TS>)")
_XML_LANGUAGES = frozenset({"HTML", "XML", "XSLT", "XAML", "FXML", "Android XML", "Qt UI", "PHP"})
# A suffix that several languages share -> (language, what only that one has at the beginning of a line).
_SHARED_SUFFIXES = {
    suffix: [(language, re.compile(pattern, re.MULTILINE)) for language, pattern in patterns]
    for suffix, patterns in {
        "h": [("C++", r"^\s*(class\s+\w+|namespace\b|template\s*<|using\s+\w|public:|private:)")],
        "m": [
            ("Objective-C", r"^\s*(@(interface|implementation|import|protocol)\b|#(import|include)\b)"),
            ("Mathematica", r"^(\(\*|Begin(Package)?\[)"),
            ("MATLAB", r"^\s*(function\b|classdef\b|%|end;?\s*$)"),
        ],
        "v": [("Rocq", r"^\s*(Require|From \w+ Require|Theorem|Lemma|Definition|Inductive|Fixpoint)\b")],
        "cls": [
            ("TeX", r"^\s*\\(ProvidesClass|NeedsTeXFormat|LoadClass|newcommand)"),
            ("Visual Basic", r"^(VERSION \d|Attribute VB_|Option Explicit)"),
            ("Apex", r"\b(public|private|global)\b[^\n]*\bclass\b"),
        ],
        "pl": [("Prolog", r"^(:-\s|[a-z]\w*\([^)\n]*\)\s*(:-|\.\s*$))")],
        "fs": [("GLSL", r"^(#version|uniform|varying|precision)\b"), ("Forth", r"^: \S+ ")],
        "inc": [("PHP", r"^<\?php")],
        "asc": [("Data", r"\A\s*----"), ("Text", r"\A\s*=+ \w")],
        "pro": [("Prolog", r"^:-|:-\s*$"), ("IDL", r"^\s*(?i:pro|function)\s+\w+"), ("INI", r"^-(keep|dont)")],
        "gml": [("Data", r"\A\s*(<|graph\b|Creator\b|%|G04)")],
    }.items()
}
_VALUE_CHARACTERS = re.compile(r"[\d.,;:eE+\-\s]")
_INI_LINE = re.compile(r"\s*(\[[\w .:\"/-]+\]\s*$|[\w.-]+\s*=[^=])")
_CHECKSUM_LINE = re.compile(r"[0-9a-fA-F]{32,128}\s|\w+ \(.*\) = [0-9a-fA-F]{32,}")
_SAMPLE_CHARACTERS = 5_000  # of a text without a known name, to tell values and prose from code
_CODE_CHARACTERS = re.compile(r"[{}\[\]<>=_$#@;\\|&*+~^%]")
_WORDS = re.compile(r"[^\W\d_]{2,}")


# A line of values in a file of code: numbers (byte arrays, tables), escaped bytes, base64; and rows of an SQL dump.
_VALUE_LINE = re.compile(
    r"""[ \t]*(?:[\d.,xa-fulpUL{}()\[\]+;_ \t-]{8,}"""
    r"""|b?["'](?:\\(?:x[\da-f]{2}|u[\da-f]{4}|[0-7]{1,3})){4,}.*"""
    r"""|["'`]?[a-z\d+/=]{60,}(?:["'`]?[,+;\\) \t]*))""",
    re.IGNORECASE,
)
_SQL_ROWS = re.compile(
    r"^[ \t]*(?:(?:INSERT|REPLACE)\s[^\n]*|\([^\n]*\)[,;]?[ \t]*)$|^COPY [^\n]* FROM stdin;\n(?:[^\n]*\n)*?\\\.$",
    re.MULTILINE | re.IGNORECASE,
)
MIN_VALUES = 20_000  # characters; below that a table of values belongs to the code beside it
_VALUES_SHARE = 2 / 3
_SAMPLED_LINES = 300


def language_of(path: str, text: str = "") -> str:
    """Return the language's name; "Other" is code in an unknown one. `text` decides between languages that share a
    suffix, whether XML is a program, what a file without a known name is, and whether a large one is mostly values."""
    language = _language_of(path, text)
    return "Data" if len(text) > MIN_VALUES and _is_mostly_values(language, text) else language


def _is_mostly_values(language: str, text: str) -> bool:
    if language == "SQL":
        return sum(match.end() - match.start() for match in _SQL_ROWS.finditer(text)) > _VALUES_SHARE * len(text)
    lines = text.splitlines()
    some = lines[:: max(1, len(lines) // _SAMPLED_LINES)]
    return sum(len(line) for line in some if _VALUE_LINE.fullmatch(line)) > _VALUES_SHARE * sum(map(len, some))


def _language_of(path: str, text: str) -> str:
    name = PurePosixPath(path).name.lower()
    language = language_of_name(name)
    suffix = name.rpartition(".")[2] if "." in name else ""
    if language == "XML" and _ANDROID_FOLDER.search(path):
        return "Android XML"
    if not text:
        return language
    for other, pattern in _SHARED_SUFFIXES.get(suffix, ()):
        if pattern.search(text):
            return other
    if language == "XML" or (language not in _XML_LANGUAGES and _XML_HEAD.match(text, 0, 200)):
        head = text[:4096]
        return next((program for program, pattern in _XML_PROGRAMS if pattern.search(head)), "XML")
    return _language_of_text(name, text) if language == OTHER_LANGUAGE else language


@lru_cache(maxsize=1 << 14)
def language_of_name(name: str) -> str:
    """Return the language of a lower-case file name, "Other" if it says nothing."""
    if language := _BY_NAME.get(name):
        return language
    stem, dot, suffix = name.rpartition(".")
    if name.startswith(("dockerfile.", "makefile.")):
        return _BY_NAME[name.partition(".")[0]]
    suffixes, names = _pygments_names()
    if language := names.get(name):
        return language
    if dot and (not stem or name.startswith(".env.")):  # a dot file such as .gitignore
        return "Data"
    if suffix.startswith("sublime-"):
        return "JSON"
    if suffix in _TEMPLATE_SUFFIXES and (inner := language_of_name(stem)) != OTHER_LANGUAGE:
        return inner
    if dot and (known := _BY_SUFFIX.get(suffix) or suffixes.get(suffix)):
        return known
    return "Text" if _PROSE_NAME.match(name) else OTHER_LANGUAGE


def named_language(name: str) -> str:
    """Return our name of a language that Linguist or Pygments calls `name`, else the name as it is."""
    plain = name.replace("-", " ").lower()
    own = {language.replace("-", " ").lower(): language for language in (*_CODE_SUFFIXES, *_PROSE_SUFFIXES)}
    if plain in own:
        return own[plain]
    from pygments.lexers import find_lexer_class_by_name
    from pygments.util import ClassNotFound

    try:
        lexer = find_lexer_class_by_name(name.lower())
    except ClassNotFound:
        return _BY_SUFFIX.get(plain) or language_of_name(f"x.{plain}") if plain.isalnum() else name
    suffixes = [pattern[2:] for pattern in lexer.filenames if pattern.startswith("*.")]
    return next((language_of_name(f"x.{suffix}") for suffix in suffixes), lexer.name)


@lru_cache(maxsize=1)
def _pygments_names() -> tuple[dict[str, str], dict[str, str]]:
    """Return Pygments' suffix -> language and file name -> language, the first of several."""
    from pygments.lexers import get_all_lexers

    prose, data = _PYGMENTS_PROSE.split("|"), _PYGMENTS_DATA.split("|")
    suffixes, names = dict[str, str](), dict[str, str]()
    for lexer, _, patterns, _ in get_all_lexers(plugins=False):
        language = "Text" if lexer in prose else "Data" if lexer in data else lexer
        for pattern in patterns:
            known, key = (suffixes, pattern[2:]) if pattern.startswith("*.") else (names, pattern)
            if not re.search(r"[*?\[]", key):
                known.setdefault(key.lower(), language)
    return suffixes, names


def _language_of_text(name: str, text: str) -> str:
    """Return the language of a text whose name says nothing."""
    if (language := _shebang(text)) != OTHER_LANGUAGE:
        return language
    head = text[:_SAMPLE_CHARACTERS]
    if re.match(r'\s*(\{\s*"[^"\n]*"\s*:|\[\s*("[^"\n]*"\s*[,\]]|\{\s*"[^"\n]*"\s*:|\[))', head):
        return "JSON"
    if re.match(r"(\.\\\"|'\\\"|\.(TH|Dd) )", head):  # a manual page
        return "Text"
    if re.match(r"\s*(<!DOCTYPE html|<html\b)", head, re.IGNORECASE):
        return "HTML"
    values = len(_VALUE_CHARACTERS.findall(head))
    if values > 0.85 * len(head) and re.search(r"\d", head):
        return "Data"
    lines = [line for line in head.splitlines() if line.strip() and line.lstrip()[0] not in "#;"]
    for language, pattern in (("INI", _INI_LINE), ("Data", _CHECKSUM_LINE)):
        if lines and sum(map(bool, map(pattern.match, lines))) > 0.9 * len(lines):
            return language
    return "Text" if "." not in name and _is_prose(head) else OTHER_LANGUAGE


def _is_prose(text: str) -> bool:
    """Whether a text is natural language: long lines of words with hardly a sign that code is made of."""
    lines = [line for line in text.splitlines() if line.strip()]
    letters = sum(map(len, _WORDS.findall(text)))
    signs = len(_CODE_CHARACTERS.findall(text))
    long_lines = sum(len(line.split()) >= 6 for line in lines)
    lower = sum(map(str.islower, text))
    return bool(lines) and 200 * signs < letters < 2 * lower and 2 * long_lines > len(lines)


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
