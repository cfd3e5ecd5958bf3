"""Atomic writes, fsync, rename, checksums.

Small files, written whole or not at all.

Writing so that a kill or a power cut leaves the old or the new, never a half: beside, synced, renamed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from longrepo.errors import InputError, RunError

TEMPORARY_PREFIX = ".writing-"  # what such a prefix names was never finished


def write_text_file(file: Path, text: str) -> None:
    """Write beside, sync, rename. Raises InputError where the folder can't be written, RunError on a full disk."""
    beside = file.with_name(TEMPORARY_PREFIX + file.name)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(file)
    except PermissionError:
        raise InputError(f"{file.parent}: can't be written to; choose another folder") from None
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise RunError(f"{file}: can't be written ({error.strerror}); free some space and run again") from None


def sync_tree(folder: Path) -> None:
    """Sync every file and folder under (and with) a folder."""
    for root, _, names in os.walk(folder):
        for name in names:
            descriptor = os.open(Path(root) / name, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_folder(Path(root))


def sync_folder(folder: Path) -> None:
    """Sync a folder's list of names: a rename isn't on the disk before that."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def move_into_place(written: Path, final: Path) -> None:
    """Sync a finished folder and give it its final, unused name."""
    sync_tree(written)
    os.rename(written, final)
    sync_folder(final.parent)


def swap_pointer(pointer: Path, target: Path) -> None:
    """Let a relative symbolic link point to a target, atomically. Both lie in one tree."""
    beside = pointer.with_name(TEMPORARY_PREFIX + pointer.name)
    beside.unlink(missing_ok=True)
    os.symlink(os.path.relpath(target, pointer.parent), beside)
    os.replace(beside, pointer)
    sync_folder(pointer.parent)


@contextlib.contextmanager
def temporary_folder_beside(final: Path) -> Iterator[Path]:
    """A new empty folder to fill, removed if filling fails."""
    beside = final.with_name(TEMPORARY_PREFIX + final.name)
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        yield beside
    except Exception:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def remove_unfinished(folder: Path) -> list[str]:
    """Remove what an earlier process was writing when it died; return the names."""
    names = sorted(path.name for path in folder.glob(TEMPORARY_PREFIX + "*")) if folder.is_dir() else []
    for name in names:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return names


def sha256_of(file: Path) -> str:
    """The SHA-256 of a file's bytes in hex."""
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()
