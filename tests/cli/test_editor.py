"""`longrepo setup-editor`: what it prints, what it writes in a home folder, and what it refuses."""

from __future__ import annotations

import json
import stat
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from longrepo.cli.app import main
from longrepo.serve import editors

pytestmark = pytest.mark.usefixtures("home")
VSCODE = ".config/Code/User/settings.json"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("XDG_CONFIG_HOME", "WSL_DISTRO_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    return tmp_path


def setup(*words: str) -> int:
    """Run the command here; returns its exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["longrepo", "setup-editor", *words])
        with pytest.raises(SystemExit) as end:
            main()
    return int(end.value.code or 0)


def place(home: Path, name: str, text: str | None = None) -> Path:
    file = home / name
    file.parent.mkdir(parents=True, exist_ok=True)
    if text is not None:
        file.write_bytes(text.encode())
    return file


def test_it_prints_settings_alone_and_says_the_rest_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert setup("zed", "--host", "::1", "--port", "9000") == 0
    said = capsys.readouterr()
    served = json.loads(said.out)["edit_predictions"]["open_ai_compatible_api"]
    assert served["api_url"] == "http://[::1]:9000/v1/completions"
    assert ".config/zed/settings.json:" in said.err and "longrepo serve RUN --port 9000" in said.err


def test_written_once_with_the_difference_and_a_copy_then_not_again(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = '\ufeff{\n    // mine\n    "llama-vscode.endpoint": "http://127.0.0.1:8012",\n    "x": 1\n}\n'
    file = place(home, VSCODE, before)
    file.chmod(0o600)
    assert setup("vscode", "--write") == 0
    said = capsys.readouterr().out
    assert '-    "llama-vscode.endpoint": "http://127.0.0.1:8012",' in said
    assert '+    "llama-vscode.endpoint": "http://127.0.0.1:8080",' in said
    copy = file.with_name("settings.json.before-longrepo")
    assert copy.read_bytes().decode() == before
    after = file.read_bytes()
    assert after.startswith(b"\xef\xbb\xbf") and b"// mine\n" in after and b'"x": 1,\n' in after
    assert stat.S_IMODE(file.stat().st_mode) == 0o600

    assert setup("vscode", "--write") == 0
    assert "nothing was changed" in capsys.readouterr().out
    assert file.read_bytes() == after and len(list(file.parent.iterdir())) == 2

    assert setup("vscode", "--write", "--port", "8012") == 0
    assert copy.read_bytes().decode() == before, "the first copy is lost"
    assert copy.with_name(copy.name + "-1").read_bytes() == after


def test_llama_vscode_gets_our_commands_and_no_adapter_at_half_scale(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "my run").mkdir()
    assert setup("vscode", str(home / "my run"), "--repo", str(home), "--port", "8012") == 0
    said = capsys.readouterr()
    settings = json.loads(said.out)
    assert settings["llama-vscode.launch_completion"].endswith(
        f" -m longrepo serve '{home}/my run' --repo {home} --port 8012"
    )
    assert settings["llama-vscode.launch_training_completion"].endswith(f" -m longrepo pipeline --repo {home}")
    assert settings["llama-vscode.lora_completion"] == "" and "scale 0.5" in said.err


def test_a_link_keeps_pointing_and_its_target_is_changed(home: Path) -> None:
    target = place(home, "dotfiles/zed.json", "{}")
    link = place(home, ".config/zed/settings.json")
    link.symlink_to(target)
    assert setup("zed", "--write") == 0
    assert link.is_symlink() and "edit_predictions" in json.loads(target.read_text())


@pytest.mark.parametrize(
    ("words", "file", "loaded"),
    [
        (["jetbrains"], ".continue/config.yaml", yaml.safe_load),
        (["vscode", "--for", "continue"], ".continue/config.yaml", yaml.safe_load),
        (["neovim", "--for", "Tabby"], ".tabby/config.toml", tomllib.loads),
        (["neovim"], ".config/nvim/plugin/longrepo.lua", None),
        (["neovim", "--for", "minuet"], ".config/nvim/plugin/longrepo.lua", None),
        (["emacs"], ".emacs.d/init.el", None),
    ],
)
def test_a_new_file_is_made_if_the_editors_folder_is_there(
    home: Path, words: list[str], file: str, loaded: object, capsys: pytest.CaptureFixture[str]
) -> None:
    assert setup(*words, "--write") == 2, "the editor isn't there"
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "no such folder" in error and not list(home.iterdir())
    (home / file.replace("plugin/", "")).parent.mkdir(parents=True)
    assert setup(*words, "--write") == 0
    text = (home / file).read_text()
    assert "127.0.0.1:8080" in text
    if callable(loaded):
        loaded(text)
    assert [one for one in home.rglob("*") if one.is_file()] == [home / file]


REFUSED = {
    "text that can't be parsed": (VSCODE, '{"a": 1', ["vscode"], "isn't JSON (line 1); nothing was changed"),
    "text in another encoding": (VSCODE, None, ["vscode"], "isn't UTF-8"),
    "Tabby's own model": (".tabby/config.toml", "[model.completion.local]\n", ["vscode", "--for", "tabby"], "one"),
    "Continue's old file": (".continue/config.json", "{}", ["jetbrains"], "config.json is"),
    "another kind of file": ("init.vim", "", ["neovim", "--file", "init.vim"], "ends with .lua"),
    "a folder that isn't there": ("a", "", ["zed", "--file", "b/settings.json"], "b: no such folder"),
    "a folder": ("a/b", "", ["zed", "--file", "a"], "can't be read"),
    "another editor's plug-in": ("a", "", ["zed", "--for", "tabby"], "with zed longrepo knows Zed"),
    "an address with a scheme": ("a", "", ["zed", "--host", "http://x"], "--host http://x"),
    "every address": ("a", "", ["zed", "--host", "0.0.0.0"], "--host 0.0.0.0"),
    "a run that isn't there": ("a", "", ["zed", "nowhere"], "RUN nowhere"),
    "a repository that isn't there": ("a", "", ["zed", "--repo", "nowhere"], "--repo nowhere"),
}


@pytest.mark.parametrize(("name", "text", "words", "why"), REFUSED.values(), ids=REFUSED)
def test_it_refuses_in_one_line_and_changes_nothing(
    home: Path,
    name: str,
    text: str | None,
    words: list[str],
    why: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(home)
    file = place(home, name, text)
    if text is None:
        file.write_bytes(b"{}\xff")
    before = {one: one.read_bytes() for one in home.rglob("*") if one.is_file()}
    assert setup(*words, "--write") == 2
    error = capsys.readouterr().err
    assert why in error and error.count("\n") == 1
    assert {one: one.read_bytes() for one in home.rglob("*") if one.is_file()} == before


def test_where_the_settings_are_on_each_system(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(plugin: editors.Plugin, platform: str = "linux", **environment: str) -> str:
        return str(editors.settings_file(plugin, environment, home, platform).relative_to(home))

    assert found(editors.LLAMA_VSCODE, "darwin") == "Library/Application Support/Code/User/settings.json"
    assert found(editors.LLAMA_VSCODE, XDG_CONFIG_HOME=str(home / "x")) == "x/Code/User/settings.json"
    assert found(editors.CONTINUE, XDG_CONFIG_HOME=str(home / "x")) == ".continue/config.yaml"
    (home / ".config/emacs").mkdir(parents=True)
    assert found(editors.MINUET_EMACS) == ".config/emacs/init.el"
    (home / ".emacs").touch()
    assert found(editors.MINUET_EMACS) == ".emacs"

    monkeypatch.setattr(editors, "WINDOWS_USERS", home / "Users")
    (home / "Users/Public").mkdir(parents=True)
    (home / "Users/ann/AppData/Roaming/Code/User").mkdir(parents=True)
    assert found(editors.LLAMA_VSCODE) == VSCODE
    assert found(editors.LLAMA_VSCODE, WSL_DISTRO_NAME="Debian") == f"Users/ann/AppData/Roaming/{VSCODE[8:]}"
    place(home, VSCODE, "{}")
    assert found(editors.LLAMA_VSCODE, WSL_DISTRO_NAME="Debian") == VSCODE
