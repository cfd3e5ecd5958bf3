"""Cache folder, SQLite key-value cache, JSON facts.

What was read and tokenized once, kept for the next run: a file of keys and values that may be lost at any time.

What was found out once about a model or this machine, kept in the cache folder.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import xxhash

from longrepo.utils.files import write_text_file

_KEYS_PER_QUERY = 500  # keys in a question to SQLite
_SECONDS_PER_DAY = 86_400
_CHECKSUM_BYTES = 8  # bytes
_FILE_NAME = "texts.sqlite"
MAX_CACHE_BYTES = 2 << 30


def cache_folder() -> Path | None:
    """`LONGREPO_CACHE` (None where it is `off`), else the platform's place for caches."""
    if chosen := os.environ.get("LONGREPO_CACHE"):
        return None if chosen == "off" else Path(chosen).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "longrepo"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "longrepo"


class SqliteCache:
    """Bytes by key. `folder` None keeps nothing beyond this object (on disk all the same). A file that is damaged or
    can't be used is as good as an empty one: nothing here raises. What was used longest ago goes at `close`, where the
    values take more than `most_bytes`."""

    def __init__(self, folder: Path | None = None, most_bytes: int = MAX_CACHE_BYTES) -> None:
        self._most = most_bytes
        self._now = int(time.time())
        self._connection = _open(folder)

    def get(self, keys: Sequence[str]) -> dict[str, bytes]:
        """The values there are."""
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
        """Keep these values."""
        with suppress(sqlite3.Error):
            self._connection.executemany(
                "INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?)",
                [(key, len(value), self._now, _checksum(value) + value) for key, value in items.items()],
            )
            self._connection.commit()

    def close(self) -> None:
        """Stay within the limit and let go of the file. May be called twice."""
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
    """What stands before a value, to know it by: SQLite doesn't notice when its pages are altered."""
    return xxhash.xxh3_64_digest(value)


def _open(folder: Path | None) -> sqlite3.Connection:
    if folder is not None:
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for _ in range(2):
            with suppress(sqlite3.Error, OSError):
                (folder / _FILE_NAME).touch(mode=0o600)  # it holds what repositories hold
                return _connect(str(folder / _FILE_NAME))
            with suppress(OSError):  # damaged: begin anew
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


MAX_ENTRIES = 5000  # entries


class JsonCache:
    """Values of JSON by key, in a file `name` of the cache folder. One that can't be read is as good as none."""

    def __init__(self, name: str) -> None:
        folder = cache_folder()
        self._file = folder / name if folder else None
        self._entries = self._read()

    def get(self, key: str) -> Any:
        """The value, or None."""
        return self._entries.get(key)

    def put(self, key: str, value: Any) -> None:
        """What other processes put meanwhile stays."""
        self._entries = self._read() | self._entries | {key: value}
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_text_file(self._file, json.dumps(dict(list(self._entries.items())[-MAX_ENTRIES:])))

    def _read(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self._file.read_text())) if self._file else {}
        except (OSError, ValueError):
            return {}
