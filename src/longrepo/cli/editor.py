"""`longrepo setup-editor` prints or merges the settings with which an editor asks `longrepo serve`."""

from __future__ import annotations

import difflib
import os
import shutil
import sys
from codecs import BOM_UTF8
from enum import StrEnum
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from longrepo.errors import InputError

if TYPE_CHECKING:
    from longrepo.serve.editors import Plugin


class EditorChoice(StrEnum):
    vscode = "vscode"
    zed = "zed"
    neovim = "neovim"
    jetbrains = "jetbrains"
    emacs = "emacs"


def setup_editor(
    editor: Annotated[EditorChoice, typer.Argument(help="The editor.")],
    run: Annotated[
        Path | None, typer.Argument(metavar="[RUN]", help="The run to serve, for the commands that are shown and set.")
    ] = None,
    for_: Annotated[
        str | None,
        typer.Option(
            "--for",
            metavar="PLUGIN",
            help="vscode: llama.vscode, Continue, Tabby; neovim: llama.vim, minuet, Tabby; jetbrains: Continue, Tabby. "
            "Default: the first.",
        ),
    ] = None,
    repo: Annotated[
        Path | None, typer.Option(help="The repository to serve and to train on, for the commands.")
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="The server's port.")] = 8080,
    host: Annotated[str, typer.Option(help="The server's address or name, as the editor reaches it.")] = "127.0.0.1",
    file: Annotated[
        Path | None, typer.Option(help="The settings file. Default: where the plug-in has it on this system.")
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Merge the settings into the file; a copy of the old one stays beside it.")
    ] = False,
) -> None:
    """Print the settings with which an editor asks `longrepo serve`; --write merges them into its own."""
    from longrepo.serve.editors import Endpoint, find_plugin, settings_file

    for option, folder in (("RUN", run), ("--repo", repo)):
        if folder is not None and not folder.is_dir():
            raise InputError(f"{option} {folder}: no such folder")
    if not host or set(host) & set("/@ []\"'") or "://" in host:
        raise InputError(f"--host {host}: give an address or a name alone, such as 127.0.0.1")
    if host in ("0.0.0.0", "::"):
        raise InputError(f"--host {host}: a server listens there; give the address at which the editor reaches it")
    plugin = find_plugin(editor.value, for_)
    server = Endpoint(host, port, run, repo)
    settings = plugin.settings(server)
    place = file or settings_file(plugin, os.environ, Path.home(), sys.platform)
    if write:
        _write(plugin, place, settings)
    else:
        print(f"{plugin.name} (its settings as of {plugin.version}), {place}:", file=sys.stderr)
        print(plugin.merge("", settings), end="")
    for note in (*plugin.notes, f"the server: {server.serve_command()}"):
        print(note, file=sys.stderr)


def _write(plugin: Plugin, place: Path, settings: object) -> None:
    """Merge settings into a file, after showing the difference; nothing is written if nothing changes."""
    from longrepo.utils.files import write_text_file

    place = place.resolve()  # of a link, the target is changed
    data = _read(plugin, place)
    try:
        old = data.decode("utf-8-sig")
        new = plugin.merge(old, settings)
    except UnicodeDecodeError:
        raise InputError(f"{place}: isn't UTF-8 text; nothing was changed") from None
    except InputError as error:
        raise InputError(f"{place}: {error}; nothing was changed") from None
    if new == old:
        print(f"{place}: has these settings already; nothing was changed")
        return
    print(*difflib.unified_diff(old.splitlines(), new.splitlines(), "before", str(place), lineterm=""), sep="\n")
    copy = _copy(place) if place.exists() else None
    write_text_file(place, "\ufeff" * data.startswith(BOM_UTF8) + new)
    print(f"{place}: written" + (f"; as it was: {copy.name}" if copy else ""))


def _read(plugin: Plugin, place: Path) -> bytes:
    """Return what a settings file holds: nothing, if it isn't there but may be made."""
    if not place.name.endswith(plugin.suffix):
        raise InputError(f"{place}: {plugin.name}'s settings are for a file that ends with {plugin.suffix}")
    if place.exists():
        try:
            return place.read_bytes()
        except OSError as error:
            raise InputError(f"{place}: can't be read ({error.strerror}); nothing was changed") from None
    if not plugin.folder(place).is_dir():
        raise InputError(
            f"{plugin.folder(place)}: no such folder, so {plugin.name} or its editor seems not to be here; "
            "start it once, or name its settings with --file"
        )
    if plugin.replaces and place.with_name(plugin.replaces).exists():
        raise InputError(
            f"{place}: isn't there, but {plugin.replaces} is, which {plugin.name} would then no longer read; "
            "convert that one first"
        )
    return b""


def _copy(place: Path) -> Path:
    """Copy a file to the first unused name beside it."""
    name = f"{place.name}.before-longrepo"
    names = (place.with_name(name + (f"-{number}" if number else "")) for number in count())
    copy = next(one for one in names if not one.exists())
    try:
        shutil.copy2(place, copy)
    except OSError as error:
        raise InputError(f"{copy}: can't be written ({error.strerror}); nothing was changed") from None
    return copy
