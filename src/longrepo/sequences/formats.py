"""How rows and header lie in each format: an Arrow folder as `datasets` lays it out, `.json`, `.jsonl`, `.parquet`.

A writer takes batches as they come and asks for the header once they have all gone by; a reader gives the header's tree
and the rows, unchecked.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from longrepo.sequences.card import dataset_card
from longrepo.sequences.header import Header
from longrepo.sequences.rows import COLUMNS, numbers, schema
from longrepo.sequences.tables import GroupedTable

if TYPE_CHECKING:
    import pyarrow as pa

    Batches = Iterable[pa.RecordBatch]
    Finish = Callable[[], Header]

HEADER_FILE = "header.json"
BLOCK = 256  # rows of a batch, and of a parquet row group
DATA_FILE = "data-00000-of-00001.arrow"
_HEADER_KEY = b"longrepo"
_COPIED = 1 << 20  # bytes at a time


def write_arrow(folder: Path, batches: Batches, finish: Finish) -> None:
    """The folder that `datasets.Dataset.save_to_disk` writes, with a header and a dataset card."""
    import pyarrow as pa

    folder.mkdir()
    with pa.OSFile(str(folder / DATA_FILE), "wb") as sink, pa.ipc.new_stream(sink, schema()) as out:
        for batch in batches:
            out.write_batch(batch)
    header = finish()
    _write_tree(folder / "dataset_info.json", {"features": _features(), "license": header.licence})
    state = {"_data_files": [{"filename": DATA_FILE}], "_fingerprint": header.content_sha256[:16]}
    plain: dict[str, Any] = {"_format_columns": None, "_format_kwargs": {}, "_format_type": None}
    _write_tree(folder / "state.json", {**state, **plain, "_output_all_columns": False, "_split": None})
    _write_tree(folder / HEADER_FILE, header.as_dict())
    (folder / "README.md").write_text(dataset_card(header), encoding="utf-8", errors="replace", newline="\n")


def read_arrow(folder: Path) -> tuple[Any, GroupedTable]:
    """Memory-mapped: rows stay on disk."""
    import pyarrow as pa

    tree = json.loads((folder / HEADER_FILE).read_text("utf-8", "surrogatepass"))
    with pa.ipc.open_stream(pa.memory_map(str(folder / DATA_FILE))) as stream:
        return tree, GroupedTable.of(list(stream))


def write_json(file: Path, batches: Batches, finish: Finish) -> None:
    """One object; a row a line."""
    _write_lines(file, batches, finish, '{{"header": {},\n"sequences": [\n', ",\n", "\n]}\n")


def write_jsonl(file: Path, batches: Batches, finish: Finish) -> None:
    """The header as first line, then a row a line."""
    _write_lines(file, batches, finish, '{{"header": {}}}\n', "\n", "\n")


def read_json(file: Path) -> tuple[Any, GroupedTable]:
    """In memory."""
    tree = json.loads(file.read_text("utf-8"))
    return tree["header"], GroupedTable.of(list(_batches(iter(tree["sequences"]))))


def read_jsonl(file: Path) -> tuple[Any, GroupedTable]:
    """In memory, read line by line."""
    with file.open(encoding="utf-8") as lines:
        head = json.loads(lines.readline())
        return head["header"], GroupedTable.of(list(_batches(map(json.loads, lines))))


def write_parquet(file: Path, batches: Batches, finish: Finish) -> None:
    """The header in the file's metadata."""
    import pyarrow.parquet as pq

    with pq.ParquetWriter(file, schema(), compression="zstd") as out:
        for batch in batches:
            out.write_batch(batch)
        out.add_key_value_metadata({_HEADER_KEY: json.dumps(finish().as_dict()).encode()})


def read_parquet(file: Path) -> tuple[Any, GroupedTable]:
    """A row group at a time."""
    import pyarrow.parquet as pq

    opened = pq.ParquetFile(file)
    facts = opened.metadata
    sizes = [facts.row_group(group).num_rows for group in range(facts.num_row_groups)]

    def load(group: int, columns: list[str] | None) -> pa.RecordBatch:
        (batch,) = opened.read_row_group(group, columns=columns).combine_chunks().to_batches()
        return batch

    return json.loads((facts.metadata or {})[_HEADER_KEY]), GroupedTable(load, sizes)


def _write_lines(file: Path, batches: Batches, finish: Finish, head: str, between: str, end: str) -> None:
    """Rows go to a nameless file first, as the header that stands before them is known last."""
    with tempfile.TemporaryFile(dir=file.parent) as body, file.open("wb") as out:
        for number, row in enumerate(row for batch in batches for row in _json_rows(batch)):
            body.write(((between if number else "") + json.dumps(row)).encode())
        header = finish()
        out.write(head.format(json.dumps(header.as_dict())).encode())
        body.seek(0)
        shutil.copyfileobj(body, out, _COPIED)
        out.write(end.encode() if header.rows or between == ",\n" else b"")


def _json_rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    others = batch.select(COLUMNS[2:]).to_pylist()
    for ids, weights, rest in zip(numbers(batch, "input_ids"), numbers(batch, "loss_weights"), others, strict=True):
        yield {"input_ids": ids.tolist(), "loss_weights": _short(weights), **rest}


def _short(weights: NDArray[np.float32]) -> list[float]:
    """The shortest numbers that give the same float32: 0.1, not 0.10000000149011612."""
    kinds, places = np.unique(weights, return_inverse=True)
    shortest: list[float] = np.array([float(str(kind)) for kind in kinds])[places].tolist()
    return shortest


def _batches(rows: Iterator[Any]) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    while block := list(islice(rows, BLOCK)):
        yield pa.RecordBatch.from_pylist(block, schema())


def _features() -> dict[str, Any]:
    """The columns as `datasets` names their types."""
    import pyarrow as pa

    def feature(kind: pa.DataType) -> dict[str, Any]:
        if pa.types.is_list(kind):
            return {"feature": feature(kind.value_type), "_type": "List"}
        return {"dtype": {"float": "float32", "double": "float64"}.get(str(kind), str(kind)), "_type": "Value"}

    return {field.name: feature(field.type) for field in schema()}


def _write_tree(file: Path, tree: dict[str, Any]) -> None:
    text = json.dumps(tree, indent=1, ensure_ascii=False)
    file.write_text(text + "\n", encoding="utf-8", errors="surrogatepass", newline="\n")
