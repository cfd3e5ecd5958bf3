"""The server computes what is new in a prompt, nothing for whoever left, and tells how long it all took."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import Any
from urllib.request import urlopen

import openai
import pytest
from serve.tried import Tried

from longrepo.data.template import completion_text
from longrepo.engines.mlx import engine as mlx_engine
from longrepo.engines.prompt_cache import PromptCache
from longrepo.engines.torch import engine as torch_engine
from longrepo.serve.model import TunedModel
from longrepo.serve.server import CompletionServer, listen

NEW = 8
LINE = "    self.total = self.total + item.price\n"
BEFORE, AFTER = "class Basket:\n" + LINE * 3, "\n    return result\n"
LONG = "alone: nobody waits for this\n" + LINE * 2  # several parts
PART = 16


@dataclass
class Served:
    tuned: TunedModel
    client: openai.OpenAI
    lines: list[str] = field(default_factory=list)

    def answer(self, prompt: str, **more: Any) -> str:
        return self.client.completions.create(model="any", prompt=prompt, max_tokens=NEW, **more).choices[0].text

    def alone(self, before: str, after: str | None = None) -> str:
        """What the engine itself writes."""
        prompt = self.tuned.prompts(None, None).from_text(before, after, NEW)
        return completion_text(self.tuned.tokenizer, self.tuned.engine.generate(prompt.ids, NEW))

    def last(self) -> tuple[int, int, str]:
        """Tokens of the last prompt, those that were kept, and how the request ended."""
        found = re.search(r"prompt ([\d,]+) tokens \(([\d,]+) kept\).*; (\w+)$", self.lines[-1])
        assert found, self.lines
        return int(found[1].replace(",", "")), int(found[2].replace(",", "")), found[3]

    def figures(self) -> dict[str, float]:
        with urlopen(str(self.client.base_url).replace("/v1/", "/metrics")) as answer:
            assert answer.headers["content-type"].startswith("text/plain")
            rows = [line.rpartition(" ") for line in answer.read().decode().splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in rows}


@pytest.fixture(scope="module", params=["torch", "mlx"])
def served(request: pytest.FixtureRequest, shop: Tried) -> Iterator[Served]:
    tuned, listening, lines = shop.tuned[request.param], listen("127.0.0.1", 0), []
    patched = pytest.MonkeyPatch()
    for module in (torch_engine, mlx_engine):
        patched.setattr(module, "PROMPT_PART", PART)
    server = CompletionServer(listening, tuned, tuned.prompts(None, None), PromptCache(2**28, 4), lines.append)
    thread = Thread(target=server.run)
    thread.start()
    address = "http://{}:{}/v1".format(*listening.getsockname())
    with openai.OpenAI(base_url=address, api_key="none", max_retries=0) as client:
        yield Served(tuned, client, lines)
    server.stop()
    thread.join(20)
    patched.undo()
    assert not thread.is_alive()


def test_what_is_typed_is_all_that_is_read(served: Served) -> None:
    typed = BEFORE + "    def add(self, item):\n        self."
    assert served.answer(BEFORE) == served.alone(BEFORE)
    assert served.answer(typed) == served.alone(typed)
    tokens, kept, _ = served.last()
    assert kept >= len(served.tuned.tokenizer.encode(BEFORE)) - 1 and tokens - kept < 20


def test_a_gap_is_filled_the_same_whatever_was_asked_before(served: Served) -> None:
    for before, after in ((BEFORE, AFTER), (BEFORE, AFTER + "# more\n"), (BEFORE + "    x", AFTER), (BEFORE, AFTER)):
        assert served.answer(before, suffix=after) == served.alone(before, after)
    assert served.last()[1] > 30


def test_several_answers_read_their_prompt_once(served: Served) -> None:
    prompt = LINE * 2 + "# several\n"
    whole = served.client.completions.create(model="any", prompt=prompt, max_tokens=NEW, n=3)
    assert {one.text for one in whole.choices} == {served.alone(prompt)}
    tokens, kept, _ = served.last()
    size = len(served.tuned.tokenizer.encode(prompt))
    assert tokens == 3 * size and kept >= 2 * (size - 1)


def test_no_new_tokens_read_the_prompt_ahead(served: Served) -> None:
    prompt = "# ahead\n" + LINE * 2
    served.client.completions.create(model="any", prompt=prompt, max_tokens=0)
    assert served.answer(prompt) == served.alone(prompt)
    tokens, kept, _ = served.last()
    assert kept == tokens - 1


@pytest.mark.parametrize("name", [{"user": "ann"}, {"extra_body": {"id_slot": 3}}])
def test_an_editor_s_newer_request_takes_the_place_of_its_older_one(served: Served, name: dict[str, Any]) -> None:
    computed, begun = [], Event()
    write = served.tuned.engine.stream

    def count(*given: Any, **more: Any) -> Iterator[int]:
        for token in write(*given, **more):
            computed.append(token)
            begun.set()
            yield token

    served.tuned.engine.stream = count  # type: ignore[method-assign]
    try:
        with ThreadPoolExecutor(1) as pool:
            asked = {"model": "any", "prompt": BEFORE, "max_tokens": 400, "logit_bias": {"0": -100}}
            older = pool.submit(served.client.completions.create, **asked, **name)
            assert begun.wait(20)
            assert served.answer(BEFORE + "    y", **name)
            with pytest.raises(openai.APIStatusError, match="a newer request") as caught:
                older.result()
        assert caught.value.status_code == 499 and len(computed) < 200
        assert sum(line.endswith("abandoned") for line in served.lines) >= 1
    finally:
        served.tuned.engine.stream = write  # type: ignore[method-assign]


def test_others_requests_are_all_answered(served: Served) -> None:
    with ThreadPoolExecutor(4) as pool:
        names = [
            {"user": "ann"},
            {"user": "bob"},
            {"extra_body": {"id_slot": 0}},
            {},
            {},
            {"extra_body": {"id_slot": -1}},
        ]
        answers = [pool.submit(served.answer, BEFORE, **name) for name in names]
        assert {one.result() for one in answers} == {served.alone(BEFORE)}


def test_a_prompt_is_not_read_to_its_end_for_nobody(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client leaves after the prompt's first part; what was read till then is kept."""
    read, begun, left = [], Event(), Event()
    stream = served.tuned.engine.stream

    def slowly(*given: Any, progress: Any, **more: Any) -> Iterator[int]:
        def wait(start: int, tokens: int) -> None:
            if read:
                begun.set()
                left.wait(20)
                for _ in range(500):  # until the server has noticed
                    progress(start, tokens)
                    Event().wait(0.02)
            read.append(start)
            progress(start, tokens)

        yield from stream(*given, progress=wait, **more)

    monkeypatch.setattr(served.tuned.engine, "stream", slowly)
    host, before = served.client.base_url, len(served.lines)
    body = json.dumps({"prompt": LONG, "max_tokens": NEW}).encode()
    with socket.create_connection((host.host, host.port or 0)) as asking:
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {host.host}\r\nContent-Length: {len(body)}\r\n\r\n"
        asking.sendall(head.encode() + body)
        assert begun.wait(20)
    left.set()
    monkeypatch.undo()
    assert served.answer(LONG) == served.alone(LONG)
    assert len(read) == 1 and served.lines[before].endswith("abandoned")
    assert served.last()[1] == read[0] + PART


def test_figures_are_those_of_the_requests(served: Served) -> None:
    before = served.figures()
    served.answer("# measured\n" + LINE)
    served.answer("# measured\n" + LINE)
    with pytest.raises(openai.BadRequestError):
        served.answer("a", temperature=0, logit_bias={"99999999": 1})
    after, tokens = served.figures(), len(served.tuned.tokenizer.encode("# measured\n" + LINE))
    grown = {name: value - before.get(name, 0) for name, value in after.items()}
    assert grown["longrepo_prompt_tokens_total"] == 2 * tokens
    assert grown["longrepo_prompt_tokens_reused_total"] in (tokens - 1, tokens)  # another prompt's first token, too
    assert grown["longrepo_first_token_seconds_count"] == 2 and grown["longrepo_queue_seconds_count"] == 3
    assert grown['longrepo_requests_total{outcome="refused"}'] == 1
    assert 0 < grown["longrepo_completion_tokens_total"] <= 2 * NEW
    assert after["longrepo_kept_prompts"] >= 1 and after["longrepo_kept_bytes"] > 0
    assert after["longrepo_requests_waiting"] == 0
    assert re.search(
        r"queue 0\.\d\d s; first token after \d+\.\d\d s; \d+ new at [\d.]+/s; (stop|length)$", served.lines[-2]
    )
