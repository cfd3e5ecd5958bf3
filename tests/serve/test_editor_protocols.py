"""What llama.vscode and Ollama's client send gets the engine's own answer to the prompt of training."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Event, Thread
from time import sleep
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import ollama
import pytest
from serve.tried import Tried

from longrepo.data.features import FeatureExtractor, FileJob
from longrepo.data.template import completion_text
from longrepo.engines.prompt_cache import PromptCache
from longrepo.serve.model import TunedModel
from longrepo.serve.prompts import CompletionPrompt, EditorFile, PromptBuilder
from longrepo.serve.server import CompletionServer, listen

NEW, LENGTH = 16, 512
BEFORE = "class Basket:\n    def __init__(self, owner):\n"
TYPED = "        self."
AFTER = "\n    return result\n"
EXTRA = [{"filename": "shop/tax.py", "text": "RATE = 0.2\n", "time": 7}, {"filename": "shop/a.py", "text": "A = 1\n"}]
SHOWN = [EditorFile(one["filename"], one["text"]) for one in EXTRA]
# What llama.vscode sends beside its texts.
VSCODE = {"top_k": 40, "top_p": 0.99, "stream": False, "samplers": ["top_k", "top_p", "infill"], "cache_prompt": True}
VSCODE |= {"t_max_prompt_ms": 500, "t_max_predict_ms": 60_000, "lora": [{"id": 0, "scale": 0.5}], "n_predict": NEW}
VSCODE |= {"id_slot": 0, "n_cmpl": 1}


@dataclass(frozen=True)
class Served:
    tuned: TunedModel
    prompts: PromptBuilder
    address: str
    lines: list[str] = field(default_factory=list)

    def ask(self, path: str, **body: Any) -> Any:
        request = Request(self.address + path, json.dumps(body).encode() if body else None)
        with urlopen(request) as answer:
            return json.load(answer)

    def refusal(self, path: str, body: object) -> tuple[int, Any]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        with pytest.raises(HTTPError) as caught:
            urlopen(Request(self.address + path, data))
        return caught.value.code, json.load(caught.value)

    def infill(self, before: str, after: str, **more: Any) -> Any:
        asked = {"input_prefix": before, "input_suffix": after, "input_extra": [], "prompt": "", **VSCODE, **more}
        return self.ask("/infill", **asked)

    def engine_writes(self, prompt: CompletionPrompt) -> str:
        return completion_text(self.tuned.tokenizer, self.tuned.engine.generate(prompt.ids, NEW))


@pytest.fixture(scope="module")
def served(shop: Tried) -> Iterator[Served]:
    """With torch alone: that both engines serve alike, `test_serving` shows."""
    tuned, listening, lines = shop.tuned["torch"], listen("127.0.0.1", 0), []
    prompts = tuned.prompts(LENGTH, shop.repo)
    server = CompletionServer(listening, tuned, prompts, PromptCache(2**28, 4), lines.append)
    thread = Thread(target=server.run)
    thread.start()
    yield Served(tuned, prompts, "http://{}:{}".format(*listening.getsockname()), lines)
    server.stop()
    thread.join(20)
    assert not thread.is_alive()


def test_a_gap_is_filled_as_the_engine_fills_it(served: Served) -> None:
    prompt = served.prompts.from_text(BEFORE + TYPED, AFTER, NEW)
    text = served.engine_writes(prompt)
    answer = served.infill(BEFORE, AFTER, prompt=TYPED)
    assert text and answer["content"] == text
    assert answer["tokens_evaluated"] == len(prompt.ids) and 1 < answer["tokens_predicted"] < NEW
    assert (answer["stop"], answer["stop_type"], answer["truncated"]) == (True, "eos", False)
    assert served.infill(BEFORE, AFTER, prompt=TYPED, n_predict=1)["stop_type"] == "limit"
    timings = answer["timings"]
    assert (
        timings["prompt_n"] + timings["cache_n"] == len(prompt.ids)
        and timings["predicted_n"] == answer["tokens_predicted"]
    )
    assert timings["prompt_ms"] > 0 and timings["predicted_per_second"] > 0


def test_shown_files_come_first_as_training_writes_files(served: Served, shop: Tried) -> None:
    file = (shop.repo / "shop/invoice.py").read_text()
    before, mark, after = file.partition("    def invoice_step_2")
    prompt = served.prompts.at("shop/invoice.py", before + mark, after, NEW, SHOWN)
    assert prompt.files[-2:] == ("shop/a.py", "shop/tax.py") and len(prompt.files) > 2
    text = served.tuned.tokenizer.decode(prompt.ids)
    places = [text.index(part) for part in ("shop/tax.py\nRATE", "shop/a.py\nA = 1", "shop/invoice.py\n")]
    assert places == sorted(places) and text.index(prompt.files[0]) > places[1]
    assert served.infill(before, after, prompt=mark, input_extra=EXTRA)["content"] == served.engine_writes(prompt)


def test_a_file_that_nobody_names_is_one_among_those_shown(served: Served) -> None:
    prompt = served.prompts.infill(BEFORE + TYPED, AFTER, SHOWN, NEW)
    assert "untitled.py" in served.tuned.tokenizer.decode(prompt.ids)
    answer = served.infill(BEFORE, AFTER, prompt=TYPED, input_extra=EXTRA)
    assert answer["content"] == served.engine_writes(prompt) != served.infill(BEFORE + TYPED, AFTER)["content"]


def test_shown_files_have_their_paths_in_the_repository(served: Served, shop: Tried) -> None:
    names = {
        (shop.repo / "shop/invoice.py").as_posix(): "shop/invoice.py",
        "/elsewhere/notes.py": "notes.py",
        "../notes.py": "notes.py",
        "C:\\work\\notes.rs": "notes.rs",
        "new/notes.py\nx": "new/notes.py",
        "": "untitled",
    }
    for name, path in names.items():
        prompt = served.prompts.infill(BEFORE, AFTER, [EditorFile(name, "x = 1\n")], NEW)
        assert prompt.files[-1] == path  # and if the repository has one of that path, it isn't shown again


def test_files_that_were_shown_before_are_not_read_again(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    read, extract = [], FeatureExtractor.extract

    def count(self: FeatureExtractor, jobs: Sequence[FileJob]) -> Any:
        read.extend(job.path for job in jobs)
        return extract(self, jobs)

    served.prompts.infill(BEFORE, AFTER, [], NEW)
    monkeypatch.setattr(FeatureExtractor, "extract", count)
    prompts = [served.prompts.infill(BEFORE, AFTER, SHOWN, NEW).ids for _ in range(2)]
    assert prompts[0] == prompts[1] and [read.count(file.name) for file in SHOWN] == [1, 1]
    served.prompts.infill(BEFORE, AFTER, [EditorFile("shop/a.py", "A = 2\n"), SHOWN[0], SHOWN[0]], NEW)
    assert [read.count(file.name) for file in SHOWN] == [1, 2]


def test_the_shown_files_are_read_ahead(served: Served) -> None:
    extra = [{"filename": f"shop/ahead_{number}.py", "text": f"AHEAD = {number}\n" * 30} for number in range(3)]
    warm = served.infill("", "", input_extra=extra, n_predict=0, samplers=[], t_max_predict_ms=1)
    assert warm["content"] == "" and warm["tokens_predicted"] == 0 and warm["truncated"]
    answer = served.infill(BEFORE, AFTER, prompt=TYPED, input_extra=extra, n_predict=NEW)
    shown = [EditorFile(one["filename"], one["text"]) for one in extra]
    assert answer["content"] == served.engine_writes(served.prompts.infill(BEFORE + TYPED, AFTER, shown, NEW))
    assert answer["tokens_cached"] == answer["timings"]["cache_n"] > LENGTH * 3 // 8 - 20


def test_code_at_the_end_of_a_file_is_continued(served: Served) -> None:
    text = served.engine_writes(served.prompts.from_text(BEFORE + TYPED, None, NEW))
    for after in ("", "\n\n"):
        assert served.infill(BEFORE, after, prompt=TYPED)["content"] == text
    for path in ("/completion", "/completions"):
        assert served.ask(path, prompt=BEFORE + TYPED, n_predict=NEW)["content"] == text
    ids = served.prompts.from_text(BEFORE + TYPED, None, NEW).ids
    assert served.ask("/completion", prompt=ids, n_predict=NEW)["content"] == text


def test_marks_in_code_are_text(served: Served) -> None:
    code = "MARKS = '<fim_prefix><fim_suffix>'\n" + TYPED
    ids = served.tuned.tokenizer.encode(code)
    assert served.infill(code, "")["content"] == served.engine_writes(served.prompts.from_ids(ids, NEW))


def test_a_stream_has_the_same_text_and_ends_with_the_figures(served: Served) -> None:
    whole = served.infill(BEFORE, AFTER, prompt=TYPED)
    body = {"input_prefix": BEFORE, "input_suffix": AFTER, "prompt": TYPED, "n_predict": NEW, "stream": True}
    with urlopen(Request(served.address + "/infill", json.dumps(body).encode())) as answer:
        events = [json.loads(line.removeprefix(b"data: ")) for line in answer.read().split(b"\n\n") if line]
    assert "".join(one["content"] for one in events) == whole["content"] and len(events) > 2
    assert [one["stop"] for one in events] == [False] * (len(events) - 1) + [True]
    assert events[-1]["tokens_evaluated"] == whole["tokens_evaluated"] and "timings" in events[-1]


def test_a_stop_word_is_named(served: Served) -> None:
    text = served.infill(BEFORE, "", prompt=TYPED)["content"]
    answer = served.infill(BEFORE, "", prompt=TYPED, stop=[text[4:6]])
    assert answer["content"] == text.partition(text[4:6])[0]
    assert (answer["stop_type"], answer["stopping_word"]) == ("word", text[4:6])


def test_an_answer_of_several_lines_ends_when_its_time_is_over(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = served.tuned.tokenizer.encode("a = 1\nb = 2\nc = 3\n" * 4)
    monkeypatch.setattr(served.tuned.engine, "stream", lambda *_, **__: (one for one in ids))
    late = served.infill("x\n", "", n_predict=500, t_max_predict_ms=0.001)
    assert (late["content"], late["stop_type"]) == ("a = 1\n", "limit")
    assert served.infill("x\n", "", n_predict=500, t_max_predict_ms=0)["content"].count("\n") == 12


def test_what_is_too_long_is_cut_at_its_far_ends_and_said(served: Served) -> None:
    rows = [f"    row_{number} = {number}\n" for number in range(400)]
    before, after = "".join(rows[:200]), "".join(rows[200:])
    for extra, suffix in ((SHOWN, after), ([], "")):
        prompt = served.prompts.infill(before, suffix, extra, NEW)
        assert prompt.cut and LENGTH // 2 < len(prompt.ids) <= LENGTH - NEW
    answer = served.infill(before, after, prompt="    x", n_predict=2)
    assert answer["truncated"] and LENGTH // 2 < answer["tokens_evaluated"] <= LENGTH - 2
    assert any(", cut to fit" in line for line in served.lines)
    prompt = served.prompts.infill(before + "    x", after, (), NEW)
    text = served.tuned.tokenizer.decode(prompt.ids)
    assert rows[199] + "    x" in text and rows[200] in text and rows[0] not in text and rows[399] not in text
    longer = served.prompts.infill(before + "    xyz", after, (), NEW)
    assert longer.ids[:50] == prompt.ids[:50], "typing doesn't move the beginning"
    assert served.ask("/v1/completions", prompt=before, max_tokens=0)["truncated"] is True
    assert served.ask("/api/generate", prompt=before, stream=False, options={"num_predict": 2})["truncated"] is True


def test_a_model_says_what_it_is(served: Served) -> None:
    assert served.ask("/health") == {"status": "ok"}
    properties = served.ask("/props")
    assert properties["default_generation_settings"]["n_ctx"] == LENGTH and properties["total_slots"] == 4
    assert served.ask("/api/version")["version"].count(".") == 2
    shown = ollama.Client(served.address).show("any")
    assert shown.template and ".Suffix" in shown.template and shown.capabilities == ["completion", "insert"]
    (model,) = ollama.Client(served.address).list().models
    assert model.model == "embedded-run" == properties["model_alias"]


def test_ollama_s_client_gets_what_the_engine_writes(served: Served) -> None:
    client, options = ollama.Client(served.address), {"num_predict": NEW, "temperature": 0}
    for more in ({}, {"suffix": AFTER}, {"raw": True}):
        prompt = served.prompts.from_text(BEFORE + TYPED, more.get("suffix"), NEW)  # type: ignore[arg-type]
        asked: dict[str, Any] = {"model": "any", "prompt": BEFORE + TYPED, "options": options, **more}
        whole = client.generate(**asked)
        assert whole.response == served.engine_writes(prompt) and whole.done
        assert whole.done_reason == ("stop" if more.get("suffix") else "length")
        assert whole.prompt_eval_count == len(prompt.ids) and 1 < (whole.eval_count or 0) <= NEW
        parts = list(client.generate(**asked, stream=True))
        assert "".join(part.response for part in parts) == whole.response
        assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert (loaded := client.generate(model="any")).done_reason == "load" and loaded.response == ""
    with pytest.raises(ollama.ResponseError, match="images isn't supported") as caught:
        client.generate(model="any", prompt="a", images=[b"\x89PNG"])
    assert caught.value.status_code == 400


def test_several_answers_are_a_list_and_equal_ones_are_given_once(served: Served) -> None:
    alone = served.infill(BEFORE, "", prompt=TYPED)
    (greedy,) = served.infill(BEFORE, "", prompt=TYPED, n_cmpl=3)
    assert greedy["content"] == alone["content"]
    drawn = served.infill(BEFORE, "", prompt=TYPED, n_cmpl=3, temperature=1.5, seed=4)
    assert [one["index"] for one in drawn] == [0, 1, 2] and len({one["content"] for one in drawn}) == 3
    assert all(0 < one["tokens_predicted"] <= NEW for one in drawn)


def test_reading_ahead_ends_no_answer_that_someone_waits_for(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, asked, write = Event(), Event(), served.tuned.engine.stream

    def wait(*given: Any, **more: Any) -> Iterator[int]:
        begun.set()
        asked.wait(20)
        yield from write(*given, **more)

    text = served.infill(BEFORE, AFTER, prompt=TYPED)["content"]
    monkeypatch.setattr(served.tuned.engine, "stream", wait)
    with ThreadPoolExecutor(2) as pool:
        older = pool.submit(served.infill, BEFORE, AFTER, prompt=TYPED)
        assert begun.wait(20)
        ahead = pool.submit(served.infill, "", "", input_extra=EXTRA, n_predict=0)
        sleep(0.3)
        asked.set()
        assert older.result()["content"] == text and ahead.result()["content"] == ""


def test_a_newer_request_of_a_slot_ends_an_older_one_of_any_interface(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed, begun, write = [], Event(), served.tuned.engine.stream

    def slowly(*given: Any, **more: Any) -> Iterator[int]:
        for token in write(*given, **more):
            computed.append(token)
            begun.set()
            sleep(0.05)
            yield token

    monkeypatch.setattr(served.tuned.engine, "stream", slowly)
    with ThreadPoolExecutor(1) as pool:
        body = {"input_prefix": BEFORE, "prompt": TYPED, "n_predict": -1, "id_slot": 2}
        older = pool.submit(served.refusal, "/infill", body)
        assert begun.wait(20)
        assert served.ask("/v1/completions", prompt=BEFORE, id_slot=2, max_tokens=2)["choices"]
        status, error = older.result()
    assert status == 499 and "a newer request" in error["error"]["message"] and len(computed) < 100


REFUSED = {
    "/infill": {
        "input_prefix must be a string": {"input_prefix": 7},
        "input_suffix must be a string": {"input_suffix": ["a"]},
        "prompt must be a string": {"prompt": [1, 2]},
        "prompt must be one text": {"prompt": ["a", "b"]},
        "input_extra must be a list": {"input_extra": {"text": "a"}},
        "entry 2 of input_extra must be a JSON object": {"input_extra": [{"text": "a"}, "b"]},
        "text must be a string": {"input_extra": [{"filename": "a", "text": 7}]},
        "filename must be a string": {"input_extra": [{"filename": 1, "text": "a"}]},
        "n_predict must be a whole number, -2 or more": {"n_predict": -3},
        "n_indent must be a whole number": {"n_indent": -1},
        "t_max_prompt_ms must be a number": {"t_max_prompt_ms": "soon"},
        "t_max_predict_ms must be a number": {"t_max_predict_ms": True},
        "stop must be a string or a list": {"stop": 1},
        "stream must be true or false": {"stream": "no"},
        "top_k must be a whole number": {"top_k": 1.5},
        "min_p must be a number from 0 to 1": {"min_p": 2},
        "n_cmpl isn't supported in a stream": {"n_cmpl": 2, "temperature": 1, "stream": True},
        "n_cmpl must be a whole number from 1": {"n_cmpl": 0},
        "grammar isn't supported": {"grammar": "root ::= x"},
        "n_probs isn't supported: ask /v1/completions": {"n_probs": 3},
    },
    "/completion": {"prompt must be a string, a list": {"prompt": 7}, "token 99999999 isn't": {"prompt": [99999999]}},
    "/api/generate": {
        "options must be a JSON object": {"options": [1]},
        "suffix must be a string": {"suffix": 1},
        "num_predict must be a whole number": {"options": {"num_predict": "x"}},
        "format isn't supported": {"format": "json"},
    },
}


@pytest.mark.parametrize("path", REFUSED)
def test_what_cannot_be_answered_is_refused_in_a_line(served: Served, path: str) -> None:
    cases = {"isn't valid JSON": b"{", "the request must be a JSON object": [], **REFUSED[path]}
    for expected, body in cases.items():
        status, error = served.refusal(path, {"stream": False, **body} if isinstance(body, dict) else body)
        message = error["error"] if path.startswith("/api/") else error["error"]["message"]
        assert status == 400 and expected in message and "\n" not in message, body
