"""Each base's dialect is told by its tokens, and fill-in-the-middle is written, read and asked in it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_packages import module
from tokenizers import Tokenizer

from longrepo.config.schema import DataSettings
from longrepo.data.builder import LongContextSequenceBuilder
from longrepo.data.dialects import DIALECTS, NO_DIALECT, Dialect, FimOrder, find_dialect
from longrepo.data.sequence import LongContextSequence
from longrepo.data.text import StoredText
from longrepo.data.tokenizer import RepoTokenizer, load_tokenizer
from longrepo.serve.prompts import PromptBuilder

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from dialect_tokenizers import in_dialect, write_in_dialect

BY_NAME = {dialect.name: dialect for dialect in DIALECTS}
WITH_FIM = [dialect for dialect in DIALECTS if dialect.fim]
CODE = module("amber", None, 6)


def in_tokens(backend: Tokenizer, dialect: Dialect, special: bool = True) -> RepoTokenizer:
    state, config = in_dialect(json.loads(backend.to_str()), dialect, special)
    return RepoTokenizer(Tokenizer.from_str(json.dumps(state)), dialect.name, config=config)


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
    tokenizer = in_tokens(backend, dialect)
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
        assert "\n".join(lines[1:]).strip("\n") == CODE.strip("\n")  # after the path
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
    assert tokenizer.decode(prompt.ids) == ASKED[name] and prompt.fim
    assert prompts.from_text("A", "B", 8).ids == prompt.ids
    assert prompts.asked(ASKED[name], None, 8).ids == prompt.ids  # its own template is taken apart
    ours = prompts.at("a.py", "A", "B", 8).ids
    assert tokenizer.decode(ours).endswith(ASKED[name])
