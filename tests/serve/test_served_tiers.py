"""A server computes each request at its own tier, whatever was asked before."""

from __future__ import annotations

from pathlib import Path
from threading import Thread

import openai
import pytest
from export.exported import base_folder, trained_run

from longrepo.config.schema import ContextSettings
from longrepo.data.template import completion_text
from longrepo.engines.prompt_cache import PromptCache
from longrepo.engines.registry import choose_engine
from longrepo.serve.model import TunedModel
from longrepo.serve.server import CompletionServer, listen

NEW = 8
LINEAR = ContextSettings(method="linear", target_length=1024, window="full")
TEXT = "def total(items):\n    return sum(item.price for item in items)\n\n\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiers")
    shape = {"max_position_embeddings": 256, "sliding_window": 256, "hidden_size": 128}
    return trained_run(folder / "run", base_folder(folder / "model", **shape)).folder


@pytest.mark.parametrize("engine", ["torch", "mlx"])
def test_each_request_is_answered_at_its_tier(run: Path, engine: str) -> None:
    tuned = TunedModel.load(run, None, choose_engine(engine, "cpu"), "cpu", LINEAR)
    texts = [TEXT * times for times in (2, 14, 30)]
    expected = []
    for text in texts:
        ids = tuned.tokenizer.encode(text)
        tuned.adaptive.select_tier(len(ids) + NEW)
        expected.append(completion_text(tuned.tokenizer, tuned.engine.generate(ids, NEW)))
    at_home = tuned.adaptive.select_tier(1024)
    assert at_home.context == LINEAR
    ids = tuned.tokenizer.encode(texts[0])
    assert completion_text(tuned.tokenizer, tuned.engine.generate(ids, NEW)) != expected[0], (
        "positions make a difference"
    )
    listening = listen("127.0.0.1", 0)
    server = CompletionServer(listening, tuned, tuned.prompts(None, None), PromptCache(2**28, 4))
    thread = Thread(target=server.run)
    thread.start()
    try:
        address = "http://{}:{}/v1".format(*listening.getsockname())
        with openai.OpenAI(base_url=address, api_key="none", max_retries=0) as client:
            for number in (0, 1, 2, 1, 0, 2, 0):  # the same beginning each time: what was kept must not be taken along
                answer = client.completions.create(model="any", prompt=texts[number], max_tokens=NEW)
                assert answer.choices[0].text == expected[number]
            with pytest.raises(openai.BadRequestError) as caught:
                client.completions.create(model="any", prompt=tuned.tokenizer.encode(TEXT * 60), max_tokens=NEW)
            assert "the prompt has 1440 tokens" in caught.value.response.text
    finally:
        server.stop()
        thread.join(20)
    assert not thread.is_alive()
