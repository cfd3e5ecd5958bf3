from __future__ import annotations

import pytest
import yaml

from longrepo.data.metadata import Header, RepositoryFacts, TokenizerFacts, dataset_card


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


def test_the_card_lists_licences_by_folder_and_says_what_is_not_recognized(header: Header) -> None:
    header.repositories = [RepositoryFacts("shop", "a" * 40, licence="MIT AND other")]
    header.repositories[0].licences = {"./": "MIT", "docs/": "other"}
    card = dataset_card(header)
    assert (front_matter(card)["license"], front_matter(card)["license_name"]) == ("other", "MIT AND other")
    assert "| shop | `docs/` | other (not recognized) |" in card and "| shop | `./` | MIT |" in card
    assert "For shop not every licence was recognized" in card
    header.repositories[0].licence = "other"
    assert front_matter(dataset_card(header))["license_name"] == "not recognized"


def test_the_card_says_what_a_reader_must_know(header: Header) -> None:
    card = dataset_card(header)
    for wanted in (
        f"| shop | `{'a' * 40}` | MIT | 1 |",
        f"| pipe\\|line | `{'d' * 40}` | none found | 1 |",
        "falls under the repository's licences",
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
