"""Which licence a repository says it has, from the licence files at its root."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

_FILE = re.compile(r"(un)?licen[sc]e|copying", re.I)
_IDENTIFIER = re.compile(r"SPDX-License-Identifier:\s*([\w.+() -]+\w[)+]*)")
_GNU = re.compile(r"gnu (affero |lesser |library )?general public license,? ?\(?(?:version |v)(\d(?:\.\d)?)")
_GNU_NAMES = {"": "GPL", "affero ": "AGPL", "lesser ": "LGPL", "library ": "LGPL"}
_HUB = (
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "gpl-2.0", "gpl-3.0", "lgpl-2.1", "lgpl-3.0", "agpl-3.0"),
    *("mpl-2.0", "isc", "unlicense", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "bsl-1.0", "zlib", "epl-1.0", "epl-2.0"),
    *("artistic-2.0", "wtfpl", "bigcode-openrail-m"),
)
_TITLE = 600  # characters: further down, other licences name the GNU ones as compatible
_CHOICE = re.compile(r"\beither\b|\bdual[- ]licen[sc]ed\b|\bat your option\b")

# Phrases, all of which a licence's text holds and none of which (after "!") it holds; lower case, single spaces.
_PHRASES: dict[str, tuple[str, ...]] = {
    "Apache-2.0": ("apache license", "version 2.0", "terms and conditions for use, reproduction, and distribution"),
    "MIT": ("permission is hereby granted, free of charge, to any person obtaining a copy", "shall be included in"),
    "MIT-0": ("permission is hereby granted, free of charge, to any person obtaining a copy", "!shall be included in"),
    "BSD-3-Clause": (
        "redistribution and use in source and binary forms",
        "endorse or promote",
        "!advertising materials",
    ),
    "BSD-4-Clause": ("redistribution and use in source and binary forms", "advertising materials mentioning"),
    "BSD-2-Clause": ("redistribution and use in source and binary forms", "!endorse or promote"),
    "curl": ("purpose with or without fee is hereby granted, provided that", "except as contained in this notice"),
    "ISC": ("purpose with or without fee is hereby granted, provided that", "!except as contained in this notice"),
    "0BSD": ("purpose with or without fee is hereby granted.",),
    "MPL-2.0": ("mozilla public license", "2.0", "!eclipse public license"),
    "Unlicense": ("this is free and unencumbered software released into the public domain",),
    "CC0-1.0": ("cc0 1.0 universal",),
    "CC-BY-4.0": ("attribution 4.0 international", "!sharealike 4.0"),
    "CC-BY-SA-4.0": ("attribution-sharealike 4.0 international",),
    "BSL-1.0": ("boost software license - version 1.0",),
    "Zlib": ("altered source versions must be plainly marked",),
    "EPL-1.0": ("eclipse public license - v 1.0",),
    "EPL-2.0": ("eclipse public license - v 2.0",),
    "Python-2.0": ("python software foundation license version 2",),
    "Artistic-2.0": ("the artistic license 2.0",),
    "WTFPL": ("do what the fuck you want to public license",),
}


def licence_of(files: Mapping[str, str] | Iterable[tuple[str, str]]) -> str:
    """An SPDX expression from the texts of the files at the root (path → text; others are passed over), or "".

    The texts of several licences are joined with AND, the reading that permits least, or with OR where one of the files
    offers the choice. A GNU licence's text doesn't say whether later versions may be chosen: it is named without.
    """
    pairs = files.items() if isinstance(files, Mapping) else files
    found: list[str] = []
    choice = False
    for path, text in sorted(pairs):
        if "/" in path or not _FILE.match(path):
            continue
        here = _licences_in(text)
        choice = choice or (not here and bool(_CHOICE.search(text.lower())))
        found += here
    several = list(dict.fromkeys(found))
    if len(several) < 2:
        return "".join(several)
    return (" OR " if choice else " AND ").join(f"({one})" if " " in one else one for one in several)


def all_of(licences: Iterable[str]) -> str:
    """One expression for what falls under all of them; empty where one is unknown. Case doesn't tell two apart."""
    found = list({one.lower(): one for one in licences}.values())
    if "" in found or len(found) < 2:
        return "" if "" in found else "".join(found)
    return " AND ".join(f"({one})" if " OR " in one else one for one in found)


def hub_licence(licence: str) -> tuple[str, str | None]:
    """`license` and `license_name` of a card: the hub knows some licences by their lower-case ids and everything else
    as `other` with a name."""
    if not licence:
        return "unknown", None
    return (licence.lower(), None) if licence.lower() in _HUB else ("other", licence)


def _licences_in(text: str) -> list[str]:
    if identifiers := _IDENTIFIER.findall(text):
        return [one.strip() for one in identifiers]
    plain = " ".join(re.sub(r"^\W+", "", line) for line in text.lower().splitlines())
    plain = re.sub(r"\s+", " ", plain)
    if gnu := _GNU.search(plain[:_TITLE]):
        number = gnu[2] if "." in gnu[2] else f"{gnu[2]}.0"
        return [f"{_GNU_NAMES[gnu[1] or '']}-{number}"]
    return [name for name, phrases in _PHRASES.items() if all(_holds(plain, phrase) for phrase in phrases)]


def _holds(text: str, phrase: str) -> bool:
    return phrase[1:] not in text if phrase.startswith("!") else phrase in text
