"""Each base's dialect is told by its tokens, and fill-in-the-middle is written, read and asked in it."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_packages import module
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from longrepo.config.schema import DataSettings, FimSetting, StructureTokens
from longrepo.data.builder import LongContextSequenceBuilder
from longrepo.data.dialects import DIALECTS, NO_DIALECT, Dialect, FimOrder, find_dialect
from longrepo.data.metadata import Header, TokenizerFacts, check_tokenizer
from longrepo.data.sequence import LongContextSequence
from longrepo.data.stored_text import StoredText
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.data.tokenizer_loading import load_tokenizer, new_token_rows
from longrepo.errors import InputError
from longrepo.serve.prompts import PromptBuilder

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from dialect_table import PAGE, with_tables
from dialect_tokenizers import in_dialect, write_in_dialect

BY_NAME = {dialect.name: dialect for dialect in DIALECTS}
WITH_FIM = [dialect for dialect in DIALECTS if dialect.fim]
CODE = module("amber", None, 6)


def in_tokens(
    backend: Tokenizer, dialect: Dialect, special: bool = True, marks: StructureTokens = "auto"
) -> RepoTokenizer:
    state, config = in_dialect(json.loads(backend.to_str()), dialect, special)
    return RepoTokenizer(Tokenizer.from_str(json.dumps(state)), dialect.name, marks, config)


def fim_sequences(tokenizer: RepoTokenizer, seeds: int = 12) -> Iterator[LongContextSequence]:
    for seed in range(seeds):
        builder = LongContextSequenceBuilder(tokenizer, data=DataSettings(fim_share=1), seed=seed)
        built = builder.build_hierarchical_sequence([("a.py", CODE)])
        assert isinstance(built, LongContextSequence)
        yield built


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("special", [True, False])
def test_a_tokenizer_of_the_published_list_is_told_by_its_tokens(
    dialect: Dialect, special: bool, backend: Tokenizer
) -> None:
    tokenizer = in_tokens(backend, dialect, special)
    assert tokenizer.dialect == dialect
    for name in dialect.tokens:  # none of them is read from a source file
        assert tokenizer.id(name) not in tokenizer.encode(f"x = '{name}'\n")
    assert dialect.source


def test_a_folder_with_these_files_loads(tmp_path: Path, backend: Tokenizer) -> None:
    folder = write_in_dialect(BY_NAME["Codestral"], tmp_path / "base", json.loads(backend.to_str()))
    tokenizer = load_tokenizer(str(folder))
    assert tokenizer.dialect.name == "Codestral" and tokenizer.decode([tokenizer.end_id]) == "</s>"


def test_optional_tokens_that_a_vocabulary_lacks_are_not_in_its_dialect() -> None:
    whole = BY_NAME["StarCoder2"]
    some = find_dialect({*whole.needed, "<pr>", "<jupyter_code>"})
    assert some == replace(
        whole,
        fim=replace(whole.fim, pad=None),
        repository=None,
        pull_request=None,
        notebook=("<jupyter_code>",),
    )
    assert find_dialect({"<fim_prefix>", "<fim_suffix>", "<file_sep>"}) == NO_DIALECT


MARKS = {
    FimOrder.PSM: ("prefix", "suffix", "middle"),
    FimOrder.SPM: ("suffix", "prefix", "middle"),
    FimOrder.SPM_JOINED: ("prefix", "suffix", "middle"),
}


@pytest.mark.parametrize("dialect", WITH_FIM, ids=lambda dialect: dialect.name)
def test_gaps_are_written_in_the_orders_of_pretraining_and_read_back_as_the_file(
    dialect: Dialect, backend: Tokenizer
) -> None:
    tokenizer = in_tokens(backend, dialect, marks="added")
    assert dialect.fim and tokenizer.fim
    names = {getattr(dialect.fim, part): part for part in ("prefix", "suffix", "middle", "end")}
    by_id = {tokenizer.id(name): part for name, part in names.items() if name}
    seen = set()
    for built in fim_sequences(tokenizer):
        at = [place for place, id in enumerate(built.tokens) if id in by_id]
        marks = [by_id[built.tokens[place]] for place in at]
        joined = marks[0] == "prefix" and at[1] == at[0] + 1
        order = FimOrder.SPM_JOINED if joined else FimOrder.SPM if marks[0] == "suffix" else FimOrder.PSM
        seen.add(order)
        expected = [part for part in (*MARKS[order], "end") if part in by_id.values()]
        assert marks == expected
        ids = np.array(built.tokens, np.int32)
        lines = [line.text for line in StoredText(tokenizer).lines(ids, "hierarchical")]
        assert "\n".join(lines).strip("\n").endswith("a.py\n" + CODE.strip("\n"))
    assert seen == set(dialect.fim.orders)


ASKED = {
    "StarCoder2": "<fim_prefix>A<fim_suffix>B<fim_middle>",
    "Mellum": "<fim_suffix>B<fim_prefix>A<fim_middle>",
    "Seed-Coder": "<[fim-suffix]>B<[fim-prefix]>A<[fim-middle]>",
    "Codestral": "[SUFFIX]B[PREFIX]A",
    "DeepSeek": "<｜fim▁begin｜>A<｜fim▁hole｜>B<｜fim▁end｜>",
    "CodeGeeX4": "<|code_suffix|>B<|code_prefix|>A<|code_middle|>",
    "Granite 4": "<|fim_prefix|>A<|fim_suffix|>B<|fim_middle|>",
}


@pytest.mark.parametrize("name", ASKED)
def test_an_editor_s_question_has_the_base_s_order(name: str, backend: Tokenizer) -> None:
    tokenizer = in_tokens(backend, BY_NAME[name])
    prompts = PromptBuilder(tokenizer, 256)
    prompt = prompts.asked("A", "B", 8)
    begin = "" if tokenizer.begin_id is None else tokenizer.decode([tokenizer.begin_id])
    assert tokenizer.decode(prompt.ids) == begin + ASKED[name] and prompt.fim
    assert prompts.from_text("A", "B", 8).ids == prompt.ids
    assert prompts.asked(ASKED[name], None, 8).ids == prompt.ids  # its own template is taken apart
    ours = prompts.at("a.py", "A", "B", 8).ids
    assert tokenizer.decode(ours).endswith(ASKED[name])


def plain(backend: Tokenizer, *tokens: str, fim: FimSetting = "auto", **config: object) -> RepoTokenizer:
    """A base without fill-in-the-middle tokens but these, and with this configuration."""
    state, base = in_dialect(json.loads(backend.to_str()), NO_DIALECT)
    made = Tokenizer.from_str(json.dumps(state))
    made.add_special_tokens(list(tokens))
    return RepoTokenizer(made, "base", "native", base | config, fim=fim)


def test_a_base_without_these_tokens_says_so_in_one_line(backend: Tokenizer) -> None:
    half = plain(backend, "<fim_prefix>", "<fim_middle>")
    named = plain(backend, additional_special_tokens=["<fim_prefix>", "<fim_suffix>", "<fim_middle>"])
    for tokenizer, said in (
        (plain(backend), "the tokenizer of base has no fill-in-the-middle tokens that are known here: "),
        (half, "the tokenizer of base has <fim_prefix> and <fim_middle>, but not <fim_suffix>: "),
        (
            named,
            "reads <fim_prefix>, <fim_suffix>, <fim_middle> as plain text, though tokenizer_config.json names them",
        ),
    ):
        assert tokenizer.fim is None
        note = str(tokenizer.fim_note)
        assert said in note and "data.fim=add teaches it" in note and "\n" not in note
        with pytest.raises(InputError) as refused:
            PromptBuilder(tokenizer, 256).asked("A", "B", 8)
        assert str(refused.value) == note
    assert in_tokens(backend, BY_NAME["Seed-Coder"]).fim_note is None


def test_three_tokens_are_added_where_they_are_asked_for_and_missing(backend: Tokenizer, tmp_path: Path) -> None:
    base, tokenizer = plain(backend), plain(backend, fim="add")
    names = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")
    assert list(tokenizer.structure_ids) == list(names)
    assert tokenizer.fim and tokenizer.fim.orders == (FimOrder.PSM,)
    assert tokenizer.vocabulary_size == base.vocabulary_size + 3 and tokenizer.sha256 != base.sha256
    starts = tokenizer.initial_from
    assert [starts[tokenizer.id(name)] for name in names] == [
        base.encode(word)[-1] for word in (" prefix", " suffix", " middle")
    ]
    assert "data.fim=add" in str(tokenizer.fim_note) and len(str(tokenizer.fim_note).splitlines()) == 1
    assert not set(tokenizer.structure_ids.values()) & set(tokenizer.encode("".join(names)))
    assert [built.tokens.count(tokenizer.fim.middle) for built in fim_sequences(tokenizer, 3)] == [1, 1, 1]

    own = RepoTokenizer(backend, "own", fim="add")  # a base that has them keeps its own
    assert own.sha256 == RepoTokenizer(backend, "own").sha256 and "nothing is added" in str(own.fim_note)

    for name, text in (("tokenizer.json", tokenizer.file_text), ("tokenizer_config.json", tokenizer.file_config)):
        (tmp_path / name).write_text(text if isinstance(text, str) else json.dumps(text))
    read = load_tokenizer(str(tmp_path))
    assert read.fim_added and read.kind == "native" and read.sha256 == tokenizer.sha256
    assert read.structure_ids == tokenizer.structure_ids
    assert new_token_rows(tokenizer, str(tmp_path), None) == {}  # a base trained with them keeps their rows


def test_the_header_says_which_tokens_were_added_and_how_a_sequence_begins(backend: Tokenizer) -> None:
    added, base = plain(backend, fim="add"), plain(backend)
    for made, other, setting in ((added, base, "add"), (base, added, "auto")):
        header = Header(TokenizerFacts.of(made), [])
        assert header.tokenizer.fim == setting
        check_tokenizer(Header.from_dict(header.as_dict(), "x"), made)
        with pytest.raises(InputError, match=f"data.fim={setting}, and this uses"):
            check_tokenizer(header, other)
    begins = in_tokens(backend, BY_NAME["DeepSeek"])
    header = Header(TokenizerFacts.of(begins), [])
    assert header.tokenizer.begins and begins.begin_id is not None
    check_tokenizer(header, begins)
    assert begins.begin_id is not None
    older = header.as_dict()
    del older["tokenizer"]["begins"]
    check_tokenizer(Header.from_dict(older, "x"), begins)
    assert begins.begin_id is None and not begins.file_config["begins"]


BEGINNING = ["DeepSeek", "CodeGemma", "Code Llama", "Codestral"]


@pytest.mark.parametrize("name", [*BEGINNING, "Qwen", "StarCoder2", "Granite 4", "Seed-Coder"])
def test_what_its_own_files_put_before_a_text_begins_sequences_and_prompts(name: str, backend: Tokenizer) -> None:
    tokenizer = in_tokens(backend, BY_NAME[name], marks="added")
    begin = [tokenizer.id(str(BY_NAME[name].begin))] if name in BEGINNING else []
    assert (tokenizer.begin_id is not None) == (name in BEGINNING)
    for built in fim_sequences(tokenizer, 2):
        assert built.tokens[: len(begin)] == begin and built.tokens[1] not in begin
        assert built.loss_weights[0] == 0
    prompts = PromptBuilder(tokenizer, 256)
    for prompt in (
        prompts.asked("A", None, 8),
        prompts.asked("A", "B", 8),
        prompts.from_text("A", None, 8),
        prompts.at("a.py", "A", None, 8),
    ):
        assert prompt.ids[: len(begin)] == begin and not set(begin) & set(prompt.ids[1:])
    if begin:  # an editor's template may have it already
        marked = f"{BY_NAME[name].begin}{tokenizer.decode(prompts.asked('A', 'B', 8).ids[1:])}"
        assert prompts.asked(marked, None, 8).ids == prompts.asked("A", "B", 8).ids
    assert pickle.loads(pickle.dumps(tokenizer)).begin_id == tokenizer.begin_id
    no_gap, files = DataSettings(fim_share=0), [("a.py", CODE)]
    whole = LongContextSequenceBuilder(tokenizer, data=no_gap).build_hierarchical_sequence(files)
    assert isinstance(whole, LongContextSequence) and whole.tokens[-1] == tokenizer.end_id
    for length, fits in ((len(whole), True), (len(whole) - 1, False)):
        built = LongContextSequenceBuilder(tokenizer, length, data=no_gap).build_hierarchical_sequence(files)
        assert isinstance(built, LongContextSequence) == fits


def test_the_configuration_alone_can_ask_for_the_begin_token(backend: Tokenizer) -> None:
    state, config = in_dialect(json.loads(backend.to_str()), BY_NAME["DeepSeek"])
    state["post_processor"] = None
    made = Tokenizer.from_str(json.dumps(state))
    assert RepoTokenizer(made, "x", config=config).begin_id is not None
    for other in ({"add_bos_token": False}, {"bos_token": None}, {"bos_token": "<absent>"}, {"begins": False}):
        assert RepoTokenizer(made, "x", config=config | other).begin_id is None


LINE = "\N{LOWER ONE EIGHTH BLOCK}"


@pytest.mark.parametrize("rule", ["normalizer", "metaspace"])
def test_a_text_is_cut_and_put_together_without_spaces_that_nobody_wrote(rule: str) -> None:
    """As the tokenizers of Llama 2, Code Llama (a normalizer) and Mistral (a Metaspace) split and join."""
    text = "def f(a):\n    return a\n\n\n  x = 'é日'\n"
    words = sorted({f"<0x{byte:02X}>" for byte in range(256)} | set(text.replace(" ", LINE)) | {LINE * 2, LINE})
    vocabulary = {word: number for number, word in enumerate(["<unk>", "<s>", "</s>", *words])}
    made = Tokenizer(models.BPE(vocabulary, [(LINE, LINE)], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    if rule == "normalizer":
        made.normalizer = normalizers.Sequence([normalizers.Prepend(LINE), normalizers.Replace(" ", LINE)])
        joined = [decoders.Replace(LINE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace(LINE, "first", False)
        joined = [decoders.ByteFallback(), decoders.Metaspace(LINE, "first", False)]
    made.decoder = decoders.Sequence(joined)
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer = RepoTokenizer(made, "llama", "native", {"eos_token": "</s>"})
    ((ids, starts),) = tokenizer.encode_many([text])
    assert tokenizer.decode(ids.tolist()) == text
    for at, start in enumerate(starts.tolist()):
        if start == 0 or text[start - 1] == "\n":
            assert tokenizer.decode(ids[at:].tolist()) == text[start:]
    assert tokenizer.encode_marked(f"</s>{text}") == [tokenizer.end_id, *ids.tolist()]
    assert made.decode(made.encode(text).ids) == text  # and the file stays as it was


def test_the_page_has_every_dialect_as_it_is() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert with_tables(page) == page and page.count("\n| Codestral |") == 2
