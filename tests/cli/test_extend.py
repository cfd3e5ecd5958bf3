"""`longrepo extend`: a folder whose files agree, that plain transformers and mlx-lm read alike."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from mlx_lm.models import llama
from mlx_lm.models.rope_utils import initialize_rope
from safetensors.torch import load_file
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1]))

from longrepo import embedded
from longrepo.cli.app import app
from longrepo.errors import InputError
from longrepo.rope.extend import _MIN_LINK_BYTES

NATIVE, TARGET = 4096, 131072


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 4,096 positions with a tokenizer and a card."""
    folder = tmp_path_factory.mktemp("model") / "tiny-llama"
    config = transformers.LlamaConfig(
        hidden_size=256,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        vocab_size=4096,
        max_position_embeddings=NATIVE,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
    )
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(embedded.path() / name, folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n\n# Tiny\n\nAs it was.\n")
    return folder


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["extend", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def tree(folder: Path, name: str = "config.json") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / name).read_text())
    return found


def test_the_seed_s_case_all_files_agree(model: Path, tmp_path: Path) -> None:
    said = run(model, "--to", TARGET, "--method", "linear", "--output", tmp_path / "long")
    folder = tmp_path / "long"
    config = tree(folder)
    assert config["max_position_embeddings"] == TARGET
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 1e4
    assert config["rope_scaling"] == {"rope_type": "linear", "type": "linear", "factor": 32.0}
    assert config["rope_parameters"]["factor"] == 32.0
    assert tree(folder, "tokenizer_config.json")["model_max_length"] == TARGET
    assert tree(folder, "generation_config.json")["max_length"] == TARGET
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlicense: mit\n---\n\n# Tiny\n\nAs it was.\n")
    assert "131,072 tokens" in card and "factor 32.0" in card
    assert "hard-linked" in said and "tokens 1 and 131,072 (its own weights)" in said
    weights = "model.safetensors"
    assert (model / weights).stat().st_size >= _MIN_LINK_BYTES
    assert (folder / weights).samefile(model / weights)


def test_both_spellings_mean_the_same_to_both_libraries(model: Path, tmp_path: Path) -> None:
    import mlx.core as mx
    import numpy as np

    for method in ("linear", "base", "yarn", "llama3", "longrope"):
        folder = tmp_path / method
        run(model, "--to", TARGET, "--method", method, "--output", folder)
        config = transformers.AutoConfig.from_pretrained(folder)
        assert config.rope_parameters["rope_type"] == ("default" if method == "base" else method)
        loaded = transformers.AutoModelForCausalLM.from_pretrained(folder)
        rotary = loaded.model.rotary_emb
        rotary(torch.zeros(1), torch.tensor([[0, TARGET - 1]]))
        args = llama.ModelArgs.from_dict(tree(folder))
        theirs = initialize_rope(64, args.rope_theta, False, args.rope_scaling, args.max_position_embeddings)
        ones = mx.concatenate([mx.ones((1, 1, 2, 32)), mx.zeros((1, 1, 2, 32))], axis=-1)
        turned = np.array(theirs(ones))[0, 0, 1]
        np.testing.assert_allclose(np.arctan2(turned[32:], turned[:32]), rotary.inv_freq.numpy(), rtol=1e-4)
        assert np.hypot(turned[:32], turned[32:]).mean() == pytest.approx(rotary.attention_scaling, rel=1e-5)


def test_weights_are_copied_where_asked(model: Path, tmp_path: Path) -> None:
    said = run(model, "--to", 8192, "--method", "yarn", "--output", tmp_path / "long", "--copy")
    assert "copied" in said
    ours, theirs = (folder / "model.safetensors" for folder in (tmp_path / "long", model))
    assert not ours.samefile(theirs)
    assert all(torch.equal(one, load_file(theirs)[name]) for name, one in load_file(ours).items())


def test_a_dry_run_shows_the_change_and_writes_nothing(model: Path, tmp_path: Path) -> None:
    before = {file.name: file.read_bytes() for file in model.iterdir()}
    said = run(model, "--to", TARGET, "--method", "linear", "--dry-run")
    for expected in (
        '-  "max_position_embeddings": 4096',
        '+  "max_position_embeddings": 131072',
        '+    "factor": 32.0',
    ):
        assert expected in said
    assert '"rope_type": "yarn"' in run(model, "--to", TARGET, "--dry-run")
    assert {file.name: file.read_bytes() for file in model.iterdir()} == before
    assert not list(tmp_path.iterdir())


def test_extended_twice_is_extended_once(model: Path, tmp_path: Path) -> None:
    run(model, "--to", 8192, "--method", "yarn", "--output", tmp_path / "once")
    run(tmp_path / "once", "--to", TARGET, "--method", "linear", "--output", tmp_path / "twice")
    run(model, "--to", TARGET, "--method", "linear", "--output", tmp_path / "straight")
    assert tree(tmp_path / "twice") == tree(tmp_path / "straight")
    assert (tmp_path / "twice" / "README.md").read_text().count("## Context") == 1


def test_dynamic_scales_from_the_native_length_on(model: Path, tmp_path: Path) -> None:
    run(model, "--to", TARGET, "--method", "dynamic", "--output", tmp_path / "long")
    config = tree(tmp_path / "long")
    assert config["max_position_embeddings"] == NATIVE
    assert config["rope_parameters"] == {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 1.0}
    assert tree(tmp_path / "long", "tokenizer_config.json")["model_max_length"] == TARGET


def test_starcoder2_with_its_window(tmp_path: Path) -> None:
    """No scaling can be used there, and none is needed: the window reads on."""
    with pytest.raises(InputError, match=r"window of 4,096 reaches no further.*context\.window=full"):
        run("embedded", "--to", TARGET, "--method", "linear", "--output", tmp_path / "long")
    assert not list(tmp_path.iterdir())
    said = run("embedded", "--to", TARGET, "--method", "yarn", "--window", "full", "--output", tmp_path / "full")
    assert "attention window: 4,096 tokens to none" in said
    assert tree(tmp_path / "full")["sliding_window"] is None
    assert not (tmp_path / "full" / "__init__.py").exists()


def test_longrope_s_factors_are_searched(model: Path, tmp_path: Path) -> None:
    folder, text = tmp_path / "short", tmp_path / "text.md"
    shutil.copytree(model, folder)
    config = tree(folder)
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 64}))
    shutil.copy(embedded.path() / "README.md", text)
    options = ("--method", "longrope", "--search-on", text, "--search-length", 128)
    said = run(folder, "--to", 256, *options, "--output", tmp_path / "long")
    found = tree(tmp_path / "long")["rope_parameters"]["long_factor"]
    assert len(found) == 32 and found == sorted(found)
    losses = [float(word) for word in said.replace(",", " ").split() if word.count(".") == 1 and word[0].isdigit()]
    assert losses[0] <= losses[1]


BAD: dict[str, tuple[tuple[object, ...], str]] = {
    "no output": (("--to", TARGET, "--method", "linear"), "give --output DIR, or --dry-run"),
    "below native": (("--to", 2048, "--method", "linear", "--dry-run"), "below the 4,096 tokens"),
    "a factor too small": (("--to", TARGET, "--method", "yarn", "--factor", 2, "--dry-run"), "needs at least 32"),
    "a search without longrope": (
        ("--to", TARGET, "--method", "yarn", "--search-on", "x", "--dry-run"),
        "only --method longrope",
    ),
    "a search on nothing": (
        ("--to", TARGET, "--method", "longrope", "--search-on", "nowhere.txt", "--dry-run"),
        "--search-on nowhere.txt: can't be read",
    ),
    "a window of no meaning": (("--to", TARGET, "--method", "yarn", "--window", "wide", "--dry-run"), "context.window"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case: str, model: Path) -> None:
    arguments, expected = BAD[case]
    with pytest.raises(InputError, match=expected):
        run(model, *arguments)


def test_a_folder_that_contradicts_itself_is_refused(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    shutil.copytree(model, folder)
    (folder / "config.json").write_text(json.dumps(tree(folder) | {"rope_theta": 5e5}))
    with pytest.raises(InputError, match=r"rope_theta says 500000\.0, rope_parameters 10000\.0"):
        run(folder, "--to", TARGET, "--method", "linear", "--dry-run")


def test_an_output_that_is_there_is_left_alone(model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="already exists"):
        run(model, "--to", TARGET, "--method", "linear", "--output", tmp_path)
