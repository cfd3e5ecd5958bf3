"""What each editor's completion plug-in needs to be set to, so that it asks `longrepo serve`.

The names of the settings were read in the plug-ins' own sources, at the version that `Plugin.version` names.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longrepo.errors import InputError
from longrepo.serve.settings_merge import merge_block, merge_continue, merge_json, merge_toml

WINDOWS_USERS = Path("/mnt/c/Users")  # in WSL
MODEL = "longrepo"  # the server answers to any name
COMPLETION_TOKENS = 64


@dataclass(frozen=True)
class Endpoint:
    """The server as an editor reaches it, and the commands that start it and train its model."""

    host: str = "127.0.0.1"
    port: int = 8080
    run: Path | None = None
    repo: Path | None = None

    @property
    def url(self) -> str:
        """`http://HOST:PORT`."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def serve_command(self, program: str = "longrepo") -> str:
        """Return the shell command that starts the server."""
        words = ["serve", str(self.run.absolute()) if self.run else "RUN"]
        words += ["--repo", str(self.repo.absolute())] if self.repo else []
        words += ["--port", str(self.port)] if self.port != 8080 else []
        return f"{program} {shlex.join(words)}"

    def train_command(self, program: str = "longrepo") -> str:
        """Return the shell command that trains on the repository."""
        return f"{program} {shlex.join(['pipeline', '--repo', str(self.repo.absolute()) if self.repo else 'PATH'])}"


@dataclass(frozen=True)
class Plugin:
    """A completion plug-in: where its settings are, what they are, and what else has to be known.

    `places` are the files for each system, from the home folder (Linux: `.config` is `XDG_CONFIG_HOME`'s folder). The
    first that exists is used, otherwise the first whose folder exists. `suffix` is how the file must end; `replaces` is
    one beside it that the plug-in reads only as long as this one isn't there.
    """

    name: str
    version: str
    places: Mapping[str, tuple[str, ...]]
    settings: Callable[[Endpoint], Any]
    merge: Callable[[str, Any], str]
    notes: tuple[str, ...] = ()
    suffix: str = ""
    replaces: str | None = None

    def folder(self, file: Path) -> Path:
        """Return the folder that shows that the editor is there; Neovim's `plugin` is made in it."""
        return file.parent.parent if file.parent.name == "plugin" else file.parent


def _llama_vscode(server: Endpoint) -> dict[str, Any]:
    program = shlex.join([sys.executable, "-m", "longrepo"])
    values: dict[str, Any] = {
        "endpoint": server.url,
        "use_openai_endpoint": False,
        "max_parallel_completions": 1,
        "lora_completion": "",
    }
    if server.run:
        values["launch_completion"] = server.serve_command(program)
    if server.repo:
        values["launch_training_completion"] = server.train_command(program)
    return {f"llama-vscode.{key}": value for key, value in values.items()}


def _continue(server: Endpoint) -> dict[str, Any]:
    return {
        "name": MODEL,
        "provider": "openai",
        "model": MODEL,
        "apiBase": f"{server.url}/v1",
        "apiKey": "none",
        "useLegacyCompletionsEndpoint": True,
        "roles": ["autocomplete"],
        "promptTemplates": {
            "autocomplete": "<|FILE_START|> {{{filename}}}\n"
            "<fim_prefix>{{{prefix}}}<fim_suffix>{{{suffix}}}<fim_middle>"
        },
    }


def _zed(server: Endpoint) -> dict[str, Any]:
    api = {
        "api_url": f"{server.url}/v1/completions",
        "model": MODEL,
        "prompt_format": "star_coder",
        "max_output_tokens": COMPLETION_TOKENS,
    }
    return {"edit_predictions": {"provider": "open_ai_compatible_api", "open_ai_compatible_api": api}}


def _tabby(server: Endpoint) -> dict[str, Any]:
    http = {"kind": "openai/completion", "model_name": MODEL, "api_endpoint": f"{server.url}/v1"}
    return {"model": {"completion": {"http": http}}}


def _merge_tabby(text: str, settings: dict[str, Any]) -> str:
    changed = merge_toml(text, settings)
    import tomllib

    if "local" in tomllib.loads(changed.replace("\r\n", "\n"))["model"]["completion"]:
        raise InputError("sets model.completion.local, and Tabby takes one completion model; remove that part")
    return changed


def _llama_vim(server: Endpoint) -> str:
    return f"""\
vim.g.llama_config = vim.tbl_extend("force", vim.g.llama_config or {{}}, {{
  endpoint_fim = {json.dumps(f"{server.url}/infill")},
}})"""


def _minuet_nvim(server: Endpoint) -> str:
    return f"""\
local found, minuet = pcall(require, "minuet")
if found then
  local settings = {{
    provider = "openai_fim_compatible",
    n_completions = 1,
    provider_options = {{
      openai_fim_compatible = {{
        name = "{MODEL}",
        model = "{MODEL}",
        end_point = {json.dumps(f"{server.url}/v1/completions")},
        api_key = function() return "none" end,
        stream = true,
        optional = {{ max_tokens = {COMPLETION_TOKENS} }},
      }},
    }},
  }}
  if minuet.config then
    minuet.config = vim.tbl_deep_extend("force", minuet.config, settings)
  else
    minuet.setup(settings)
  end
end"""


def _minuet_emacs(server: Endpoint) -> str:
    return f"""\
(with-eval-after-load 'minuet
  (setq minuet-provider 'openai-fim-compatible
        minuet-n-completions 1)
  (plist-put minuet-openai-fim-compatible-options :name "{MODEL}")
  (plist-put minuet-openai-fim-compatible-options :model "{MODEL}")
  (plist-put minuet-openai-fim-compatible-options :end-point {json.dumps(f"{server.url}/v1/completions")})
  (plist-put minuet-openai-fim-compatible-options :api-key (lambda () "none"))
  (minuet-set-optional-options minuet-openai-fim-compatible-options :max_tokens {COMPLETION_TOKENS}))"""


def _lua(text: str, code: str) -> str:
    return merge_block(text, code, "--")


def _lisp(text: str, code: str) -> str:
    return merge_block(text, code, ";;")


_NVIM = {
    "linux": (".config/nvim/plugin/longrepo.lua",),
    "darwin": (".config/nvim/plugin/longrepo.lua",),
    "windows": ("AppData/Local/nvim/plugin/longrepo.lua",),
}
_SAME = ("linux", "darwin", "windows")

LLAMA_VSCODE = Plugin(
    "llama.vscode",
    "0.0.63",
    {
        "linux": (".config/Code/User/settings.json",),
        "darwin": ("Library/Application Support/Code/User/settings.json",),
        "windows": ("AppData/Roaming/Code/User/settings.json",),
    },
    _llama_vscode,
    merge_json,
    (
        "a completion model that was selected in llama.vscode's own menu goes before the endpoint; deselect it there",
        "llama-vscode.lora_completion is set to nothing: the server applies the adapter, and with a file there "
        "llama.vscode always asks for it at scale 0.5, half its strength",
    ),
)
CONTINUE = Plugin(
    "Continue",
    "config-yaml 1.42.0",
    dict.fromkeys(_SAME, (".continue/config.yaml",)),
    _continue,
    merge_continue,
    replaces="config.json",
)
TABBY = Plugin(
    "Tabby",
    "0.33.0-dev",
    dict.fromkeys(_SAME, (".tabby/config.toml",)),
    _tabby,
    _merge_tabby,
    ("the editor's plug-in asks Tabby's own server, whose port is 8080 too: start it with `tabby serve --port 8081`",),
)
ZED = Plugin(
    "Zed",
    "its sources of 2026",
    {
        "linux": (".config/zed/settings.json",),
        "darwin": (".config/zed/settings.json",),
        "windows": ("AppData/Roaming/Zed/settings.json",),
    },
    _zed,
    merge_json,
)
LLAMA_VIM = Plugin("llama.vim", "a1c8e6e, January 2026", _NVIM, _llama_vim, _lua, suffix=".lua")
MINUET_NVIM = Plugin(
    "minuet",
    "minuet-ai.nvim 0.10.0",
    _NVIM,
    _minuet_nvim,
    _lua,
    ("if your own files call minuet's setup later than this one, put these settings there",),
    suffix=".lua",
)
MINUET_EMACS = Plugin(
    "minuet",
    "minuet-ai.el 0.7.1",
    {
        "linux": (".emacs.el", ".emacs", ".emacs.d/init.el", ".config/emacs/init.el"),
        "darwin": (".emacs.el", ".emacs", ".emacs.d/init.el", ".config/emacs/init.el"),
        "windows": ("AppData/Roaming/.emacs", "AppData/Roaming/.emacs.d/init.el"),
    },
    _minuet_emacs,
    _lisp,
)
EDITORS: Mapping[str, tuple[Plugin, ...]] = {
    "vscode": (LLAMA_VSCODE, CONTINUE, TABBY),
    "zed": (ZED,),
    "neovim": (LLAMA_VIM, MINUET_NVIM, TABBY),
    "jetbrains": (CONTINUE, TABBY),
    "emacs": (MINUET_EMACS,),
}


def find_plugin(editor: str, name: str | None) -> Plugin:
    """Return an editor's plug-in of that name, or its first. Raises InputError if it has none of that name."""
    plugins = EDITORS[editor]
    for plugin in plugins:
        if name is None or plugin.name.lower() == name.lower():
            return plugin
    raise InputError(f"--for {name}: with {editor} longrepo knows {', '.join(one.name for one in plugins)}")


def settings_file(plugin: Plugin, environment: Mapping[str, str], home: Path, platform: str) -> Path:
    """Return the file for a plug-in's settings, here or, from WSL, in a Windows profile, whether it is there or not."""
    system = "darwin" if platform == "darwin" else "linux"
    places = [home / one for one in plugin.places[system]]
    if system == "linux" and (config := environment.get("XDG_CONFIG_HOME")):
        parts = [one.relative_to(home).parts for one in places]
        places = [Path(config, *one[1:]) if one[0] == ".config" else home.joinpath(*one) for one in parts]
    if "WSL_DISTRO_NAME" in environment:
        profiles = sorted(one for one in WINDOWS_USERS.glob("*") if (one / "AppData/Roaming").is_dir())
        places += [one / place for one in profiles for place in plugin.places["windows"]]
    # The home folder itself is there without an editor, so no file is made in it.
    new = [one for one in places if plugin.folder(one) != home]
    found = [one for one in places if one.is_file()] + [one for one in new if plugin.folder(one).is_dir()]
    return (found or new)[0]
