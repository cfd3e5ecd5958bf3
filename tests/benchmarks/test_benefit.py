"""The benchmark of the ingredients measures every arm on the same lines, and its differences are what they say."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from small_repository import small_repository

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "benefit"))

import arms
import data
import one
import results
import samples

from longrepo.data.dataset import SequenceFile
from longrepo.data.metadata import tokenizer_of
from longrepo.engines.torch.engine import TorchEngine

LENGTHS = (256, 512)
TOKENS = 3000
SHORTER = {
    "phase1_max_length": 128,
    "phase2_min_length": 192,
    "phase2_max_length": 256,
    "phase3_min_length": 384,
    "phase3_max_length": 512,
}


@pytest.fixture(scope="module", autouse=True)
def short_sequences(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The demo's settings, a quarter as long."""
    demo = yaml.safe_load(arms.DEMO.read_text())
    demo["long_context"] |= SHORTER
    file = tmp_path_factory.mktemp("settings") / "demo.yaml"
    file.write_text(yaml.safe_dump(demo))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arms, "DEMO", file)
        patch.setattr(samples, "BLOCKS", {"validation": 3, "test": 3})
        for module in (samples, results):
            patch.setattr(module, "LENGTHS", LENGTHS)
        patch.setattr(samples, "CHOSEN_AT", LENGTHS[0])
        patch.setattr(one, "CHOSEN_AT", LENGTHS[0])
        patch.setattr(one, "TOKENS", TOKENS)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """A folder to work in, a repository, its newest commit."""
    work = tmp_path_factory.mktemp("benefit")
    repository = small_repository(work / "repos" / "shop")
    head = subprocess.run(["git", "-C", repository, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    return work, repository, head.stdout.strip()


def sequences(made: tuple[Path, Path, str], name: str) -> SequenceFile:
    return data.sequences_of(*made, arms.ARMS[name])


@pytest.mark.parametrize("arm", arms.ARMS.values(), ids=arms.ARMS)
def test_every_arm_can_be_set(arm: arms.Arm) -> None:
    settings = arm.trained_with(1e-3, 2, 5000, 3)
    marks = "added" if arm.marks else "none"
    assert settings.data.structure_tokens == arm.prepared_with().data.structure_tokens == marks
    assert settings.training.seed == 2
    assert arm.name == "rank_64" or settings.lora == arms.OURS.trained_with(1e-3, 1, 1, 1).lora


def test_plain_shows_all_code_once_with_full_weight_and_nothing_else(made: tuple[Path, Path, str]) -> None:
    file = sequences(made, "plain")
    tokenizer = tokenizer_of(file.header)
    rows = [at for at, split in enumerate(file.column("split")) if split == "train"]
    texts = data._texts(file, made[1], arms.PLAIN.prepared_with())
    wanted = sorted(text.text for text in texts.values() if text.language == "Python")
    shown = [tokenizer.decode(file.tokens(at).tolist()).removesuffix("<|endoftext|>") for at in rows]
    assert sorted(shown) == wanted
    assert all((file.weights(at)[1:] == 1).all() for at in rows)


def test_the_same_tokens_are_scored_in_every_layout(made: tuple[Path, Path, str]) -> None:
    samples.make_samples(made[0], made[1], sequences(made, "ours"))
    scored = []
    for layout in samples.LAYOUTS:
        found = samples.samples_of(made[0], made[1], "test", layout)
        assert {one.context for one in found} == {"none", "related", "short"}
        scored.append(
            [(one.block, one.context, one.length, [(one.ids[a:b], name) for a, b, name in one.lines]) for one in found]
        )
    assert all(one == scored[0] for one in scored[1:])


def test_a_run_is_trained_and_measured(made: tuple[Path, Path, str]) -> None:
    one.run(made[0], arms.Job("public/shop", "frozen_marks", 1, 3e-3), made[2], None)
    (found,) = results.read(made[0])
    assert abs(found.tokens - TOKENS) < TOKENS / 3
    assert len(found.curve) == arms.STAGES
    assert found.curve[-1]["tokens"] == found.tokens
    measured = found.sums(results.Lines("related", LENGTHS[0])).values()
    assert sum(nats for _, nats in measured) / sum(tokens for tokens, _ in measured) < 8


def test_rows_begin_as_the_mean_of_the_others() -> None:
    engine = one._engine(arms.ARMS["mean_marks"].trained_with(1e-3, 1, TOKENS, 1))
    assert isinstance(engine, TorchEngine) and engine.rows is not None
    table = engine.model.get_input_embeddings().weight.detach().float().numpy()
    others = np.delete(table, engine.rows.ids.numpy(), axis=0)
    one.begin_as_mean(engine)
    np.testing.assert_allclose(
        engine.rows.weight.detach().numpy(), np.tile(others.mean(0), (len(engine.rows.ids), 1)), atol=1e-6
    )


def test_a_difference_is_paired_and_relative(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    results.folder_of(tmp_path, "results").mkdir()
    for arm, factor in (("plain", 1.0), ("ours", 0.9)):
        for repository in ("a/b", "c/d"):
            for seed in (1, 2):
                losses = np.random.default_rng([seed, len(repository)]).uniform(20, 90, 12) * factor
                rows = [["related", 2048, f"commit {n}", "committed", 30, loss] for n, loss in enumerate(losses)]
                noise = [["related", 2048, f"commit {n}", "common", 30, draw.uniform(1, 9)] for n in range(12)]
                tree = {"repository": repository, "arm": arm, "seed": seed, "rate": 1, "test": rows + noise}
                (results.folder_of(tmp_path, "results") / f"{repository[0]}{arm}{seed}.json").write_text(
                    json.dumps(tree)
                )
    found = results.read(tmp_path)
    plain, ours = ([one for one in found if one.arm == name] for name in ("plain", "ours"))
    lines = results.Lines("related", 2048, ("committed", "in_project"))
    compared = results.compared(plain, ours[:3], lines)
    assert compared is not None
    assert (compared.repositories, compared.runs, compared.tokens) == (2, 3, 2 * 12 * 30)
    assert np.allclose(compared.percent, -10)
    assert results.compared(plain, ours, results.Lines("related", 2048)).percent.high < 0
    assert results.compared(plain, [], lines) is None
