"""Jupyter notebooks as scripts: the cells' sources in order, markdown as comments, without outputs."""

from __future__ import annotations

import re
from typing import Any

from longrepo.repository.languages import named_language

NOTEBOOK_SUFFIX = ".ipynb"
MAX_NOTEBOOK_BYTES = 32_000_000  # bytes with all outputs; the script is bound by `data.max_file_bytes`
BROKEN_NOTEBOOK = "broken notebook"
_FIRST_KEY = re.compile(r'\s*\{\s*"(cells|metadata|nbformat|nbformat_minor|worksheets)"\s*:')
_EMBEDDED = re.compile(r"data:[\w/+.-]+;base64,[A-Za-z0-9+/=\s]*")
_DEFAULT_LANGUAGE = "Python"
_KERNELS = {"ir": "R", "python3": "Python", "python2": "Python", "ipython": "Python", "ijavascript": "JavaScript"}
_COMMENTS = {
    "//": "C C# C++ CUDA Dart F# Go Groovy Java JavaScript Kotlin PHP Rust Scala Swift TypeScript Zig",
    "--": "Ada Elm Haskell Lua SQL VHDL",
    "%": "Erlang MATLAB Matlab Octave Prolog TeX",
    ";": "Clojure Common-Lisp Emacs-Lisp Racket Scheme",
}
_COMMENT_OF = {language: sign for sign, languages in _COMMENTS.items() for language in languages.split()}


def read_notebook(text: str) -> tuple[str, str] | None:
    """Return (script, language) of a notebook of any format, None if the text is no notebook.

    Raises ValueError if it is one but is cut short or otherwise broken.
    """
    if not _FIRST_KEY.match(text) or not ('"cell_type"' in text or '"nbformat"' in text):
        return None
    from nbformat import ValidationError, convert, reader

    try:
        content = reader.reads(text)
        if not isinstance(content.get("nbformat"), int):
            return None
        return _script_of(convert(content, 4))
    except reader.NotJSONError as error:
        if str(error.__cause__).startswith("Extra data"):  # lines of JSON
            return None
        raise ValueError("not whole") from None
    except (ValidationError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"not a notebook that nbformat reads: {error}") from None


def _script_of(notebook: Any) -> tuple[str, str]:
    language = _language(notebook.get("metadata", {}))
    sign = _COMMENT_OF.get(language.replace(" ", "-"), "#")
    parts: list[str] = []
    for cell in notebook["cells"]:
        source = str(cell.get("source", "")).rstrip()
        if source.strip():
            parts.append(source if cell["cell_type"] == "code" else _as_comments(source, sign))
    return "\n\n".join(parts) + "\n" if parts else "", language


def _language(metadata: Any) -> str:
    kernel, info = metadata.get("kernelspec", {}), metadata.get("language_info", {})
    name = str(info.get("name") or kernel.get("language") or metadata.get("language") or kernel.get("name") or "")
    return _KERNELS.get(name.lower()) or (named_language(name) if name else _DEFAULT_LANGUAGE)


def _as_comments(source: str, sign: str) -> str:
    lines = _EMBEDDED.sub("data:", source).split("\n")
    return "\n".join(f"{sign} {line}".rstrip() for line in lines)
