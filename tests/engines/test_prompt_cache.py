"""What an engine writes with keys and values of earlier prompts is what it writes without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import TinyTokenizer, model_folder, settings

from longrepo.config.schema import ContextSettings
from longrepo.engines import prompt_cache
from longrepo.engines.base import Batch
from longrepo.engines.mlx import engine as mlx_engine
from longrepo.engines.mlx import kv_cache as on_mlx
from longrepo.engines.prompt_cache import PromptCache
from longrepo.engines.registry import choose_engine, create_engine
from longrepo.engines.torch import engine as torch_engine
from longrepo.engines.torch import kv_cache as on_torch

NEW, PART = 8, 32
OWN = ContextSettings()
FULL = ContextSettings(method="linear", target_length=1024, window="full")
ROOM = 2**30


def prompt(tokens: int, seed: int = 1) -> list[int]:
    return [1 + (seed * place * place + place + seed) % 90 for place in range(tokens)]


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two layers with heads of 32 and a window of 16 tokens."""
    folder = model_folder(tmp_path_factory.mktemp("wide") / "model", hidden_size=128, max_position_embeddings=512)
    given: Any = TinyTokenizer()
    exact = settings(folder, "model.quantization=none")
    return {name: create_engine(choose_engine(name, "cpu"), exact, given, "cpu") for name in ("torch", "mlx")}


@pytest.fixture(params=["torch", "mlx"])
def engine(request: pytest.FixtureRequest, engines: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    for module in (prompt_cache, on_torch, torch_engine, on_mlx, mlx_engine):
        monkeypatch.setattr(module, "PROMPT_PART", PART)
    engines[request.param].position(OWN)
    return engines[request.param]


def read_by(engine: Any, kept: PromptCache, ids: list[int], new: int = NEW, **more: Any) -> tuple[list[int], int]:
    """What it writes, and how many tokens of the prompt it computed."""
    told: list[int] = []
    written = list(engine.stream(ids, new, kept=kept, progress=lambda read, _: told.append(read), **more))
    assert told[-1] == len(ids) and told == sorted(told) and max(np.diff(told)) <= PART
    return written, len(ids) - told[0]


LONG = prompt(3 * PART + 20)
TYPED = {  # a prompt after the last one, and how many of its tokens are new
    "the same": (LONG, 1),
    "ten more": ([*LONG, *prompt(10, 7)], 10),
    "the last one is another": ([*LONG[:-1], 5, 6], 2),
    "shorter": (LONG[:-40], 1),
    "longer again": (LONG, 41),
    "changed in the middle": ([*LONG[:60], 3, *LONG[60:]], len(LONG) - 59),
    "changed near the beginning": ([*LONG[:20], 9, *LONG[20:]], len(LONG) - 19),
    "as before that": ([*LONG[:60], 3, *LONG[60:], 8], 1),
    "another": ([2, *LONG], len(LONG) + 1),
}


@pytest.mark.parametrize(("context", "bits"), [(OWN, 16), (FULL, 16), (FULL, 8), (FULL, 4)])
def test_what_is_typed_is_all_that_is_computed(engine: Any, context: ContextSettings, bits: int) -> None:
    if bits == 4 and engine.name == "torch":
        pytest.skip("the torch engine has no cache of 4 bits")
    engine.position(context)
    kept = PromptCache(ROOM, 4)
    assert read_by(engine, kept, LONG, bits=bits)[1] == len(LONG)
    for name, (typed, new) in TYPED.items():
        alone = engine.generate(typed, NEW, bits=bits)
        written, computed = read_by(engine, kept, typed, bits=bits)
        assert written == alone and alone, name
        if bits == 16:
            assert new - 1 <= computed <= new, name  # one more may have been written as it was typed
        elif name != "another":
            start = len(typed) - computed  # whole parts of the prompt, as many as there are
            assert start % PART == 0 and start >= len(typed) - new - PART, name


def test_each_text_is_found_again(engine: Any) -> None:
    kept = PromptCache(ROOM, 2)
    texts = [prompt(50, seed) for seed in (1, 2, 3)]
    assert [read_by(engine, kept, text)[1] for text in texts] == [50, 50, 50]
    assert read_by(engine, kept, texts[2])[1] == read_by(engine, kept, texts[1])[1] == 1
    assert read_by(engine, kept, texts[0])[1] == 50, "two are kept, the latest ones"
    assert len(kept) == 2


def test_other_positions_bits_and_weights_are_other_keys(engine: Any, tmp_path: Path) -> None:
    kept = PromptCache(ROOM, 8)
    for context in (OWN, FULL):
        engine.position(context)
        assert read_by(engine, kept, LONG)[1] == len(LONG)
    assert read_by(engine, kept, LONG, bits=8)[1] == len(LONG)
    engine.position(OWN)
    assert read_by(engine, kept, LONG) == (engine.generate(LONG, NEW), 1)
    before = engine.generate(LONG, NEW)
    engine.save_adapter(tmp_path)
    engine.accumulate(Batch.of([(LONG, [1.0] * len(LONG))], 0), 1.0, 0)
    engine.apply_update(0.5, 1.0)
    assert read_by(engine, kept, LONG) == (after := engine.generate(LONG, NEW), len(LONG))
    assert after != before and len(kept) == 1, "what other weights computed is dropped at once"
    with engine.base_only():
        assert read_by(engine, kept, LONG) == (engine.generate(LONG, NEW), len(LONG))
    engine.load_adapter(tmp_path)
    assert read_by(engine, kept, LONG) == (before, len(LONG))


def test_a_prompt_can_be_read_ahead(engine: Any) -> None:
    kept = PromptCache(ROOM, 2)
    assert read_by(engine, kept, LONG, new=0) == ([], len(LONG))
    assert read_by(engine, kept, [*LONG, 4, 5]) == (engine.generate([*LONG, 4, 5], NEW), 2)


class Enough(Exception):
    pass


def test_what_was_read_before_it_was_abandoned_is_kept(engine: Any) -> None:
    kept, told = PromptCache(ROOM, 2), []

    def leave(read: int, _: int) -> None:
        told.append(read)
        if read >= 2 * PART:
            raise Enough

    with pytest.raises(Enough):
        next(engine.stream(LONG, NEW, kept=kept, progress=leave))
    assert told == [0, PART, 2 * PART]
    assert read_by(engine, kept, LONG) == (engine.generate(LONG, NEW), len(LONG) - 2 * PART)
    stream = engine.stream([*LONG, 3], NEW, kept=kept)
    first = [next(stream), next(stream)]
    stream.close()
    assert read_by(engine, kept, [*LONG, 3, first[0], 7])[1] == 1


def test_no_more_is_kept_than_the_budget(engine: Any) -> None:
    one = engine.kept_bytes(300)
    for times, expected in ((0.5, 0), (1.2, 1), (2.4, 2)):
        kept = PromptCache(int(times * one), 8)
        for seed in (1, 2, 3):
            assert read_by(engine, kept, prompt(300 - NEW - 1, seed))[0]
            assert kept.bytes <= kept.budget
        assert len(kept) == expected
    assert kept.bytes == pytest.approx(2 * one, rel=0.1)


def test_a_text_that_an_error_left_half_computed_is_not_kept(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = PromptCache(ROOM, 2)
    last = (engine.base.model if engine.name == "torch" else engine.model.model).layers[-1]

    def fail(*_: Any, **__: Any) -> None:
        raise Enough

    with monkeypatch.context() as patched:
        patched.setattr(type(last), "__call__", fail)
        with pytest.raises(Enough):
            list(engine.stream(LONG, NEW, kept=kept))
    assert len(kept) == 0
