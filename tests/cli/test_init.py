"""`longrepo init`: a settings file with every key explained; and what a shell completes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from longrepo.cli.app import app, main
from longrepo.config.loader import all_keys, load_settings, settings_template, values_for_model
from longrepo.errors import InputError

ROOT = Path(__file__).parents[2]


def init(*words: str | Path) -> Result:
    return CliRunner().invoke(app, ["init", *map(str, words)])


def test_the_file_sets_nothing_and_has_every_key_with_its_default(tmp_path: Path) -> None:
    file = tmp_path / "longrepo.yaml"
    done = init(file)
    assert done.exit_code == 0 and f"next: longrepo plan --config {file}" in done.output
    assert load_settings(file) == load_settings() and not load_settings(file).lora.model_fields_set
    text = file.read_text(encoding="utf-8")
    assert max(map(len, text.splitlines())) <= 122
    uncommented = re.sub(r"(?m)^  # (?=\w+: )", "  ", text)
    (tmp_path / "all.yaml").write_text(uncommented, encoding="utf-8")
    assert load_settings(tmp_path / "all.yaml") == load_settings()
    tree = yaml.safe_load(uncommented)
    assert {f"{section}.{key}" for section, keys in tree.items() for key in keys} == set(all_keys())


def test_a_model_of_fewer_positions_gets_shorter_phases(tmp_path: Path) -> None:
    file = tmp_path / "small.yaml"
    done = init(file, "--model", "embedded")
    assert "phases of up to 512, 1,024, 2,048 tokens, because the positions of embedded reach 2,048" in done.output
    found = load_settings(file)
    demo = load_settings(ROOT / "examples" / "demo.yaml")
    assert found.model.name == "embedded"
    for phase in (1, 2, 3):
        for end in ("min_length", "max_length")[phase == 1 :]:
            name = f"phase{phase}_{end}"
            assert getattr(found.long_context, name) == getattr(demo.long_context, name)
    assert "the phase takes 513–1024" in file.read_text(encoding="utf-8")
    assert len(found.long_context.model_fields_set) == 5


@pytest.mark.parametrize("reach, caps", [(1024, (256, 512, 1024)), (4095, (1023, 2047, 4095)), (4096, ()), (None, ())])
def test_phases_by_positions(reach: int | None, caps: tuple[int, ...], tmp_path: Path) -> None:
    values = values_for_model("owner/name", reach)
    assert tuple(values[key] for key in values if key.endswith("_max_length")) == caps
    (tmp_path / "x.yaml").write_text(settings_template(values), encoding="utf-8")
    assert load_settings(tmp_path / "x.yaml").model.name == "owner/name"


def test_nothing_is_overwritten_and_no_other_format_promised(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("lora:\n  r: 8\n")
    for name, expected in (("x.yaml", "already exists"), ("x.json", "ending in .yaml")):
        assert isinstance((done := init(tmp_path / name)).exception, InputError) and expected in str(done.exception)
    assert [file.name for file in tmp_path.iterdir()] == ["x.yaml"]
    assert (tmp_path / "x.yaml").read_text() == "lora:\n  r: 8\n"


def test_the_settings_file_at_the_top_is_the_one_in_the_package() -> None:
    inside = ROOT / "src" / "longrepo" / "config" / "training_config.yaml"
    assert inside.read_bytes() == (ROOT / "training_config.yaml").read_bytes()


@pytest.mark.parametrize(
    "typed, expected",
    [("longrepo do", "doctor"), ("longrepo train --set lora.a", "lora.alpha="), ("longrepo export --form", "--format")],
)
def test_a_shell_completes_commands_options_and_settings(typed: str, expected: str) -> None:
    environment = {
        "_LONGREPO_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(typed.split()) - 1),
    }
    code = "import sys; sys.argv = ['longrepo']; from longrepo.cli.app import app; app(prog_name='longrepo')"
    out = subprocess.run([sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True)
    assert out.stdout.split() == [expected]


def test_windows_is_answered_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(sys, "argv", ["longrepo", "doctor"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "error: longrepo runs on Linux and macOS; on Windows use it in WSL 2 (wsl --install)\n"
    )
