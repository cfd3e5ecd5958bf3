"""Files, repositories, changes and snippets are marked as the base was pretrained, with no token added."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from git_helper import make_repo
from tokenizers import Tokenizer
from whole import Case, prepared

from longrepo.config.loader import load_settings
from longrepo.config.schema import DataSettings, StructureTokens
from longrepo.data.builder import LongContextSequenceBuilder, Version
from longrepo.data.contamination import check_leaks
from longrepo.data.dataset import read_sequences
from longrepo.data.dialects import DIALECTS, NO_DIALECT
from longrepo.data.metadata import Header, TokenizerFacts, check_tokenizer, dataset_card
from longrepo.data.prepare import write_prepared
from longrepo.data.questions.write import check_question_rows
from longrepo.data.sequence import LongContextSequence, NotBuilt
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.data.tokenizer_loading import load_tokenizer
from longrepo.errors import InputError
from longrepo.serve.prompts import PromptBuilder
from longrepo.serve.working_tree import WorkingTree
from longrepo.utils.progress import NoProgress

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from dialect_tokenizers import in_dialect

BY_NAME = {dialect.name: dialect for dialect in (*DIALECTS, NO_DIALECT)}
PLAIN = DataSettings(fim_share=0)
FILES = [("a.py", "A = 1\n"), ("b.py", "B = A\n")]


def in_tokens(backend: Tokenizer, name: str, kind: StructureTokens = "auto") -> RepoTokenizer:
    state, config = in_dialect(json.loads(backend.to_str()), BY_NAME[name])
    return RepoTokenizer(Tokenizer.from_str(json.dumps(state)), name, kind, config)


def built(found: LongContextSequence | NotBuilt) -> LongContextSequence:
    assert isinstance(found, LongContextSequence)
    return found


LAYOUTS = {
    "StarCoder2": "<file_sep>a.py\nA = 1\n<file_sep>b.py\nB = A\n<|endoftext|>",
    "Qwen": "<|file_sep|>a.py\nA = 1\n<|file_sep|>b.py\nB = A\n<|endoftext|>",
    "Mellum": "<filename>a.py\nA = 1\n<filename>b.py\nB = A\n<|endoftext|>",
    "Granite 4": "<|filename|>a.py\nA = 1\n<|filename|>b.py\nB = A\n<|end_of_text|>",
    "SmolLM": "<file_sep>a.py\nA = 1\n<file_sep>b.py\nB = A\n<|endoftext|>",
    "CodeGemma": "a.py\nA = 1\n<|file_separator|>b.py\nB = A\n<|file_separator|><eos>",
    "DeepSeek": "#a.py\nA = 1\n\n#b.py\nB = A\n<｜end▁of▁sentence｜>",
    "Codestral": "+++++ a.py\nA = 1\n\n+++++ b.py\nB = A\n</s>",
    "Seed-Coder": "# a.py\nA = 1\n\n# b.py\nB = A\n<[end▁of▁sentence]>",
    "none": "# a.py\nA = 1\n\n# b.py\nB = A\n<|endoftext|>",
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_files_are_written_as_the_base_was_pretrained(name: str, backend: Tokenizer) -> None:
    tokenizer = in_tokens(backend, name, "native")
    sequence = built(LongContextSequenceBuilder(tokenizer, data=PLAIN).build_hierarchical_sequence(FILES))
    text = tokenizer.decode(sequence.tokens)
    assert text.removeprefix(BY_NAME[name].begin or "" if BY_NAME[name].begins else "") == LAYOUTS[name]
    assert tokenizer.initial_from == {} and tokenizer.structure_ids == {}
    assert tokenizer.vocabulary_size == in_tokens(backend, name, "none").vocabulary_size


def test_the_next_file_s_mark_says_that_a_target_ended(backend: Tokenizer) -> None:
    tokenizer = in_tokens(backend, "Qwen")
    sequence = built(LongContextSequenceBuilder(tokenizer, data=PLAIN).build_hierarchical_sequence(FILES))
    marks = [at for at, id in enumerate(sequence.tokens) if id == tokenizer.id("<|file_sep|>")]
    weights = sequence.loss_weights
    assert weights[marks[0]] == 0 and weights[marks[1]] == 1  # nothing predicts the first
    assert weights[marks[1] + 1] == pytest.approx(PLAIN.context_weight)  # the path
    assert weights[-1] == 1


def test_the_path_is_part_of_the_prefix_where_pretraining_had_it_so(backend: Tokenizer) -> None:
    code = "".join(f"name_{row} = other_{row}\n" for row in range(12))
    for name, opening in (("StarCoder2", "<file_sep>a.py\nA = 1\n<file_sep><fim_"), ("Qwen", "b.py\n<|fim_prefix|>")):
        for seed in range(6):
            builder = LongContextSequenceBuilder(
                in_tokens(backend, name, "native"), data=DataSettings(fim_share=1), seed=seed
            )
            sequence = built(builder.build_hierarchical_sequence([FILES[0], ("b.py", code)]))
            text = builder.tokenizer.decode(sequence.tokens)
            assert opening in text and text.count("b.py\n") == 1
            if name == "StarCoder2":
                assert "<fim_prefix>b.py\n" in text or "<fim_middle>b.py\n" in text


CHANGES = {
    "StarCoder2": "<pr>Title: 12345678 Two more\n<pr_diff>\n<pr_file>x.py\n<pr_diff_hunk>@@ -1,2 +1,3 @@\n",
    "Qwen": "<|file_sep|>commit 12345678 Two more\n--- a/x.py\n+++ b/x.py\n@@ -1,2 +1,3 @@\n",
    "Codestral": "\ncommit 12345678 Two more\n--- x.py\n+++ x.py\n@@ -1,2 +1,3 @@\n",
    "DeepSeek": "\ncommit 12345678 Two more\n--- a/x.py\n+++ b/x.py\n@@ -1,2 +1,3 @@\n",
}


@pytest.mark.parametrize("name", CHANGES)
def test_changes_have_the_base_s_hunks_or_a_diff_s_text(name: str, backend: Tokenizer) -> None:
    builder = LongContextSequenceBuilder(in_tokens(backend, name, "native"), data=PLAIN)
    versions = [Version("1234567890", "Two more", "X = 1\nY = 2\n"), Version("abcdef0123", "Three", "X = 3\nY = 2\n")]
    whole = built(builder.build_commit_evolution_sequence("x.py", versions, "X = 1\n"))
    text = builder.tokenizer.decode(whole.tokens)
    assert CHANGES[name] in text and text.count("abcdef01 Three\n") == 1
    size = len(whole) + builder.tokenizer.marks.is_text  # a text mark's line break isn't written at the beginning
    exact = LongContextSequenceBuilder(builder.tokenizer, size, data=PLAIN)
    assert built(exact.build_commit_evolution_sequence("x.py", versions, "X = 1\n")).tokens == whole.tokens
    less = LongContextSequenceBuilder(builder.tokenizer, size - 1, data=PLAIN)
    assert isinstance(less.build_commit_evolution_sequence("x.py", versions, "X = 1\n"), NotBuilt)


NATIVE = ("data.structure_tokens=native", "data.question_share=0.3", "data.held_out_per_length=2")


@pytest.fixture(scope="module", params=["Qwen", "DeepSeek"])
def case(request: pytest.FixtureRequest, long_history: Path, backend: Tokenizer) -> tuple[RepoTokenizer, Case]:
    tokenizer = in_tokens(backend, request.param)
    return tokenizer, prepared(long_history, tokenizer, load_settings(None, list(NATIVE)), phases=1)


def test_a_repository_is_named_and_its_sequences_fit_and_read_back(
    case: tuple[RepoTokenizer, Case], tmp_path: Path
) -> None:
    tokenizer, made = case
    cap = made.prepared.header.bands[0]["cap"]
    assert all(len(row.input_ids) <= cap for row in made.rows)
    heads = {tokenizer.decode(row.input_ids.tolist()).partition("\n")[0] for row in made.rows}
    if tokenizer.name == "Qwen":
        assert heads == {"<|repo_name|>package-of-ten"}
    assert {row.kind for row in made.rows} == {"hierarchical", "commit_evolution", "qa"}
    write_prepared(tmp_path, made.prepared, NoProgress())
    file = read_sequences(tmp_path)
    assert file.header.tokenizer.kind == "native" and "as the base was pretrained" in dataset_card(file.header)
    verdicts = check_question_rows(file, tokenizer, {"package-of-ten": made.folder})
    assert len(verdicts) > 3 and not [verdict for _, verdict in verdicts if verdict.result == "refuted"]
    found = check_leaks(file, tokenizer)
    assert found.scored_lines and not found.leaks


def test_windows_begin_with_the_repository_and_fit(long_history: Path, backend: Tokenizer) -> None:
    tokenizer = in_tokens(backend, "Qwen")
    made = prepared(long_history, tokenizer, load_settings(None, list(NATIVE)), length=512, overlap=64)
    windows = made.of("train", kind="window")
    assert windows and all(len(row.input_ids) <= 1024 for row in windows)
    assert all(row.input_ids[0] == tokenizer.id("<|repo_name|>") and row.loss_weights[1] == 0 for row in windows)


KINDS = {"StarCoder2": "added", "Qwen": "native", "SmolLM": "native", "none": "native", "Codestral": "native"}


@pytest.mark.parametrize("name", KINDS)
def test_auto_adds_marks_to_starcoder2_alone(name: str, backend: Tokenizer) -> None:
    assert in_tokens(backend, name).kind == KINDS[name]
    assert load_tokenizer("embedded").kind == "added"


def test_a_written_tokenizer_keeps_the_kind_of_marks(backend: Tokenizer, tmp_path: Path) -> None:
    for name, kind in (("StarCoder2", "native"), ("StarCoder2", "none"), ("StarCoder2", "added"), ("Qwen", "native")):
        folder = tmp_path / f"{name}-{kind}"
        folder.mkdir()
        written = in_tokens(backend, name, kind)  # type: ignore[arg-type]
        (folder / "tokenizer.json").write_text(written.file_text)
        (folder / "tokenizer_config.json").write_text(json.dumps(written.file_config))
        assert load_tokenizer(str(folder)).kind == kind
        recorded = json.loads((folder / "tokenizer_config.json").read_text()).get("structure_tokens")
        assert recorded == (kind if name == "StarCoder2" and kind != "added" else None)


def test_older_settings_and_headers_are_read() -> None:
    for written, kind in (("true", "added"), ("false", "none"), ("native", "native"), ("auto", "auto")):
        assert load_settings(None, [f"data.structure_tokens={written}"]).data.structure_tokens == kind
    with pytest.raises(InputError, match=r"data\.structure_tokens"):
        load_settings(None, ["data.structure_tokens=own"])
    old = Header(TokenizerFacts("x", "0", 9, {"<|FILE_START|>": 8}, {8: 0}), []).as_dict()
    del old["tokenizer"]["marks"], old["tokenizer"]["marked_by"]
    assert Header.from_dict(old, "x").tokenizer.kind == "added"
    old["tokenizer"]["structure_tokens"] = {}
    assert Header.from_dict(old, "x").tokenizer.kind == "none"


@pytest.mark.parametrize(("made", "used"), [("native", "none"), ("none", "native"), ("added", "native")])
def test_sequences_with_other_marks_are_refused(
    made: StructureTokens, used: StructureTokens, backend: Tokenizer
) -> None:
    header = Header(TokenizerFacts.of(in_tokens(backend, "Qwen", made)), [])
    check_tokenizer(header, in_tokens(backend, "Qwen", made))
    with pytest.raises(InputError, match=rf"structure_tokens={made}, and this uses {used}"):
        check_tokenizer(header, in_tokens(backend, "Qwen", used))


def test_names_of_the_base_s_marks_in_code_are_text(backend: Tokenizer) -> None:
    tokenizer = in_tokens(backend, "Qwen")
    sequence = built(
        LongContextSequenceBuilder(tokenizer, data=PLAIN).build_hierarchical_sequence(
            [("a.py", "S = '<|file_sep|>'\n")]
        )
    )
    assert (np.array(sequence.tokens) == tokenizer.id("<|file_sep|>")).sum() == 1


ASKED = {
    "Qwen": "<|repo_name|>depot\n<|file_sep|>{path}\n<|fim_prefix|>{before}<|fim_suffix|>{after}<|fim_middle|>",
    "StarCoder2": "<repo_name>depot<file_sep><fim_prefix>{path}\n{before}<fim_suffix>{after}<fim_middle>",
    "DeepSeek": "<｜fim▁begin｜>#{path}\n{before}<｜fim▁hole｜>{after}<｜fim▁end｜>",
}


@pytest.mark.parametrize("name", ASKED)
def test_a_prompt_in_the_base_s_marks_is_recognized_and_not_doubled(
    name: str, backend: Tokenizer, tmp_path: Path
) -> None:
    tokenizer = in_tokens(backend, name, "native")
    lines = [f"depot_{row} = shelf_{row} + {row}\n" for row in range(12)]
    repo = make_repo(tmp_path / "depot", [{"web/a.py": "".join(lines), "web/b.py": "import web.a\n"}])
    around = WorkingTree.read(repo, tokenizer, load_settings())
    before, after = "".join(lines[:6]), "".join(lines[6:])
    prompts = PromptBuilder(tokenizer, 600, around)
    wanted = prompts.at("web/a.py", before, after, 8)
    assert prompts.asked(ASKED[name].format(path="web/a.py", before=before, after=after), None, 8).ids == wanted.ids
    assert tokenizer.decode(wanted.ids).count("web/a.py") == 1
    alone = PromptBuilder(tokenizer, 600)
    text = ASKED[name].format(path="new/c.py", before=before, after=after)
    begin = [] if tokenizer.begin_id is None else [tokenizer.begin_id]
    assert tokenizer.decode(alone.asked(text, None, 8).ids) == tokenizer.decode(begin) + text
