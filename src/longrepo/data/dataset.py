"""Sequences on disk: an Arrow folder (default), `.json`, `.jsonl` or `.parquet`, chosen by suffix.

They are written beside the target, a batch of rows at a time, and renamed once synced: memory doesn't grow with the
number of rows, and a full disk or a kill leaves the old file. On reading, all rows are counted and hashed against the
header before any is used. The Arrow folder has the layout of `datasets`. A writer of a format consumes batches and then
calls for the header; a reader returns the header's tree and the rows, unchecked.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from longrepo.data.metadata import Header, dataset_card
from longrepo.data.rows import (
    COLUMNS,
    GroupedTable,
    RowHash,
    SequenceRow,
    arrow_schema,
    batch_from_rows,
    list_values,
    row_from_sequence,
)
from longrepo.data.sequence import LongContextSequence
from longrepo.errors import InputError, RunError

if TYPE_CHECKING:
    import pyarrow as pa

    Batches = Iterable[pa.RecordBatch]
    FinishHeader = Callable[[], Header]


HEADER_FILE = "header.json"
SEQUENCES_FOLDER = "sequences"  # in the folder that `prepare` writes
ROWS_PER_BATCH = 256  # also the rows of a parquet row group
DATA_FILE = "data-00000-of-00001.arrow"
_HEADER_KEY = b"longrepo"
_COPY_BYTES = 1 << 20  # bytes at a time


def write_arrow(folder: Path, batches: Batches, finish: FinishHeader) -> None:
    """Write a folder as `datasets.Dataset.save_to_disk` does, with a header and a dataset card."""
    import pyarrow as pa

    folder.mkdir()
    with pa.OSFile(str(folder / DATA_FILE), "wb") as sink, pa.ipc.new_stream(sink, arrow_schema()) as out:
        for batch in batches:
            out.write_batch(batch)
    header = finish()
    _write_json_file(folder / "dataset_info.json", {"features": _datasets_features(), "license": header.licence})
    state = {"_data_files": [{"filename": DATA_FILE}], "_fingerprint": header.content_sha256[:16]}
    plain: dict[str, Any] = {"_format_columns": None, "_format_kwargs": {}, "_format_type": None}
    _write_json_file(folder / "state.json", {**state, **plain, "_output_all_columns": False, "_split": None})
    _write_json_file(folder / HEADER_FILE, header.as_dict())
    (folder / "README.md").write_text(dataset_card(header), encoding="utf-8", errors="replace", newline="\n")


def read_arrow(folder: Path) -> tuple[Any, GroupedTable]:
    """Read an Arrow folder, memory-mapped: rows stay on disk."""
    import pyarrow as pa

    tree = json.loads((folder / HEADER_FILE).read_text("utf-8", "surrogatepass"))
    with pa.ipc.open_stream(pa.memory_map(str(folder / DATA_FILE))) as stream:
        return tree, GroupedTable.of(list(stream))


def write_json(file: Path, batches: Batches, finish: FinishHeader) -> None:
    """Write one JSON object, one row a line."""
    _write_lines(file, batches, finish, '{{"header": {},\n"sequences": [\n', ",\n", "\n]}\n")


def write_jsonl(file: Path, batches: Batches, finish: FinishHeader) -> None:
    """Write the header as the first line, then one row a line."""
    _write_lines(file, batches, finish, '{{"header": {}}}\n', "\n", "\n")


def read_json(file: Path) -> tuple[Any, GroupedTable]:
    """Read JSON into memory."""
    tree = json.loads(file.read_text("utf-8"))
    return tree["header"], GroupedTable.of(list(_batches_from_json(iter(tree["sequences"]))))


def read_jsonl(file: Path) -> tuple[Any, GroupedTable]:
    """Read JSON lines into memory."""
    with file.open(encoding="utf-8") as lines:
        head = json.loads(lines.readline())
        return head["header"], GroupedTable.of(list(_batches_from_json(map(json.loads, lines))))


def write_parquet(file: Path, batches: Batches, finish: FinishHeader) -> None:
    """Write Parquet, with the header in the file's metadata."""
    import pyarrow.parquet as pq

    with pq.ParquetWriter(file, arrow_schema(), compression="zstd") as out:
        for batch in batches:
            out.write_batch(batch)
        out.add_key_value_metadata({_HEADER_KEY: json.dumps(finish().as_dict()).encode()})


def read_parquet(file: Path) -> tuple[Any, GroupedTable]:
    """Read Parquet, one row group at a time."""
    import pyarrow.parquet as pq

    opened = pq.ParquetFile(file)
    facts = opened.metadata
    sizes = [facts.row_group(group).num_rows for group in range(facts.num_row_groups)]

    def load(group: int, columns: list[str] | None) -> pa.RecordBatch:
        (batch,) = opened.read_row_group(group, columns=columns).combine_chunks().to_batches()
        return batch

    return json.loads((facts.metadata or {})[_HEADER_KEY]), GroupedTable(load, sizes)


def _write_lines(file: Path, batches: Batches, finish: FinishHeader, head: str, between: str, end: str) -> None:
    """Write rows to a nameless file first: the header comes before them, but is known only after the last."""
    with tempfile.TemporaryFile(dir=file.parent) as body, file.open("wb") as out:
        for number, row in enumerate(row for batch in batches for row in _json_rows(batch)):
            body.write(((between if number else "") + json.dumps(row)).encode())
        header = finish()
        out.write(head.format(json.dumps(header.as_dict())).encode())
        body.seek(0)
        shutil.copyfileobj(body, out, _COPY_BYTES)
        out.write(end.encode() if header.rows or between == ",\n" else b"")


def _json_rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    others = batch.select(COLUMNS[2:]).to_pylist()
    for ids, weights, rest in zip(
        list_values(batch, "input_ids"), list_values(batch, "loss_weights"), others, strict=True
    ):
        yield {"input_ids": ids.tolist(), "loss_weights": _shortest_floats(weights), **rest}


def _shortest_floats(weights: NDArray[np.float32]) -> list[float]:
    """Return the shortest numbers that give the same float32: 0.1, not 0.10000000149011612."""
    kinds, places = np.unique(weights, return_inverse=True)
    shortest: list[float] = np.array([float(str(kind)) for kind in kinds])[places].tolist()
    return shortest


def _batches_from_json(rows: Iterator[Any]) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    while block := list(islice(rows, ROWS_PER_BATCH)):
        yield pa.RecordBatch.from_pylist(block, arrow_schema())


def _datasets_features() -> dict[str, Any]:
    """Return the columns' types as `datasets` names them."""
    import pyarrow as pa

    def feature(kind: pa.DataType) -> dict[str, Any]:
        if pa.types.is_list(kind):
            return {"feature": feature(kind.value_type), "_type": "List"}
        return {"dtype": {"float": "float32", "double": "float64"}.get(str(kind), str(kind)), "_type": "Value"}

    return {field.name: feature(field.type) for field in arrow_schema()}


def _write_json_file(file: Path, tree: dict[str, Any]) -> None:
    text = json.dumps(tree, indent=1, ensure_ascii=False)
    file.write_text(text + "\n", encoding="utf-8", errors="surrogatepass", newline="\n")


_WRITERS = {".json": write_json, ".jsonl": write_jsonl, ".parquet": write_parquet}
_FILE_SUFFIX = re.compile(r"\.(?!v\d)[A-Za-z]+\d?")  # of a file's name; a folder may end in a version: run.v2, run.3


def write_sequences(path: Path, rows: Iterable[SequenceRow | LongContextSequence], header: Header) -> Header:
    """Write rows to `path` one batch at a time; return the header with `rows` and `content_sha256` filled in.

    The header is written last, so it includes what is added to it while the rows are made. Raises InputError if `path`
    can't be written to, RunError if writing fails halfway (disk full); what was at `path` before is then still there.
    """
    total = RowHash()

    def finish() -> Header:
        return replace(header, rows=total.rows, content_sha256=total.hexdigest())

    with staged_output(Path(path)) as beside:
        _WRITERS.get(Path(path).suffix, write_arrow)(beside, _batches_from_rows(iter(rows), total), finish)
    return finish()


def check_output_name(path: Path) -> None:
    """Raise InputError for a name that ends like a file of a format that isn't written, such as `x.csv` or `x.JSON`."""
    if path.suffix not in _WRITERS and not path.is_dir() and _FILE_SUFFIX.fullmatch(path.suffix):
        raise InputError(
            f"{path}: sequences can't be written as {path.suffix}; give a name ending in {', '.join(_WRITERS)}, or a "
            "folder's name without a suffix"
        )


@contextmanager
def staged_output(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write sequences to; if the block ends without an error it replaces `path`.

    Raises InputError and RunError as `write_sequences` does.
    """
    check_output_name(path)
    if path.is_dir() and (path.suffix in _WRITERS or not _is_replaceable(path)):
        raise InputError(f"{path}: the folder isn't empty and holds no sequences; give another name for the sequences")
    if path.is_file() and path.suffix not in _WRITERS:
        raise InputError(f"{path}: is a file; give a folder, or a name ending in .json, .jsonl or .parquet")
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield beside
        _fsync(beside)
    except OSError as error:
        _remove(beside)
        where = f"{path}: can't be written ({error.strerror or error})"
        if isinstance(error, PermissionError | FileExistsError | NotADirectoryError):
            raise InputError(f"{where}; give a folder you may write to") from None
        raise RunError(f"{where}; free some space there, or write elsewhere") from None
    except BaseException:
        _remove(beside)
        raise
    _replace(beside, path)


def _batches_from_rows(rows: Iterator[SequenceRow | LongContextSequence], total: RowHash) -> Iterator[pa.RecordBatch]:
    with ThreadPoolExecutor(1) as beside:  # a batch is hashed while the next is made
        hashed: Future[None] | None = None
        while block := list(islice(rows, ROWS_PER_BATCH)):
            batch = batch_from_rows([one if isinstance(one, SequenceRow) else row_from_sequence(one) for one in block])
            if hashed:
                hashed.result()
            hashed = beside.submit(total.add, batch)
            yield batch
        if hashed:
            hashed.result()


def read_sequences(path: Path) -> SequenceFile:
    """Open sequences written by `write_sequences`. Raises InputError if they are missing, cut short or altered.

    `path` may also be the folder that holds them: what `prepare` wrote (its --output-dir), or `pretrain`.
    """
    path = _sequences_in(Path(path))
    if not path.exists():
        raise InputError(f"{path}: no such sequences; make them with longrepo prepare")
    if path.is_dir() and not (path / HEADER_FILE).is_file():
        raise InputError(f"{path}: holds no sequences ({HEADER_FILE} is missing); make them with longrepo prepare")
    readers = {".json": read_json, ".jsonl": read_jsonl, ".parquet": read_parquet}
    if not path.is_dir() and (path.parent / HEADER_FILE).is_file():
        raise InputError(f"{path}: is a file of the sequences in {path.parent}; give that folder")
    if not path.is_dir() and path.suffix not in readers:
        raise InputError(f"{path}: not a file of sequences; expected a folder, .json, .jsonl or .parquet")
    read = read_arrow if path.is_dir() else readers[path.suffix]
    import pyarrow as pa

    found = RowHash()
    try:
        tree, table = read(path)
        header = Header.from_dict(tree, str(path))
        for batch in table.batches():
            batch.validate(full=True)
            found.add(batch)
    except (OSError, ValueError, KeyError, TypeError, OverflowError, pa.ArrowException) as error:
        if isinstance(error, KeyError) and error.args == ("header",):
            raise InputError(f"{path}: holds no sequences; give what prepare or tokenize wrote") from None
        first = (str(error).splitlines() or [""])[0][:120]
        raise InputError(f"{path}: damaged or cut short ({first}); make the sequences again") from None
    if found.rows != header.rows:
        raise InputError(f"{path}: cut short: {found.rows} of {header.rows} sequences; make them again")
    if found.hexdigest() != header.content_sha256:
        raise InputError(f"{path}: altered since it was written (content hash differs); make the sequences again")
    return SequenceFile(path, header, table)


def _sequences_in(path: Path) -> Path:
    inside = path / SEQUENCES_FOLDER
    return inside if (inside / HEADER_FILE).is_file() and not (path / HEADER_FILE).is_file() else path


class SequenceFile:
    """A file of sequences, checked. Arrow stays on disk (memory-mapped), Parquet is read one row group at a time."""

    def __init__(self, path: Path, header: Header, table: GroupedTable) -> None:
        self.path = path
        self.header = header
        self._table = table

    def __len__(self) -> int:
        return len(self._table)

    @property
    def content_sha256(self) -> str:
        """The hash of the rows, the same in every format."""
        return self.header.content_sha256

    def tokens(self, index: int) -> npt.NDArray[np.int32]:
        """Return the token ids of a row, `[tokens]`."""
        return self._table.array("input_ids", index).astype(np.int32, copy=False)

    def weights(self, index: int) -> npt.NDArray[np.float32]:
        """Return the loss weights of a row's tokens as targets, `[tokens]`."""
        return self._table.array("loss_weights", index).astype(np.float32, copy=False)

    def lengths(self) -> npt.NDArray[np.int64]:
        """Return the number of tokens of every row, `[rows]`."""
        return self._table.lengths("input_ids")

    def column(self, name: str) -> list[Any]:
        """Return a whole column as Python values (for `input_ids` and `loss_weights` prefer `tokens` and `weights`)."""
        if name not in COLUMNS:
            raise KeyError(f"no column {name}; there are {', '.join(COLUMNS)}")
        return self._table.column(name)

    def row(self, index: int) -> dict[str, Any]:
        """Return all columns of one row."""
        return self._table.row(index)


def _is_replaceable(folder: Path) -> bool:
    return (folder / HEADER_FILE).is_file() or next(folder.iterdir(), None) is None


def _replace(beside: Path, path: Path) -> None:
    """Replace `path` by `beside`. A folder is missing for a moment, a file never."""
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
        raise RunError(f"{path}: can't be replaced ({error.strerror or error})") from None


def _fsync(path: Path) -> None:
    for one in [path, *path.rglob("*")] if path.is_dir() else [path]:
        if one.is_file():
            with one.open("rb") as file:
                os.fsync(file.fileno())


def _remove(path: Path) -> None:
    remove: Callable[[Path], None] = shutil.rmtree if path.is_dir() else Path.unlink
    with suppress(OSError):
        remove(path)
