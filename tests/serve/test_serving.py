"""OpenAI's client gets from the server what the engine writes."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from threading import Event, Thread
from typing import Any

import openai
import pytest
from serve.tried import Tried

from longrepo.data.template import completion_text
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
    listening = listen(0)
    server = CompletionServer(listening, tuned, prompts)
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

    def count(*given: Any) -> Iterator[int]:
        try:
            for token in write(*given):
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


def test_what_editors_send_besides_is_no_hindrance(served: Served) -> None:
    more = {"temperature": 0, "top_p": 1, "frequency_penalty": 0, "presence_penalty": 0, "extra_body": {"cache": True}}
    assert served.answers(BEFORE, **more) == served.answers(BEFORE)


def test_the_model_has_a_name(served: Served) -> None:
    assert [model.id for model in served.client.models.list()] == ["embedded-run"]


def test_what_cannot_be_answered_is_refused(served: Served) -> None:
    bad = {"the prompt has": "a = 1\n" * 2000, "must be a string": ["a", "b"]}
    for expected, prompt in bad.items():
        with pytest.raises(openai.BadRequestError) as caught:
            served.client.completions.create(model="any", prompt=prompt, max_tokens=NEW)
        assert expected in caught.value.response.text
        assert set(caught.value.response.json()["error"]) == {"message", "type", "param", "code"}
    with pytest.raises(openai.BadRequestError, match="prompt is empty"):
        served.client.completions.create(model="any", prompt="")
    with pytest.raises(openai.BadRequestError, match="max_tokens must be a whole number"):
        served.client.completions.create(model="any", prompt="a", max_tokens=-1)
    with pytest.raises(openai.NotFoundError):
        served.client.chat.completions.create(model="any", messages=[{"role": "user", "content": "a"}])


def test_a_page_of_a_browser_gets_no_answer(served: Served) -> None:
    with pytest.raises(openai.BadRequestError):
        served.client.completions.create(model="any", prompt="a", extra_headers={"Host": "pages.example"})
    answer = served.client.completions.with_raw_response.create(
        model="any", prompt="a", max_tokens=1, extra_headers={"Origin": "https://pages.example"}
    )
    assert answer.headers.get("access-control-allow-origin") is None
