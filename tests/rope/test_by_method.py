"""The benchmark of position scaling compares what it says, on texts that tuning never saw."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_repository import small_repository

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "context" / "by_method"))

import rows
import run
import table
import texts

from longrepo.data.tokenizer_loading import load_tokenizer
from longrepo.engines.base import Batch
from longrepo.engines.model_shape import read_config
from longrepo.rope.apply import config_changes

LENGTHS = (160, 320)
CUT: list[set[str]] = []  # the files that tuning's texts and the held-out ones are cut from


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Iterator[texts.Texts]:
    """Texts of 320 tokens."""
    repository = small_repository(tmp_path_factory.mktemp("by_method") / "shop")
    head = subprocess.run(["git", "-C", repository, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    with pytest.MonkeyPatch.context() as patch:
        for module in (texts, run):
            patch.setattr(module, "LENGTHS", LENGTHS)
            patch.setattr(module, "TARGET", LENGTHS[-1])
        patch.setattr(texts, "WINDOWS", 2)
        patch.setattr(texts, "UPDATES", 2)
        patch.setattr(run, "SCORED", 64)
        cut = texts._cut
        patch.setattr(
            texts, "_cut", lambda some, tokenizer: CUT.append({one.path for one in some}) or cut(some, tokenizer)
        )
        yield texts.read_texts(repository, head.stdout.strip(), load_tokenizer("embedded"), rows.ROWS[0].settings())


@pytest.mark.parametrize("row", rows.ROWS, ids=[row.name for row in rows.ROWS])
def test_every_row_can_be_computed_at_every_length(row: rows.Row) -> None:
    config = read_config("embedded").to_dict()
    for length in rows.LENGTHS:
        asked = row.context(length, None)
        changed = config_changes(config, asked)
        assert asked.method in (row.method, "none")
        if row.window == "full" and not row.by_length:
            assert changed["sliding_window"] is None


def test_no_text_is_both_tuned_and_measured_on(read: texts.Texts) -> None:
    tuned, measured = CUT
    assert tuned and measured and not tuned & measured
    assert {len(ids) for ids in (*read.tuning, *read.held_out)} == {LENGTHS[-1]}


def test_a_needle_stands_at_its_depth_and_again_at_the_end(read: texts.Texts) -> None:
    found = list(read.needles())
    assert len(found) == len(LENGTHS) * len(texts.DEPTHS) * texts.DRAWS
    for one in found:
        assert len(one.ids) == one.length
        names, at = one.ids[-texts.BLOCK :], (one.length - 2 * texts.BLOCK) * one.depth // 100
        assert np.array_equal(one.ids[at : at + texts.BLOCK], names)


class Scored:
    """An engine whose loss of a token is its id, and which keeps how long the texts were."""

    pad_id = 0

    def __init__(self) -> None:
        self.lengths: list[int] = []

    def position(self, context: Any) -> None:
        """As it is."""

    def score(self, batch: Batch) -> np.ndarray:
        self.lengths.append(batch.input_ids.shape[1])
        return np.where(batch.loss_weights > 0, batch.input_ids, 0).astype(np.float32)


@contextmanager
def measuring(tmp_path: Path, read: texts.Texts, row: rows.Row) -> Iterator[tuple[run.Measuring, Scored]]:
    engine = Scored()
    one = run.Measuring(tmp_path, "some/shop", row, read)
    one._made = engine
    yield one, engine


def test_the_same_tokens_are_scored_at_every_length(tmp_path: Path, read: texts.Texts) -> None:
    with measuring(tmp_path, read, rows.Row("extrapolated", "")) as (one, engine):
        one._part("before", one._measure)
        short, long = one.result["before"]["lengths"].values()
        assert short == long == [float(ids[-64:].sum()) for ids in read.held_out]
        assert set(engine.lengths) == set(LENGTHS)
        whole = [sum(stretches) for stretches in one.result["before"]["positions"]]
        assert whole == [float(ids[1:].sum()) for ids in read.held_out]


def test_a_truncated_text_is_read_from_its_end_and_what_is_done_stays(tmp_path: Path, read: texts.Texts) -> None:
    row = rows.Row("truncated", "", reads=LENGTHS[0])
    with measuring(tmp_path, read, row) as (one, engine):
        one._part("before", one._measure)
        one._part("needles before", one._find)
        assert max(engine.lengths) == LENGTHS[0]
    with measuring(tmp_path, read, row) as (again, engine):
        again._part("before", again._measure)
        assert not engine.lengths
    kept = json.loads((tmp_path / "results" / "shop--truncated.json").read_text())
    assert kept["row"] == "truncated" and "needles before" in kept


def test_the_tables_and_the_picture_say_what_was_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "results").mkdir()
    for name, nats in (("truncated", 2.0), ("yarn", 1.5)):
        measured = {"lengths": {length: [nats * table.SCORED] * 2 for length in rows.LENGTHS}}
        if name == "yarn":
            measured["positions"] = [[nats * run.STRETCH] * (rows.TARGET // run.STRETCH)]
        nats_of_copy = nats * (texts.BLOCK - texts.TOLD)
        needles = [[length, depth, 0, nats_of_copy] for length in rows.LENGTHS for depth in texts.DEPTHS]
        states = dict.fromkeys(table.STATES, measured) | {f"needles {state}": needles for state in table.STATES}
        result = {"repository": "some/shop", "row": name, **states}
        (tmp_path / "results" / f"shop--{name}.json").write_text(json.dumps(result))
    table.show(tmp_path)
    printed = capsys.readouterr().out
    assert "| `yarn`: YaRN | 1 | 1.500 | 1.500 | 1.500 | 1.500 | -25.0 % [-25.0, -25.0] |" in printed
    assert "| `yarn` | 3 | 1.50 → 1.50 | 1.50 → 1.50 | 1.50 → 1.50 | 1.50 → 1.50 |" in printed
    table.draw(tmp_path, tmp_path / "picture.svg")
    drawn = (tmp_path / "picture.svg").read_text()
    assert "<!-- yarn -->" in drawn and "<!-- truncated -->" in drawn and "<!-- linear -->" not in drawn
