"""Which licences a repository's files are under: whole texts, SPDX identifiers, REUSE.toml, manifests.

A text counts as a licence only if it is that licence from the first word to the last, copyright lines and the holders'
names aside (the texts are those of choosealicense.com, from `identify`). Everything else is `other`: a card that names
too free a licence harms people, one that names none doesn't.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache, partial
from pathlib import PurePosixPath
from typing import Any

CHOICE = "choice"  # a text that leaves the choice among the ones beside it
OTHER = "other"  # there is a licence, but not one that is known by its text
_INCLUDE = re.compile(
    r"^```\{(?:literal)?include\}[^\n]*\n(?:[^`\n]*\n)*?```|^\.\. (?:literal)?include::[^\n]*(?:\n[ \t]+:[^\n]*)*"
    r"|^[ \t]*--8<--[^\n]*|^\{%[^\n]*include[^\n]*%\}",
    re.MULTILINE,
)
_CHOICE = re.compile(
    r"under (?:the terms of )?(?:either|any)(?: one)? of(?: the)?(?: following)?(?: licenses?)?|at your option"
    r"|dual licensed"
)
_NO_CHOICE = re.compile(
    r"\b(?:only|not|non\w*|except\w*|restrict\w*|commercial\w*|purchase\w*|fees?|business|until|change)\b"
)
_CHOICE_WORDS = 120  # a longer text says something else, too
_LICENSE_FILE = re.compile(r"(?:un)?licen[sc]e|copying", re.IGNORECASE)
_NO_LICENSE_FILE = re.compile(
    r"header|template|tmpl|check|\.(?!txt$|md$|rst$|markdown$)(?=[a-z]{1,4}$)[a-z]+$", re.IGNORECASE
)
_TEXT_SUFFIX = re.compile(r"\.(?:mit|apache|bsd|gpl|lgpl|agpl|mpl|isc|lib|lesser)\d*$", re.IGNORECASE)
_IDENTIFIER = re.compile(
    r"^[^\w\n]{0,10}SPDX-License-Identifier:[ \t]*([\w.+()][\w.+() -]*?)[ \t]*(?:\*/|-->|\*\)|#\}|-\})?[ \t\r]*$",
    re.MULTILINE,
)
_SPDX_LINE = re.compile(r"^.*SPDX-(?:License-Identifier|FileCopyrightText):.*$", re.MULTILINE)
_IDENTIFIER_CHARACTERS = 4096  # an identifier stands at the top of a file
MAX_TEXT_CHARACTERS = 100_000
_HUB_LICENSES = (
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "gpl-2.0", "gpl-3.0", "lgpl-2.1", "lgpl-3.0", "agpl-3.0"),
    *("mpl-2.0", "isc", "unlicense", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "bsl-1.0", "zlib", "epl-1.0", "epl-2.0"),
    *("artistic-2.0", "wtfpl", "bigcode-openrail-m"),
)
# Manifests that don't use SPDX: the names that mean exactly one licence.
_NAMES = {
    "mit license": "MIT",
    "the mit license": "MIT",
    "isc license": "ISC",
    "mozilla public license 2.0": "MPL-2.0",
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license version 2.0": "Apache-2.0",
    "apache software license 2.0": "Apache-2.0",
    "bsd 3 clause": "BSD-3-Clause",
    "bsd 2 clause": "BSD-2-Clause",
}


def find_licenses(files: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return place → SPDX expression, or `other`, as a repository's files (path, text) state it. A place is a file, or
    a folder, which ends with `/`. What falls under all of them is `join_licenses` of the values, the reading that
    permits least."""
    texts: dict[str, str] = {}
    declared: dict[str, str] = {}
    identified: defaultdict[str, set[str]] = defaultdict(set)
    reuse: dict[str, str] = {}
    for path, text in sorted(files):
        name = PurePosixPath(path).name
        if path.startswith("LICENSES/") or "/LICENSES/" in path:
            continue  # REUSE: the texts of the licences that files and REUSE.toml name
        if is_license_file(path):
            if not _only_includes(text):
                texts[path] = license_of_text(text)
        elif name == "REUSE.toml":
            reuse.update(_of_reuse(path, text))
        elif expression := _of_manifest(name, text):
            declared[path] = expression
        else:
            for expression in _identifiers(text):
                identified[expression].add(path)
    found = dict(_settle(texts, declared))
    found.update(reuse)
    for expression, paths in identified.items():
        if _plain_id(expression) not in map(_plain_id, found.values()):
            found[f"{len(paths)} files in {_common_folder(paths) or './'}"] = expression
    return found


def is_license_file(path: str) -> bool:
    """Return whether a path is that of a licence's text: `LICENSE`, `COPYING.LESSER`, `licence-mit.md`."""
    name = PurePosixPath(path).name
    if not _LICENSE_FILE.match(name):
        return False
    return _TEXT_SUFFIX.search(name) is not None or not _NO_LICENSE_FILE.search(name)


def is_license_source(path: str) -> bool:
    """Return whether a file has to be read to know its folder's licence."""
    return is_license_file(path) or PurePosixPath(path).name in _MANIFESTS or path.endswith("REUSE.toml")


def _only_includes(text: str) -> bool:
    """Return whether a page of documentation shows the licence's own file and says nothing of its own."""
    rest = _INCLUDE.sub("", text)
    return rest != text and len(re.findall(r"\w+", rest)) <= _TITLE_WORDS


def license_of_text(text: str) -> str:
    """Return the SPDX id of a licence's whole text, `choice` if it leaves the choice among others, or `other`."""
    if len(text) > MAX_TEXT_CHARACTERS:
        return OTHER
    stated = list(_identifiers(text))
    rest = _SPDX_LINE.sub("", text)
    if stated and not rest.strip():  # a file that only names the licence
        return join_licenses(stated)
    words = _words(rest)
    if _CHOICE.search(words) and words.count(" ") < _CHOICE_WORDS and not _NO_CHOICE.search(words):
        return CHOICE
    name = _match(words)
    return name if all(_plain_id(one) == name for one in stated) else OTHER


def join_licenses(licenses: Iterable[str]) -> str:
    """Return one expression for what falls under all of these; "" if there are none."""
    found = list({one.lower(): one for one in reversed([*licenses])}.values())[::-1]
    if len(found) > 1:
        found = [one for one in found if not any(one != other and one in other.split(" AND ") for other in found)]
    if len(found) < 2:
        return "".join(found)
    return " AND ".join(f"({one})" if " OR " in one and one[0] != "(" else one for one in found)


def is_known(license: str) -> bool:
    """Return whether a licence was found and recognized, for all parts of the text."""
    return bool(license) and OTHER not in license.split()


def license_label(license: str) -> str:
    """Return a licence as a table shows it."""
    if not license:
        return "none found"
    return license if is_known(license) else license.replace(OTHER, "other (not recognized)")


def combine_licenses(licenses: Iterable[str]) -> str:
    """Return one expression for what falls under all of these; empty if one is unknown."""
    found = list(licenses)
    return "" if "" in found else join_licenses(found)


def hub_license(license: str) -> tuple[str, str | None]:
    """Return `license` and `license_name` of a card: the hub knows some licences by their lower-case ids and everything
    else as `other` with a name."""
    if not license:
        return "unknown", None
    if license == OTHER:
        return OTHER, "not recognized"
    return (license.lower(), None) if license.lower() in _HUB_LICENSES else (OTHER, license)


def _settle(texts: Mapping[str, str], declared: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield place and licence. A manifest may say `OR` and `-or-later` about the texts beside it, and no more."""
    folders = sorted({_folder(path) for path in (*texts, *declared)})
    for folder in folders:
        here = {path: license for path, license in texts.items() if _folder(path) == folder}
        stated = {path: license for path, license in declared.items() if _folder(path) == folder}
        if choices := [path for path, license in here.items() if license == CHOICE]:
            here = {path: license for path, license in here.items() if license != CHOICE}
            if not here or OTHER in here.values():
                here[choices[0]] = OTHER
            elif not stated:
                here = {choices[0]: " OR ".join(sorted(set(here.values())))}
        ids = {_plain_id(one) for one in here.values()}
        for path, license in stated.items():
            if here and {_plain_id(one) for one in re.split(r" (?:AND|OR) |[()]", license) if one} == ids:
                here = {path: license}
            elif license not in here.values():
                here[path] = license
        if len(set(here.values())) == 1:
            yield folder or "./", next(iter(here.values()))
        else:
            yield from here.items()


def _plain_id(license: str) -> str:
    return license.strip().removesuffix("-only").removesuffix("-or-later").removesuffix("+")


def _folder(path: str) -> str:
    return path[: path.rfind("/") + 1]


def _common_folder(paths: Iterable[str]) -> str:
    folders = [_folder(path).split("/")[:-1] for path in paths]
    common: list[str] = []
    for parts in zip(*folders, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return "".join(f"{part}/" for part in common)


def _identifiers(text: str) -> Iterator[str]:
    for match in _IDENTIFIER.finditer(text, 0, _IDENTIFIER_CHARACTERS):
        yield _expression(match[1])


def _expression(value: str) -> str:
    """Return a valid SPDX expression as it is written canonically, or `other`."""
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    plain = " ".join(re.sub(r"[^\w.]+", " ", value.lower()).split())
    if plain in _NAMES:
        return _NAMES[plain]
    try:
        return str(canonicalize_license_expression(value.strip()))
    except InvalidLicenseExpression:
        return OTHER


def _of_reuse(path: str, text: str) -> Iterator[tuple[str, str]]:
    try:
        annotations = tomllib.loads(text).get("annotations", [])
        for one in annotations:
            paths = one["path"] if isinstance(one["path"], list) else [one["path"]]
            values = one.get("SPDX-License-Identifier", ())
            for value in values if isinstance(values, list) else [values]:
                yield _folder(path) + ", ".join(map(str, paths)), _expression(str(value))
    except (tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError):
        yield path, OTHER


def _of_manifest(name: str, text: str) -> str:
    """Return the licence that a manifest declares; "" if it is another file, or says nothing of its own."""
    read = _MANIFESTS.get(name)
    if read is None:
        return ""
    try:
        value = read(text)
    except (tomllib.TOMLDecodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError, ValueError):
        return ""
    if isinstance(value, list):
        value = " OR ".join(str(one.get("type", "")) if isinstance(one, dict) else str(one) for one in value)
    if isinstance(value, dict):
        value = value.get("type") or value.get("text") or ""
    if not isinstance(value, str) or not value.strip() or value.upper().startswith("SEE LICEN") or len(value) > 200:
        return ""
    return _expression(value.replace("/", " OR ") if name == "Cargo.toml" else value)


def _of_pyproject(text: str) -> Any:
    tree = tomllib.loads(text)
    return tree.get("project", {}).get("license") or tree.get("tool", {}).get("poetry", {}).get("license")


def _of_cargo(text: str) -> Any:
    tree = tomllib.loads(text)
    value = tree.get("package", {}).get("license") or tree.get("workspace", {}).get("package", {}).get("license")
    return value if isinstance(value, str) else ""


def _of_json(text: str) -> Any:
    tree = json.loads(text)
    return tree.get("license") or tree.get("licenses")


def _of_setup_cfg(text: str) -> Any:
    match = re.search(r"^license[ \t]*=[ \t]*(\S[^\n]*)$", text, re.MULTILINE)
    return match[1] if match else ""


_MANIFESTS = {
    "pyproject.toml": _of_pyproject,
    "Cargo.toml": _of_cargo,
    "package.json": _of_json,
    "composer.json": _of_json,
    "setup.cfg": _of_setup_cfg,
}

_LINE_MARK = re.compile(r"^[ \t>|#*/;%!=-]*|[ \t*/|#=-]+$", re.MULTILINE)
_BULLET = re.compile(
    r"^[ \t]*(?:[-*•o]|\(?(?:[0-9]{1,2}|[a-z]|[ivx]{1,4})(?:[.)]|\.\)))[ \t]+", re.MULTILINE | re.IGNORECASE
)
_COPYRIGHT = re.compile(
    r"^(?:portions )?(?:copyright\b|\(c\)|©)[^\n]*(?:\n(?!\n)[^\n]*){0,3}?"
    r"(?=\n\s*\n|\n(?:copyright|\(c\)|©|all rights|permission|redistribution|licensed)|\Z)"
    r"|^all rights reserved\.?$",
    re.MULTILINE | re.IGNORECASE,
)
# Words that a line of copyright doesn't contain unless it says something else, too.
_TERMS = re.compile(
    r"\b(?:only|not|non\w*|except\w*|restrict\w*|must|may|shall|require\w*|purchase\w*|use[ds]?|using|evil|clause|fees?"
    r"|subject|provided|prohibit\w*|condition\w*|commercial\w*|permi\w*|without|unless|until|under|license[ds]?|terms)\b"
)
_COPYRIGHT_WORDS = 40
# The short texts' own titles, which copies of them write in many ways.
_OWN_TITLE = re.compile(
    r"^(?:mit license|isc license|bsd [23] clause license|the clear bsd license|zlib license|postgresql license) "
)
_NAMES_OF = r"(?:the )?names? of (?:its|their|any|the|other)? ?contributors?"
_HOLDERS = (
    (
        re.compile(rf"\bneither the names? of (.{{1,160}}?) (?:nor|or|and) {_NAMES_OF}\b"),
        "neither the name of HOLDER nor the names of its contributors",
    ),
    (re.compile(r"\bprovided by (.{1,120}?) as is\b"), "provided by HOLDER as is"),
    (re.compile(r"\bin no event shall (.{1,120}?) be liable\b"), "in no event shall HOLDER be liable"),
    (re.compile(r"\bas is and (.{1,80}?) disclaims? all\b"), "as is and HOLDER disclaims all"),
)
_STREETS = r"(?:51 franklin st\w*|59 temple place|675 mass ave)[a-z0-9 ]{0,60}?usa"
_FOUNDATION = r"(?:copyright c [0-9 ]+)?free software foundation inc (?:ADDRESS |http fsf org |http www gnu org )?"
_VARIANTS = (
    (re.compile(r"\bhttps?\b"), "http"),
    (re.compile(r"\blicence"), "license"),
    (re.compile(r"\band or\b"), "and"),
    (re.compile(r"\bincluding the next paragraph "), ""),
    (re.compile(rf"\b{_STREETS}\b"), "ADDRESS"),
    (re.compile(rf"\b{_FOUNDATION}(?=everyone is permitted)"), ""),
)
_TITLE_WORDS = 6  # words of a title in front of the licence's own first words
_TITLE_TERMS = re.compile(
    r"\b(?:commons|business|enterprise|community|dual|except\w*|plus|with|addendum|and|or|only|not|non\w*|restrict\w*"
    r"|commercial\w*|evil|no|server)\b"
)
_END_OF_TERMS = " end of terms and conditions"
_FIRST_WORDS = 6


def _words(text: str) -> str:
    """Return a text's words in lower case, without what differs among copies of one licence."""
    text = text.replace("\r\n", "\n").replace("\u00a0", " ").replace("©", "(c)")
    text = _LINE_MARK.sub("", text)
    text = _COPYRIGHT.sub(_without_copyright, text)
    text = _BULLET.sub("", text)
    words = " ".join(re.findall(r"[a-z0-9]+", text.lower().replace("’s", "s").replace("'s", "s")))
    for pattern, plain in _VARIANTS:
        words = pattern.sub(plain, words)
    for pattern, plain in _HOLDERS:
        words = pattern.sub(partial(_with_holder, plain), words)
    return words


def _with_holder(plain: str, match: re.Match[str]) -> str:
    return match[0] if _TERMS.search(match[1]) else plain


def _without_copyright(match: re.Match[str]) -> str:
    line = match[0].lower().replace("all rights reserved", "")
    return match[0] if _TERMS.search(line) or len(line.split()) > _COPYRIGHT_WORDS else ""


def _match(words: str) -> str:
    """Return the id of the licence that these words are, a title before and an appendix after it aside."""
    body, end, appendix = words.partition(_END_OF_TERMS)
    known = _known_texts()
    for first, texts in known.items():
        at = body.find(first)
        if at < 0 or (title := body[:at]).count(" ") > _TITLE_WORDS or _TITLE_TERMS.search(title):
            continue
        for text, appendices, name in texts:
            if (
                body[at:] == text
                and (not appendix.strip() or appendix.strip() in appendices)
                and bool(end) >= bool(appendix)
            ):
                return name
    return OTHER


@lru_cache(maxsize=1)
def _known_texts() -> dict[str, list[tuple[str, frozenset[str], str]]]:
    """Return the first words of licences → their (words, possible appendices, SPDX id)."""
    from identify.vendor.licenses import LICENSES

    found: dict[str, list[tuple[str, frozenset[str], str]]] = {}
    for name, raw in (*LICENSES, ("MIT-0", _mit_without_notice(dict(LICENSES)["MIT"]))):
        body, _, appendix = _words(raw).partition(_END_OF_TERMS)
        body = _OWN_TITLE.sub("", body)
        first = " ".join(body.split(" ")[:_FIRST_WORDS])
        boilerplate = appendix[appendix.find("licensed under the") :] if "licensed under the" in appendix else appendix
        found.setdefault(first, []).append((body, frozenset((appendix.strip(), boilerplate.strip())), name))
    return found


def _mit_without_notice(text: str) -> str:
    return re.sub(r", subject to\s+the following conditions:.*?Software\.\n", ".", text, flags=re.DOTALL)
