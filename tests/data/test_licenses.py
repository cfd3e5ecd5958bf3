"""Licences by their whole text, by identifiers, REUSE.toml and manifests; nothing freer than what is there."""

from __future__ import annotations

from pathlib import Path

import pytest
from identify.vendor.licenses import LICENSES

from longrepo.data.licenses import OTHER, find_licenses, join_licenses, license_of_text

TEXTS = dict(LICENSES)
MIT, BSD, APACHE = (TEXTS[name] for name in ("MIT", "BSD-3-Clause", "Apache-2.0"))
OWN = "Copyright (c) [year] [fullname]"


def named(text: str, holder: str = "2010-2020 Ada Lovelace <ada@x.org>, Acme, Inc. and contributors") -> str:
    return text.replace("[year], [fullname]", holder).replace("[year] [fullname]", holder)


@pytest.mark.parametrize("name", sorted(set(TEXTS) - {"PostgreSQL"}))
def test_a_licence_is_known_by_its_whole_text(name: str) -> None:
    text = named(TEXTS[name])
    assert license_of_text(text) == license_of_text(text.replace("\n", "\r\n")) == name
    assert license_of_text("".join(f" * {line}\n" for line in text.split("\n"))) == name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (named(MIT).replace("MIT License", "The MIT License (MIT)"), "MIT"),
        (named(MIT).replace("MIT License", "# License\n\n## MIT License"), "MIT"),
        (
            named(MIT, "2010 A\nCopyright (c) 2011-present, B Inc.\nCopyright (c) 2012 C and others (see AUTHORS)"),
            "MIT",
        ),
        (f"SPDX-License-Identifier: MIT\n\n{named(MIT)}", "MIT"),
        ("SPDX-License-Identifier: MIT\n", "MIT"),
        (named(BSD).replace("the copyright holder nor", "Pallets nor"), "BSD-3-Clause"),
        (APACHE.replace("[yyyy] [name of copyright owner]", "2019 Acme"), "Apache-2.0"),
        (APACHE.split("APPENDIX")[0], "Apache-2.0"),
        (f"Google Gson\n\n{APACHE}", "Apache-2.0"),
    ],
)
def test_copies_differ_in_title_holders_and_appendix(text: str, expected: str) -> None:
    assert license_of_text(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "Business Source License 1.1\n\nChange Date: 2029-01-01\nChange License: MIT\n\n" + MIT,
        MIT + "\nThe Software shall be used for Good, not Evil.\n",
        MIT.replace("portions of the Software.", "portions of the Software.\n\nIt shall be used for Good, not Evil."),
        MIT.replace("MIT License", "MIT License with Commons Clause"),
        MIT.replace("MIT License", "MIT License (non-commercial)"),
        '"Commons Clause" License Condition v1.0\n\nYou may not sell the Software.\n\n' + MIT,
        MIT.replace("[year] [fullname]", "2020 Acme. Non-commercial use only."),
        MIT.replace("[year] [fullname]", "2020 Acme\nThis is for internal use only"),
        MIT.replace("COPYRIGHT HOLDERS BE", "COPYRIGHT HOLDERS, WHOSE PERMISSION IS REQUIRED, BE"),
        MIT.replace("is hereby granted", "is not hereby granted"),
        MIT.replace("sublicense, ", ""),
        f"{MIT}\n\n{TEXTS['GPL-2.0']}",
        "Acme Commercial License\n\nYou need a licence from Acme. Parts are under the MIT License.\n",
        BSD.replace("Neither the name", "No nuclear use.\n\n4. Neither the name"),
        APACHE + "\n\nCommons Clause: you may not sell.",
        APACHE.replace("END OF TERMS AND CONDITIONS", "You may not sell.\n\nEND OF TERMS AND CONDITIONS"),
        TEXTS["GPL-3.0"] + "\nAs a special exception, ask us.",
        "SPDX-License-Identifier: GPL-3.0-only\n\n" + MIT,
        "All rights reserved. Ask us first.",
    ],
)
def test_a_text_that_says_more_or_less_is_other(text: str) -> None:
    assert license_of_text(text) == OTHER


def test_this_repository_s_own_licence() -> None:
    root = Path(__file__).parents[2]
    files = {name: (root / name).read_text("utf-8") for name in ("LICENSE", "pyproject.toml")}
    files["src/longrepo/data/licenses.py"] = (root / "src/longrepo/data/licenses.py").read_text("utf-8")
    assert find_licenses(files.items()) == {"./": "Apache-2.0"}


EITHER = "This is made available under the terms of *either* of the licenses found in LICENSE-MIT or LICENSE-APACHE."


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"LICENSE": MIT, "README.md": "GPL-3.0", "src/a.py": "x = 1"}, {"./": "MIT"}),
        ({"LICENSE": MIT, "docs/LICENSE": TEXTS["CC-BY-4.0"]}, {"./": "MIT", "docs/": "CC-BY-4.0"}),
        (
            {"LICENSE": MIT, "LICENSE-THIRD-PARTY": "Some of it is Acme's."},
            {"LICENSE": "MIT", "LICENSE-THIRD-PARTY": OTHER},
        ),
        (
            {
                "LICENSE": MIT,
                "docs/license.md": "# MIT License\n\n```{literalinclude} ../LICENSE\n---\nlanguage: text\n---\n```\n",
                "docs/license.rst": "License\n=======\n\n.. include:: ../LICENSE\n   :literal:\n",
            },
            {"./": "MIT"},
        ),
        (
            {"docs/license.rst": ".. include:: ../LICENSE\n\nNot for commercial use by anybody at all, ever."},
            {"docs/": OTHER},
        ),
        # Manifests say OR and -or-later about the texts beside them, or stand for themselves.
        (
            {"LICENSE-MIT": MIT, "LICENSE-APACHE": APACHE, "Cargo.toml": '[package]\nlicense = "MIT/Apache-2.0"'},
            {"./": "MIT OR Apache-2.0"},
        ),
        (
            {"COPYING": TEXTS["GPL-3.0"], "pyproject.toml": '[project]\nlicense = "GPL-3.0-or-later"'},
            {"./": "GPL-3.0-or-later"},
        ),
        ({"package.json": '{"license": "(MIT OR ISC)"}'}, {"./": "(MIT OR ISC)"}),
        ({"package.json": '{"license": "UNLICENSED"}'}, {"./": OTHER}),
        ({"package.json": '{"license": "SEE LICENSE IN terms.txt"}', "LICENSE": MIT}, {"./": "MIT"}),
        ({"LICENSE": MIT, "package.json": '{"license": "BUSL-1.1"}'}, {"LICENSE": "MIT", "package.json": "BUSL-1.1"}),
        ({"LICENSE": MIT, "web/package.json": '{"license": "Apache-2.0"}'}, {"./": "MIT", "web/": "Apache-2.0"}),
        ({"setup.cfg": "[metadata]\nlicense = MIT License\n"}, {"./": "MIT"}),
        ({"Cargo.toml": "[package]\nlicense.workspace = true", "composer.json": "{ broken"}, {}),
        # A choice that a text leaves, and one that it doesn't.
        ({"LICENSE": EITHER, "LICENSE-MIT": MIT, "LICENSE-APACHE": APACHE}, {"./": "Apache-2.0 OR MIT"}),
        (
            {"LICENSE": EITHER.replace("found", "for non-commercial use found"), "LICENSE-MIT": MIT},
            {"LICENSE": OTHER, "LICENSE-MIT": "MIT"},
        ),
        # Identifiers in files, and REUSE.
        ({"LICENSE": MIT, "a.c": "// SPDX-License-Identifier: MIT\n"}, {"./": "MIT"}),
        (
            {"LICENSE": MIT, "lib/x/a.c": "/* SPDX-License-Identifier: GPL-2.0-only */\n", "lib/b.c": "int x;"},
            {"./": "MIT", "1 files in lib/x/": "GPL-2.0-only"},
        ),
        ({"a.c": "// SPDX-License-Identifier: Acme-Proprietary\n"}, {"1 files in ./": OTHER}),
        ({"a.py": 'PATTERN = "SPDX-License-Identifier: GPL-3.0-only"\n'}, {}),
        (
            {
                "LICENSES/MIT.txt": MIT,
                "REUSE.toml": 'version = 1\n[[annotations]]\npath = ["img/**", "a.md"]\n'
                'SPDX-License-Identifier = "CC0-1.0"\n',
                "a.c": "// SPDX-License-Identifier: MIT\n",
            },
            {"img/**, a.md": "CC0-1.0", "1 files in ./": "MIT"},
        ),
        ({"REUSE.toml": "[[annotations"}, {"REUSE.toml": OTHER}),
        ({"license_check.py": MIT, "LICENSE_HEADER": MIT, "docs/license.html": MIT}, {}),
    ],
)
def test_places_and_their_licences(files: dict[str, str], expected: dict[str, str]) -> None:
    assert find_licenses(files.items()) == expected


def test_several_licences_hold_together() -> None:
    assert join_licenses(["MIT", "mit"]) == "MIT"
    assert join_licenses(["MIT", "Apache-2.0 OR ISC", OTHER]) == "MIT AND (Apache-2.0 OR ISC) AND other"
    assert join_licenses(["MIT", "(Apache-2.0 OR ISC)"]) == "MIT AND (Apache-2.0 OR ISC)"
    assert join_licenses([]) == ""
