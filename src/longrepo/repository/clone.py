"""Repositories that are given by their URL: cloned once into the cache folder, and updated when they are opened again.

Bare clones of all branches and tags: no file of theirs is checked out, no hook or template is installed, no submodule
is followed, and nothing is asked at the terminal. Clones have all blobs: held-out lines, changes and questions are read
from history, where git would have to fetch what a blobless clone lacks one by one, which longrepo never lets it do.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import time
from pathlib import Path

from longrepo.errors import InputError, RunError
from longrepo.repository.git import git_program
from longrepo.utils.cache import cache_folder
from longrepo.utils.files import move_into_place, temporary_folder_beside

PROTOCOLS = ("https", "ssh", "file")
_URL = re.compile(r"([a-z][a-z0-9+.-]+):/+(.+)", re.IGNORECASE)  # a Path keeps one slash of two
_SCP = re.compile(r"[\w.-]+@[\w.-]+:(?!/?\d+/)[^\\]+")  # git@github.com:owner/name.git
_updated: dict[str, tuple[Path, tuple[str, ...]]] = {}  # what this process has opened: URL → folder, notes


def url_of(place: Path | str) -> str | None:
    """Return the URL that stands in the place of a folder's name; None if it is none."""
    text = str(place).replace("\\", "/") if os.name == "nt" else str(place)
    if Path(place).exists():
        return None
    if found := _URL.fullmatch(text):
        return f"{found[1].lower()}://{'/' if found[1].lower() == 'file' else ''}{found[2]}"
    return text if _SCP.fullmatch(text) else None


def local_clone(url: str) -> tuple[Path, tuple[str, ...]]:
    """Return the folder of a URL's clone, up to date if the network allows, and notes for the reader.

    Raises InputError if it can't be cloned.
    """
    if url not in _updated:
        _check_url(url)
        if (cache := cache_folder()) is None:
            raise InputError(f"{url}: LONGREPO_CACHE is off, which leaves no place for a clone; give a folder")
        name = re.sub(r"\.git$", "", re.split(r"[/:]", url.rstrip("/"))[-1])
        folder = cache / "clones" / hashlib.sha256(url.encode()).hexdigest()[:12] / f"{name}.git"
        _updated[url] = folder, _update(url, folder) if folder.is_dir() else _clone(url, folder)
    return _updated[url]


def _check_url(url: str) -> None:
    scheme = url.partition("://")[0] if "://" in url else "ssh"
    if scheme not in PROTOCOLS:
        raise InputError(f"{url}: {scheme} isn't read; give a folder, or a URL of {', '.join(PROTOCOLS)}")
    if scheme == "https" and "@" in url.split("/")[2]:
        host = url.split("/")[2].rpartition("@")[2]
        raise InputError(f"leave the user and password for {host} out of the URL; git asks its credential helper")
    if re.search(r"://-|^-", url):
        raise InputError(f"{url}: not the URL of a git repository")


def _clone(url: str, folder: Path) -> tuple[str, ...]:
    try:
        with temporary_folder_beside(folder) as beside:
            done = _git("clone", "--quiet", "--bare", "--template=", "--no-recurse-submodules", "--", url, str(beside))
            if done.returncode:
                raise InputError(f"{url}: can't be cloned ({_reason(done)}); check it, or clone it and give the folder")
            move_into_place(beside, folder)
    except OSError as error:
        raise RunError(f"{folder}: can't be written ({error.strerror or error}); free some space there") from None
    return (_note(url),)


def _update(url: str, folder: Path) -> tuple[str, ...]:
    done = _git(
        f"--git-dir={folder}", "fetch", "--quiet", "--prune", "--no-recurse-submodules", "--force", "--", url,
        "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*",
    )  # fmt: skip
    if done.returncode:
        newest = max(path.stat().st_mtime for path in (folder, *folder.glob("*")))
        when = time.strftime("%Y-%m-%d", time.localtime(newest))
        return (f"{url} can't be reached ({_reason(done)}): its clone of {when} is read",)
    return (_note(url),)


def _note(url: str) -> str:
    return f"read from a clone of {url}"


def _git(*words: str) -> subprocess.CompletedProcess[str]:
    """Run git as the user has set it up (proxies, keys, credential helpers), but without a prompt and without hooks."""
    settings = {"core.hooksPath": os.devnull, "core.fsmonitor": "false", "protocol.allow": "never"}
    settings |= {f"protocol.{name}.allow": "always" for name in PROTOCOLS}
    options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
    environment = {key: value for key, value in os.environ.items() if key not in ("GIT_DIR", "GIT_WORK_TREE")}
    environment |= {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    environment.setdefault("GIT_SSH_COMMAND", "ssh -oBatchMode=yes")
    command = [str(git_program()), *options, *words]
    return subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith(("fatal:", "error:", "remote:"))]
    return (telling or lines or ["git failed"])[-1].partition(": ")[2][:200] or "git failed"
