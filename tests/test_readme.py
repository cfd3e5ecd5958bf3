"""The README's commands run as they are written, on the embedded model and a small repository.

A command that is added to the README has to run here too, or to be listed below with what hinders it. In all documents,
every command exists, with the options that it is given there.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

import click
import pytest
from small_repository import small_repository
from typer.main import get_command

from longrepo.cli.app import app, main
from longrepo.config.loader import dump_yaml, load_settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = ("README.md", "LONG_CONTEXT_OPTIMIZATION.md", "CONTRIBUTING.md", *(f"docs/{file.name}" for file in sorted(
    (ROOT / "docs").glob("*.md"))))  # fmt: skip
SCRIPTS = {
    "prepare_long_context.py": "prepare",
    "run_pipeline_dynamic.py": "pipeline",
    "tokenizers/git_tokenizer_rich.py": "tokenize",
    "training/model_trainer_unified.py": "train",
}

# What is written differently here: another repository and model, the settings file, and one port that is free.
SUBSTITUTIONS = {
    "/path/to/repository": "shop",
    "bigcode/starcoder2-3b": "embedded",
    "src/core.py": "shop/shop/account.py",
}
SETTINGS = {  # training_config.yaml as it stands, with these for the small model
    "model.name": "embedded",
    "lora.r": 4,
    "data.held_out_per_length": 2,
    "training.gradient_accumulation_steps": 4,
    "training.max_tokens_per_epoch": 1500,
    "training.max_validation_sequences": 3,
    "training.report_to": "none",
    "long_context.phase1_max_length": 128,
    "long_context.phase2_min_length": 192,
    "long_context.phase2_max_length": 256,
    "long_context.phase3_min_length": 384,
    "long_context.phase3_max_length": 512,
    "long_context.phase1_epochs": 1,
    "long_context.phase2_epochs": 1,
    "long_context.phase3_epochs": 1,
}
ADDED = {  # words that a command gets besides
    "longrepo doctor": "--config training_config.yaml",
    "longrepo plan": "--config training_config.yaml",
    "python prepare_long_context.py": "--config training_config.yaml",
    "longrepo evaluate": "--quick",
    "longrepo serve": "--port 0",
}
NOT_RUN = {
    "make demo": "sets up an environment and takes minutes; the same pipeline runs in tests/cli/test_whole_way.py",
    "make demo REPO=/path/to/yours": "the same",
    "make test": "is what runs this",
    "source .venv/bin/activate": "is the shell's",
    "python run_pipeline_dynamic.py --repo /path/to/repository": "runs in tests/cli/test_whole_way.py",
    "longrepo prepare | tokenize | train | pipeline": "names four commands",
    "longrepo plan --calibrate": "takes a minute",
    "longrepo plan --inference RUN": "runs in tests/cli/test_plan_command.py",
    "longrepo extend MODEL --to 131072 --method yarn --window full --output DIR": "runs in tests/cli/test_extend.py",
    "longrepo init small.yaml --model embedded": "runs in tests/cli/test_init.py",
    "longrepo --install-completion": "changes the shell's own files",
    "longrepo models list": "runs in tests/cli/test_models_command.py",
    "longrepo models params NAME": "the same",
    "longrepo pretrain --preset 150M_1024 --repo PATH --output DIR": "runs in tests/cli/test_pretrain.py",
    "pip install -e '.[mlx-linux]'": "installs",
    "pip install -e '.[serve]'": "installs",
}
COMMAND = re.compile(r"(longrepo|python|pip|make|source|git) .+")


def block_commands(text: str, language: str = "bash|sh") -> list[str]:
    """The commands of the code blocks, each on a line, without its comment."""
    blocks = re.findall(rf"^```(?:{language})\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.join(words) for line in lines if (words := shlex.split(line, comments=True))]


def quoted_commands(text: str) -> list[str]:
    """The commands quoted in sentences."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return [found for one in re.findall(r"`([^`]+)`", prose) if COMMAND.fullmatch(found := " ".join(one.split()))]


def test_every_command_of_the_readme_runs_here_or_is_listed() -> None:
    runs = block_commands(README)
    assert {"longrepo doctor", "longrepo check-leaks ./long_context_prep/sequences"} <= set(runs)
    assert not [one for one in quoted_commands(README) if one not in NOT_RUN]
    assert not set(NOT_RUN) - set(runs) - set(quoted_commands(README)), "listed, and no longer written"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like this repository's top, with a small repository and small settings."""
    folder = tmp_path_factory.mktemp("readme")
    for script in SCRIPTS:
        (folder / script).parent.mkdir(exist_ok=True)
        (folder / script).symlink_to(ROOT / script)
    small_repository(folder / "shop")
    overrides = [f"{key}={value}" for key, value in SETTINGS.items()]
    (folder / "training_config.yaml").write_text(dump_yaml(load_settings(ROOT / "training_config.yaml", overrides)))
    return folder


def as_run(command: str) -> list[str]:
    for written, here in SUBSTITUTIONS.items():
        command = command.replace(written, here)
    added = [words for start, words in ADDED.items() if f"{command} ".startswith(f"{start} ")]
    return shlex.split(" ".join([command, *added]))


def run(words: list[str]) -> int:
    """Run `longrepo …` or `python SCRIPT …` in this process; returns the exit status."""
    status = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", words[words[0] == "python" :])
        try:
            main() if words[0] == "longrepo" else runpy.run_path(words[1], run_name="__main__")
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
    return status


@contextmanager
def served(words: list[str]) -> Iterator[subprocess.Popen[str]]:
    def heed_ctrl_c() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)

    command = [sys.executable, "-m", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=heed_ctrl_c)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_the_steps_by_hand_run_as_written(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    steps = [one for one in block_commands(README) if one not in NOT_RUN]
    assert len(steps) > 10
    with chdir(place):
        for step in steps:
            words = as_run(step)
            if words[:2] == ["longrepo", "serve"]:
                with served(words) as server:
                    assert server.stdout and any("/v1 answers as" in line for line in server.stdout), step
                    os.kill(server.pid, signal.SIGINT)
                    assert server.wait(60) == 130
            else:
                status = run(words)
                errors = capfd.readouterr().err
                assert status == 0, f"{step}\n{errors}"
    run_folder = place / "model_long_context_extended"
    records = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    assert 3 in {record["phase"] for record in records}
    assert (run_folder / "report.html").is_file() and (place / "merged").is_dir()


def test_the_lines_of_python_run_as_written(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    config = f', config="{place / "training_config.yaml"}")'
    for written, here in (
        ("/path/to/repository", str(place / "shop")),
        ('long_context_prep")', f'long_context_prep"{config}'),
        ('model_long_context")', f'model_long_context"{config}'),
        ("evaluate(run.output,", 'evaluate(run.output, amount="glance",'),
    ):
        assert written in code
        code = code.replace(written, here)
    with chdir(tmp_path):
        exec(compile(code, "README.md", "exec"), {})
    assert "cap=128" in capsys.readouterr().out


def parse(command: str) -> tuple[click.Command, list[str]] | None:
    """The command of longrepo, or of a script at the top, and its words; None for any other program."""
    words = shlex.split(command.replace("…", ""), comments=True)
    if words[0] == "python" and len(words) > 1:
        if words[1] not in SCRIPTS:
            return None
        words = ["longrepo", SCRIPTS[words[1]], *words[2:]]
    if words[0] != "longrepo" or len(words) < 2:
        return None
    found, rest = get_command(app), words[1:]
    while rest and hasattr(found, "commands"):
        assert rest[0] in found.commands or rest[0].startswith("--"), command
        if rest[0].startswith("--"):
            break
        found, rest = found.commands[rest[0]], rest[1:]
    return found, rest


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_in_the_documents_exist_with_their_options(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    for command in (*block_commands(text), *quoted_commands(text)):
        if parsed := parse(command):
            known = {name for parameter in parsed[0].params for name in (*parameter.opts, *parameter.secondary_opts)}
            used = {word.strip("[]").partition("=")[0] for word in parsed[1] if word.strip("[").startswith("--")}
            assert used <= known | {"--help"}, command
