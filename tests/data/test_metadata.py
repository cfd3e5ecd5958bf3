from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from longrepo.data.metadata import Header, RepositoryFacts, TokenizerFacts, dataset_card, license_of

MIT = (
    "MIT License\n\nPermission is hereby granted, free of charge, to any person obtaining\n"
    "a copy of this software … The above copyright notice and this permission notice shall be\nincluded in all copies."
)
BSD = "Redistribution and use in source and binary forms, with or without\nmodification, are permitted provided that …"
ISC = (
    "Permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is hereby "
    "granted, provided that the above copyright notice and this permission notice appear in all copies.\n"
)
LICENCES = {
    "MIT": MIT,
    "MIT-0": MIT.split("…")[0],
    "BSD-2-Clause": BSD,
    "BSD-3-Clause": f"{BSD} 3. Neither the name of its holder may be used to endorse or promote products",
    "ISC": ISC,
    "curl": f"{ISC}Except as contained in this notice, the name of a copyright holder shall not be used in advertising",
    "GPL-3.0": "                    GNU GENERAL PUBLIC LICENSE\n                       Version 3, 29 June 2007\n",
    "GPL-2.0": "GNU GENERAL PUBLIC LICENSE\nVersion 2, June 1991\n"
    + "x " * 400
    + "the GNU Lesser General Public License",
    "LGPL-2.1": "GNU LESSER GENERAL PUBLIC LICENSE\nVersion 2.1, February 1999",
    "AGPL-3.0": "GNU AFFERO GENERAL PUBLIC LICENSE\nVersion 3, 19 November 2007",
    "MPL-2.0": f"Mozilla Public License Version 2.0\n{'x ' * 400}the GNU General Public License, Version 2.0",
    "Unlicense": "This is free and unencumbered software released into the public domain.",
    "CC0-1.0": "Creative Commons\n\nCC0 1.0 Universal",
    "BSL-1.0": "Boost Software License - Version 1.0 - August 17th, 2003",
    "Zlib": "2. Altered source versions must be plainly marked as such",
    "EPL-2.0": f"Eclipse Public License - v 2.0\n{'x ' * 400}the GNU General Public License, version 2.0",
    "Python-2.0": "PYTHON SOFTWARE FOUNDATION LICENSE VERSION 2",
    "GPL-2.0-or-later": "// SPDX-License-Identifier: GPL-2.0-or-later\n",
    "": "All rights reserved. Ask us first.",
}


@pytest.mark.parametrize("name", LICENCES, ids=lambda name: name or "none")
def test_a_licence_is_known_by_its_phrases(name: str) -> None:
    commented = "".join(f" * {line}\n" for line in LICENCES[name].splitlines())
    assert license_of({"LICENSE": LICENCES[name]}) == license_of([("COPYING.txt", commented)]) == name


def test_this_repository_s_own_licence() -> None:
    own = Path(__file__).parents[2] / "LICENSE"
    assert license_of({"LICENSE": own.read_text("utf-8")}) == "Apache-2.0"


def test_several_licences_hold_together_unless_a_choice_is_offered() -> None:
    both = {"LICENSE-MIT": MIT, "UNLICENSE": LICENCES["Unlicense"], "README.md": "BSD", "vendor/LICENSE": BSD}
    assert license_of(both) == "MIT AND Unlicense"
    assert license_of({**both, "COPYING": "Use it under the terms of either."}) == "MIT OR Unlicense"


@pytest.fixture
def header() -> Header:
    cell = {"sequences": 1200, "tokens": 1_500_000, "target_tokens": 900_000, "kinds": {"hierarchical": 800, "qa": 400}}
    return Header(
        TokenizerFacts("embedded", "f" * 64, 4116, {"<|FILE_START|>": 4096}),
        [
            RepositoryFacts("shop", "a" * 40, "b" * 40, "c" * 40, {"test": ["x.py"]}, ["a note"], "MIT"),
            RepositoryFacts("pipe|line", "d" * 40),
        ],
        bands=[{"phase": 1, "floor": 0, "low": 512, "cap": 1024}],
        counts={"train": {"1": cell}},
        redactions={"email": 12, "key": 3},
        rows=1200,
    )


def front_matter(card: str) -> dict[str, object]:
    _, head, _ = card.split("---\n", 2)
    tree = yaml.safe_load(head)
    assert isinstance(tree, dict)
    return tree


def test_the_front_matter_is_what_the_hub_reads(header: Header) -> None:
    head = front_matter(dataset_card(header))
    assert head["license"] == "unknown", "one of the two repositories has none"
    assert head["language"] == ["code"] and head["task_categories"] == ["text-generation"]
    assert head["size_categories"] == ["1K<n<10K"]
    assert head["configs"] == [
        {"config_name": "default", "data_files": [{"split": "sequences", "path": "data-*.arrow"}]}
    ]
    header.repositories.pop()
    assert front_matter(dataset_card(header))["license"] == "mit"
    header.repositories[0].licence = "MIT OR Unlicense"
    head = front_matter(dataset_card(header))
    assert (head["license"], head["license_name"]) == ("other", "MIT OR Unlicense")


def test_the_card_says_what_a_reader_must_know(header: Header) -> None:
    card = dataset_card(header)
    for wanted in (
        f"| shop | `{'a' * 40}` | MIT | 1 |",
        f"| pipe\\|line | `{'d' * 40}` | none found | 1 |",
        "falls under the repository's licence",
        "For pipe\\|line no licence was found",
        "f" * 64,
        "| train | 1 | 1,200 | 1,500,000 | 900,000 | hierarchical 800, qa 400 |",
        "| email | 12 |",
        f"| shop | `{'b' * 40}` | `{'c' * 40}` | test 1 |",
        'load_from_disk("FOLDER")',
        "- shop: a note",
    ):
        assert wanted in card
    assert dataset_card(header) == card
    header.redactions = {}
    assert "No replaced keys, passwords" in dataset_card(header)
