from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from longrepo.errors import InputError
from longrepo.sequences.text import TokenizedText
from longrepo.sequences.tokenizer import RepoTokenizer, load_tokenizer
from longrepo.sequences.tokens import STRUCTURE_TOKENS


def test_names_of_special_tokens_in_a_source_file_stay_text(tokenizer: RepoTokenizer) -> None:
    text = 'START = "<|FILE_START|>"  # <fim_prefix><|endoftext|><|SNIPPET_3|>\n'
    ids = tokenizer.encode(text)
    special = {*tokenizer.structure_ids.values(), tokenizer.end_id, tokenizer.id("<fim_prefix>")}
    assert not special & set(ids)
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode_many([text])[0][0] == ids


def test_structure_tokens_are_new_and_start_from_known_ones(tokenizer: RepoTokenizer, backend: Tokenizer) -> None:
    known = backend.get_vocab_size()
    assert sorted(tokenizer.structure_ids.values()) == list(range(known, known + len(STRUCTURE_TOKENS)))
    assert tokenizer.vocabulary_size == known + len(STRUCTURE_TOKENS)
    starts_from = tokenizer.initial_from
    assert starts_from[tokenizer.id("<|FILE_START|>")] == tokenizer.id("<file_sep>")
    assert starts_from[tokenizer.id("<|FILE_END|>")] == tokenizer.end_id
    assert starts_from[tokenizer.id("<|COMMIT_START|>")] == tokenizer.id("<pr_base>")
    assert set(starts_from.values()) <= set(range(known))


def test_the_hash_changes_with_the_vocabulary_and_not_with_the_name(
    tokenizer: RepoTokenizer, backend: Tokenizer
) -> None:
    assert RepoTokenizer(backend, "another name").sha256 == tokenizer.sha256
    assert RepoTokenizer(backend, "tiny", structure_tokens=False).sha256 != tokenizer.sha256


def test_pieces_of_a_text_put_together_are_its_tokens(tokenizer: RepoTokenizer) -> None:
    text = "def é_one(a):\n    return '日本'\n\n\nclass B:\n    def two(self):\n        return 2\n"
    ids, starts = tokenizer.encode_many([text])[0]
    of = TokenizedText("a.py", text, "Python", ids, starts)
    bounds = [0, *of.lines, len(of)]
    assert "".join(of.slice_text(a, b) for a, b in pairwise(bounds)) == text
    assert [id for a, b in pairwise(bounds) for id in ids[a:b]] == ids
    assert set(of.cuts) <= set(of.lines)


def test_a_folder_is_read_and_gives_what_transformers_reads_from_it(backend: Tokenizer, tmp_path: Path) -> None:
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": {"content": "<|endoftext|>"}}')
    loaded = load_tokenizer(str(tmp_path))
    assert loaded.end_id == loaded.pad_id == 0
    assert loaded.sha256 == RepoTokenizer(backend, "tiny").sha256


@pytest.mark.parametrize("name", ["./nothing-here", "."])
def test_a_folder_without_a_tokenizer_is_refused_in_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"--model .*; give a model folder, a hub name, or `embedded`") as caught:
        load_tokenizer(name)
    assert "\n" not in str(caught.value)


def test_a_model_that_cannot_be_reached_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    def offline(*_: object, **__: object) -> str:
        raise ConnectionError("no route to host\nand more lines")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(InputError, match=r"--model some/model: .*no route to host.*--model embedded") as caught:
        load_tokenizer("some/model")
    assert "\n" not in str(caught.value)
