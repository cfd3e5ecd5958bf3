"""The model card: what the hub reads of it, what it says of data, training, figures and licences, and what it hides."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from exported import base_folder, trained_run
from huggingface_hub import ModelCard, metadata_load

from longrepo.export import card
from longrepo.export.adapter import ExportOptions
from longrepo.export.card import BaseLicense, CardUse, find_base_license, make_model_card
from longrepo.export.formats import export_artifact
from longrepo.training.artifact import TrainedArtifact, find_artifact
from longrepo.utils.files import sha256_of

sys.path.insert(0, str(Path(__file__).parents[1] / "reports"))

from written_run import evaluate, write_run

USE = CardUse("transformers", "A model.", "Load it.")


@pytest.fixture
def source(tmp_path: Path) -> TrainedArtifact:
    """Of a finished run with figures."""
    run = write_run(tmp_path)
    config = {"base_model_name_or_path": "embedded", "peft_type": "LORA", "r": 16, "lora_alpha": 32, "lora_dropout": 0}
    (run / "adapter" / "adapter_config.json").write_text(json.dumps(config | {"target_modules": ["q_proj"]}))
    evaluate(run)
    return find_artifact(run)


def with_licence(source: TrainedArtifact, licence: str) -> TrainedArtifact:
    """The same, its data under another licence."""
    header = source.run.parent / "sequences" / "header.json"  # type: ignore[union-attr]
    tree = json.loads(header.read_text())
    for one in tree["repositories"]:
        one["licence"] = licence
    header.write_text(json.dumps(tree))
    return source


def front_matter(text: str) -> Any:
    return ModelCard(text).data.to_dict()


def test_it_says_data_training_figures_and_use(source: TrainedArtifact) -> None:
    text = make_model_card(source, USE)
    assert source.run is not None
    header = json.loads((source.run.parent / "sequences" / "header.json").read_text())
    assert header["repositories"][0]["head"] in text and header["content_sha256"] in text
    assert "| up to 2,048 tokens |" not in text and "| loss, sequences of up to 2,048 tokens | 3.500 | 3.300 |" in text
    assert "-0.250 to -0.150" in text and "one commit: none" in text and "A note & its sign." in text
    assert "r 16, alpha 32" in text and "2.1000 nats a token, checkpoint phase-1" in text and "Load it." in text
    assert "hitherto" not in text


def test_what_the_hub_reads_is_what_the_base_and_the_data_are(source: TrainedArtifact) -> None:
    facts = front_matter(make_model_card(with_licence(source, "Apache-2.0"), USE))
    assert (facts["license"], facts["library_name"], facts["pipeline_tag"]) == (
        "apache-2.0",
        "transformers",
        "text-generation",
    )
    assert "base_model" not in facts, "the embedded model has no name on the hub"
    facts = front_matter(make_model_card(with_licence(source, "MIT"), USE))
    assert (facts["license"], facts["license_name"]) == ("other", "apache-2.0 AND MIT")
    text = make_model_card(with_licence(source, ""), USE)
    assert front_matter(text)["license"] == "unknown" and "no licence was found or recognized: keep this model" in text
    text = make_model_card(with_licence(source, "MIT AND other"), USE)
    assert "| other (not recognized) |" not in text and "MIT AND other (not recognized)" in text
    assert front_matter(text)["license_name"] == "apache-2.0 AND MIT AND other" and "keep this model" in text


def test_the_restrictions_of_starcoder2_are_passed_on(source: TrainedArtifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card, "model_location", lambda name: name)
    monkeypatch.setattr("longrepo.export.card._find_file", lambda *where: None)
    text = make_model_card(with_licence(source, "MIT").on("bigcode/starcoder2-3b"), USE)
    facts = front_matter(text)
    assert facts["base_model"] == "bigcode/starcoder2-3b" and facts["base_model_relation"] == "finetune"
    assert facts["license_name"] == "bigcode-openrail-m AND MIT" and "bigcode-model-license" in facts["license_link"]
    assert "restricts what the model may be used for" in text and "with a copy of the licence" in text


def test_a_bases_licence_is_read_from_its_own_card(tmp_path: Path) -> None:
    assert find_base_license("embedded", card.model_location("embedded"), None) == BaseLicense("apache-2.0")
    (tmp_path / "README.md").write_text("---\nlicense: other\nlicense_name: some-rail\nlicense_link: LICENSE\n---\n")
    found = find_base_license(str(tmp_path), str(tmp_path), None)
    assert found == BaseLicense("some-rail", "LICENSE") and found.restricts_use
    (tmp_path / "README.md").write_text("no front matter\n")
    assert find_base_license(str(tmp_path), str(tmp_path), None) == BaseLicense("")


def test_an_adapter_without_its_run_says_what_is_not_known_and_no_path_of_this_machine(tmp_path: Path) -> None:
    run = trained_run(tmp_path / "run", base_folder(tmp_path / "model"))
    (tmp_path / "run" / "settings.yaml").unlink()
    export_artifact(find_artifact(run.folder / "adapter"), "merged", ExportOptions(), tmp_path / "merged")
    text = (tmp_path / "merged" / "README.md").read_text()
    assert "Unknown." in text and "The run isn't known" in text and "Not measured" in text
    assert str(tmp_path) not in text and "# model tuned on" in text


@pytest.mark.parametrize("format", ["peft", "merged", "mlx"])
def test_every_folder_has_one(tmp_path: Path, format: str) -> None:
    run = trained_run(tmp_path / "run", base_folder(tmp_path / "model"))
    export_artifact(find_artifact(run.folder), format, ExportOptions(), tmp_path / "out")
    facts = metadata_load(tmp_path / "out" / "README.md")
    assert facts is not None
    assert facts["library_name"] == {"merged": "transformers"}.get(format, format)
    assert "LoRA" in (tmp_path / "out" / "README.md").read_text()


def changed(file: Path, change: Any) -> None:
    tree = json.loads(file.read_text())
    change(tree)
    file.write_text(json.dumps(tree))


def test_it_gives_the_lengths_trained_on_not_those_prepared(source: TrainedArtifact) -> None:
    assert source.run is not None
    header, state = source.run.parent / "sequences" / "header.json", source.run / "checkpoints/phase-1/state.json"
    band = {"phase": 3, "floor": 1024, "low": 2048, "cap": 4096}
    changed(header, lambda tree: tree["bands"].append(band))
    text = make_model_card(source, USE)
    assert "sequences of up to 1,024 tokens (of the prepared ones, up to 4,096)" in text
    assert "12,000 tokens were trained on in 12 updates" in text and "from before it" not in text
    changed(state, lambda tree: tree["state"]["best"].update(epoch=1))
    text = make_model_card(source, USE)
    assert "sequences of up to 512 tokens (of the prepared ones, up to 4,096)" in text
    assert "6,000 tokens were trained on in 6 updates" in text
    (line,) = (line for line in text.splitlines() if "these weights are from before it" in line)
    assert line.startswith("| phase 2 ")


def test_cut_sequences_count_as_cut(source: TrainedArtifact) -> None:
    assert source.run is not None
    metrics, state = source.run / "metrics.jsonl", source.run / "checkpoints/phase-1/state.json"
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    for line in lines:
        if line.get("changes") == "chunks":
            line |= {"changes": "cut", "update": 7}
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    changed(state, lambda tree: tree["state"]["memory"].update(max_length=640))
    assert "sequences of up to 640 tokens (of the prepared ones, up to 1,024)" in make_model_card(source, USE)


def test_a_checkpoint_s_card_counts_its_own_updates(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    folder = run / "checkpoints" / "phase-1"
    changed(folder / "state.json", lambda tree: tree["state"].update(update=4))
    (folder / "adapter").mkdir()
    (folder / "optimizer.safetensors").write_text("")
    config = {"base_model_name_or_path": "embedded", "peft_type": "LORA", "r": 16, "lora_alpha": 32, "lora_dropout": 0}
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(config | {"target_modules": ["q_proj"]}))
    files = {name: sha256_of(folder / name) for name in ("state.json", "optimizer.safetensors")}
    (folder / "manifest.json").write_text(json.dumps({"files": files}))
    text = make_model_card(find_artifact(folder), USE)
    assert "4,000 tokens were trained on in 4 updates" in text and "sequences of up to 512 tokens" in text
