"""Every folder that is written has the tokenizer that training used, and the code that it prints runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from exported import Run, base_folder, trained_run
from mlx_lm.tokenizer_utils import load as load_for_mlx
from tokenizers import Tokenizer
from transformers import AutoTokenizer
from typer.testing import CliRunner

from longrepo import embedded
from longrepo.cli.app import app
from longrepo.config.loader import load_settings
from longrepo.errors import InputError
from longrepo.export.adapter import ExportOptions
from longrepo.export.formats import export_artifact
from longrepo.pretrain.presets import find_preset, write_initial_model
from longrepo.training.artifact import find_artifact
from longrepo.training.checkpoint import open_run_folder
from longrepo.training.usage import adapter_code

ROWS = "ROWS = [\n        1, 22,\n        345,\n]\n"
PLAIN = ExportOptions(precision="float32", quantization=None)
CLASSES = {
    "StarCoder2's class": {"tokenizer_class": "GPT2Tokenizer"},
    "no class": {"tokenizer_class": None},
    "a Llama's": {"tokenizer_class": "LlamaTokenizerFast", "add_prefix_space": False},
}


def changed_class(model: Path, changes: dict[str, Any]) -> Path:
    """Spell the tokenizer's class as published folders do."""
    about = json.loads((model / "tokenizer_config.json").read_text()) | changes
    about = {key: value for key, value in about.items() if value is not None}
    (model / "tokenizer_config.json").write_text(json.dumps(about))
    return model


@pytest.fixture(scope="module", params=CLASSES)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    return trained_run(folder / "run", changed_class(base_folder(folder / "model"), CLASSES[request.param]))


def check_ids(folder: Path, run: Run) -> None:
    expected = run.tokenizer.encode(ROWS)
    assert len(expected) == 20
    readers: tuple[Any, ...] = (AutoTokenizer.from_pretrained(folder), load_for_mlx(folder))
    assert all(reader.encode(ROWS, add_special_tokens=False) == expected for reader in readers)
    assert Tokenizer.from_file(str(folder / "tokenizer.json")).encode(ROWS, add_special_tokens=False).ids == expected


@pytest.mark.parametrize("format", ["peft", "merged", "mlx"])
def test_an_export_has_the_ids_trained_on(run: Run, tmp_path: Path, format: str) -> None:
    options = PLAIN if format == "merged" else ExportOptions()
    export_artifact(find_artifact(run.folder), format, options, tmp_path / "out")
    check_ids(tmp_path / "out" / ("base" if format == "mlx" else ""), run)


def test_an_adapter_saved_with_other_rules_is_exported_with_those_trained_on(run: Run, tmp_path: Path) -> None:
    """As runs of earlier versions left them."""
    shutil.copytree(run.folder, tmp_path / "run")
    AutoTokenizer.from_pretrained(run.model).save_pretrained(tmp_path / "run" / "adapter")
    export_artifact(find_artifact(tmp_path / "run"), "peft", ExportOptions(), tmp_path / "out")
    check_ids(tmp_path / "out", run)


def test_a_run_s_own_folder_has_the_ids_trained_on(run: Run, tmp_path: Path) -> None:
    with open_run_folder(tmp_path / "run", resuming=False) as folder:
        best = tmp_path / "run" / "checkpoints" / "step-00000001" / "adapter"
        shutil.copytree(run.folder / "adapter", best)
        check_ids(folder.write_trained(best, load_settings(), run.tokenizer.write), run)


def test_an_extended_folder_has_the_ids_of_its_file(run: Run, tmp_path: Path) -> None:
    arguments = ["extend", str(run.model), "--to", "8192", "--method", "linear", "--output", str(tmp_path / "out")]
    arguments += ["--window", "full"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    check_ids(tmp_path / "out", run)
    alike = AutoTokenizer.from_pretrained(run.model).encode(ROWS) == run.tokenizer.encode(ROWS)
    assert ("tokenizer: AutoTokenizer would not keep" in result.output) == (not alike)
    about = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert about["model_max_length"] == 8192


def test_a_preset_begins_with_the_ids_of_the_file(run: Run, tmp_path: Path) -> None:
    preset, settings = find_preset("embedded_256"), load_settings()
    write_initial_model(tmp_path / "start", preset, run.tokenizer, settings)
    check_ids(tmp_path / "start", run)


def test_where_mlx_lm_would_give_other_ids_the_export_has_its_own_base(run: Run, tmp_path: Path) -> None:
    other = trained_run(tmp_path / "run", run.model, "data.structure_tokens=false")
    lines = export_artifact(find_artifact(other.folder), "mlx", ExportOptions(), tmp_path / "out")
    alike = AutoTokenizer.from_pretrained(run.model).encode(ROWS) == run.tokenizer.encode(ROWS)
    said = any("a base of its own: " in line and "other token ids than training used" in line for line in lines)
    assert said != alike
    assert ("other token ids than training used" in (tmp_path / "out" / "README.md").read_text()) == said
    if said:
        assert AutoTokenizer.from_pretrained(tmp_path / "out" / "base").encode(ROWS) == run.tokenizer.encode(ROWS)


def test_serving_reads_marks_by_the_file_s_rules(run: Run) -> None:
    name = "<|FILE_START|>"
    assert run.tokenizer.encode_marked(name + ROWS) == [run.tokenizer.id(name), *run.tokenizer.encode(ROWS)]


def code_of(readme: Path) -> str:
    found = re.search(r"```python\n(.*?)```", readme.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


_RUNNER = """
import json, os, sys, warnings
for folder, code in json.load(sys.stdin):
    os.chdir(folder)
    loaded = {}
    exec(code, loaded)
    model, tokenizer = loaded["model"], loaded["tokenizer"]
    assert any("lora_A" in name for name, _ in model.named_parameters()), folder
    assert len(tokenizer) <= model.get_input_embeddings().weight.shape[0], folder
    print("loaded", folder)
"""


def hub_with(base: Path, cache: Path, name: str, revision: str) -> str:
    """A hub cache that holds a base at one revision alone."""
    commit = "a" * 40
    folder = cache / f"models--someone--{name}"
    shutil.copytree(base, folder / "snapshots" / commit)
    (folder / "refs").mkdir()
    (folder / "refs" / revision).write_text(commit)
    return f"someone/{name}"


def test_what_an_adapter_s_readme_and_the_report_print_runs_as_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For every kind of base, from another process."""
    model, cache = base_folder(tmp_path / "model"), tmp_path / "hub"
    monkeypatch.chdir(tmp_path)
    for module in ("huggingface_hub.constants", "transformers.utils.hub"):
        for variable, value in (("HF_HUB_CACHE", str(cache)), ("HF_HUB_OFFLINE", True)):
            if hasattr(sys.modules[module], variable):
                monkeypatch.setattr(sys.modules[module], variable, value)
    bases = {
        "embedded": ["model.name=embedded"],
        "folder": [f"model.name={model}"],
        "relative": ["model.name=./model"],
        "hub": [f"model.name={hub_with(model, cache, 'tiny', 'main')}"],
        "revision": [f"model.name={hub_with(model, cache, 'small', 'v2')}", "model.revision=v2"],
    }
    (tmp_path / "elsewhere").mkdir()
    codes: list[tuple[str, str]] = []
    for kind, options in bases.items():
        run = trained_run(tmp_path / kind / "run", options[0].partition("=")[2], *options[1:])
        export_artifact(find_artifact(run.folder), "peft", ExportOptions(), tmp_path / kind / "tuned")
        card = tmp_path / kind / "tuned" / "README.md"
        assert str(tmp_path) not in card.read_text() and "BASE" not in card.read_text()
        settings, other = find_artifact(run.folder).settings, tmp_path / kind / "other"
        with open_run_folder(other, resuming=False) as folder:
            shutil.copytree(run.folder / "adapter", other / "checkpoints" / "step-00000001" / "adapter")
            folder.write_trained(other / "checkpoints" / "step-00000001" / "adapter", settings, run.tokenizer.write)
        codes += [
            (str(tmp_path / kind), code_of(card)),
            (str(other), code_of(other / "adapter" / "README.md")),
            (str(tmp_path / "elsewhere"), adapter_code(str(other / "adapter"), settings)),  # the report's
        ]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HF_HUB_CACHE": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", _RUNNER], input=json.dumps(codes), env=environment, capture_output=True, text=True
    )
    assert done.stdout.count("loaded") == len(codes) == 15, done.stderr[-2000:]


def test_a_readme_says_where_positions_are_others(tmp_path: Path) -> None:
    model = base_folder(tmp_path / "model")
    context = ("context.method=linear", "context.target_length=8192", "context.window=full")
    run = trained_run(tmp_path / "run", str(model), *context)
    best = tmp_path / "other" / "checkpoints" / "step-00000001" / "adapter"
    with open_run_folder(tmp_path / "other", resuming=False) as folder:
        shutil.copytree(run.folder / "adapter", best)
        folder.write_trained(best, find_artifact(run.folder).settings, run.tokenizer.write)
    text = (tmp_path / "other" / "adapter" / "README.md").read_text()
    assert "linear to 8,192 tokens" in text and "--format merged" in text


@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_what_is_written_can_be_read_by_whom_the_umask_allows(tmp_path: Path, umask: int, mode: int) -> None:
    former = os.umask(umask)
    try:
        run = trained_run(tmp_path / "run", base_folder(tmp_path / "model"))
        for format in ("peft", "merged", "mlx"):
            export_artifact(find_artifact(run.folder), format, ExportOptions(), tmp_path / format)
        arguments = ["extend", str(run.model), "--to", "8192", "--method", "linear", "--window", "full", "--output"]
        assert CliRunner().invoke(app, [*arguments, str(tmp_path / "extended")]).exit_code == 0
    finally:
        os.umask(former)
    for format in ("peft", "merged", "mlx", "extended"):
        files = [file for file in (tmp_path / format).rglob("*") if file.is_file()]
        assert {file.stat().st_mode & 0o777 for file in files if file.stat().st_nlink == 1} == {mode}
        assert any(file.suffix == ".safetensors" for file in files)


def test_a_damaged_tokenizer_is_one_line(tmp_path: Path) -> None:
    model = base_folder(tmp_path / "model")
    (model / "tokenizer_config.json").write_text("{")
    with pytest.raises(InputError, match="tokenizer can't be read"):
        CliRunner().invoke(app, ["extend", str(model), "--to", "8192", "--dry-run"], catch_exceptions=False)
    assert embedded.path().is_dir()
