"""Tokens are drawn as their scores, the temperature, the nucleus and the penalties say, and text is cut where it
ends."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from longrepo.data.tokenizer_loading import load_tokenizer
from longrepo.serve.sampling import CompletionText, Sampling, ScoredToken, TokenSampler

PROBABILITIES = (0.1, 0.4, 0.2, 0.3)
SCORES = np.log(np.array(PROBABILITIES, np.float32)) + 5
DRAWS = 4000


def sampler(choice: int = 0, **settings: object) -> TokenSampler:
    return TokenSampler(Sampling(**settings), choice)  # type: ignore[arg-type]


def shares(**settings: object) -> list[float]:
    """How often each token is drawn."""
    counts = Counter(sampler(seed, **settings)(SCORES) for seed in range(DRAWS))
    return [counts[token] / DRAWS for token in range(len(PROBABILITIES))]


@pytest.mark.parametrize("temperature", [0.5, 1, 2])
def test_tokens_are_drawn_as_often_as_the_temperature_says(temperature: float) -> None:
    weights = np.array(PROBABILITIES) ** (1 / temperature)
    assert shares(temperature=temperature, seed=1) == pytest.approx(list(weights / weights.sum()), abs=0.03)


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0, [1]), (0.39, [1]), (0.41, [1, 3]), (0.7001, [1, 3, 2]), (0.95, [1, 3, 2, 0])]
)
def test_only_the_likeliest_tokens_up_to_top_p_are_drawn(top_p: float, kept: list[int]) -> None:
    total = sum(PROBABILITIES[token] for token in kept)
    expected = [PROBABILITIES[token] / total if token in kept else 0 for token in range(4)]
    assert shares(temperature=1, top_p=top_p, seed=2) == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"top_k": 1}, [1]),
        ({"top_k": 3}, [1, 3, 2]),
        ({"top_k": 9}, [1, 3, 2, 0]),
        ({"top_k": 3, "top_p": 0.7}, [1, 3]),  # of those three's probability
        ({"min_p": 0.74}, [1, 3]),
        ({"min_p": 0.76}, [1]),
        ({"min_p": 0.24}, [1, 3, 2, 0]),
        ({"min_p": 1}, [1]),
    ],
)
def test_only_some_of_the_likeliest_tokens_are_drawn(settings: dict[str, float], kept: list[int]) -> None:
    total = sum(PROBABILITIES[token] for token in kept)
    expected = [PROBABILITIES[token] / total if token in kept else 0 for token in range(4)]
    assert shares(temperature=1, seed=2, **settings) == pytest.approx(expected, abs=0.03)


def test_without_a_temperature_the_likeliest_token_is_taken() -> None:
    assert {sampler(logprobs=1)(SCORES) for _ in range(20)} == {1}
    assert Sampling().sampler() is None and Sampling(top_p=0.5, seed=3).sampler() is None


def test_a_seed_gives_the_same_tokens_again_and_each_answer_its_own() -> None:
    def drawn(seed: int | None, choice: int = 0) -> list[int]:
        one = sampler(choice, temperature=1.5, seed=seed)
        return [one(SCORES) for _ in range(40)]

    assert drawn(7) == drawn(7) and drawn(-1) == drawn(-1)
    assert len({tuple(drawn(seed, choice)) for seed in (7, 8, -7) for choice in (0, 1)}) == 6
    assert drawn(None) != drawn(None)


def test_penalties_and_biases_change_the_scores() -> None:
    gap = math.log(0.4 / 0.3)
    for settings, expected in (
        ({"frequency_penalty": gap * 1.1}, [1, 3, 1, 3]),
        ({"presence_penalty": gap * 1.1}, [1, 3, 1, 1]),
        ({"logit_bias": {3: gap * 0.9}}, [1, 1, 1, 1]),
        ({"logit_bias": {3: gap * 1.1}}, [3, 3, 3, 3]),
        ({"logit_bias": {1: -100}}, [3, 3, 3, 3]),
    ):
        one = sampler(**settings)
        assert [one(SCORES) for _ in range(4)] == expected, settings


def test_log_probabilities_are_those_of_the_model_whatever_is_drawn() -> None:
    one = sampler(temperature=0.1, logit_bias={0: 100}, logprobs=2)
    assert one(SCORES) == 0
    (record,) = one.records
    assert record.token == 0 and record.logprob == pytest.approx(math.log(0.1), abs=1e-6)
    assert record.likeliest == pytest.approx({1: math.log(0.4), 3: math.log(0.3)}, abs=1e-6)
    text = ScoredToken.of(record, 5, load_tokenizer("embedded"))
    assert text.start == 5 and len(text.likeliest) == 3, "the token itself is among the likeliest"


TEXT = "total = 0\n    total = naïve — 🙂\n"


def pieces(text: str, stop: list[str], newline: str = "\n", wanted: str | None = None, indent: int = 0) -> list[str]:
    """The parts that come of a text's tokens, one after the other."""
    tokenizer = load_tokenizer("embedded")
    out, parts = CompletionText(tokenizer, stop, newline, wanted, indent), []
    for token in tokenizer.encode(text):
        parts.append(out.add(token))
        if out.reason:
            return parts
    return [*parts, out.rest()]


@pytest.mark.parametrize("stop", ["\n", " = ", "al =", "total = 0\n    total", "ï", "🙂", "t", "tal = n", "never"])
def test_text_ends_before_a_stop_sequence_whichever_tokens_it_falls_into(stop: str) -> None:
    assert "".join(pieces(TEXT, [stop])) == TEXT.partition(stop)[0]
    assert "".join(pieces(TEXT, ["never", stop, ""])) == TEXT.partition(stop)[0]


def test_the_first_of_several_stop_sequences_ends_the_text() -> None:
    assert "".join(pieces(TEXT, ["naïve", "    ", "total = n"])) == "total = 0\n"


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("indent", "expected"),
    [
        (0, "a = 1\n    b = 2\n\tc\n  d\n"),
        (1, "a = 1\n    b = 2\n\tc\n  d\n"),
        (2, "a = 1\n    b = 2\n\t"),
        (5, "a = 1\n    "),
    ],
)
def test_a_line_with_less_indentation_ends_the_text(indent: int, expected: str, newline: str) -> None:
    text = "a = 1\n    b = 2\n\tc\n  d\n".replace("\n", newline)
    assert "".join(pieces(text, [], newline, indent=indent)) == expected.replace("\n", newline)


def test_an_empty_line_has_no_indentation_and_what_comes_first_ends_a_text() -> None:
    assert "".join(pieces("a\n    b\n\n    c\n", [], indent=4)) == "a\n    b\n"
    assert "".join(pieces("a\n    b\nc\n", ["b\nc"], indent=4)) == "a\n    "


def test_an_unfinished_character_is_held_back_and_left_out_at_the_end() -> None:
    tokenizer = load_tokenizer("embedded")
    ids = tokenizer.encode("# 🙂")
    out = CompletionText(tokenizer)
    parts = [out.add(token) for token in ids[:-1]]
    assert len(ids) > 3 and "".join(parts) + out.rest() == "# "
    assert "".join([*parts, out.add(ids[-1])]) == "# 🙂"


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("wanted", ["\n", "\r\n"])
def test_line_ends_are_those_that_are_wanted(newline: str, wanted: str) -> None:
    text = "a = 1\n\n    b = 2\n"
    written, expected = text.replace("\n", newline), text.replace("\n", wanted)
    assert "".join(pieces(written, [], newline, wanted)) == expected
    for stop in ("\n", "\r\n"):
        assert "".join(pieces(written, [stop], newline, wanted)) == "a = 1"
    assert "".join(pieces(written, ["\n\n"], newline, wanted)) == "a = 1"


def test_each_token_has_its_place_in_the_text() -> None:
    tokenizer = load_tokenizer("embedded")
    for wanted in ("\n", "\r\n"):
        out = CompletionText(tokenizer, (), "\n", wanted)
        text = "".join(out.add(token) for token in tokenizer.encode(TEXT)) + out.rest()
        ids = tokenizer.encode(TEXT)
        for start, token in zip(out.starts, ids, strict=True):
            name = tokenizer.decode([token]).rstrip("\N{REPLACEMENT CHARACTER}").replace("\n", wanted)
            assert text[start:].startswith(name)
        assert out.sent == len(text)
