"""The cache folder and its two caches, either of which may be deleted at any time.

`SqliteCache` keeps texts that were read and tokenized; `JsonCache` keeps facts about models and this machine.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import xxhash

from longrepo.utils.files import TEMPORARY_PREFIX, write_text_file

_KEYS_PER_QUERY = 500  # keys in one SQLite query
_SECONDS_PER_DAY = 86_400
_STALE_SECONDS = 3600  # after which another process's unfinished folder counts as abandoned
_CHECKSUM_BYTES = 8
_FILE_NAME = "texts.sqlite"
MAX_CACHE_BYTES = 2 << 30


def cache_folder() -> Path | None:
    """Return `LONGREPO_CACHE` (None if it is `off`), or else the platform's folder for caches."""
    if chosen := os.environ.get("LONGREPO_CACHE"):
        return None if chosen == "off" else Path(chosen).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "longrepo"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "longrepo"


def remove_oldest(folder: Path, most: int) -> None:
    """Remove all but the `most` entries of a cache that were used last, and what processes left behind that died while
    writing."""
    with suppress(OSError):
        paths = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
        whole = [path for path in paths if not path.name.startswith(TEMPORARY_PREFIX)]
        dead = [path for path in paths if path not in whole and path.stat().st_mtime < time.time() - _STALE_SECONDS]
        for path in whole[most:] + dead:
            shutil.rmtree(path, ignore_errors=True)


class SqliteCache:
    """A key-value store of bytes. With `folder` None it lives in a temporary file, as long as this object. A damaged or
    unusable file counts as empty: nothing here raises. If the values take more than `most_bytes`, `close` removes the
    least recently used."""

    def __init__(self, folder: Path | None = None, most_bytes: int = MAX_CACHE_BYTES) -> None:
        self._most = most_bytes
        self._now = int(time.time())
        self._connection = _open(folder)

    def get(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Return the stored values of `keys`; missing keys are left out."""
        found: dict[str, bytes] = {}
        for some in _key_batches(keys):
            marks = ",".join("?" * len(some))
            rows = self._rows(f"SELECT key, value, used FROM entries WHERE key IN ({marks})", some)
            found.update(
                (key, value[_CHECKSUM_BYTES:])
                for key, value, _ in rows
                if value[:_CHECKSUM_BYTES] == _checksum(value[_CHECKSUM_BYTES:])
            )
            if any(used < self._now - _SECONDS_PER_DAY for _, _, used in rows):
                self._rows(f"UPDATE entries SET used = ? WHERE key IN ({marks})", [self._now, *some])
        return found

    def put(self, items: Mapping[str, bytes]) -> None:
        """Store values by key, replacing earlier ones."""
        with suppress(sqlite3.Error):
            self._connection.executemany(
                "INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?)",
                [(key, len(value), self._now, _checksum(value) + value) for key, value in items.items()],
            )
            self._connection.commit()

    def close(self) -> None:
        """Remove the oldest entries beyond the limit and close the file. May be called twice."""
        total = sum(size for (size,) in self._rows("SELECT COALESCE(SUM(size), 0) FROM entries"))
        for key, size in self._rows("SELECT key, size FROM entries ORDER BY used, key") if total > self._most else ():
            if total <= self._most:
                break
            self._rows("DELETE FROM entries WHERE key = ?", [key])
            total -= size
        with suppress(sqlite3.Error):
            self._connection.commit()
            self._connection.close()

    def _rows(self, statement: str, values: Sequence[object] = ()) -> list[Any]:
        try:
            return self._connection.execute(statement, values).fetchall()
        except sqlite3.Error:
            return []


def _checksum(value: bytes) -> bytes:
    """Return the checksum stored before a value, because SQLite doesn't notice altered pages."""
    return xxhash.xxh3_64_digest(value)


def _open(folder: Path | None) -> sqlite3.Connection:
    if folder is not None:
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for _ in range(2):
            with suppress(sqlite3.Error, OSError):
                (folder / _FILE_NAME).touch(mode=0o600)  # it contains source code
                return _connect(str(folder / _FILE_NAME))
            with suppress(OSError):  # damaged: start again
                (folder / _FILE_NAME).unlink()
    return _connect("")  # SQLite's own temporary file


def _connect(file: str) -> sqlite3.Connection:
    # Used by one thread at a time, but not always the same one.
    connection = sqlite3.connect(file, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute(
        "CREATE TABLE IF NOT EXISTS entries (key TEXT PRIMARY KEY, size INTEGER, used INTEGER, value BLOB)"
    )
    connection.execute("CREATE INDEX IF NOT EXISTS by_use ON entries (used, key, size)")
    return connection


def _key_batches(keys: Sequence[str]) -> Iterator[list[str]]:
    rest = iter(keys)
    while some := list(islice(rest, _KEYS_PER_QUERY)):
        yield some


MAX_ENTRIES = 5000


class JsonCache:
    """JSON values by key in the file `name` of the cache folder. An unreadable file counts as empty."""

    def __init__(self, name: str) -> None:
        folder = cache_folder()
        self._file = folder / name if folder else None
        self._entries = self._read()

    def get(self, key: str) -> Any:
        """Return the value, or None."""
        return self._entries.get(key)

    def put(self, key: str, value: Any) -> None:
        """Store a value; entries that other processes wrote meanwhile are preserved."""
        self._entries = self._read() | self._entries | {key: value}
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_text_file(self._file, json.dumps(dict(list(self._entries.items())[-MAX_ENTRIES:])))

    def _read(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self._file.read_text())) if self._file else {}
        except (OSError, ValueError):
            return {}
