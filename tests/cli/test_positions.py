"""Texts longer than a model's own positions, as a person has them completed and served."""

from __future__ import annotations

from pathlib import Path

import pytest
from export.exported import base_folder, trained_run
from typer.testing import CliRunner, Result

from longrepo.cli.app import app
from longrepo.config.schema import ContextSettings
from longrepo.data.template import completion_text
from longrepo.engines.registry import choose_engine
from longrepo.errors import InputError
from longrepo.serve.model import TunedModel

NEW = 8
LINEAR = ContextSettings(method="linear", target_length=1024, window="full")
ASKED = ("--set", "context.method=linear", "--set", "context.target_length=1024", "--set", "context.window=full")
TEXT = "def total(items):\n    return sum(item.price for item in items)\n\n\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """256 positions, and a window as wide."""
    return base_folder(
        tmp_path_factory.mktemp("short") / "model", max_position_embeddings=256, sliding_window=256, hidden_size=128
    )


@pytest.fixture(scope="module")
def run(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_run(tmp_path_factory.mktemp("positions") / "run", model).folder


def generate(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["generate", *map(str, arguments), "--max-tokens", str(NEW)])


@pytest.mark.parametrize("engine", ["torch", "mlx"])
def test_a_long_text_is_completed_at_the_smallest_tier_that_holds_it(run: Path, engine: str) -> None:
    tuned = TunedModel.load(run, None, choose_engine(engine, "cpu"), "cpu", LINEAR)
    assert [tier.length for tier in tuned.adaptive.tiers.every] == [256, 512, 1024]
    for text, at in ((TEXT, "the base's own"), (TEXT * 14, "linear to 512 tokens"), (TEXT * 30, "linear to 1,024")):
        ids = tuned.tokenizer.encode(text)
        tuned.adaptive.select_tier(len(ids) + NEW)
        out = generate(run, "--prompt", text, "--engine", engine, *ASKED)
        assert out.exit_code == 0, out.output
        expected = completion_text(tuned.tokenizer, tuned.engine.generate(ids, NEW))
        assert out.stdout == expected.removesuffix("\ufffd"), "half a character at the end isn't written"
        assert f"positions: {at}" in out.stderr


def test_keys_and_values_may_be_packed_where_there_is_no_window(run: Path) -> None:
    long, torch, mlx = ("--prompt", TEXT * 14, *ASKED), ("--engine", "torch"), ("--engine", "mlx")
    assert generate(run, *long, *torch, "--cache-bits", "8").exit_code == 0
    assert generate(run, *long, *mlx, "--cache-bits", "4").exit_code == 0
    refusals = {
        (*long, *torch, "--cache-bits", "4"): "transformers supports 4 bits only with optimum-quanto or hqq",
        ("--prompt", TEXT, *mlx, "--cache-bits", "8"): "mlx-lm has no quantized cache for layers with a window",
    }
    for arguments, expected in refusals.items():
        error = generate(run, *arguments).exception
        assert isinstance(error, InputError) and expected in str(error) and "\n" not in str(error)


def test_what_no_tier_holds_is_refused_with_the_way_out(run: Path) -> None:
    cases = {
        ("--prompt", TEXT * 14): "8 new ones leave 248 of 256: shorten it, or set a larger --length",
        ("--prompt", TEXT * 60, *ASKED): "leave 1016 of 1024",
        ("--prompt", TEXT, "--length", 512): "--set context.target_length=512 and a context.method",
        ("--prompt", TEXT, "--set", "lora.r=4"): "only context settings can be set here",
        ("--prompt", TEXT, "--set", "context.method=linear", "--set", "context.target_length=1024"): "window of 256",
        ("--prompt", TEXT, "--set", "context.window=full"): "it was trained at other positions",
    }
    for arguments, expected in cases.items():
        error = generate(run, *arguments).exception
        assert isinstance(error, InputError), arguments
        assert expected in str(error) and "\n" not in str(error), str(error)
