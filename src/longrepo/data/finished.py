"""What a whole run made, kept in the cache: a run that would make the same again has only to copy it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import xxhash

from longrepo.data.dataset import DATA_FILE, SequenceRow, rows_from_batch
from longrepo.data.metadata import Header
from longrepo.errors import RunError
from longrepo.utils.cache import SqliteCache

_LIBRARIES = ("numpy", "pyarrow", "tokenizers", "tree-sitter", "tree-sitter-language-pack", "xxhash")
_CHUNK = 16 << 20  # bytes of a file in a value of the cache
_MOST = 1 << 30  # bytes of files: what is larger isn't kept


class Finished:
    """The files of one result. `about`: everything that decides what they are; two with the same are the same.

    `known` says whether the result is kept, whole; then there are its `header`, `summary` and `texts` (what stands
    beside the sequences: name → text).
    """

    def __init__(self, cache: SqliteCache, *about: object) -> None:
        self._cache = cache
        text = json.dumps([code(), *about], sort_keys=True)
        self._key = f"f:{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:40]}"
        kept: dict[str, Any] = json.loads(cache.get([self._key]).get(self._key, b"{}"))
        self._files: dict[str, tuple[int, str]] = kept.get("files", {})  # name → bytes, hash
        keys = [self._chunk(name, at) for name, (size, _) in self._files.items() for at in range(0, size, _CHUNK)]
        self.known = bool(kept) and all(cache.get([key]) for key in keys)
        if self.known:
            self.header = Header.from_dict(kept["header"], "the cache")
            self.summary: dict[str, Any] = kept["summary"]
            self.texts: dict[str, str] = kept["texts"]

    def keep(self, folder: Path, header: Header, summary: dict[str, Any], texts: dict[str, str]) -> None:
        """Keep the files of a folder, with its header, its summary, and what stands beside it."""
        import pyarrow as pa

        files = {file.name: file for file in sorted(folder.iterdir())}
        if sum(file.stat().st_size for file in files.values()) > _MOST:
            return
        about: dict[str, tuple[int, str]] = {}
        for name, file in files.items():
            for at, block in enumerate(_blocks(file)):
                self._cache.put({self._chunk(name, at * _CHUNK): pa.compress(block, "zstd", asbytes=True)})
            about[name] = file.stat().st_size, _hash(_blocks(file))
        kept = {"files": about, "header": header.as_dict(), "summary": summary, "texts": texts}
        self._cache.put({self._key: json.dumps(kept).encode()})

    def stands_in(self, folder: Path) -> bool:
        """Whether a folder holds just these files, unaltered."""
        there = {file.name: file for file in folder.iterdir()} if folder.is_dir() else {}
        return there.keys() == self._files.keys() and all(
            there[name].is_file() and there[name].stat().st_size == size and _hash(_blocks(there[name])) == known
            for name, (size, known) in self._files.items()
        )

    def write(self, folder: Path) -> None:
        """Make a folder with the files. Raises RunError where the cache has lost them meanwhile."""
        folder.mkdir()
        for name, (size, _) in self._files.items():
            with (folder / name).open("wb") as out:
                for block in self.blocks(name, size):
                    out.write(block)

    def rows(self) -> Iterator[SequenceRow]:
        """The sequences."""
        import pyarrow as pa

        for batch in pa.ipc.open_stream(b"".join(self.blocks(DATA_FILE, self._files[DATA_FILE][0]))):
            yield from rows_from_batch(batch)

    def blocks(self, name: str, size: int) -> Iterator[bytes]:
        """The content of one file."""
        import pyarrow as pa

        for at in range(0, size, _CHUNK):
            key = self._chunk(name, at)
            kept = self._cache.get([key]).get(key)
            if kept is None:
                raise RunError("the cache was emptied while it was read; run the command again")
            yield pa.decompress(kept, min(_CHUNK, size - at), "zstd", asbytes=True)

    def _chunk(self, name: str, at: int) -> str:
        return f"{self._key}:{name}:{at}"


@cache
def code() -> str:
    """A hash of the code that decides what sequences are, and of the libraries that it works with."""
    found = hashlib.sha256(json.dumps([version(name) for name in _LIBRARIES]).encode())
    package = Path(__file__).parents[1]
    for floor in ("config", "data", "redaction", "repository", "utils"):
        for file in sorted((package / floor).rglob("*.py")):
            found.update(file.relative_to(package).as_posix().encode() + b"\0" + file.read_bytes())
    return found.hexdigest()


def _blocks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as content:
        while block := content.read(_CHUNK):
            yield block


def _hash(blocks: Iterable[bytes]) -> str:
    found = xxhash.xxh3_128()
    for block in blocks:
        found.update(block)
    return found.hexdigest()
