"""How a file's bytes become text: by its byte order mark, as UTF-8, by the encoding that `.gitattributes` names, or by
what the bytes fit; a notebook as a script.

A guess counts only if it is sure: an encoding must give letters of one language in the places where that language has
them, and charset-normalizer must agree if several do. What is unsure isn't read: a wrong guess would be learned.

A Jupyter notebook becomes the cells' sources in order, with markdown as comments and without outputs.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable
from contextlib import suppress
from functools import cached_property
from typing import Any

from longrepo.repository.languages import named_language

_CONTROL_BYTES = bytes(sorted({*range(32), 127} - set(b"\t\n\r\f\v\x1b\b")))
_BOMS = (  # UTF-32's begins with UTF-16's
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SAMPLE_BYTES = 20_000  # of the lines with other bytes than ASCII: more don't change the answer
_MIN_UTF8_CHARACTERS = 3  # of a line that is UTF-8 among others that aren't: two are chance
BINARY, UNKNOWN_ENCODING = "binary", "unknown encoding"

_CHINESE_JAPANESE_KOREAN = ("gb18030", "big5", "cp932", "euc_jp", "cp949")
_CYRILLIC = ("cp1251", "koi8_r", "koi8_u", "cp866", "iso8859_5")
_COMMON_CYRILLIC = frozenset("оеаинтсрвлкмдпуі")
_OTHER_SCRIPTS = {"cp1253": "\u0370-\u03ff", "cp1255": "\u05d0-\u05ea"}  # Greek, Hebrew
_WESTERN, _CENTRAL, _TURKISH = "cp1252", ("cp1250", "iso8859_2"), "cp1254"
# The letters beyond ASCII of languages: a text has those of one.
_WESTERN_ALPHABETS = (
    *("äöüßÄÖÜ", "àâæçèéêëîïôœùûüÿÀÂÇÈÉÊËÎÏÔŒÙÛ", "áéíñóúüÁÉÍÑÓÚ", "àáâãçéêíóôõúÀÁÂÃÇÉÊÍÓÔÕÚ", "àèéìòùÀÈÉÌÒÙ"),
    *("åæøÅÆØéóòôêè", "äåöÄÅÖéü", "àçèéíïòóúüÀÇÈÉÍÏÒÓÚ", "éëïèüöóá"),
)
_ICELANDIC = "áðéíóúýþæöÁÐÉÍÓÚÝÞÆÖ"
_CENTRAL_ALPHABETS = (
    *("ąćęłńóśźżĄĆĘŁŃÓŚŹŻ", "áčďéěíňóřšťúůýžÁČĎÉĚÍŇÓŘŠŤÚŮÝŽ", "áäčďéíĺľňóôŕšťúýžÁÄČĎÉÍĹĽŇÓÔŔŠŤÚÝŽ"),
    *("áéíóöőúüűÁÉÍÓÖŐÚÜŰ", "ăâîşţĂÂÎŞŢ", "čćđšžČĆĐŠŽ"),
)
_TURKISH_ALPHABET = "çğıöşüÇĞİÖŞÜâîû"
_RARE_LETTERS = frozenset("ŕĺŔĹ")  # of Slovak; French and Italian à read as Slovak
_ALPHABETS = {
    _WESTERN: (*_WESTERN_ALPHABETS, _ICELANDIC),
    **dict.fromkeys(_CENTRAL, _CENTRAL_ALPHABETS),
    _TURKISH: (_TURKISH_ALPHABET,),
}
_SIGNS = frozenset("‘’‚“”„–—…•€™«»‹›£§©®°±²³µ·×÷¼½¾¿¡ªº\xa0\xad")
_PLAIN_SIGNS = frozenset("‘’“”–—…•€™«»©®°£§\xa0")  # those that stand in a text without any other letters
_SIGN_IN_WORD = re.compile(r"[^\W\d_][£§©®°±²³µ·×÷¼½¾¿¡][^\W\d_]|[^\W\d_][±¼½¾¿¡]")
_LATIN_LETTERS = re.compile(r"[^\W\d_\x00-\x7f]")
_CYRILLIC_WORD = re.compile(r"[\u0400-\u04ff]+")
_WORD_APART = re.compile(r"(?<![A-Za-z\u0400-\u04ff])[\u0400-\u04ff]{2,}(?![A-Za-z])")


def decode_text(raw: bytes, named: str = "") -> str | None:
    """Return a file's text, or None if it is binary or its encoding isn't sure. `named`: the encoding that
    `.gitattributes` names, for bytes that aren't UTF-8. Line ends of a carriage return alone become line feeds."""
    text = _decode(raw, named)
    return text.replace("\r", "\n") if text and "\r" in text and "\n" not in text else text


def undecoded_reason(raw: bytes) -> str:
    """Return why `decode_text` returns None for these bytes: they are binary, or text in an unknown encoding."""
    return BINARY if b"\0" in raw or raw != raw.translate(None, _CONTROL_BYTES) else UNKNOWN_ENCODING


def _decode(raw: bytes, named: str) -> str | None:
    for bom, encoding in _BOMS:
        if raw.startswith(bom):
            return _strictly(raw, encoding)
    if b"\0" not in raw and (text := _strictly(raw, "utf-8")) is not None:
        return text
    if named and (text := _strictly(raw, _python_name(named))) is not None and "\0" not in text:
        return text
    if undecoded_reason(raw) == BINARY:
        return _wide(raw)
    encoding = Candidates(raw).encoding
    return _strictly(raw, encoding) if encoding else None


def _strictly(raw: bytes, encoding: str) -> str | None:
    with suppress(UnicodeError, LookupError):
        return raw.decode(encoding)
    return None


def _python_name(named: str) -> str:
    """Return Python's name of an encoding that git names: `UTF-16LE-BOM` is UTF-16 to Python."""
    return re.sub(r"(?i)^(utf-?(?:16|32))(?:le|be)?-bom$", r"\1", named)


def _wide(raw: bytes) -> str | None:
    """Return UTF-16 or UTF-32 text without a mark, if nearly every second to fourth byte is 0; None otherwise."""
    for width, encodings in ((4, ("utf-32-le", "utf-32-be")), (2, ("utf-16-le", "utf-16-be"))):
        for zero, encoding in zip((width - 1, 0), encodings, strict=True):
            share = raw[zero::width].count(0) / max(1, len(raw) // width)
            text = _strictly(raw, encoding) if len(raw) >= 16 and len(raw) % width == 0 and share > 0.9 else None
            if text and "\0" not in text and not any(ord(c) in _CONTROL_BYTES for c in text[:2000]):
                return text
    return None


class Candidates:
    """The encodings that bytes which aren't UTF-8 could be in, judged by the lines that aren't ASCII."""

    def __init__(self, raw: bytes) -> None:
        lines = [line for line in re.split(rb"[\r\n]+", raw) if not line.isascii()]
        self._mixed = any(_is_utf8(line) for line in lines)
        size = 0
        self._lines: list[bytes] = []
        for line in lines:
            size += len(line)
            if size <= _SAMPLE_BYTES or not self._lines:
                self._lines.append(line)
        self._sample = b"\n".join(self._lines)

    @cached_property
    def encoding(self) -> str:
        """Return the encoding, or "" if it isn't sure; also if a part is UTF-8 and another isn't."""
        if self._mixed:
            return ""
        asian = [name for name in _CHINESE_JAPANESE_KOREAN if self._is_asian(name)]
        cyrillic = {name: share for name in _CYRILLIC if (share := self._cyrillic_share(name))}
        latin = {name: text for name in _ALPHABETS if (text := self._latin_text(name)) is not None}
        others = [name for name, letters in _OTHER_SCRIPTS.items() if self._is_script(name, letters)]
        if latin:
            return "" if asian or cyrillic or others else self._best_latin(latin)
        if cyrillic:
            return "" if asian else self._best_cyrillic(cyrillic)
        if asian:
            return asian[0] if len(asian) == 1 else self._agreed(_CHINESE_JAPANESE_KOREAN, asian)
        return others[0] if len(others) == 1 else ""

    def _agreed(self, asked: Iterable[str], accepted: Iterable[str]) -> str:
        """Return the encoding that charset-normalizer finds among `asked`, if it is accepted."""
        from charset_normalizer import from_bytes

        best = from_bytes(self._sample, cp_isolation=[*asked], threshold=0.5).best()
        return best.encoding if best is not None and best.encoding in accepted else ""

    def _is_asian(self, encoding: str) -> bool:
        """Return whether nine in ten characters are of the more frequent first part of the standard."""
        text = _strictly(self._sample, encoding)
        characters = [c for c in text or "" if c > "\x7f"]
        if len(characters) < 2:
            return False
        common = sum(_is_common(c, encoding) for c in characters)
        kana = sum("\u3041" <= c <= "\u30fe" for c in characters)
        hangul = sum("\uac00" <= c <= "\ud7a3" for c in characters)
        if encoding in ("cp932", "euc_jp") and kana < 0.15 * len(characters):
            return False
        if encoding == "cp949" and hangul < 0.8 * len(characters):
            return False
        return common >= 0.9 * len(characters)

    def _cyrillic_share(self, encoding: str) -> float:
        """Return the share of common letters, if the text has Cyrillic words written as they are; 0 otherwise."""
        text = _strictly(self._sample, encoding)
        words = _CYRILLIC_WORD.findall(text or "")
        letters = sum(map(len, words))
        if text is None or letters < 4 or letters < 0.9 * sum(c > "\x7f" for c in text):
            return 0.0
        if any("\u2500" <= c <= "\u259f" for c in text):  # KOI8-R has boxes where KOI8-U has letters
            return 0.0
        natural = sum(len(word) for word in words if word.islower() or word.isupper() or word.istitle())
        shouted = sum(word.isupper() and len(word) > 3 for word in words)
        apart = sum(map(len, _WORD_APART.findall(text)))
        if natural < 0.9 * letters or apart < 0.85 * letters or shouted > 0.3 * len(words):
            return 0.0
        return sum(c in _COMMON_CYRILLIC for c in "".join(words).lower()) / letters

    def _best_cyrillic(self, shares: dict[str, float]) -> str:
        best = max(shares, key=shares.__getitem__)
        text = _strictly(self._sample, best)
        rest = [share for name, share in shares.items() if _strictly(self._sample, name) != text]
        return best if shares[best] > 0.5 and shares[best] - max(rest, default=0.0) > 0.1 else ""

    def _latin_text(self, encoding: str) -> str | None:
        """Return the text if its letters are those of one language, in words, with signs between them."""
        text = _strictly(self._sample, encoding)
        others = {c for c in text or "" if c > "\x7f"}
        letters = {c for c in others if c.isalpha() and c not in "ªº"}
        if text is None or (others - letters) - _SIGNS or _SIGN_IN_WORD.search(text):
            return None
        found = _LATIN_LETTERS.findall(text)
        in_words = sum(map(len, re.findall(r"(?<=[A-Za-z])[^\W\d_\x00-\x7f]|[^\W\d_\x00-\x7f](?=[A-Za-z])", text)))
        if found and (in_words < 0.5 * len(found) or sum(c in _RARE_LETTERS for c in found) > 0.2 * len(found)):
            return None
        fits = not letters or any(letters <= set(alphabet) for alphabet in _ALPHABETS[encoding])
        return text if fits else None

    def _best_latin(self, texts: dict[str, str]) -> str:
        western = texts.get(_WESTERN)
        if len(set(texts.values())) == 1 and western is None:
            return next(iter(texts))
        if western is not None and not any(c.isalpha() and c > "\x7f" for c in western):
            return _WESTERN if all(c in _PLAIN_SIGNS for c in western if c > "\x7f") else ""
        if len(set(texts.values())) == 1:
            return _WESTERN
        if western is not None and _TURKISH in texts and not _fits(western, _WESTERN_ALPHABETS):
            return ""
        return self._agreed((_WESTERN, *_CENTRAL, _TURKISH), (_WESTERN,) if western is not None else ())

    def _is_script(self, encoding: str, letters: str) -> bool:
        text = _strictly(self._sample, encoding)
        others = [c for c in text or "" if c > "\x7f"]
        apart = re.findall(rf"(?<![A-Za-z{letters}])[{letters}]{{2,}}(?![A-Za-z])", text or "")
        return len(others) >= 6 and sum(map(len, apart)) >= 0.9 * len(others)


def _fits(text: str, alphabets: Iterable[str]) -> bool:
    letters = {c for c in text if c > "\x7f" and c.isalpha()}
    return any(letters <= set(alphabet) for alphabet in alphabets)


def _is_utf8(line: bytes) -> bool:
    text = _strictly(line, "utf-8")
    return text is not None and sum(c > "\x7f" for c in text) >= _MIN_UTF8_CHARACTERS


def _is_common(character: str, encoding: str) -> bool:
    """Return whether a character is a sign or letter, or one of the first, more frequent part of its standard."""
    code = character.encode(encoding)
    if len(code) != 2:
        return False
    lead, trail = code
    match encoding:
        case "gb18030":
            return (0xB0 <= lead <= 0xD7 and trail >= 0xA1) or 0xA1 <= lead <= 0xA3
        case "big5":
            return 0xA1 <= lead <= 0xC6
        case "cp932":
            return lead in (0x81, 0x82, 0x83) or 0x88 <= lead <= 0x98
        case "euc_jp":
            return 0xA1 <= lead <= 0xA5 or 0xB0 <= lead <= 0xCF
        case _:
            return (0xB0 <= lead <= 0xC8 and trail >= 0xA1) or 0xA1 <= lead <= 0xA3


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
