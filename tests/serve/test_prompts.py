"""What a model is asked at a place in a repository."""

from __future__ import annotations

import re

import pytest
from serve.tried import Tried

from longrepo.errors import InputError
from longrepo.serve.prompts import PromptBuilder

PATH = "shop/invoice.py"


def parts(shop: Tried, row: int) -> tuple[str, str]:
    lines = (shop.repo / PATH).read_text().splitlines(keepends=True)
    return "".join(lines[:row]), "".join(lines[row:])


@pytest.fixture(scope="module")
def prompts(shop: Tried) -> PromptBuilder:
    return shop.tuned["torch"].prompts(1024, shop.repo)


def test_related_files_come_first_the_imported_one_among_them(shop: Tried, prompts: PromptBuilder) -> None:
    before, _ = parts(shop, 14)
    prompt = prompts.at(PATH, before, None, 32)
    text = prompts.tokenizer.decode(prompt.ids)
    assert not prompt.fim and 700 < len(prompt.ids) <= 1024 - 32
    assert text.endswith(f"<|FILE_START|> {PATH}\n{before}")
    imported = re.search(r"from shop\.(\w+) import", before)
    shown = re.findall(r"<\|FILE_START\|> (\S+)\n", text)
    assert imported and f"shop/{imported[1]}.py" in shown[:-1] and shown[-1] == PATH
    assert prompt.files == tuple(shown[-2::-1])


def test_what_is_imported_since_head_is_shown(shop: Tried, prompts: PromptBuilder) -> None:
    before, _ = parts(shop, 14)
    prompt = prompts.at(PATH, f"from shop.vehicle import Vehicle\n{before}", None, 32)
    assert "shop/vehicle.py" in prompt.files and "class Vehicle:" in prompts.tokenizer.decode(prompt.ids)


def test_other_files_stay_the_same_while_a_few_lines_are_written(shop: Tried, prompts: PromptBuilder) -> None:
    shown = {row: prompts.at(PATH, parts(shop, row)[0], None, 32).files for row in range(16, 26)}
    assert len(set(shown.values())) == 1
    part = parts(shop, 20)[0]
    one, other = (prompts.at(PATH, part + typed, None, 32).ids for typed in ("    total", "    total_of_all"))
    same = [left == right for left, right in zip(one, other, strict=False)]
    assert all(same[: len(one) - 10])


def test_a_gap_is_asked_for_as_in_training(shop: Tried, prompts: PromptBuilder) -> None:
    before, after = parts(shop, 14)
    prompt = prompts.at(PATH, before, after, 32)
    own = prompts.tokenizer.decode(prompt.ids).rpartition("<|FILE_START|>")[2]
    found = re.fullmatch(r" (\S+)\n<fim_prefix>(.*)<fim_suffix>(.*)<fim_middle>", own, re.DOTALL)
    assert prompt.fim and len(prompt.ids) <= 1024 - 32
    assert found and found[1] == PATH and found[2] == before and found[3] and after.startswith(found[3])


@pytest.mark.parametrize("length", [128, 256, 1024])
def test_the_file_has_all_the_room_that_others_leave(shop: Tried, length: int) -> None:
    before, after = parts(shop, 40)
    text = before * 20
    for around in (None, shop.repo):
        prompts = shop.tuned["torch"].prompts(length, around)
        for rest in (None, after * 20):
            prompt = prompts.at(PATH, text, rest, 32)
            assert 7 / 8 * (length - 32) - 40 < len(prompt.ids) <= length - 32
            assert bool(prompt.files) <= (around is not None)


@pytest.mark.parametrize("times", [1, 20])
def test_a_prompt_begins_as_the_last_one_did_while_its_file_grows(
    shop: Tried, prompts: PromptBuilder, times: int
) -> None:
    before, after = parts(shop, 14)
    last, other = prompts.at(PATH, before * times, after, 32).ids, 0
    for typed in range(1, 40):
        ids = prompts.at(PATH, before * times + "total = price; "[: typed % 15] + "x = 1\n" * typed, after, 32).ids
        start = next(at for at, (one, two) in enumerate(zip(last, ids, strict=False)) if one != two)
        other, last = other + (start < len(prompts.tokenizer.encode(before))), ids
    assert other <= 4  # two steps of its own text, two of 16 lines that decide on other files


def test_an_empty_file_has_a_prompt(prompts: PromptBuilder) -> None:
    text = prompts.tokenizer.decode(prompts.at("shop/new.py", "", None, 32).ids)
    assert text.endswith("<|FILE_START|> shop/new.py\n")


def test_an_editor_is_shown_the_repository_where_its_file_is_recognised(shop: Tried, prompts: PromptBuilder) -> None:
    before, after = parts(shop, 14)
    here = prompts.at(PATH, before, after, 32)
    assert prompts.asked(before, after, 32) == here
    assert prompts.asked(f"<fim_prefix>{before}<fim_suffix>{after}<fim_middle>", None, 32) == here
    assert prompts.asked(before, None, 32) == prompts.at(PATH, before, None, 32)
    strange = 'fn main() {\n    println!("nothing of the shop");\n'
    assert prompts.asked(strange, None, 32).ids == prompts.tokenizer.encode(strange)
    assert prompts.asked(strange, "}\n", 32).files == ()


def test_the_names_of_special_tokens_are_tokens_as_given_and_text_in_a_file(
    shop: Tried, prompts: PromptBuilder
) -> None:
    name, id = next(iter(prompts.tokenizer.structure_ids.items()))
    assert prompts.from_text(f"{name} a.py\n", None, 32).ids[0] == id
    alone = shop.tuned["torch"].prompts(512, None)
    assert alone.at("a.py", f"mark = '{name}'\n", None, 32).ids.count(id) == 1


@pytest.mark.parametrize(
    ("text", "new", "expected"),
    [
        ("a = 1\n" * 2000, 32, "the prompt has .* 32 new ones leave 992 of 1024"),
        ("a", 1000, "leave 24 of 1024"),
    ],
)
def test_what_does_not_fit_is_said(prompts: PromptBuilder, text: str, new: int, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        prompts.from_text(text, None, new)
