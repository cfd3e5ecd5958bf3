from __future__ import annotations

import json
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from longrepo.data import dataset
from longrepo.data.dataset import read_sequences, write_sequences
from longrepo.data.metadata import Header, RepositoryFacts, TokenizerFacts, check_tokenizer
from longrepo.data.rows import SequenceRow, row_from_sequence
from longrepo.data.sequence import LongContextSequence
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.errors import InputError, RunError

NAMES = ["sequences", "sequences.json", "sequences.jsonl", "sequences.parquet"]


def sequences(count: int = 300) -> list[LongContextSequence]:
    made = []
    for number in range(count):
        length = 5 + number % 7
        about = {
            "kind": "hierarchical",
            "curriculum_difficulty": "easy",
            "difficulty_score": number / 7000,
            "difficulty_parts": {"unseen": 0.5, "nesting": 0.25},
            "files_included": [f"a{number}.py", "ä �.py"],
            "commits_included": ["c" * 40] if number % 2 else [],
            "language": "Python",
            "split": "train" if number % 3 else "validation",
            "repository": "repo",
        }
        weights = [0.0, *[0.1, 1.0] * 6][:length]
        made.append(LongContextSequence([number * 3 + at for at in range(length)], weights, about))
    return made


@pytest.fixture
def header(tokenizer: RepoTokenizer) -> Header:
    return Header(TokenizerFacts.of(tokenizer), [RepositoryFacts("repo", "h" * 40, notes=["a note"])], settings="abc")


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_is_read_back(name: str, header: Header, tmp_path: Path) -> None:
    given = sequences()
    written = write_sequences(tmp_path / name, given, header)
    file = read_sequences(tmp_path / name)
    assert file.header == written and file.header.rows == len(file) == len(given)
    assert file.header.tokenizer == header.tokenizer and file.header.repositories == header.repositories
    for index in (0, 299, 256, 17):
        assert file.tokens(index).tolist() == given[index].tokens and file.tokens(index).dtype == np.int32
        assert file.weights(index).tolist() == np.array(given[index].loss_weights, np.float32).tolist()
        assert file.row(index)["files"] == given[index].metadata["files_included"]
    assert file.column("split") == [one.metadata["split"] for one in given]
    assert file.column("difficulty_score") == [one.metadata["difficulty_score"] for one in given]
    assert file.lengths().tolist() == list(map(len, given))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with pytest.raises(KeyError, match="no column phase"):
        file.column("phase")
    with pytest.raises(IndexError):
        file.tokens(len(given))


def test_every_format_has_the_same_content_hash_and_the_same_bytes_each_time(header: Header, tmp_path: Path) -> None:
    hashes = {write_sequences(tmp_path / name, sequences(), header).content_sha256 for name in NAMES}
    assert len(hashes) == 1
    for name in NAMES:
        write_sequences(tmp_path / f"again-{name}", map(row_from_sequence, sequences()), header)
        first, again = (tmp_path / one for one in (name, f"again-{name}"))
        files = sorted(path.name for path in first.iterdir()) if first.is_dir() else [""]
        for file in files:
            assert (first / file).read_bytes() == (again / file).read_bytes(), file
    changed = sequences()
    changed[7].loss_weights[1] = 0.2
    assert write_sequences(tmp_path / "other.json", changed, header).content_sha256 not in hashes


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_written_as_they_come(name: str, header: Header, tmp_path: Path) -> None:
    """Few rows live at a time, however many there are; what their maker adds to the header is in the file."""
    alive: weakref.WeakSet[SequenceRow] = weakref.WeakSet()
    most = 0

    def rows() -> Iterator[SequenceRow]:
        nonlocal most
        for number in range(2000):
            row = row_from_sequence(LongContextSequence([number], [0.0], sequences(1)[0].metadata))
            alive.add(row)
            most = max(most, len(alive))
            yield row
        header.redactions["key"] = 3

    write_sequences(tmp_path / name, rows(), header)
    assert most < 600
    file = read_sequences(tmp_path / name)
    assert len(file) == 2000 and file.tokens(1999).tolist() == [1999] and file.header.redactions == {"key": 3}


@pytest.mark.parametrize("name", NAMES)
def test_no_rows_are_a_file_too(name: str, header: Header, tmp_path: Path) -> None:
    write_sequences(tmp_path / name, [], header)
    file = read_sequences(tmp_path / name)
    assert len(file) == 0 and file.lengths().tolist() == [] and file.column("split") == []


def test_weights_in_json_are_the_numbers_people_write(header: Header, tmp_path: Path) -> None:
    given = LongContextSequence([1, 2, 3], [0.0, 0.1, 1 / 3], sequences(1)[0].metadata)
    write_sequences(tmp_path / "a.jsonl", [given], header)
    weights = json.loads((tmp_path / "a.jsonl").read_text().splitlines()[1])["loss_weights"]
    assert weights == [0.0, 0.1, 0.33333334]
    assert read_sequences(tmp_path / "a.jsonl").weights(0).tolist() == np.array(given.loss_weights, np.float32).tolist()


def test_the_folder_opens_with_plain_datasets(header: Header, tmp_path: Path) -> None:
    from datasets import List, Value, load_from_disk

    given = sequences()
    write_sequences(tmp_path / "sequences", given, header)
    opened = load_from_disk(str(tmp_path / "sequences"))
    assert len(opened) == 300 and opened[299]["input_ids"] == given[299].tokens
    assert opened[5]["repository"] == "repo" and json.loads(opened[5]["difficulty_parts"])["unseen"] == 0.5
    assert opened.features["input_ids"] == List(Value("int32"))
    assert opened.features["loss_weights"] == List(Value("float32"))
    assert len(opened.filter(lambda row: row["split"] == "train")) == 200  # leaves its cache in the folder
    assert len(read_sequences(tmp_path / "sequences")) == 300


def test_neither_writing_nor_reading_imports_datasets(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom longrepo.data.metadata import *\n"
        "from longrepo.data.dataset import read_sequences, write_sequences\n"
        "header = Header(TokenizerFacts('tiny', '0', 9), [RepositoryFacts('repo', 'h')])\n"
        "write_sequences(Path('out'), [], header)\nread_sequences(Path('out'))\n"
        "print(sorted({'datasets', 'pandas', 'torch', 'transformers'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def data_file(path: Path) -> Path:
    return next(path.glob("*.arrow")) if path.is_dir() else path


@pytest.mark.parametrize("name", NAMES)
def test_a_file_cut_in_half_is_refused_in_one_line(name: str, header: Header, tmp_path: Path) -> None:
    write_sequences(tmp_path / name, sequences(), header)
    file = data_file(tmp_path / name)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"(damaged|cut short)") as caught:
        read_sequences(tmp_path / name)
    assert "\n" not in str(caught.value) and str(tmp_path / name) in str(caught.value)


def test_a_jsonl_file_cut_between_two_lines_is_refused(header: Header, tmp_path: Path) -> None:
    write_sequences(tmp_path / "a.jsonl", sequences(), header)
    lines = (tmp_path / "a.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "a.jsonl").write_text("".join(lines[:200]))
    with pytest.raises(InputError, match="cut short: 199 of 300 sequences"):
        read_sequences(tmp_path / "a.jsonl")


@pytest.mark.parametrize("name", NAMES)
def test_a_changed_byte_is_refused(name: str, header: Header, tmp_path: Path) -> None:
    write_sequences(tmp_path / name, sequences(), header)
    file = data_file(tmp_path / name)
    content = bytearray(file.read_bytes())
    wanted = b"a17.py" if name != "sequences.parquet" else None
    at = content.index(wanted) + 1 if wanted else len(content) // 2
    content[at] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(InputError) as caught:
        read_sequences(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_what_are_no_sequences_is_refused(header: Header, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("hello")
    (tmp_path / "some.json").write_text('{"hello": 1}')
    (tmp_path / "empty.parquet").write_bytes(b"")
    for name in ("text.txt", "some.json", "empty.parquet", "absent", ""):
        with pytest.raises(InputError) as caught:
            read_sequences(tmp_path / name)
        assert "\n" not in str(caught.value)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="isn't empty and holds no sequences"):
        write_sequences(tmp_path / "folder", sequences(2), header)


def test_format_1_is_refused_with_what_to_do(header: Header, tmp_path: Path) -> None:
    for name in ("a.json", "sequences"):
        write_sequences(tmp_path / name, sequences(2), header)
        file = tmp_path / name if name == "a.json" else tmp_path / name / "header.json"
        text = file.read_text().replace('"format_version": 2', '"format_version": 1')
        file.write_text(text.replace('"repositories"', '"repository"'))
        with pytest.raises(InputError, match="of format 1, this version reads 2; make the sequences again"):
            read_sequences(tmp_path / name)


def test_several_repositories_share_a_header(header: Header) -> None:
    header.repositories[0].licence = "MIT"
    header.repositories.append(RepositoryFacts("other", "i" * 40, notes=["one more"], licence="MIT OR Unlicense"))
    assert header.name == "repo, other" and header.notes == ["repo: a note", "other: one more"]
    assert header.licence == "MIT AND (MIT OR Unlicense)"
    header.repositories[1].licence = ""
    assert header.licence == "", "of data that is in part under no known licence, none can be said"


def test_another_tokenizer_is_refused_with_both_names(
    header: Header, tokenizer: RepoTokenizer, backend: Tokenizer
) -> None:
    check_tokenizer(header, tokenizer)
    with pytest.raises(InputError, match=r"tokenizer of tiny .* that of other"):
        check_tokenizer(header, RepoTokenizer(backend, "other", structure_tokens="none"))


@pytest.mark.parametrize("name", NAMES)
def test_a_disk_that_fills_up_leaves_the_old_file(
    name: str, header: Header, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = write_sequences(tmp_path / name, sequences(3), header)

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dataset, "_fsync", full)
    with pytest.raises(RunError, match="No space left on device"):
        write_sequences(tmp_path / name, sequences(), header)
    assert read_sequences(tmp_path / name).content_sha256 == old.content_sha256
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", NAMES)
def test_a_place_that_cannot_be_written_to_is_refused(name: str, header: Header, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="can't be written"):
        write_sequences(tmp_path / "file" / name, sequences(2), header)


def test_a_folder_is_replaced_by_a_newer_one(header: Header, tmp_path: Path) -> None:
    write_sequences(tmp_path / "sequences", sequences(3), header)
    newer = write_sequences(tmp_path / "sequences", sequences(5), header)
    assert read_sequences(tmp_path / "sequences").content_sha256 == newer.content_sha256
