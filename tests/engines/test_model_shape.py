"""The default model's configuration ships: a plan needs no network. What the hub gave before is used first."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from longrepo.config.schema import ModelSettings
from longrepo.engines.model_shape import is_shipped_config, read_config, read_shape
from longrepo.errors import InputError

DEFAULT = ModelSettings().name
PUBLISHED = Path(__file__).parents[1] / "pretrain" / "known" / "starcoder2-3b" / "config.json"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No network, and a hub's cache of its own."""

    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_the_default_model_is_known_without_a_network() -> None:
    config = read_config(DEFAULT)
    assert is_shipped_config(DEFAULT) and config._name_or_path == DEFAULT
    shape = read_shape(config)
    assert (shape.layers, shape.linear + shape.other) == (30, 3_030_371_328)
    published = json.loads(PUBLISHED.read_text())
    assert {key: config.to_dict()[key] for key in published if key != "rope_theta"} == {
        key: value for key, value in published.items() if key != "rope_theta"
    }
    assert config.rope_parameters["rope_theta"] == published["rope_theta"]


def test_what_the_hub_gave_comes_first(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = offline / f"models--{DEFAULT.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("c0ffee")
    (folder / "snapshots" / "c0ffee").mkdir(parents=True)
    changed = json.loads(PUBLISHED.read_text()) | {"num_hidden_layers": 31}
    (folder / "snapshots" / "c0ffee" / "config.json").write_text(json.dumps(changed))
    assert not is_shipped_config(DEFAULT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert read_config(DEFAULT).num_hidden_layers == 31


@pytest.mark.parametrize("name, revision", [(DEFAULT, "v1"), ("bigcode/starcoder2-7b", None)])
def test_nothing_else_is_taken_for_it(name: str, revision: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert not is_shipped_config(name, revision)
    with pytest.raises(InputError, match=f"^model {name}: it is not in the hub's cache, and HF_HUB_OFFLINE is set"):
        read_config(name, revision)


def own_code(folder: Path, kind: str) -> Path:
    code = {"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.Own"}
    shape = {"num_hidden_layers": 1, "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    (folder / "config.json").write_text(json.dumps({"model_type": kind, "auto_map": code, "vocab_size": 96} | shape))
    for name in ("configuration_own.py", "modeling_own.py"):
        (folder / name).write_text("raise SystemExit('it was run')\n")
    return folder


def test_code_of_a_models_own_is_never_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^model .*: its config\.json asks for code of its own \(auto_map\)") as found:
        read_config(str(own_code(tmp_path, "own")))
    assert "no model type own" in str(found.value) and "\n" not in str(found.value)
    assert type(read_config(str(own_code(tmp_path, "llama")))).__name__ == "LlamaConfig"


def test_a_model_of_text_and_pictures_is_its_text_part(tmp_path: Path) -> None:
    text = {"num_hidden_layers": 4, "hidden_size": 64, "vocab_size": 96, "layer_types": ["full_attention"] * 4}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3_5", "text_config": text}))
    config = read_config(str(tmp_path))
    assert (config.num_hidden_layers, read_shape(config).hidden) == (4, 64)
