"""Sequences on disk: an Arrow folder (default), `.json`, `.jsonl` or `.parquet`, by suffix; whole or not there.

Written beside the target, a batch of rows at a time, and renamed once synced: memory doesn't grow with the rows, and a
full disk or a kill leaves the old file. Read back, every row is counted and hashed against the header before any of it
is used.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from longrepo.errors import InputError, RunError
from longrepo.sequences import formats
from longrepo.sequences.formats import HEADER_FILE
from longrepo.sequences.header import Header
from longrepo.sequences.rows import COLUMNS, Row, RowHash, batch_of, row_of
from longrepo.sequences.sequence import LongContextSequence
from longrepo.sequences.tables import GroupedTable

if TYPE_CHECKING:
    import pyarrow as pa

_WRITERS = {".json": formats.write_json, ".jsonl": formats.write_jsonl, ".parquet": formats.write_parquet}


def write_sequences(path: Path, rows: Iterable[Row | LongContextSequence], header: Header) -> Header:
    """Write rows under `path` as they come; returns the header with `rows` and `content_sha256` filled in.

    The header is written last: what the making of the rows adds to it is in the file. Raises InputError where the place
    can't be written to, RunError where writing fails part of the way (disk full); what stood at `path` before is then
    still there.
    """
    total = RowHash()

    def finish() -> Header:
        return replace(header, rows=total.rows, content_sha256=total.hexdigest())

    with placed(Path(path)) as beside:
        _WRITERS.get(Path(path).suffix, formats.write_arrow)(beside, _batches(iter(rows), total), finish)
    return finish()


@contextmanager
def placed(path: Path) -> Iterator[Path]:
    """A place beside `path` to write sequences to; where the block ends well they are put at `path`, whole.

    Raises InputError and RunError as `write_sequences` does.
    """
    if path.is_dir() and (path.suffix in _WRITERS or not _replaceable(path)):
        raise InputError(f"{path}: is a folder that holds other things; give another name for the sequences")
    if path.is_file() and path.suffix not in _WRITERS:
        raise InputError(f"{path}: is a file; give a folder, or a name ending in .json, .jsonl or .parquet")
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield beside
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


def _batches(rows: Iterator[Row | LongContextSequence], total: RowHash) -> Iterator[pa.RecordBatch]:
    with ThreadPoolExecutor(1) as beside:  # while a batch is hashed, the next is made
        hashed: Future[None] | None = None
        while block := list(islice(rows, formats.BLOCK)):
            batch = batch_of([one if isinstance(one, Row) else row_of(one) for one in block])
            if hashed:
                hashed.result()
            hashed = beside.submit(total.add, batch)
            yield batch
        if hashed:
            hashed.result()


def read_sequences(path: Path) -> SequenceFile:
    """Open sequences written by `write_sequences`. Raises InputError where they are missing, cut short or altered."""
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such sequences; make them with prepare_long_context.py")
    if path.is_dir() and not (path / HEADER_FILE).is_file():
        raise InputError(
            f"{path}: holds no sequences ({HEADER_FILE} is missing); make them with prepare_long_context.py"
        )
    readers = {".json": formats.read_json, ".jsonl": formats.read_jsonl, ".parquet": formats.read_parquet}
    if not path.is_dir() and path.suffix not in readers:
        raise InputError(f"{path}: not a file of sequences; expected a folder, .json, .jsonl or .parquet")
    read = formats.read_arrow if path.is_dir() else readers[path.suffix]
    import pyarrow as pa

    found = RowHash()
    try:
        tree, table = read(path)
        header = Header.from_dict(tree, str(path))
        for batch in table.batches():
            batch.validate(full=True)
            found.add(batch)
    except (OSError, ValueError, KeyError, TypeError, OverflowError, pa.ArrowException) as error:
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
