"""Atomic writes and checksums of files.

Files and folders are written under a temporary name, synced and renamed, so that a kill or a power cut leaves either
the old version or the new one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from longrepo.errors import InputError, RunError

TEMPORARY_PREFIX = ".writing-"  # files and folders with this prefix are unfinished


FILE_SUFFIXES = (".json", ".jsonl", ".parquet", ".csv", ".html", ".yaml", ".safetensors", ".gguf", ".zip", ".gz")


def check_folder_name(folder: Path, option: str = "--output") -> None:
    """Raise InputError if a new folder has the name of a file, such as `model.gguf`."""
    if folder.suffix.lower() in FILE_SUFFIXES and not folder.is_dir():
        raise InputError(f"{option} {folder}: names a folder; leave out {folder.suffix}")


def write_text_file(file: Path, text: str) -> None:
    """Write a small file atomically, with the permissions of the one it replaces.

    Raises InputError if the folder isn't writable, RunError if the disk is full.
    """
    beside = file.with_name(TEMPORARY_PREFIX + file.name)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("w", encoding="utf-8", newline="") as stream:
            if file.exists():
                shutil.copymode(file, beside)
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
    """Sync a folder with every file and folder in it."""
    for root, _, names in os.walk(folder):
        for name in names:
            descriptor = os.open(Path(root) / name, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_folder(Path(root))


def sync_folder(folder: Path) -> None:
    """Sync a folder's directory entries; until then a rename isn't on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def move_into_place(written: Path, final: Path) -> None:
    """Sync a finished folder and rename it to its final name, which must be unused.

    Its files get the permissions that new files have here (the umask): safetensors writes files for the owner alone.
    """
    _apply_umask(written)
    sync_tree(written)
    os.rename(written, final)
    sync_folder(final.parent)


def _apply_umask(folder: Path) -> None:
    probe = folder / f"{TEMPORARY_PREFIX}mode"
    probe.touch()
    mode = probe.stat().st_mode & 0o666
    probe.unlink()
    for root, _, names in os.walk(folder):
        for name in names:
            file = Path(root) / name
            about = file.lstat()
            if stat.S_ISREG(about.st_mode) and about.st_nlink == 1:  # a hard link's other file isn't ours
                file.chmod(about.st_mode & 0o777 | mode)


def swap_pointer(pointer: Path, target: Path) -> None:
    """Point a relative symbolic link to a target, atomically."""
    beside = pointer.with_name(TEMPORARY_PREFIX + pointer.name)
    beside.unlink(missing_ok=True)
    os.symlink(os.path.relpath(target, pointer.parent), beside)
    os.replace(beside, pointer)
    sync_folder(pointer.parent)


def existing_folder(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that is there, if it isn't made yet."""
    return next(one for one in (folder, *folder.absolute().parents) if one.exists())


@contextlib.contextmanager
def temporary_folder_beside(final: Path) -> Iterator[Path]:
    """Yield a new empty folder next to `final`; it is removed if an error occurs."""
    beside = final.with_name(TEMPORARY_PREFIX + final.name)
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        yield beside
    except Exception:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def remove_unfinished(folder: Path) -> list[str]:
    """Remove unfinished files and folders of an earlier process and return their names."""
    names = sorted(path.name for path in folder.glob(TEMPORARY_PREFIX + "*")) if folder.is_dir() else []
    for name in names:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return names


def folder_bytes(folder: Path) -> int:
    """Return the bytes of a folder's files, those in folders below included."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()
