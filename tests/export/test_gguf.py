"""GGUF through llama.cpp's converters: what they are given, what is said of their results, and where they are found.

They are no dependency: a stand-in with their arguments takes their place, and the real ones where they are on PATH.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from exported import Run, base_folder, trained_run

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))

from dialects import TEN_LANGUAGES, write_dialect

from longrepo import embedded
from longrepo.data.dialects import DIALECTS, NO_DIALECT
from longrepo.errors import InputError
from longrepo.export.adapter import ExportOptions
from longrepo.export.formats import export_artifact
from longrepo.export.ollama import make_modelfile
from longrepo.export.run_converter import (
    LORA_SCRIPT,
    MODEL_SCRIPT,
    find_converter,
    find_pre_tokenizer,
    is_composed_first,
)
from longrepo.training.artifact import find_artifact

_BASE = """class gguf:
    class LlamaHfVocab:
        def get_token_score(self, id):
            return -1000.0
class TextModel:
    def get_vocab_base_pre(self, tokenizer):
        raise NotImplementedError("BPE pre-tokenizer was not recognized")
"""
_MODEL = """import argparse, json, pathlib, types
from conversion.base import TextModel, gguf
parser = argparse.ArgumentParser()
parser.add_argument("model", type=pathlib.Path)
for name in ("--outfile", "--outtype", "--model-name"):
    parser.add_argument(name)
given = parser.parse_args()
config = json.loads((given.model / "config.json").read_text())
card = (given.model / "README.md").read_text()
vocabulary = gguf.LlamaHfVocab()
vocabulary.fname_tokenizer = given.model / "tokenizer.json"
merges = json.loads(vocabulary.fname_tokenizer.read_text())["model"]["merges"]
pieces = ["".join(merges[0]), "".join(merges[2]), "no merge makes this"]
vocabulary.tokenizer = types.SimpleNamespace(convert_ids_to_tokens=pieces.__getitem__)
scores = [vocabulary.get_token_score(id) for id in range(3)]
facts = vars(given) | {"pre": TextModel().get_vocab_base_pre(None), "dtype": config["dtype"], "card": card}
facts |= {"scores": scores, "merges": len(merges)}
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
    assert given["scores"] == [0, -2, -given["merges"]]
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


PRE_TOKENIZERS = {
    "starcoder2": "starcoder",
    "smollm2": "starcoder",
    "gpt2": "gpt-2",
    "stablelm": "gpt-2",
    "granite 4": "dbrx",
    "qwen2.5-coder": "qwen2",
    "qwen3.5": "qwen35",
    "seed-coder": "seed-coder",
    "deepseek-coder": "deepseek-coder",
    "deepseek's rules on qwen2": "deepseek-v3",
    "codellama": None,
    "codegemma": None,
}


@pytest.mark.parametrize("dialect", PRE_TOKENIZERS)
def test_a_pre_tokenizer_is_told_by_its_rules(tmp_path: Path, dialect: str) -> None:
    write_dialect(tmp_path / "base", dialect, TEN_LANGUAGES.values(), 400)
    assert find_pre_tokenizer(tmp_path / "base" / "tokenizer.json") == PRE_TOKENIZERS[dialect]
    assert is_composed_first(tmp_path / "base" / "tokenizer.json") == (
        dialect in ("qwen2.5-coder", "qwen3.5", "stablelm")
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"pre_tokenizer": {"type": "Digits", "individual_digits": False}},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True}},
        {"pre_tokenizer": None},
        {"normalizer": {"type": "NFKC"}},
        {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]}},
        {"model": {"ignore_merges": True}},
    ],
)
def test_one_that_differs_a_little_is_unknown(tmp_path: Path, changes: dict[str, Any]) -> None:
    tree = json.loads((embedded.path() / "tokenizer.json").read_text())
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(tree | {"normalizer": {"type": "Sequence", "normalizers": []}}))
    assert find_pre_tokenizer(file) == "starcoder"
    file.write_text(json.dumps(tree | changes))
    assert find_pre_tokenizer(file) is None


def test_a_base_that_composes_text_is_said(tmp_path: Path, checkout: Path) -> None:
    base = base_folder(tmp_path / "model")
    tree = json.loads((base / "tokenizer.json").read_text())
    (base / "tokenizer.json").write_text(json.dumps(tree | {"normalizer": {"type": "NFC"}}))
    run = trained_run(tmp_path / "run", base)
    lines = export_artifact(find_artifact(run.folder), "gguf", ExportOptions(llama_cpp=checkout), tmp_path / "gguf")
    assert json.loads((tmp_path / "gguf" / "model-bf16.gguf").read_text())["pre"] == "starcoder"
    assert any("NFC gets other ids in llama.cpp" in line for line in lines)
    assert "NFC gets other ids in llama.cpp" in (tmp_path / "gguf" / "README.md").read_text()


def test_an_adapter_for_a_client_of_half_strength_is_twice_as_strong(run: Run, tmp_path: Path, checkout: Path) -> None:
    found = {}
    for name in (None, "llama.vscode"):
        options, output = ExportOptions(adapter_only=True, llama_cpp=checkout, for_=name), tmp_path / str(name)
        lines = export_artifact(find_artifact(run.folder), "gguf", options, output)
        found[name] = json.loads((output / "adapter-f32.gguf").read_text()), lines
    (plain, _), (strong, lines) = found.values()
    assert (strong["alpha"], strong["r"]) == (2 * plain["alpha"], plain["r"])
    assert lines[-1].endswith("llama-server -m base-bf16.gguf --lora-scaled adapter-f32.gguf:0.5")
    assert any(line.startswith("llama.vscode applies adapters at scale 0.5") for line in lines)
    assert "--lora-scaled adapter-f32.gguf:0.5" in (tmp_path / "llama.vscode" / "README.md").read_text()


@pytest.mark.parametrize(
    ("format", "options", "said"),
    [
        ("gguf", ExportOptions(for_="llama.vscode"), "--for llama.vscode: only an adapter in its own file"),
        ("gguf", ExportOptions(for_="zed", adapter_only=True), "--for zed: --format gguf takes llama.vscode"),
        ("ollama", ExportOptions(for_="llama.vscode"), "--for: --format ollama doesn't take it"),
        ("ollama", ExportOptions(quantization="4bit"), "--quantization 4bit: --format ollama takes none, 8bit"),
    ],
)
def test_what_a_format_cannot_do_is_refused(
    run: Run, tmp_path: Path, format: str, options: ExportOptions, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        export_artifact(find_artifact(run.folder), format, options, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_ollama_gets_a_modelfile_beside_the_model(run: Run, tmp_path: Path, checkout: Path) -> None:
    lines = export_artifact(find_artifact(run.folder), "ollama", ExportOptions(llama_cpp=checkout), tmp_path / "Tuned")
    assert {file.name for file in (tmp_path / "Tuned").iterdir()} == {"model-bf16.gguf", "Modelfile", "README.md"}
    written = (tmp_path / "Tuned" / "Modelfile").read_text().splitlines()
    gap = "<fim_prefix>{{ .Prompt }}<fim_suffix>{{ .Suffix }}<fim_middle>"
    assert written[:2] == [
        "FROM ./model-bf16.gguf",
        f'TEMPLATE """{{{{ if .Suffix }}}}{gap}{{{{ else }}}}{{{{ .Prompt }}}}{{{{ end }}}}"""',
    ]
    assert 'PARAMETER stop "<|FILE_END|>"' in written and 'PARAMETER stop "<file_sep>"' in written
    assert f"PARAMETER num_ctx {find_artifact(run.folder).settings.model.max_position_embeddings}" in written
    assert lines[-1].endswith("ollama create tuned -f Modelfile")


def test_ollama_takes_the_adapter_apart_on_a_base_beside_it(tmp_path: Path, checkout: Path) -> None:
    """Of native marks, too, whose base would do as published: a Modelfile names a file."""
    run = trained_run(tmp_path / "run", base_folder(tmp_path / "model"), "data.structure_tokens=native")
    options = ExportOptions(adapter_only=True, llama_cpp=checkout)
    export_artifact(find_artifact(run.folder), "ollama", options, tmp_path / "out")
    written = (tmp_path / "out" / "Modelfile").read_text().splitlines()
    assert written[:2] == ["FROM ./base-bf16.gguf", "ADAPTER ./adapter-f32.gguf"]
    assert (tmp_path / "out" / "base-bf16.gguf").is_file()
    assert not any("FILE_END" in line for line in written)


@pytest.mark.parametrize(
    ("name", "gap"),
    [
        ("Qwen", "<|fim_prefix|>{{ .Prompt }}<|fim_suffix|>{{ .Suffix }}<|fim_middle|>"),
        ("Mellum", "<fim_suffix>{{ .Suffix }}<fim_prefix>{{ .Prompt }}<fim_middle>"),
        ("Codestral", "[SUFFIX]{{ .Suffix }}[PREFIX]{{ .Prompt }}"),
    ],
)
def test_a_modelfile_asks_in_the_bases_own_order(name: str, gap: str) -> None:
    dialect = next(one for one in DIALECTS if one.name == name)
    written = make_modelfile(SimpleNamespace(dialect=dialect, structure_ids={}), "model.gguf", None, 512)  # type: ignore[arg-type]
    assert f'TEMPLATE """{{{{ if .Suffix }}}}{gap}{{{{ else }}}}{{{{ .Prompt }}}}{{{{ end }}}}"""\n' in written
    assert all(f'PARAMETER stop "{mark}"\n' in written for mark in dialect.fim.marks)


def test_a_base_that_fills_no_gaps_gets_no_suffix() -> None:
    tokenizer = SimpleNamespace(dialect=NO_DIALECT, structure_ids={})
    written = make_modelfile(tokenizer, "model.gguf", None, 512)  # type: ignore[arg-type]
    assert 'TEMPLATE """{{ .Prompt }}"""' in written and "PARAMETER stop" not in written


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
