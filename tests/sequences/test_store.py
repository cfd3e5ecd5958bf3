from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from longrepo.errors import InputError, RunError
from longrepo.sequences import store
from longrepo.sequences.header import Header, RepositoryFacts, TokenizerFacts, check_tokenizer
from longrepo.sequences.sequence import LongContextSequence
from longrepo.sequences.store import read_sequences, write_sequences
from longrepo.sequences.tokenizer import RepoTokenizer

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
        }
        weights = [0.0, *[0.1, 1.0] * 6][:length]
        made.append(LongContextSequence([number * 3 + at for at in range(length)], weights, about))
    return made


@pytest.fixture
def header(tokenizer: RepoTokenizer) -> Header:
    return Header(TokenizerFacts.of(tokenizer), RepositoryFacts("repo", "h" * 40, notes=["a note"]), settings="abc")


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_is_read_back(name: str, header: Header, tmp_path: Path) -> None:
    given = sequences()
    written = write_sequences(tmp_path / name, given, header)
    file = read_sequences(tmp_path / name)
    assert file.header == written and file.header.rows == len(file) == len(given)
    assert file.header.tokenizer == header.tokenizer and file.header.repository == header.repository
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
    for name in NAMES[1:3]:
        write_sequences(tmp_path / f"again-{name}", sequences(), header)
        assert (tmp_path / name).read_bytes() == (tmp_path / f"again-{name}").read_bytes()
    changed = sequences()
    changed[7].loss_weights[1] = 0.2
    assert write_sequences(tmp_path / "other.json", changed, header).content_sha256 not in hashes


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
    with pytest.raises(InputError, match="holds other things"):
        write_sequences(tmp_path / "folder", sequences(2), header)


def test_another_format_version_is_named(header: Header, tmp_path: Path) -> None:
    header.format_version = 99
    write_sequences(tmp_path / "a.json", sequences(2), header)
    with pytest.raises(InputError, match="format 99, this version reads 1"):
        read_sequences(tmp_path / "a.json")


def test_another_tokenizer_is_refused_with_both_names(
    header: Header, tokenizer: RepoTokenizer, backend: Tokenizer
) -> None:
    check_tokenizer(header, tokenizer)
    with pytest.raises(InputError, match=r"tokenizer of tiny .* that of other"):
        check_tokenizer(header, RepoTokenizer(backend, "other", structure_tokens=False))


@pytest.mark.parametrize("name", NAMES)
def test_a_disk_that_fills_up_leaves_the_old_file(
    name: str, header: Header, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = write_sequences(tmp_path / name, sequences(3), header)

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "_sync", full)
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
