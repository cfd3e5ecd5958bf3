"""Sequences on disk: an Arrow folder (default), `.json`, `.jsonl` or `.parquet`, by suffix; whole or not there.

Written beside the target and renamed once synced, so that a full disk or a kill leaves the old file. Read back, every
row is counted and hashed against the header before any of it is used.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from longrepo.errors import InputError, RunError
from longrepo.sequences.header import Header
from longrepo.sequences.rows import COLUMNS, RowHash, row_of, schema
from longrepo.sequences.sequence import LongContextSequence
from longrepo.sequences.tables import GroupedTable, open_arrow, open_parquet

HEADER_FILE = "header.json"
_HEADER_KEY = b"longrepo"
_BLOCK = 256  # rows a parquet row group, and a step of the check


def write_sequences(path: Path, sequences: Iterable[LongContextSequence], header: Header) -> Header:
    """Write sequences under `path`; returns the header with `rows` and `content_sha256` filled in.

    Raises InputError where the place can't be written to, RunError where writing fails part of the way (disk full);
    what stood at `path` before is then still there.
    """
    path = Path(path)
    rows = [row_of(sequence) for sequence in sequences]
    total = RowHash()
    for row in rows:
        total.add(row)
    header = replace(header, rows=total.rows, content_sha256=total.hexdigest())
    write = {".json": _write_json, ".jsonl": _write_jsonl, ".parquet": _write_parquet}.get(path.suffix, _write_arrow)
    if path.is_dir() and (write is not _write_arrow or not _replaceable(path)):
        raise InputError(f"{path}: is a folder that holds other things; give another name for the sequences")
    if path.is_file() and write is _write_arrow:
        raise InputError(f"{path}: is a file; give a folder, or a name ending in .json, .jsonl or .parquet")
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(beside, rows, header)
        _sync(beside)
    except OSError as error:
        _remove(beside)
        where = f"{path}: can't be written ({error.strerror or error})"
        if isinstance(error, PermissionError | FileExistsError | NotADirectoryError):
            raise InputError(f"{where}; give a folder you may write to") from None
        raise RunError(f"{where}; free some space there, or write elsewhere") from None
    except BaseException:
        _remove(beside)
        raise
    _move(beside, path)
    return header


def read_sequences(path: Path) -> SequenceFile:
    """Open sequences written by `write_sequences`. Raises InputError where they are missing, cut short or altered."""
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such sequences; make them with prepare_long_context.py")
    if path.is_dir() and not (path / HEADER_FILE).is_file():
        raise InputError(
            f"{path}: holds no sequences ({HEADER_FILE} is missing); make them with prepare_long_context.py"
        )
    read = {".json": _read_json, ".jsonl": _read_jsonl, ".parquet": _read_parquet}.get(path.suffix, _read_arrow)
    if path.is_dir():
        read = _read_arrow
    elif read is _read_arrow:
        raise InputError(f"{path}: not a file of sequences; expected a folder, .json, .jsonl or .parquet")
    import pyarrow as pa

    try:
        tree, table = read(path)
        header = Header.from_dict(tree, str(path))
        found = RowHash()
        for row in table.rows():
            found.add(row)
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        first = (str(error).splitlines() or [""])[0][:120]
        raise InputError(f"{path}: damaged or cut short ({first}); make the sequences again") from None
    if found.rows != header.rows:
        raise InputError(f"{path}: cut short: {found.rows} of {header.rows} sequences; make them again")
    if found.hexdigest() != header.content_sha256:
        raise InputError(f"{path}: altered since it was written (content hash differs); make the sequences again")
    return SequenceFile(path, header, table)


class SequenceFile:
    """Checked sequences. Arrow stays on disk (memory-mapped), parquet is read a row group at a time."""

    def __init__(self, path: Path, header: Header, table: GroupedTable) -> None:
        self.path = path
        self.header = header
        self._table = table

    def __len__(self) -> int:
        return len(self._table)

    @property
    def content_sha256(self) -> str:
        """Of the rows; the same in every format."""
        return self.header.content_sha256

    def tokens(self, index: int) -> npt.NDArray[np.int32]:
        """Token ids of a row, `[tokens]`."""
        return self._table.array("input_ids", index).astype(np.int32, copy=False)

    def weights(self, index: int) -> npt.NDArray[np.float32]:
        """Loss weights of a row as targets, `[tokens]`."""
        return self._table.array("loss_weights", index).astype(np.float32, copy=False)

    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of every row, `[rows]`."""
        return self._table.lengths("input_ids")

    def column(self, name: str) -> list[Any]:
        """A whole column as Python values (for `input_ids` and `loss_weights` prefer `tokens` and `weights`)."""
        if name not in COLUMNS:
            raise KeyError(f"no column {name}; there are {', '.join(COLUMNS)}")
        return self._table.column(name)

    def row(self, index: int) -> dict[str, Any]:
        """All columns of one row."""
        return self._table.row(index)


def _write_arrow(folder: Path, rows: list[dict[str, Any]], header: Header) -> None:
    from datasets import Dataset, disable_progress_bars, enable_progress_bars

    table = _table(rows)
    disable_progress_bars()  # presentation is not the library's business
    try:
        Dataset(table).save_to_disk(str(folder))
    finally:
        enable_progress_bars()
    # Its fingerprint is drawn anew for each process; the rest of these files is the same for the same rows.
    state = folder / "state.json"
    tree = json.loads(state.read_text("utf-8")) | {"_fingerprint": header.content_sha256[:16]}
    state.write_text(json.dumps(tree, indent=2, sort_keys=True), encoding="utf-8")
    text = json.dumps(header.as_dict(), indent=1, ensure_ascii=False)
    (folder / HEADER_FILE).write_text(text + "\n", encoding="utf-8", errors="surrogatepass")


def _write_json(file: Path, rows: list[dict[str, Any]], header: Header) -> None:
    with file.open("w", encoding="utf-8", newline="\n") as out:
        out.write('{"header": ' + json.dumps(header.as_dict()) + ',\n"sequences": [\n')
        for number, row in enumerate(rows):
            out.write(("" if number == 0 else ",\n") + json.dumps(row))
        out.write("\n]}\n")


def _write_jsonl(file: Path, rows: list[dict[str, Any]], header: Header) -> None:
    with file.open("w", encoding="utf-8", newline="\n") as out:
        out.write(json.dumps({"header": header.as_dict()}) + "\n")
        out.writelines(json.dumps(row) + "\n" for row in rows)


def _write_parquet(file: Path, rows: list[dict[str, Any]], header: Header) -> None:
    import pyarrow.parquet as pq

    table = _table(rows).replace_schema_metadata({_HEADER_KEY: json.dumps(header.as_dict()).encode()})
    pq.write_table(table, file, row_group_size=_BLOCK, compression="zstd")


def _table(rows: list[dict[str, Any]]) -> Any:
    import pyarrow as pa

    batches = [pa.RecordBatch.from_pylist(rows[at : at + _BLOCK], schema()) for at in range(0, len(rows), _BLOCK)]
    return pa.Table.from_batches(batches, schema())


def _read_arrow(folder: Path) -> tuple[Any, GroupedTable]:
    tree = json.loads((folder / HEADER_FILE).read_text("utf-8"))
    return tree, open_arrow(folder)


def _read_json(file: Path) -> tuple[Any, GroupedTable]:
    tree = json.loads(file.read_text("utf-8"))
    return tree["header"], GroupedTable.of(_table(tree["sequences"]))


def _read_jsonl(file: Path) -> tuple[Any, GroupedTable]:
    with file.open(encoding="utf-8") as lines:
        head = json.loads(lines.readline())
        return head["header"], GroupedTable.of(_table([json.loads(line) for line in lines]))


def _read_parquet(file: Path) -> tuple[Any, GroupedTable]:
    metadata, table = open_parquet(file)
    return json.loads(metadata[_HEADER_KEY]), table


def _replaceable(folder: Path) -> bool:
    return (folder / HEADER_FILE).is_file() or next(folder.iterdir(), None) is None


def _move(beside: Path, path: Path) -> None:
    """Put what is whole in the place of what stood there; only a folder needs a moment for it."""
    try:
        if beside.is_dir() and path.is_dir():
            old = path.with_name(f".{path.name}.{os.getpid()}.old")
            path.rename(old)
            beside.rename(path)
            _remove(old)
        else:
            beside.replace(path)
    except OSError as error:
        _remove(beside)
        raise RunError(f"{path}: can't be put in its place ({error.strerror or error})") from None


def _sync(path: Path) -> None:
    for one in [path, *path.rglob("*")] if path.is_dir() else [path]:
        if one.is_file():
            with one.open("rb") as file:
                os.fsync(file.fileno())


def _remove(path: Path) -> None:
    remove: Callable[[Path], None] = shutil.rmtree if path.is_dir() else Path.unlink
    with suppress(OSError):
        remove(path)
