"""The doctor: what it finds on this machine, and what it says where something is missing."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
import typer
from rich.console import Console
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from typer.testing import CliRunner

from longrepo.cli.plan import doctor
from longrepo.config.loader import load_settings
from longrepo.data.tokenizer_loading import load_tokenizer
from longrepo.engines.registry import EngineSelection
from longrepo.memory import doctor_checks, doctor_model
from longrepo.memory.doctor_checks import DoctorFinding
from longrepo.reports.planning import doctor_verdict, print_findings

SHORT = ("--set", "long_context.phase1_max_length=128", "--set", "long_context.phase2_epochs=0")
ANYWHERE = {"engine", "engines", "git", "chip", "device", "precision", "4-bit", "memory", "cgroup"}
OF_THE_BASE = {"license", "FIM", "torch", "chunks", "MLX", "LoRA"}
TOPICS = ANYWHERE | {"cores", "attention", "kernels"}


def ask(*words: str) -> tuple[int, dict[str, list[dict[str, str]]]]:
    """Exit status, and findings by topic."""
    app = typer.Typer()
    app.command()(doctor)
    done = CliRunner().invoke(app, ["--json", *words])
    tree = json.loads(done.stdout)
    assert tree["runs"] == (done.exit_code == 0)
    topics: dict[str, list[dict[str, str]]] = {}
    for finding in tree["findings"]:
        topics.setdefault(finding["topic"], []).append(finding)
    return done.exit_code, topics


def test_the_embedded_model_would_run_here() -> None:
    status, found = ask("--model", "embedded", "--device", "cpu", *SHORT)
    assert status == 0
    assert set(found) == TOPICS | {"model", "tokenizer", "main job", "disk"} | OF_THE_BASE
    assert found["FIM"][0]["what"].endswith("tokens, prefix-suffix-middle and suffix-prefix-middle, joined")
    assert found["LoRA"][0]["what"] == "q_proj, k_proj, v_proj, o_proj, c_fc, c_proj"
    assert {found[topic][0]["status"] for topic in OF_THE_BASE} == {"ok"}
    assert found["device"][0]["what"].startswith("cpu: ")
    assert "forwards and backwards" in found["4-bit"][0]["what"]
    assert "fits in" in found["main job"][0]["what"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_there_is_one_problem() -> None:
    status, found = ask("--model", "embedded", "--device", "cuda")
    problems = [finding for findings in found.values() for finding in findings if finding["status"] == "problem"]
    assert status == 2 and len(problems) == 1
    assert problems[0]["what"] == "--device cuda: this machine or this torch build has none"
    assert "usable here: " in problems[0]["remedy"]


def test_a_job_that_cannot_be_planned_is_a_problem() -> None:
    status, found = ask("--model", "embedded", "--device", "cpu", "--set", "lora.target_modules=[c_attn]")
    assert status == 2
    assert found["main job"][0]["status"] == "problem"
    assert "embedded" in found["main job"][0]["what"] and "c_attn" in found["main job"][0]["what"]


def test_what_of_a_base_does_not_work_is_said(tmp_path: Path) -> None:
    """One with experts, code of its own, and tokens without fill-in-the-middle."""
    shape = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    experts = {"moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2, "vocab_size": 96}
    code = {"auto_map": {"AutoModelForCausalLM": "modeling_own.Own"}}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3_moe", **shape, **experts, **code}))
    Tokenizer(WordLevel({"<|endoftext|>": 0, "a": 1}, "a")).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>"}')
    settings = load_settings(None, [f"model.name={tmp_path}"])
    findings = [*doctor_model.check_code(tmp_path), *doctor_model.check_dialect(load_tokenizer(str(tmp_path)))]
    findings += doctor_model.check_architecture(settings, EngineSelection("torch", "as asked"))
    found = {finding.topic: finding for finding in findings}
    assert [found[topic].status for topic in ("own code", "FIM", "MLX", "LoRA")] == ["note"] * 4
    assert "never run" in found["own code"].what and "no gaps are learned" in found["FIM"].what
    assert "not model type qwen3_moe" in found["MLX"].what
    assert found["LoRA"].what.startswith("q_proj, k_proj, v_proj, o_proj; its experts (0 M parameters) get no LoRA")


def test_the_license_of_a_base_is_said_where_it_is_known() -> None:
    free, packaged, research, unknown = map(
        doctor_model.check_license,
        ("Qwen/Qwen2.5-Coder-1.5B", "smollm2-135m", "Qwen/Qwen2.5-Coder-3B", "owner/other"),
    )
    assert free.status == "ok" and "Apache-2.0, use at work: yes" in free.what
    assert packaged == free
    assert research.status == "note" and "use at work: no: for research" in research.what
    assert unknown.status == "note" and "read its model card" in unknown.remedy


def test_a_known_base_is_judged_before_it_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "Qwen/Qwen2.5-Coder-1.5B"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    status, found = ask("--model", name, "--device", "cpu", *SHORT)
    assert status == 2 and found["model"][0]["what"].endswith("HF_HUB_OFFLINE is set")
    assert found["torch"][0]["what"] == "qwen2, 1.54 B parameters" and found["chunks"][0]["status"] == "ok"


def test_a_damaged_folder_names_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "one.safetensors"}}')
    status, found = ask("--model", str(tmp_path), "--device", "cpu")
    assert status == 2
    assert found["model"][0]["what"].endswith("no one.safetensors")
    assert found["tokenizer"][0]["status"] == "problem" and "tokenizer.json" in found["tokenizer"][0]["what"]
    assert found["main job"][0]["status"] == "problem"


def test_four_bit_weights_that_do_not_work_are_a_problem() -> None:
    found = doctor_checks.check_torch_4bit("meta", "float32", double=True)
    assert found.status == "problem" and found.what.startswith("4-bit weights don't work on meta (")
    assert "model.quantization=none" in found.remedy


def test_a_full_disk_is_a_problem_only_for_what_must_be_there(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "yet"
    assert doctor_checks.check_disk("results", folder, 2**20).status == "ok"
    assert doctor_checks.check_disk("results", folder, 2**60).status == "problem"
    assert doctor_checks.check_disk("results", folder, 2**60, must=False).status == "note"
    assert not folder.parent.exists()


def test_it_reads_well_in_80_columns() -> None:
    text = io.StringIO()
    findings = [
        DoctorFinding("ok", "chip", "a chip of [some] name " * 8),
        DoctorFinding("problem", "main job", "doesn't fit " * 12, "do something about it " * 6),
    ]
    print_findings(findings, Console(file=text, width=80))
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert "[some]" in text.getvalue() and any(line.lstrip().startswith("→ do something") for line in lines)
    assert lines[-1] == "The main job would not run: main job."
    assert doctor_verdict(findings[:1]) == "The main job would run."


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as a look at `owner/model` asks for; it has no other."""

    def do_GET(self) -> None:
        body = b'{"model_type": "starcoder2"}'
        if "owner/model" not in self.path:
            return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        if self.path.startswith("/api/"):
            files = [{"rfilename": "model.safetensors", "size": 3 * 2**30}, {"rfilename": "config.json", "size": 28}]
            body = json.dumps({"id": "owner/model", "sha": "1" * 40, "siblings": files}).encode()
        return self.answer(200, body, {"ETag": '"abc"', "X-Repo-Commit": "1" * 40})

    do_HEAD = do_GET

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def look(home: Path, endpoint: str, name: str = "owner/model", **more: str) -> dict[str, Any]:
    """How `name` is found through a hub at `endpoint`, with the cache in `home`."""
    code = (
        "import json, os, time\nfrom dataclasses import asdict\nimport huggingface_hub\n"
        "from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache\n"
        "from longrepo.config.schema import ModelSettings\nfrom longrepo.memory.doctor import find_model\n"
        f"began = time.perf_counter()\naccess = find_model(ModelSettings(name={name!r}))\n"
        "seconds = time.perf_counter() - began\n"
        "print(json.dumps({**asdict(access.finding), 'folder': str(access.folder), 'download': access.download,"
        " 'seconds': seconds}), flush=True)\nos._exit(0)"
    )
    kept = {key: value for key, value in os.environ.items() if "proxy" not in key.lower() and key != "HF_HUB_OFFLINE"}
    environment = {**kept, "HF_HOME": str(home), "HF_ENDPOINT": endpoint, **more}
    program = [sys.executable, "-c", code]
    return json.loads(subprocess.run(program, capture_output=True, text=True, check=True, env=environment).stdout)


def test_a_model_on_the_hub_is_a_note_with_its_size(hub: str, tmp_path: Path) -> None:
    found = look(tmp_path, hub)
    assert found["status"] == "note" and "the hub gives it (3.0 GiB)" in found["what"]
    assert found["download"] == 3 * 2**30
    assert json.loads((Path(found["folder"]) / "config.json").read_text())["model_type"] == "starcoder2"
    (Path(found["folder"]) / "model.safetensors").write_bytes(b"weights")
    found = look(tmp_path, "http://127.0.0.1:1", HF_HUB_OFFLINE="1")
    assert found["status"] == "ok" and "no network needed" in found["what"]


def test_a_model_the_hub_does_not_have(hub: str, tmp_path: Path) -> None:
    found = look(tmp_path, hub, "owner/nothing")
    assert found["status"] == "problem" and "the hub doesn't give it (RepositoryNotFoundError)" in found["what"]


def test_a_network_that_does_not_answer_is_given_as_long_as_the_hub_s_library_gives_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        found = look(tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}", HF_HUB_ETAG_TIMEOUT="1")
    assert found["status"] == "problem" and "no answer in 1 s" in found["what"]
    assert found["remedy"].endswith("--model embedded")
    assert found["seconds"] < 3


def test_offline_is_said_without_asking(tmp_path: Path) -> None:
    found = look(tmp_path, "http://127.0.0.1:1", HF_HUB_OFFLINE="1")
    assert found["status"] == "problem" and "HF_HUB_OFFLINE is set" in found["what"]


def test_what_torch_makes_of_a_base_is_told_where_mlx_is_chosen() -> None:
    """In a process of its own: choosing MLX keeps transformers from torch, if that isn't imported yet."""
    code = (
        "from pathlib import Path\nfrom longrepo.config.loader import load_settings\n"
        "from longrepo.memory.doctor import run_checks\n"
        "for one in run_checks(load_settings(None, ['model.name=embedded']), 'mlx', 'cpu', Path()):\n"
        "    print(one.topic, one.what)\n    if one.topic == 'MLX': break"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "torch starcoder2" in out and "MLX the MLX engine computes it" in out
