"""OpenAI's client gets from the server what the engine writes."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from threading import Event, Thread
from typing import Any
from urllib.request import Request, urlopen

import openai
import pytest
from serve.tried import Tried

from longrepo.data.template import completion_text
from longrepo.engines.prompt_cache import PromptCache
from longrepo.serve.model import TunedModel
from longrepo.serve.prompts import CompletionPrompt, PromptBuilder
from longrepo.serve.server import CompletionServer, listen

NEW = 16
BEFORE = "class Basket:\n    def __init__(self, owner):\n        self."
AFTER = "\n    return result\n"


@dataclass(frozen=True)
class Served:
    tuned: TunedModel
    prompts: PromptBuilder
    client: openai.OpenAI

    def engine_writes(self, prompt: CompletionPrompt) -> str:
        """The text of the engine's own generation."""
        return completion_text(self.tuned.tokenizer, self.tuned.engine.generate(prompt.ids, NEW))

    def answers(self, prompt: str, **more: object) -> str:
        """What the client gets, at once and streamed."""
        asked = {"model": "any", "prompt": prompt, "max_tokens": NEW, **more}
        whole = self.client.completions.create(**asked)  # type: ignore[call-overload]
        streamed = self.client.completions.create(**asked, stream=True)  # type: ignore[call-overload]
        assert "".join(part.choices[0].text for part in streamed) == whole.choices[0].text
        assert whole.usage.completion_tokens <= NEW
        return str(whole.choices[0].text)


@pytest.fixture(scope="module", params=["torch", "mlx"])
def served(request: pytest.FixtureRequest, shop: Tried) -> Iterator[Served]:
    tuned = shop.tuned[request.param]
    prompts = tuned.prompts(512, shop.repo)
    listening = listen("127.0.0.1", 0)
    server = CompletionServer(listening, tuned, prompts, PromptCache(2**28, 4))
    thread = Thread(target=server.run)
    thread.start()
    address = "http://{}:{}/v1".format(*listening.getsockname())
    with openai.OpenAI(base_url=address, api_key="none", max_retries=0) as client:
        yield Served(tuned, prompts, client)
    server.stop()
    thread.join(20)
    assert not thread.is_alive()


def test_a_completion_is_what_the_engine_writes(served: Served) -> None:
    text = served.engine_writes(served.prompts.from_text(BEFORE, None, NEW))
    with served.tuned.engine.base_only():
        base = served.engine_writes(served.prompts.from_text(BEFORE, None, NEW))
    assert text and text != base
    assert served.answers(BEFORE) == text


def test_a_gap_is_filled_as_the_engine_fills_it(served: Served) -> None:
    text = served.engine_writes(served.prompts.from_text(BEFORE, AFTER, NEW))
    assert text and text != served.engine_writes(served.prompts.from_text(BEFORE, None, NEW))
    assert served.answers(BEFORE, suffix=AFTER) == text
    assert served.answers(f"<fim_prefix>{BEFORE}<fim_suffix>{AFTER}<fim_middle>") == text


def test_in_a_file_of_the_repository_its_related_files_are_shown(served: Served, shop: Tried) -> None:
    before, mark, after = (shop.repo / "shop/invoice.py").read_text().partition("    def invoice_step_2")
    prompt = served.prompts.at("shop/invoice.py", before + mark, after, NEW)
    assert prompt.files
    assert served.answers(before + mark, suffix=after) == served.engine_writes(prompt)


def test_a_mark_ends_an_answer_and_a_stop_word_too(served: Served) -> None:
    text = served.answers(BEFORE)
    assert "<|" not in text
    for size in range(1, 6):  # whichever tokens it falls into
        stop = text[len(text) // 2 :][:size]
        assert served.answers(BEFORE, stop=[stop, "<fim_prefix>"]) == text.partition(stop)[0]
        assert served.answers(BEFORE, stop=stop) == text.partition(stop)[0]
    assert served.answers(BEFORE, stop=[text[-1] + "never"]) == text, "what only began as a stop word is sent"


def test_an_answer_says_why_it_ended(served: Served) -> None:
    text = served.answers(BEFORE)
    for more, reason in (({}, "length"), ({"stop": text[3:5]}, "stop")):
        whole = served.client.completions.create(model="any", prompt=BEFORE, max_tokens=NEW, **more)
        assert whole.choices[0].finish_reason == reason
    assert whole.usage and whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_nobody_waits_for_is_no_longer_computed(
    served: Served, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, computed, begun, left = 400, [], Event(), Event()
    write = served.tuned.engine.stream

    def count(*given: Any, **more: Any) -> Iterator[int]:
        try:
            for token in write(*given, **more):
                computed.append(token)
                begun.set()
                yield token
        finally:
            left.set()

    monkeypatch.setattr(served.tuned.engine, "stream", count)
    host = served.client.base_url
    body = json.dumps({"prompt": "a = 1\n" * 8, "max_tokens": new, "stream": stream}).encode()
    with socket.create_connection((host.host, host.port)) as asking:
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {host.host}\r\nContent-Length: {len(body)}\r\n\r\n"
        asking.sendall(head.encode() + body)
        assert begun.wait(20)
    assert left.wait(20) and 0 < len(computed) < new


def test_unknown_fields_and_empty_ones_change_nothing(served: Served) -> None:
    more = {"temperature": 0, "top_p": 1, "frequency_penalty": 0, "presence_penalty": 0, "extra_body": {"cache": True}}
    names = ("suffix", "stop", "n", "best_of", "echo", "logprobs", "seed", "temperature", "top_p", "logit_bias", "user")
    empty = {"extra_body": dict.fromkeys(names) | {"keep_alive": 1800, "n_predict": -1}}
    assert served.answers(BEFORE, **more) == served.answers(BEFORE, **empty) == served.answers(BEFORE)
    assert served.answers(BEFORE, extra_body={"suffix": "", "stop": []}) == served.answers(BEFORE)


def test_a_seed_draws_the_same_text_again_and_a_temperature_others(served: Served) -> None:
    texts = {served.answers(BEFORE, temperature=1.5, seed=seed) for seed in (1, 2, 3)}
    assert len(texts) == 3
    assert served.answers(BEFORE, temperature=1.5, seed=3) in texts
    assert served.answers(BEFORE, temperature=2, top_p=0, seed=3) == served.answers(BEFORE)
    assert served.answers(BEFORE, temperature=0.01, seed=3) == served.answers(BEFORE), "as good as greedy"


def test_several_prompts_have_several_answers_each(served: Served) -> None:
    other = "def total(items):\n    return "
    asked = {"model": "any", "max_tokens": NEW, "prompt": [BEFORE, other], "n": 2, "temperature": 1.5, "seed": 5}
    whole = served.client.completions.create(**asked)  # type: ignore[call-overload]
    assert [one.index for one in whole.choices] == [0, 1, 2, 3]
    assert len({one.text for one in whole.choices}) == 4
    assert all(one.finish_reason in ("stop", "length") for one in whole.choices)
    streamed: dict[int, str] = {}
    for part in served.client.completions.create(**asked, stream=True):  # type: ignore[call-overload]
        streamed[part.choices[0].index] = streamed.get(part.choices[0].index, "") + part.choices[0].text
    assert streamed == {one.index: one.text for one in whole.choices}
    first = served.client.completions.create(model="any", max_tokens=NEW, prompt=BEFORE, temperature=1.5, seed=5)
    assert first.choices[0].text == whole.choices[0].text
    sizes = [len(served.tuned.tokenizer.encode(text)) for text in (BEFORE, other)]
    assert whole.usage and whole.usage.prompt_tokens == sum(sizes)
    assert whole.usage.completion_tokens > 2 * NEW


def test_token_ids_are_a_prompt_too(served: Served) -> None:
    ids = served.tuned.tokenizer.encode(BEFORE)
    one = served.client.completions.create(model="any", prompt=ids, max_tokens=NEW)
    both = served.client.completions.create(model="any", prompt=[ids, ids[:5]], max_tokens=NEW)
    assert one.choices[0].text == both.choices[0].text == served.answers(BEFORE)
    assert len(both.choices) == 2


def test_echo_puts_the_prompt_first(served: Served) -> None:
    text = served.answers(BEFORE)
    assert served.answers(BEFORE, echo=True) == BEFORE + text
    ids = served.tuned.tokenizer.encode(BEFORE)
    answer = served.client.completions.create(model="any", prompt=ids, max_tokens=0, echo=True)
    assert answer.choices[0].text == BEFORE and answer.choices[0].finish_reason == "length"


def test_log_probabilities_belong_to_the_tokens_of_the_text(served: Served) -> None:
    for more in ({}, {"temperature": 1.0, "seed": 4}, {"stop": [served.answers(BEFORE)[5:7]]}):
        asked = {"model": "any", "prompt": BEFORE, "max_tokens": NEW, "logprobs": 3, **more}
        answer = served.client.completions.create(**asked)  # type: ignore[call-overload]
        text, scores = answer.choices[0].text, answer.choices[0].logprobs
        assert text == served.answers(BEFORE, **more)
        assert len({len(part) for part in (scores.tokens, scores.token_logprobs, scores.top_logprobs)}) == 1
        assert "".join(scores.tokens).startswith(text)
        for token, start, logprob, likeliest in zip(
            scores.tokens, scores.text_offset, scores.token_logprobs, scores.top_logprobs, strict=True
        ):
            assert token.startswith(text[start : start + len(token)]) and start < len(text)
            assert likeliest[token] == logprob <= 0 and 3 <= len(likeliest) <= 4
            if not more:
                assert logprob == max(likeliest.values())
        streamed: list[str] = []
        for part in served.client.completions.create(**asked, stream=True):  # type: ignore[call-overload]
            streamed += part.choices[0].logprobs.tokens
        assert streamed == scores.tokens


def test_a_stream_counts_tokens_if_it_is_asked_to(served: Served) -> None:
    asked = {"model": "any", "prompt": BEFORE, "max_tokens": NEW, "stream": True}
    whole = served.client.completions.create(model="any", prompt=BEFORE, max_tokens=NEW)
    *parts, last = served.client.completions.create(**asked, stream_options={"include_usage": True})  # type: ignore[call-overload]
    assert last.choices == [] and last.usage == whole.usage
    assert parts and all(part.usage is None for part in parts)
    parts = list(served.client.completions.create(**asked))  # type: ignore[call-overload]
    assert parts[-1].choices[0].finish_reason and not any(part.usage for part in parts)


def test_no_prompt_begins_a_document_and_no_tokens_are_none(served: Served) -> None:
    texts = {served.answers(""), served.answers("", suffix=""), _post(served, {"max_tokens": NEW})}
    assert texts == {served.engine_writes(CompletionPrompt([served.tuned.tokenizer.end_id], False))}
    answer = served.client.completions.create(model="any", prompt=BEFORE, max_tokens=0)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("", "length")
    assert answer.usage and answer.usage.completion_tokens == 0 and answer.usage.prompt_tokens > 0


def _post(served: Served, body: object) -> str:
    """Answer to a body that the client itself wouldn't send."""
    answer = served.client.post("/completions", cast_to=openai.types.Completion, body=body)
    return answer.choices[0].text


def test_half_a_character_at_the_edge_of_a_text_is_left_out(served: Served) -> None:
    smile = "\N{SLIGHTLY SMILING FACE}"
    for cut, whole in ((f"\udf42{BEFORE}", BEFORE), (f"# \ud83d\ude42\n{BEFORE}", f"# {smile}\n{BEFORE}")):
        body = json.dumps({"prompt": cut, "max_tokens": NEW, "suffix": "\n\ud83d"}).encode()
        with urlopen(Request(f"{served.client.base_url}completions", body)) as answer:
            assert json.load(answer)["choices"][0]["text"] == served.answers(whole, suffix="\n")


def test_an_answer_has_the_line_ends_of_the_request(served: Served, shop: Tried) -> None:
    text = (shop.repo / "shop/invoice.py").read_text()
    for prompt in ("a = 1\nb = 2\nc = 3\n", text[: text.index("    def invoice_step_2")]):
        unix = served.answers(prompt)
        assert "\n" in unix
        assert served.answers(prompt.replace("\n", "\r\n")) == unix.replace("\n", "\r\n")


def test_more_tokens_than_fit_are_cut_to_what_fits(served: Served, shop: Tried) -> None:
    before, mark, after = (shop.repo / "shop/invoice.py").read_text().partition("    def invoice_step_2")
    for more in ({}, {"suffix": after}):
        answer = served.client.completions.create(model="any", prompt=before + mark, max_tokens=4096, **more)
        assert answer.usage and 16 < answer.usage.completion_tokens <= 256
        assert answer.usage.total_tokens <= 512


def test_the_model_has_a_name(served: Served) -> None:
    (model,) = served.client.models.list()
    assert model.id == "embedded-run" and model.model_extra == {"max_model_len": 512}


REFUSED = {
    "the prompt has 10000 tokens": {"prompt": [5] * 10_000},
    "prompt must be a string, a list": {"prompt": [1, "a"]},
    "prompt must be a string, a list of": {"prompt": []},
    "token 99999999 isn't one of": {"prompt": [1, 99999999]},
    "token -1 isn't one of": {"prompt": [-1]},
    "suffix must be a string": {"suffix": 7},
    "suffix needs a prompt of text": {"prompt": [1, 2], "suffix": "a"},
    "stop must be a string or a list of strings": {"stop": [7]},
    "max_tokens must be a whole number, 0 or more": {"max_tokens": -1},
    "max_tokens must be a whole number, 0": {"max_tokens": 1.5},
    "max_tokens must be a whole number": {"max_tokens": True},
    "n must be a whole number from 1 to 128": {"n": 0},
    "makes 130 answers: ask for at most 128": {"n": 65, "prompt": ["a", "b"]},
    "best_of isn't supported": {"best_of": 3},
    "temperature must be a number from 0 to 2": {"temperature": 2.1},
    "temperature must be a number": {"temperature": "hot"},
    "top_p must be a number from 0 to 1": {"top_p": -0.1},
    "frequency_penalty must be a number from -2 to 2": {"frequency_penalty": 3},
    "seed must be a whole number": {"seed": "x"},
    "logprobs must be a whole number from 0 to 20": {"logprobs": 21},
    "logprobs must be a whole number": {"logprobs": True},
    "logprobs of the prompt aren't supported": {"logprobs": 1, "echo": True},
    "echo must be true or false": {"echo": "yes"},
    "stream must be true or false": {"stream": 1},
    "stream_options must be an object": {"stream_options": [True]},
    "logit_bias must be an object": {"logit_bias": {"a": 1}},
    "100 must be a number from -100 to 100": {"logit_bias": {"100": 101}},
    "logit_bias: token 99999999 isn't one": {"logit_bias": {"99999999": 1}},
}


def test_what_cannot_be_answered_is_refused_in_a_line(served: Served) -> None:
    for expected, fields in REFUSED.items():
        with pytest.raises(openai.BadRequestError) as caught:
            _post(served, {"prompt": "a", "max_tokens": 2} | fields)
        error = caught.value.response.json()["error"]
        assert expected in error["message"] and "\n" not in error["message"], fields
        assert set(error) == {"message", "type", "param", "code"}
    for body in ([], "text", 7):
        with pytest.raises(openai.BadRequestError, match="must be a JSON object"):
            _post(served, body)
    with pytest.raises(openai.NotFoundError, match="use POST /v1/completions"):
        served.client.chat.completions.create(model="any", messages=[{"role": "user", "content": "a"}])


@pytest.mark.parametrize("path", ["completions/", "/completions", "//completions//"])
def test_slashes_too_many_are_ignored(served: Served, path: str) -> None:
    body = json.dumps({"prompt": BEFORE, "max_tokens": NEW}).encode()
    with urlopen(Request(f"{served.client.base_url}{path}", body)) as answer:
        assert json.load(answer)["choices"][0]["text"] == served.answers(BEFORE)


def test_any_special_token_of_the_base_ends_an_answer(served: Served) -> None:
    separator = served.tuned.tokenizer.id("<file_sep>")
    answer = served.client.completions.create(
        model="any", prompt=BEFORE, max_tokens=NEW, logit_bias={str(separator): 100}
    )
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("", "stop")


def test_a_page_of_a_browser_gets_no_answer(served: Served) -> None:
    with pytest.raises(openai.BadRequestError):
        served.client.completions.create(model="any", prompt="a", extra_headers={"Host": "pages.example"})
    answer = served.client.completions.with_raw_response.create(
        model="any", prompt="a", max_tokens=1, extra_headers={"Origin": "https://pages.example"}
    )
    assert answer.headers.get("access-control-allow-origin") is None
