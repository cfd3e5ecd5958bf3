"""GGUF through llama.cpp's converters: what they are given, what is said of their results, and where they are found.

They are no dependency: a stand-in with their arguments takes their place, and the real ones where they are on PATH.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from exported import Run, base_folder, trained_run

from longrepo import embedded
from longrepo.errors import InputError
from longrepo.export.adapter import ExportOptions
from longrepo.export.formats import export_artifact
from longrepo.export.run_converter import LORA_SCRIPT, MODEL_SCRIPT, find_converter, find_pre_tokenizer
from longrepo.training.artifact import find_artifact

_BASE = """class TextModel:
    def get_vocab_base_pre(self, tokenizer):
        raise NotImplementedError("BPE pre-tokenizer was not recognized")
"""
_MODEL = """import argparse, json, pathlib
from conversion.base import TextModel
parser = argparse.ArgumentParser()
parser.add_argument("model", type=pathlib.Path)
for name in ("--outfile", "--outtype", "--model-name"):
    parser.add_argument(name)
given = parser.parse_args()
config = json.loads((given.model / "config.json").read_text())
card = (given.model / "README.md").read_text()
facts = vars(given) | {"pre": TextModel().get_vocab_base_pre(None), "dtype": config["dtype"], "card": card}
pathlib.Path(given.outfile).write_text(json.dumps(facts, default=str))
"""
_LORA = """import argparse, json, pathlib
from safetensors import safe_open
parser = argparse.ArgumentParser()
parser.add_argument("adapter", type=pathlib.Path)
for name in ("--outfile", "--outtype", "--base"):
    parser.add_argument(name)
given = parser.parse_args()
with safe_open(given.adapter / "adapter_model.safetensors", framework="pt") as tensors:
    names = list(tensors.keys())
config = json.loads((given.adapter / "adapter_config.json").read_text())
base = json.loads((pathlib.Path(given.base) / "config.json").read_text())
facts = {"names": names, "alpha": config["lora_alpha"], "r": config["r"], "vocab_size": base["vocab_size"]}
pathlib.Path(given.outfile).write_text(json.dumps(facts))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    return trained_run(folder / "run", base_folder(folder / "model"))


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "llama.cpp"
    (folder / "conversion").mkdir(parents=True)
    (folder / "conversion" / "__init__.py").write_text("")
    (folder / "conversion" / "base.py").write_text(_BASE)
    (folder / MODEL_SCRIPT).write_text(_MODEL)
    (folder / LORA_SCRIPT).write_text(_LORA)
    return folder


def test_the_merged_model_is_converted_and_what_differs_is_said(run: Run, tmp_path: Path, checkout: Path) -> None:
    lines = export_artifact(find_artifact(run.folder), "gguf", ExportOptions(llama_cpp=checkout), tmp_path / "gguf")
    assert {file.name for file in (tmp_path / "gguf").iterdir()} == {"model-bf16.gguf", "README.md"}
    given = json.loads((tmp_path / "gguf" / "model-bf16.gguf").read_text())
    assert (given["outtype"], given["dtype"], given["pre"]) == ("bf16", "bfloat16", "starcoder")
    assert "license:" in given["card"] and str(run.model.parent) not in given["card"]
    assert any("beyond 16 tokens llama.cpp attends to all" in line for line in lines)
    card = (tmp_path / "gguf" / "README.md").read_text()
    assert "llama-server -m model-bf16.gguf" in card and "beyond 16 tokens" in card.lower()


def test_eight_bits_are_the_converters_own(run: Run, tmp_path: Path, checkout: Path) -> None:
    export_artifact(
        find_artifact(run.folder), "gguf", ExportOptions(quantization="8bit", llama_cpp=checkout), tmp_path / "gguf"
    )
    assert json.loads((tmp_path / "gguf" / "model-q8_0.gguf").read_text())["outtype"] == "q8_0"


def test_apart_the_base_has_the_trained_rows_and_the_adapter_lora_alone(
    run: Run, tmp_path: Path, checkout: Path
) -> None:
    choices = ExportOptions(precision="float32", adapter_only=True, llama_cpp=checkout)
    lines = export_artifact(find_artifact(run.folder), "gguf", choices, tmp_path / "gguf")
    lora = json.loads((tmp_path / "gguf" / "adapter-f32.gguf").read_text())
    assert all(".lora_A." in name or ".lora_B." in name for name in lora["names"]) and lora["names"]
    assert (lora["alpha"], lora["r"]) == (64, 4) and lora["vocab_size"] == run.tokenizer.vocabulary_size
    assert "20 trained rows" in lines[0] and lines[-1].endswith("-m base-f32.gguf --lora adapter-f32.gguf")


def test_without_trained_rows_the_adapter_alone_is_written(tmp_path: Path, checkout: Path) -> None:
    run = trained_run(tmp_path / "run", base_folder(tmp_path / "model"), "data.structure_tokens=false")
    export_artifact(
        find_artifact(run.folder), "gguf", ExportOptions(adapter_only=True, llama_cpp=checkout), tmp_path / "gguf"
    )
    assert {file.name for file in (tmp_path / "gguf").iterdir()} == {"adapter-f32.gguf", "README.md"}


def test_a_converter_that_fails_is_one_line_and_leaves_nothing(run: Run, tmp_path: Path, checkout: Path) -> None:
    (checkout / MODEL_SCRIPT).write_text("raise SystemExit('Model Foo is not supported')")
    with pytest.raises(InputError, match=r"convert_hf_to_gguf.py: Model Foo is not supported; try a newer") as caught:
        export_artifact(find_artifact(run.folder), "gguf", ExportOptions(llama_cpp=checkout), tmp_path / "gguf")
    assert "\n" not in str(caught.value) and not (tmp_path / "gguf").exists()


def test_it_is_found_on_path_or_one_line_says_what_to_do(
    tmp_path: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"isn't on PATH; git clone .* and name that folder with --llama-cpp"):
        find_converter(None)
    with pytest.raises(InputError, match=r"holds no convert_hf_to_gguf\.py; give a checkout"):
        find_converter(tmp_path)
    (checkout / MODEL_SCRIPT).chmod(0o755)
    monkeypatch.setenv("PATH", str(checkout))
    assert find_converter(None).folder == checkout


def test_a_pre_tokenizer_is_told_by_what_it_does(tmp_path: Path) -> None:
    file = embedded.path() / "tokenizer.json"
    assert find_pre_tokenizer(file) == "starcoder"
    tree = json.loads(file.read_text())
    tree["pre_tokenizer"]["pretokenizers"][0]["individual_digits"] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(tree))
    assert find_pre_tokenizer(tmp_path / "tokenizer.json") is None


@pytest.mark.skipif(not shutil.which(MODEL_SCRIPT), reason="llama.cpp's converter isn't on PATH")
def test_the_real_converter_takes_what_it_is_given(run: Run, tmp_path: Path) -> None:
    for adapter_only in (False, True):
        output = tmp_path / f"gguf-{adapter_only}"
        export_artifact(find_artifact(run.folder), "gguf", ExportOptions(adapter_only=adapter_only), output)
        assert all(file.read_bytes()[:4] == b"GGUF" for file in output.glob("*.gguf"))


@pytest.mark.parametrize("damage", ["base", "adapter"])
def test_a_missing_converter_is_said_before_anything_is_read(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    shutil.copytree(run.folder, tmp_path / "run")
    shutil.copytree(run.model, tmp_path / "model")
    file = {"base": tmp_path / "model/model.safetensors", "adapter": tmp_path / "run/adapter/adapter_model.safetensors"}
    file[damage].write_text("")
    source = find_artifact(tmp_path / "run").on(str(tmp_path / "model"))
    with pytest.raises(InputError, match="isn't on PATH; git clone"):
        export_artifact(source, "gguf", ExportOptions(), tmp_path / "gguf")
    assert not list(tmp_path.glob("*gguf*"))
