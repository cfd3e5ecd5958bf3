"""A text ends with a mark of weight only where its file or change really ends, in every kind of marks."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from longrepo.data.commits import CommitStep
from longrepo.data.dialects import DIALECTS, NO_DIALECT
from longrepo.data.features import FeatureExtractor, Features, FileJob, Job, StepJob, WindowJob, inline_text
from longrepo.data.features import unpack_features as unpack
from longrepo.data.template import (
    FilePiece,
    SequenceBuilder,
    TemplateSizes,
    question_ids,
    write_file,
    write_questions,
    write_step,
)
from longrepo.data.text import path_tokens
from longrepo.data.tokenizer import RepoTokenizer

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from dialect_tokenizers import in_dialect

BY_NAME = {dialect.name: dialect for dialect in (*DIALECTS, NO_DIALECT)}
CODE = "def one():\n    return 1\n\n\ndef two():\n    return 2\n"
# Where the file ends, and where it is cut: what follows its text up to the next file's path.
PARTS = {
    "added": ("<|FILE_END|><|FILE_START|>", "<|FILE_START|>"),
    "Qwen": ("<|file_sep|>", "<|file_sep|>"),
    "CodeGemma": ("<|file_separator|>", "<|file_separator|>"),
    "DeepSeek": ("\n#", "\n#"),
}


@pytest.fixture(scope="module", params=PARTS)
def marked(request: pytest.FixtureRequest, backend: Tokenizer) -> tuple[str, RepoTokenizer]:
    if request.param == "added":
        return "added", RepoTokenizer(backend, "tiny")
    state, config = in_dialect(json.loads(backend.to_str()), BY_NAME[request.param])
    return request.param, RepoTokenizer(Tokenizer.from_str(json.dumps(state)), request.param, "native", config)


def read(tokenizer: RepoTokenizer, job: Job) -> Features:
    (result,) = FeatureExtractor(tokenizer, None, 0.1).extract([job])
    return unpack(result, job.path, path_tokens(tokenizer, job.path))


def after(builder: SequenceBuilder, tokenizer: RepoTokenizer, part: int, mark: str = "") -> float:
    """The largest weight of the tokens of a mark (the end token if none is named) right after a part's text."""
    ids, weights = builder.arrays()
    start = builder.parts[part].at + builder.parts[part].end - builder.parts[part].start
    wanted = tokenizer.encode_marked(mark) if mark else [tokenizer.end_id]
    assert ids[start : start + len(wanted)].tolist() == wanted
    return float(weights[start : start + len(wanted)].max())


@pytest.mark.parametrize("code", [CODE, CODE.replace("\n", "\r\n")])
def test_a_file_ends_with_weight_only_where_it_ends(marked: tuple[str, RepoTokenizer], code: str) -> None:
    name, tokenizer = marked
    ended, cut = PARTS[name]
    sizes = TemplateSizes(tokenizer)
    of, other = read(tokenizer, FileJob("a.py", code)).text, read(tokenizer, FileJob("b.py", "B = 1\n")).text
    half = int(of.cuts[0])
    # The first half, the last half (the file ends there), and all of it.
    for start, end, mark, weight in [(0, half, cut, 0.0), (half, len(of), ended, 1.0), (0, len(of), ended, 1.0)]:
        builder = sizes.begin()
        pieces = [FilePiece(of, start, end), FilePiece.whole(other)]
        for piece in pieces:
            write_file(builder, piece, 0.1)
        assert sizes.head + sum(map(sizes.file, pieces)) - len(builder) in (0, 1)  # the first mark ends no line
        builder.end()
        assert after(builder, tokenizer, 0, mark) == weight
        assert builder.arrays()[1][-1] == 1
    builder = sizes.begin()
    write_file(builder, FilePiece(of, 0, half), 0.1)
    builder.end()
    ids, weights = builder.arrays()
    assert ids[-1] == tokenizer.end_id and weights[-1] == 0


def test_signatures_and_the_beginning_of_a_context_file_are_no_end(marked: tuple[str, RepoTokenizer]) -> None:
    name, tokenizer = marked
    of, other = read(tokenizer, FileJob("a.py", CODE)).text, read(tokenizer, FileJob("b.py", "B = 1\n")).text
    half = int(of.cuts[0])
    for piece in (FilePiece(of, 0, 0, tuple(of.skeleton), False), FilePiece(of, 0, half, (), False)):
        builder = TemplateSizes(tokenizer).begin()
        write_file(builder, piece, 0.1)
        write_file(builder, FilePiece.whole(other), 0.1)
        assert after(builder, tokenizer, -2, PARTS[name][1]) == 0


def test_a_change_ends_with_weight_only_where_it_ends(marked: tuple[str, RepoTokenizer]) -> None:
    name, tokenizer = marked
    answer = read(
        tokenizer, StepJob("a.py", "a" * 40, "Rename", CODE, CODE.replace("one", "won").replace("two", "too"))
    )
    step = CommitStep("a" * 40, answer.text, answer.facts["message"], "")
    row = int(answer.text.rows[4])  # in the middle of the hunk
    sizes = TemplateSizes(tokenizer)
    for part, weight in [
        (CommitStep(step.commit, step.of, step.message, "", 0, row), 0.0),
        (CommitStep(step.commit, step.of, step.message, "", row), 1.0),
        (step, 1.0),
    ]:
        builder = sizes.begin()
        write_step(builder, part, 0.1)
        assert sizes.head + sizes.step(part) - len(builder) in (0, 1)
        builder.end()
        ids, weights = builder.arrays()
        marks = {"added": "<|COMMIT_END|>", "CodeGemma": "<|file_separator|>"} if weight or name == "CodeGemma" else {}
        if mark := marks.get(name, ""):
            assert after(builder, tokenizer, -1, mark) == weight
        else:
            assert after(builder, tokenizer, -1) == weight
        assert ids[-1] == tokenizer.end_id and weights[-1] == weight


def test_a_part_of_a_file_s_text_knows_that_the_file_goes_on(tokenizer: RepoTokenizer) -> None:
    lines = "".join(f"value_{number} = {number}\n" for number in range(200))
    for row, ends in ((10, False), (199, True)):
        of = read(tokenizer, WindowJob("a.py", lines, ((row, row + 1),), 600)).text
        assert of.ends is ends and FilePiece.whole(of).ends is ends
    assert read(tokenizer, WindowJob("a.py", lines, ((10, 11),), 100_000)).text.ends


def test_a_cut_snippet_has_no_end_and_the_answer_has(marked: tuple[str, RepoTokenizer]) -> None:
    _, tokenizer = marked
    of = read(tokenizer, FileJob("a.py", CODE)).text
    asked = question_ids(tokenizer, "What?")
    answer = inline_text("one", np.array(tokenizer.encode(" one"), np.int32))
    for end, weight in ((int(of.cuts[0]), 0.0), (len(of), 0.1)):
        builder = TemplateSizes(tokenizer).begin()
        write_questions(builder, [FilePiece(of, 0, end, (), False)], [(asked, answer)], 0.1)
        builder.end()
        ids, weights = builder.arrays()
        at = builder.parts[0].at + end
        assert weights[at] == pytest.approx(weight) and weights[at + 1] == pytest.approx(0.1)
        assert ids[-1] == tokenizer.end_id and weights[-1] == 1
