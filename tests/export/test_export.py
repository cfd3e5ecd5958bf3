"""What is exported computes, in unmodified mlx-lm and PEFT, what was trained."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import torch
from exported import (
    Run,
    base_folder,
    greedy,
    loaded,
    mlx_logits,
    peft_logits,
    spell_rope_for_mlx_lm,
    torch_logits,
    trained_run,
)
from peft import PeftModel
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from longrepo.cli.app import main
from longrepo.config.loader import load_settings
from longrepo.data.dialects import DIALECTS, NO_DIALECT
from longrepo.data.marks import FILE_START
from longrepo.data.template import TemplateSizes, encode_text
from longrepo.data.tokenizer_loading import base_tokenizer, load_tokenizer, new_token_rows
from longrepo.engines.adapter_io import read_adapter
from longrepo.engines.mlx.load import load_base
from longrepo.engines.mlx.lora import (
    ParameterSlot,
    adapter_tensors,
    add_trained_tokens,
    attach_lora,
    lora_slots,
    set_adapter,
)
from longrepo.errors import InputError
from longrepo.export.adapter import ExportOptions
from longrepo.export.formats import export_artifact
from longrepo.export.mlx import model_file_text
from longrepo.training.artifact import find_artifact

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import small_runs
from dialect_tokenizers import write_in_dialect


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    return trained_run(folder / "run", base_folder(folder / "model"))


@pytest.fixture(scope="module")
def exported(run: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    output = tmp_path_factory.mktemp("export") / "mlx"
    return output, export_artifact(find_artifact(run.folder), "mlx", ExportOptions(), output)


def test_mlx_lm_generates_the_tokens_of_our_own_generation(tmp_path: Path) -> None:
    run = trained_run(tmp_path / "run", "embedded")
    export_artifact(find_artifact(run.folder), "mlx", ExportOptions(), tmp_path / "mlx")
    ours = run.engine.generate(run.prompt, 20)
    theirs = greedy(loaded(tmp_path / "mlx"), tmp_path / "mlx" / "base", run.prompt, 20)
    assert theirs[: len(ours)] == ours and len(ours) > 5


def test_past_the_window_too_token_by_token_and_at_once(run: Run, exported: tuple[Path, list[str]]) -> None:
    model = loaded(exported[0])
    ours = run.engine.generate(run.prompt, 40)
    assert len(run.prompt) + len(ours) > 40
    assert greedy(model, exported[0] / "base", run.prompt, 40)[: len(ours)] == ours
    ids = run.prompt + ours
    theirs = peft_logits(run.model, run.folder / "adapter", run.tokenizer.vocabulary_size, ids)
    np.testing.assert_allclose(mlx_logits(model, ids), theirs, rtol=0, atol=1e-4)


def test_the_tokenizer_of_the_base_knows_the_structure_tokens(run: Run, exported: tuple[Path, list[str]]) -> None:
    from mlx_lm.utils import load_tokenizer

    name, id = next(iter(run.tokenizer.structure_ids.items()))
    assert load_tokenizer(exported[0] / "base").encode(name) == [id]


def test_the_model_file_imports_what_mlx_lm_brings_and_the_lines_say_how_to_use_it(
    run: Run, exported: tuple[Path, list[str]]
) -> None:
    tree = ast.parse(model_file_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    roots = {str(name).partition(".")[0] for name in imported}
    assert roots - {"mlx", "mlx_lm", "numpy"} <= sys.stdlib_module_names
    output, lines = exported
    assert (output / "base" / "longrepo_model.py").read_text() == model_file_text()
    assert any("gelu_pytorch_tanh" in line and "beyond 16 tokens" in line for line in lines)
    command = f"--model {output / 'base'} --adapter-path {output / 'adapters'} --trust-remote-code"
    assert command in lines[-1] and command in (output / "README.md").read_text()
    with pytest.raises(ValueError, match="trust_remote_code"):
        loaded(output, trust=False)


def test_without_the_model_file_it_loads_untrusted_and_the_difference_is_said(run: Run, tmp_path: Path) -> None:
    lines = export_artifact(find_artifact(run.folder), "mlx", ExportOptions(model_file=False), tmp_path / "mlx")
    assert any("this isn't the model that was trained" in line for line in lines)
    assert "--trust-remote-code" not in lines[-1]
    short = run.prompt[:8]
    near = mlx_logits(loaded(tmp_path / "mlx", trust=False), short)
    off = np.abs(near - torch_logits(run, short)).max()
    assert 1e-4 < off < 0.1, "another GELU, and nothing else"


def test_four_bits_are_the_engines_own_and_leave_the_trained_rows_whole(run: Run, tmp_path: Path) -> None:
    export_artifact(find_artifact(run.folder), "mlx", ExportOptions(quantization="4bit"), tmp_path / "mlx")
    source = find_artifact(run.folder)
    four = source.settings.model_copy(
        update={"model": source.settings.model.model_copy(update={"quantization": "nf4"})}
    )
    model, _ = load_base(four.model, run.tokenizer, mx.float32)
    attach_lora(model, four)
    rows = add_trained_tokens(model, list(run.tokenizer.initial_from), run.tokenizer.vocabulary_size)
    slots = [*lora_slots(model), ParameterSlot("rows", rows, "weight")]
    set_adapter(slots, read_adapter(source.adapter, {name: t.shape for name, t in adapter_tensors(slots).items()}))
    model.eval()
    theirs = loaded(tmp_path / "mlx")
    assert theirs.model.layers[0].mlp.c_fc.linear.bits == 4
    assert np.array_equal(np.array(theirs.model.embed_tokens.weight[rows.ids]), np.array(rows.weight))
    np.testing.assert_allclose(mlx_logits(theirs, run.prompt), mlx_logits(model, run.prompt), rtol=0, atol=1e-5)


def test_where_the_head_is_not_tied_the_rows_are_the_embeddings_alone(tmp_path: Path) -> None:
    run = trained_run(tmp_path / "run", base_folder(tmp_path / "model", tie_word_embeddings=False))
    export_artifact(find_artifact(run.folder), "mlx", ExportOptions(), tmp_path / "mlx")
    ours = torch_logits(run, run.prompt)
    np.testing.assert_allclose(mlx_logits(loaded(tmp_path / "mlx"), run.prompt), ours, rtol=0, atol=1e-4)


def test_without_structure_rows_the_adapter_alone_is_written_and_the_base_named(tmp_path: Path) -> None:
    base = base_folder(tmp_path / "model", hidden_act="gelu", sliding_window=None)
    spell_rope_for_mlx_lm(base)
    run = trained_run(tmp_path / "run", base, "data.structure_tokens=false")
    lines = export_artifact(find_artifact(run.folder), "mlx", ExportOptions(), tmp_path / "mlx")
    assert not (tmp_path / "mlx" / "base").exists() and any(f"base: {base} as it is" in line for line in lines)
    assert not any("differs" in line for line in lines), "mlx-lm's own class is what this configuration says"
    ours = run.engine.generate(run.prompt, 20)
    assert f"--model {base}" in lines[-1] and "--trust" not in lines[-1]
    with_base = export_artifact(find_artifact(run.folder), "mlx", ExportOptions(with_base=True), tmp_path / "whole")
    assert "--trust" not in with_base[-1]
    model = loaded(tmp_path / "whole", trust=False)
    assert greedy(model, tmp_path / "whole" / "base", run.prompt, 20)[: len(ours)] == ours


def test_an_adapter_of_native_marks_is_plain_lora_for_peft_and_mlx_lm(tmp_path: Path) -> None:
    """On the base's own vocabulary: no rows, no resizing, and the same greedy completion everywhere."""
    dialect = next(dialect for dialect in DIALECTS if dialect.name == "Qwen")
    base = write_in_dialect(dialect, tmp_path / "model")
    size = load_tokenizer(str(base)).vocabulary_size
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(3)
    LlamaForCausalLM(
        LlamaConfig(vocab_size=size, num_key_value_heads=2, initializer_range=0.2, eos_token_id=0, **shape)
    ).save_pretrained(base)
    spell_rope_for_mlx_lm(base)
    run = trained_run(tmp_path / "run", base, "lora.target_modules=[q_proj,v_proj]", "data.structure_tokens=native")
    assert not [name for name in run.engine.parameters if "rows" in name]
    builder = TemplateSizes(run.tokenizer, "shop").begin()
    builder.mark(FILE_START, 0.0)
    builder.plain(encode_text(run.tokenizer, "shop/cart.py\ndef total(cart):\n    "), 0.0)
    prompt = builder.arrays()[0].tolist()
    ours = run.engine.generate(prompt, 24)
    with run.engine.base_only():
        assert run.engine.generate(prompt, 24) != ours
    for format in ("peft", "mlx"):
        export_artifact(find_artifact(run.folder), format, ExportOptions(), tmp_path / format)
    peft = tmp_path / "peft"
    assert not json.loads((peft / "adapter_config.json").read_text())["trainable_token_indices"]
    assert find_artifact(peft).settings.data.structure_tokens == "native"
    assert "resize" not in (peft / "README.md").read_text() and not (tmp_path / "mlx" / "base").exists()
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tuned = PeftModel.from_pretrained(plain, str(peft)).eval()
    written = tuned.generate(input_ids=torch.tensor([prompt]), max_new_tokens=24, do_sample=False)
    assert written[0, len(prompt) :].tolist()[: len(ours)] == ours
    assert greedy(loaded(tmp_path / "mlx", trust=False, base=base), base, prompt, 24)[: len(ours)] == ours


def test_added_fill_in_the_middle_tokens_go_with_the_adapter(tmp_path: Path) -> None:
    """A base without such tokens gets three, whose rows PEFT, mlx-lm and a merged model read as training did."""
    base = write_in_dialect(NO_DIALECT, tmp_path / "model")
    size = load_tokenizer(str(base)).vocabulary_size
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(3)
    LlamaForCausalLM(
        LlamaConfig(vocab_size=size, num_key_value_heads=2, initializer_range=0.2, eos_token_id=0, **shape)
    ).save_pretrained(base)
    spell_rope_for_mlx_lm(base)
    run = trained_run(tmp_path / "run", base, "lora.target_modules=[q_proj,v_proj]", "data.fim=add")
    added = [size, size + 1, size + 2]
    assert run.tokenizer.kind == "native" and sorted(run.tokenizer.structure_ids.values()) == added
    assert run.tokenizer.fim is not None
    prompt = run.tokenizer.fim.prompt(
        *(run.tokenizer.encode(text) for text in ("def total(cart):\n", "    return n\n"))
    )
    ours = run.engine.generate(prompt, 16)
    for format in ("peft", "mlx", "merged"):
        options = ExportOptions() if format == "peft" else ExportOptions(precision="float32")
        export_artifact(find_artifact(run.folder), format, options, tmp_path / format)
    peft, merged = tmp_path / "peft", tmp_path / "merged"
    found = find_artifact(peft)
    assert found.settings.data.structure_tokens == "native"
    assert found.load_tokenizer().fim_added and found.load_tokenizer().sha256 == run.tokenizer.sha256
    assert "resize" in (peft / "README.md").read_text()
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    plain.resize_token_embeddings(size + 3)
    for model in (
        PeftModel.from_pretrained(plain, str(peft)),
        AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32),
    ):
        written = model.eval().generate(input_ids=torch.tensor([prompt]), max_new_tokens=16, do_sample=False)
        assert written[0, len(prompt) :].tolist()[: len(ours)] == ours
    own = tmp_path / "mlx" / "base"
    assert greedy(loaded(tmp_path / "mlx", base=own), own, prompt, 16)[: len(ours)] == ours
    again = base_tokenizer(load_settings(None, [f"model.name={merged}"]))  # as a base it has what it was trained with
    assert again.fim_added and new_token_rows(again, str(merged), None) == {}


def test_where_mlx_lm_misreads_the_published_base_the_export_has_its_own(tmp_path: Path) -> None:
    run = trained_run(tmp_path / "run", base_folder(tmp_path / "model"), "data.structure_tokens=false")
    lines = export_artifact(find_artifact(run.folder), "mlx", ExportOptions(), tmp_path / "mlx")
    assert any("a base of its own: " in line and "rotary base is 100000, not 10000" in line for line in lines)
    ours = torch_logits(run, run.prompt)
    np.testing.assert_allclose(mlx_logits(loaded(tmp_path / "mlx"), run.prompt), ours, rtol=0, atol=1e-4)


def test_peft_is_the_adapter_and_its_tokenizer(run: Run, tmp_path: Path) -> None:
    export_artifact(find_artifact(run.folder / "adapter"), "peft", ExportOptions(), tmp_path / "peft")
    name = "adapter_model.safetensors"
    assert (tmp_path / "peft" / name).read_bytes() == (run.folder / "adapter" / name).read_bytes()
    again = find_artifact(tmp_path / "peft")
    assert again.tokenizer == str(tmp_path / "peft") and again.settings.model.name == str(run.model)
    export_artifact(again, "mlx", ExportOptions(precision="float32"), tmp_path / "mlx")
    ours = run.engine.generate(run.prompt, 10)
    assert greedy(loaded(tmp_path / "mlx"), tmp_path / "mlx" / "base", run.prompt, 10)[: len(ours)] == ours


def test_a_run_a_checkpoint_and_a_pointer_stand_for_their_adapter(tmp_path: Path) -> None:
    path = tmp_path / "run"
    small_runs.run(path, epochs=2)
    assert find_artifact(path).adapter == path / "adapter"
    assert find_artifact(path / "best").settings.long_context.phase1_max_length == 64
    checkpoint = next((path / "checkpoints").glob("phase-1"))
    assert find_artifact(checkpoint).adapter == find_artifact(checkpoint / "adapter").adapter == checkpoint / "adapter"
    (path / "adapter").rename(tmp_path / "moved")
    unfinished = find_artifact(path)
    assert unfinished.adapter == path / "best" / "adapter" and "isn't finished" in unfinished.notes[0]
    (checkpoint / "optimizer.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="is damaged"):
        find_artifact(checkpoint)


def test_an_existing_folder_is_left_alone_and_a_failure_leaves_nothing(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mlx").mkdir()
    with pytest.raises(InputError, match="already exists"):
        export_artifact(find_artifact(run.folder), "mlx", ExportOptions(), tmp_path / "mlx")
    assert not list((tmp_path / "mlx").iterdir())
    narrow = base_folder(tmp_path / "narrow", intermediate_size=64)
    text = (run.folder / "settings.yaml").read_text().replace(str(run.model), str(narrow))
    other = tmp_path / "other"
    other.mkdir()
    (other / "settings.yaml").write_text(text)
    (run.folder / "adapter").rename(other / "adapter")
    try:
        with pytest.raises(InputError, match=r"another base: model\.layers\.0\.mlp\.c_") as caught:
            export_artifact(find_artifact(other), "mlx", ExportOptions(), tmp_path / "out" / "mlx")
    finally:
        (other / "adapter").rename(run.folder / "adapter")
    assert "\n" not in str(caught.value) and not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    "config, expected",
    [
        ('{"peft_type": "LORA", "use_dora": true}', "use_dora"),
        ('{"peft_type": "IA3"}', "peft_type is IA3"),
        ('{"peft_type": "LORA", "r": 4}', "names 0 trained tokens"),
        ("no json", "can't be read"),
    ],
)
def test_an_adapter_that_is_more_than_lora_is_one_line(run: Run, tmp_path: Path, config: str, expected: str) -> None:
    name = "adapter_model.safetensors"
    (tmp_path / name).write_bytes((run.folder / "adapter" / name).read_bytes())
    (tmp_path / "adapter_config.json").write_text(config.replace("{", f'{{"base_model_name_or_path": "{run.model}", '))
    with pytest.raises(InputError, match=expected) as caught:
        export_artifact(find_artifact(tmp_path), "mlx", ExportOptions(), tmp_path / "mlx")
    assert "\n" not in str(caught.value)


def test_what_is_no_run_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        find_artifact(tmp_path / "nowhere")
    with pytest.raises(InputError, match="neither a run nor a checkpoint"):
        find_artifact(tmp_path)


def test_the_command_says_what_it_wrote_and_answers_bad_input_in_one_line(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, status in (([str(run.folder), "--format", "peft"], 0), ([str(tmp_path), "--format", "mlx"], 2)):
        monkeypatch.setattr("sys.argv", ["longrepo", "export", *arguments, "--output", str(tmp_path / "out")])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == status
    said = capsys.readouterr()
    assert said.out.startswith(f"adapter: {tmp_path / 'out'}") and said.err.startswith("error: ")
    assert said.err.count("\n") == 1
