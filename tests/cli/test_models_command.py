"""`longrepo models` as a person or a script runs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from longrepo.cli.app import app
from longrepo.config.loader import load_settings
from longrepo.engines.base import StepMethod
from longrepo.engines.model_shape import read_config
from longrepo.errors import InputError
from longrepo.memory.budget import GIB, Budget
from longrepo.memory.estimate import Estimator
from longrepo.pretrain.presets import find_preset
from longrepo.pretrain.requirements import check_fits, full_finetune_settings, make_planner

KNOWN = Path(__file__).parents[1] / "pretrain" / "known"


def models(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["models", *arguments])


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    out = models("params", "embedded", "--context", "200", "--batch", "1", "--json")
    assert out.exit_code == 0, (out.output, out.exception)
    return json.loads(out.stdout)


def test_params_are_the_planners_figures(told: dict[str, Any]) -> None:
    assert told["parameters"] == sum(told["by_part"].values()) and told["by_part"]["positions"] == 0
    assert told["inference"]["weights"]["float32"] == 4 * told["parameters"]
    assert told["inference"]["weights"]["nf4"] < told["inference"]["weights"]["bfloat16"]
    heads_width = 2 * 256 // 8  # keys or values of a token in a layer
    assert told["inference"]["cache_token"] == 2 * 6 * heads_width * 2
    assert told["lora"]["r"] == 32
    steps = {step["trained"]: step for step in told["training"]}
    settings = full_finetune_settings(load_settings())
    alone = Estimator(read_config("embedded"), settings, "cuda", "bfloat16", 0).step(StepMethod(), 200)
    assert steps["all weights"]["peak"] == alone.peak
    assert steps["all weights"]["parts"]["moments"] >= 8 * told["parameters"]
    assert steps["LoRA, 4-bit"]["peak"] < steps["all weights"]["peak"]


def test_machines_stand_from_small_to_large_with_what_fits(told: dict[str, Any]) -> None:
    assert told["machines"][0]["name"] == "Mac 8 GB" and told["machines"][0]["methods"] == {"200": "plain"}


def test_a_model_with_learned_positions_and_no_plan_says_so() -> None:
    out = models("params", str(KNOWN / "gpt2"))
    assert out.exit_code == 0, (out.output, out.exception)
    words = " ".join(out.output.split())
    assert "positions (learned) │ 786,432 │ 0.63%" in words
    assert "training isn't planned:" in words


def test_list_and_show() -> None:
    rows = json.loads(models("list", "--json").stdout)
    assert [row["name"] for row in rows] == ["embedded", "150M", "200M", "250M", "350M", "500M"]
    counts = [row["parameters"] for row in rows]
    assert counts == sorted(counts)
    shown = json.loads(models("show", "150M_256").stdout)
    assert shown["model_type"] == "starcoder2" and shown["max_position_embeddings"] == 256


def test_what_does_not_fit_names_the_nearest_preset_that_does() -> None:
    """150 million weights with gradient and moments take 2.25 GiB: a shorter context doesn't help below that."""
    settings, chosen = full_finetune_settings(load_settings()), find_preset("150M_256")
    planner = make_planner(chosen, settings, "cuda", "bfloat16")
    with pytest.raises(InputError, match=r"take 2\.25 GiB, .* budget is 1\.00 GiB .*: --preset embedded_256 fits"):
        check_fits(planner, chosen, 256, Budget(GIB, "test", limit=True))


BAD = {
    "an unknown preset": (["params", "160M"], "preset 160M: no such preset"),
    "show of none": (["show", "tiny"], "preset tiny: no such preset; names are a size and a context"),
    "a folder without a model": (["params", str(KNOWN)], "holds no config.json"),
    "no such folder": (["params", "./nowhere"], "no such folder"),
    "a broken configuration": (["params", "BROKEN"], "no readable configuration"),
    "a context beyond the positions": (["params", "150M_256", "--context", "300"], "has 256 positions"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case: str, tmp_path: Path) -> None:
    arguments, expected = BAD[case]
    (tmp_path / "config.json").write_text("{]")
    out = models(*(str(tmp_path) if one == "BROKEN" else one for one in arguments))
    assert isinstance(out.exception, InputError), (out.output, out.exception)
    assert "\n" not in str(out.exception)
    with pytest.raises(InputError, match=expected):
        raise out.exception
