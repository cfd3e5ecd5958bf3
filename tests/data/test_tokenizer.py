from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path

import pytest
from git_helper import make_repo
from small_packages import module
from tokenizers import AddedToken, Tokenizer, normalizers
from whole import prepared

from longrepo.config.loader import load_settings
from longrepo.data.marks import STRUCTURE_TOKENS
from longrepo.data.tokenizer import PLACEHOLDERS, RepoTokenizer
from longrepo.data.tokenizer_loading import load_tokenizer
from longrepo.errors import InputError


def test_names_of_special_tokens_in_a_source_file_stay_text(tokenizer: RepoTokenizer) -> None:
    text = 'START = "<|FILE_START|>"  # <fim_prefix><|endoftext|><|SNIPPET_3|>\n'
    ids = tokenizer.encode(text)
    special = {*tokenizer.structure_ids.values(), tokenizer.end_id, tokenizer.id("<fim_prefix>")}
    assert not special & set(ids)
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode_many([text])[0][0].tolist() == ids


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
    assert RepoTokenizer(backend, "tiny", structure_tokens="none").sha256 != tokenizer.sha256


def test_every_token_begins_where_the_library_says(tokenizer: RepoTokenizer, backend: Tokenizer) -> None:
    texts = ["", "é", "x = '日本'\n\tif ü:\r\n", "\U0001f600 <KEY>\u0301\n", module("amber", None, 2)]
    for text, (ids, starts) in zip(texts, tokenizer.encode_many(texts, block=2), strict=True):
        expected = backend.encode(text, add_special_tokens=False)
        assert ids.tolist() == expected.ids == tokenizer.encode(text)
        assert starts.tolist() == [start for start, _ in expected.offsets]


def test_a_normaliser_that_alters_the_text_is_answered_by_the_library(backend: Tokenizer) -> None:
    lower = Tokenizer.from_str(backend.to_str())
    lower.normalizer = normalizers.NFD()
    ((ids, starts),) = RepoTokenizer(lower, "decomposes").encode_many(["é = ñandú\n"])
    assert starts.tolist() == [start for start, _ in lower.encode("é = ñandú\n", add_special_tokens=False).offsets]
    assert len(ids) == len(starts)


def test_what_stands_for_redacted_text_is_a_token_and_the_rest_is_text() -> None:
    starcoder = load_tokenizer("embedded")
    for name in PLACEHOLDERS:
        ids = starcoder.encode(f"a = {name}\n")
        assert starcoder.id(name) in ids and starcoder.decode(ids) == f"a = {name}\n"
        assert starcoder.encode(name) == [starcoder.id(name)]
    assert len(starcoder.encode("<|endoftext|><file_sep>")) > 4


def test_it_goes_to_another_process_as_the_same(tokenizer: RepoTokenizer) -> None:
    for one in (tokenizer, load_tokenizer("embedded")):
        other = pickle.loads(pickle.dumps(one))
        assert (other.sha256, other.name, other.end_id, other.pad_id) == (one.sha256, one.name, one.end_id, one.pad_id)
        assert other.structure_ids == one.structure_ids
        text = "password = '<PASSWORD>'  # <|FILE_START|>\n"
        assert other.encode(text) == one.encode(text)


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
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", offline)
    with pytest.raises(InputError, match=r"model some/model: .*can't be reached.*--model embedded") as caught:
        load_tokenizer("some/model")
    assert "\n" not in str(caught.value)


_STARCODER = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")
_QWEN = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")


def _with_tokens(backend: Tokenizer, tokens: Sequence[str], special: bool) -> Tokenizer:
    """The small tokenizer with other fill-in-the-middle tokens, or fewer."""
    state = backend.to_str()
    for name in _STARCODER:
        state = state.replace(name, name.replace("fim", "gap"))
    made = Tokenizer.from_str(state)
    made.add_tokens([AddedToken(token, special=special, normalized=False) for token in tokens])
    return made


@pytest.mark.parametrize("special", [True, False])
def test_their_names_in_a_source_file_stay_text_too(special: bool, backend: Tokenizer) -> None:
    tokenizer = RepoTokenizer(_with_tokens(backend, _QWEN, special), "base")
    text = 'MARK = "<|fim_prefix|>" + "<|fim_middle|>"\n'
    ids = tokenizer.encode(text)
    assert tokenizer.fim and not {tokenizer.fim.prefix, tokenizer.fim.middle} & set(ids)
    assert tokenizer.decode(ids) == text


def test_a_base_that_lacks_one_of_them_has_none(backend: Tokenizer, tmp_path: Path) -> None:
    assert RepoTokenizer(_with_tokens(backend, _QWEN[:2], True), "base").fim is None
    tokenizer = RepoTokenizer(_with_tokens(backend, (), True), "base")
    assert tokenizer.fim is None
    folder = make_repo(
        tmp_path / "r", [{f"src/{name}.py": module(name, None, 6) for name in ("amber", "birch", "cedar")}]
    )
    for share, noted in ((0.5, True), (0.0, False)):
        case = prepared(folder, tokenizer, load_settings(None, [f"data.fim_share={share}"]), phases=1)
        notes = " ".join(case.prepared.header.notes)
        assert ("base has no fill-in-the-middle tokens that are known here" in notes) == noted
        assert case.prepared.header.accounts["1"]["fim"] == 0
