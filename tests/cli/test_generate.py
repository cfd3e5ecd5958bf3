"""`longrepo generate` as a person runs it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest
from export.exported import base_folder
from serve.tried import Tried, tried
from typer.testing import CliRunner, Result

from longrepo.cli.app import app
from longrepo.data.template import completion_text
from longrepo.errors import InputError
from longrepo.serve.prompts import read_prompt
from longrepo.serve.sampling import Sampling

NEW = 16


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Tried:
    return tried(tmp_path_factory.mktemp("generated"))


def generate(*arguments: object, stdin: str = "") -> Result:
    return CliRunner().invoke(app, ["generate", *map(str, arguments), "--max-tokens", str(NEW)], input=stdin)


@pytest.mark.parametrize("engine", ["torch", "mlx"])
def test_at_a_place_it_writes_what_the_engine_does_behind_related_files(shop: Tried, engine: str) -> None:
    file = shop.repo / "shop" / "invoice.py"
    lines = file.read_text().splitlines(keepends=True)
    before, after = "".join(lines[:13]) + lines[13].rstrip("\n"), "\n" + "".join(lines[14:])
    tuned = shop.tuned[engine]
    for shown, fim in ((after, ()), (None, ("--no-fim",))):
        prompt = tuned.prompts(512, shop.repo).at("shop/invoice.py", before, shown, NEW)
        out = generate(shop.run, "--file", file, "--line", 14, "--length", 512, "--engine", engine, *fim)
        assert out.exit_code == 0, out.output
        assert out.stdout == completion_text(tuned.tokenizer, tuned.engine.generate(prompt.ids, NEW))
        assert f"a prompt of {len(prompt.ids)} tokens with {len(prompt.files)} related files" in out.stderr
        assert "\n" not in out.stderr.strip() and prompt.files


def test_after_a_text_the_base_writes_otherwise(shop: Tried) -> None:
    text, tuned = "class Basket:\n    def __init__(self, owner):\n        self.", shop.tuned["torch"]
    ids = tuned.tokenizer.encode(text)
    told, piped = generate(shop.run, "--prompt", text), generate(shop.run, "--prompt", "-", stdin=text)
    assert told.stdout == piped.stdout == completion_text(tuned.tokenizer, tuned.engine.generate(ids, NEW))
    base = generate(shop.run, "--prompt", text, "--base")
    with tuned.engine.base_only():
        assert base.stdout == completion_text(tuned.tokenizer, tuned.engine.generate(ids, NEW))
    assert base.stdout != told.stdout


def test_a_seed_draws_the_same_text_again_and_temperature_0_is_greedy(shop: Tried) -> None:
    text = ("--prompt", "class Basket:\n    def __init__(self, owner):\n        self.")
    greedy = generate(shop.run, *text).stdout
    drawn = [generate(shop.run, *text, "--temperature", "1.5", "--seed", seed).stdout for seed in (1, 2, 1)]
    assert drawn[0] == drawn[2] != drawn[1] and greedy not in drawn
    assert generate(shop.run, *text, "--temperature", "1.5", "--top-p", "0").stdout == greedy
    assert generate(shop.run, *text, "--top-p", "0.5", "--seed", "1").stdout == greedy
    for option in (("--temperature", "2.5"), ("--top-p", "1.5"), ("--seed", "x")):
        assert generate(shop.run, *text, *option).exit_code == 2


def test_a_prompt_is_decoded_as_files_are(monkeypatch: pytest.MonkeyPatch) -> None:
    line = 'name = "caf\xe9"\n'
    for encoding in ("utf-8", "latin-1", "utf-16"):
        monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(line.encode(encoding)), "ascii"))
        assert read_prompt("-") == line
    assert read_prompt(os.fsdecode(line.encode("latin-1"))) == read_prompt(line) == line
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(b"\0\1\2")))
    with pytest.raises(InputError, match="--prompt: isn't text"):
        read_prompt("-")


def test_a_completion_is_written_in_utf_8_whatever_the_locale(shop: Tried) -> None:
    tuned = shop.tuned["torch"]
    prompt = tuned.prompts(512, None).from_text("# ", None, NEW)
    texts = {n: "".join(part.text for part in tuned.stream(prompt, Sampling(2.0, seed=n))) for n in range(8)}
    seed, expected = next((seed, text) for seed, text in texts.items() if not text.isascii())
    draw = ("--prompt", "# ", "--max-tokens", str(NEW), "--temperature", "2", "--seed", str(seed))
    out = subprocess.run(
        [sys.executable, "-m", "longrepo", "generate", str(shop.run), *draw],
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        check=False,
    )
    assert out.returncode == 0, out.stderr
    assert out.stdout.decode("utf-8") == expected and not out.stderr.startswith(b"\n")


def test_the_completion_is_written_as_it_comes(shop: Tried) -> None:
    command = [
        sys.executable,
        "-m",
        "longrepo",
        "generate",
        str(shop.run),
        "--prompt",
        "a = 1\n",
        "--max-tokens",
        "900",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None and process.stdout.read(1)
        assert process.poll() is None
        process.kill()


def test_a_column_is_before_its_character_and_verbose_names_what_was_shown(shop: Tried) -> None:
    file = shop.repo / "shop" / "invoice.py"
    out = generate(shop.run, "--file", file, "--line", 1, "--column", 4, "--length", 512, "--verbose")
    assert out.exit_code == 0, out.output
    assert "shop/account.py\n" in out.stderr and "engine: torch" in out.stderr
    assert "between the text before and after" in out.stderr


def test_an_adapter_alone_brings_its_own_lora_and_the_base_may_be_named(shop: Tried, tmp_path: Path) -> None:
    adapter = shutil.copytree(shop.run / "adapter", tmp_path / "adapter")
    text = "class Basket:\n    def __init__(self, owner):\n        self."
    out = generate(adapter, "--prompt", text)
    assert out.exit_code == 0, out.output
    assert out.stdout == generate(shop.run, "--prompt", text).stdout
    other = generate(adapter, "--prompt", text, "--model", base_folder(tmp_path / "other")).exception
    assert isinstance(other, InputError) and "made for another base model" in str(other)


def test_a_run_without_an_adapter_yet_is_said(shop: Tried, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(shop.run, run)
    (run / "adapter").rename(tmp_path / "gone")
    error = generate(run, "--prompt", "a").exception
    assert isinstance(error, InputError) and "has no adapter yet" in str(error)


def test_bad_input_is_one_line(shop: Tried, tmp_path: Path) -> None:
    file = shop.repo / "shop" / "invoice.py"
    (tmp_path / "binary.bin").write_bytes(b"\0\1\2")
    (tmp_path / "alone.py").write_text("x = 1\n")
    cases = {
        (): "give --file FILE --line N, or --prompt TEXT",
        ("--file", file, "--prompt", "a"): "give --file FILE --line N, or --prompt TEXT",
        ("--file", file): "also needs --line N",
        ("--file", tmp_path / "no.py", "--line", 1): "unreadable (No such file or directory)",
        ("--file", tmp_path, "--line", 1): "unreadable (Is a directory)",
        ("--file", tmp_path / "binary.bin", "--line", 1): "isn't a text file",
        ("--file", file, "--line", 4000): f"--line 4000: {file} has",
        ("--file", file, "--line", 1, "--column", 400): "--column 400: line 1",
        ("--file", tmp_path / "alone.py", "--line", 1, "--repo", shop.repo): "outside the repository",
        ("--prompt", ""): "--prompt is empty",
    }
    for arguments, expected in cases.items():
        error = generate(shop.run, *arguments).exception
        assert isinstance(error, InputError), arguments
        assert expected in str(error) and "\n" not in str(error)


def test_lengths_that_cannot_be_are_one_line(shop: Tried) -> None:
    cases = {
        ("--prompt", "a = 1\n" * 400, "--length", 128): "the prompt has",
        ("--prompt", "a", "--length", 100_000): "--length 100000: embedded reaches 2048 tokens here",
    }
    for arguments, expected in cases.items():
        error = generate(shop.run, *arguments).exception
        assert isinstance(error, InputError) and expected in str(error)


def test_what_is_no_run_is_said(tmp_path: Path) -> None:
    error = generate(tmp_path, "--prompt", "a").exception
    assert isinstance(error, InputError) and "neither a run nor a checkpoint nor an adapter" in str(error)
