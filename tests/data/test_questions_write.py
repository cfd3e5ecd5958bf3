"""Several questions over one context: each asked once, none of a kind that prevails, none that answers another."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from git_helper import make_repo
from question_repository import SHAPES
from whole import prepared

from longrepo.config.loader import load_settings
from longrepo.data.features import FeatureExtractor, FileJob, unpack_features
from longrepo.data.packing import Band
from longrepo.data.questions.definition_questions import Question
from longrepo.data.questions.write import QuestionPool, QuestionWriter
from longrepo.data.segments import Segment, SegmentReader
from longrepo.data.template import SequenceBuilder, TemplateSizes
from longrepo.data.text import TokenizedText, path_tokens
from longrepo.data.tokenizer import RepoTokenizer

PATHS = ("package/shapes.py", "package/far.py", "package/near.py")
TEXTS = (SHAPES, "".join(f"far_{n} = {n}\n" for n in range(200)), "".join(f"near_{n} = {n}\n" for n in range(200)))


def read_text(tokenizer: RepoTokenizer, path: str, text: str) -> TokenizedText:
    (made,) = FeatureExtractor(tokenizer, None, 0.1).extract([FileJob(path, text)])
    return unpack_features(made, path, path_tokens(tokenizer, path)).text


def texts(tokenizer: RepoTokenizer) -> dict[str, TokenizedText]:
    return {path: read_text(tokenizer, path, text) for path, text in zip(PATHS, TEXTS, strict=True)}


def ask(kind: str, about: str, answer: str, at: str = "") -> Question:
    return Question(kind, f"{kind} of {about}?", answer, ((PATHS[0], SHAPES.index(at or about)),), about)


WHERE = [
    ask("where", about, f"{PATHS[0]}, in {{snippet}}") for about in ("Outline", "measured_length", "widen_outline")
]
BASE = ask("base", "Circle", "Outline, in {snippet}")
SIGNATURE = ask("signature", "widen_outline", "def widen_outline(amount, factor=2), in {snippet}")
BAND = Band(1, 0, 100, 400)


@pytest.fixture
def writer(tokenizer: RepoTokenizer) -> QuestionWriter:
    sizes = TemplateSizes(tokenizer)
    return QuestionWriter(sizes, texts(tokenizer), lambda path: [one for one in PATHS[:0:-1] if one != path], 0.1, 1)


def read(builder: SequenceBuilder | None) -> list[Segment]:
    assert builder is not None
    return SegmentReader(builder.tokenizer).read(*builder.arrays(), PATHS)


def test_several_are_asked_over_one_context_and_each_once(writer: QuestionWriter) -> None:
    pool = QuestionPool([*WHERE, BASE, SIGNATURE])
    built = writer.write_group(pool, BAND)
    snippets = read(built)
    asked = [one.question for one in snippets[-1].questions]
    assert len(asked) >= 2 and len(set(asked)) == len(asked) and pool.left == 5 - len(asked)
    assert built is not None and built.target_tokens() >= 0.05 * len(built) and len(built) <= BAND.cap
    assert snippets[-1].path != PATHS[0]  # the answers aren't next to the questions
    for one in snippets[-1].questions:
        number = one.answer.rpartition("SNIPPET_")[2].removesuffix("|>")
        assert next(snippet.path for snippet in snippets if snippet.name == number) == PATHS[0]


def test_an_answer_ends_with_weight_and_the_next_question_has_little(writer: QuestionWriter) -> None:
    built = writer.write_group(QuestionPool([*WHERE, BASE, SIGNATURE]), BAND)
    assert built is not None
    _, weights = built.arrays()
    first, second = [part for part in built.parts if part.target][:2]
    end = first.at + first.end
    assert np.all(weights[first.at : end + 1] == 1)
    assert np.all(weights[end + 1 : second.at] == np.float32(0.1)) and weights[-1] == 1


def test_a_question_does_not_go_with_one_that_its_answer_names(writer: QuestionWriter) -> None:
    outline = WHERE[0]  # Circle's base is Outline
    assert writer.write_group(QuestionPool([outline, BASE]), BAND) is None
    assert writer.dropped["no other question about the same files"] == 2
    other = writer.write_group(QuestionPool([outline, WHERE[1]]), BAND)
    assert len(read(other)[-1].questions) == 2


def test_a_question_alone_is_not_worth_a_sequence_but_can_be_written(writer: QuestionWriter) -> None:
    assert writer.write_group(QuestionPool([SIGNATURE]), BAND) is None
    assert len(read(writer.write(SIGNATURE, BAND))[-1].questions) == 1


def test_no_kind_has_more_than_its_share() -> None:
    pool = QuestionPool([ask(kind, f"{about}", "x", "Outline") for kind in "abcd" for about in range(40)])
    for one in list(pool.questions):
        if pool.is_free(one):
            pool.take([one])
    kinds: Counter[str] = Counter(pool._kinds)
    assert kinds["a"] <= 2 + kinds.total() / 3 and pool.left > 0


def test_a_share_that_is_not_met_is_said(long_history: Path, tmp_path: Path, tokenizer: RepoTokenizer) -> None:
    """In Ruby no name is asked about."""
    ruby = {f"{name}.rb": "".join(f"{name}_{n} = {n}\n" for n in range(300)) for name in ("one", "two", "three")}
    settings = load_settings(None, ["data.question_share=0.2", "data.held_out_per_length=1"])
    for folder, said in ((long_history, False), (make_repo(tmp_path / "repo", [ruby]), True)):
        notes = prepared(folder, tokenizer, settings, phases=1).prepared.header.notes
        assert any("data.question_share" in note for note in notes) is said, notes


def test_a_signature_is_shown_whole_or_not_asked(tokenizer: RepoTokenizer) -> None:
    for size, shown in ((8, True), (120, False)):
        signature = f"def long_call({', '.join(f'part_{n}' for n in range(size))}):"
        code = f"{TEXTS[1]}{signature}\n    return 1\n\n\n{TEXTS[2]}"
        made = {PATHS[0]: read_text(tokenizer, PATHS[0], code), **{path: texts(tokenizer)[path] for path in PATHS[1:]}}
        needs = ((PATHS[0], code.index("long_call")), (PATHS[0], code.index("):\n") + 1))
        question = Question("signature", "signature?", f"{signature[:-1]}, in {{snippet}}", needs, "long_call")
        writer = QuestionWriter(TemplateSizes(tokenizer), made, lambda path: PATHS[1:], 0.1, 1)
        built = writer.write(question, Band(1, 0, 100, 900 if shown else 2400))
        if shown:
            assert [one.path for one in read(built) if signature in one.text] == [PATHS[0]]
        else:
            assert built is None and dict(writer.dropped) == {"its snippet is too short for the whole answer": 1}


@pytest.mark.parametrize("name", ["run", "q" * 12, "_zxqj_kvwp_xzqk_jwvb_qzxk_pwvj"])
def test_a_snippet_shows_the_whole_of_a_name_that_takes_many_tokens(tokenizer: RepoTokenizer, name: str) -> None:
    calls = "".join(f"    value_{n} = other_{n}\n" for n in range(60))
    files = {"a.py": f"def test():\n{calls}    lazy.{name}()\n{calls}", PATHS[1]: TEXTS[1], PATHS[2]: TEXTS[2]}
    of = {path: read_text(tokenizer, path, text) for path, text in files.items()}
    asked = Question(
        "test", f"Which test file calls {name}?", "a.py, in {snippet}", (("a.py", files["a.py"].index(name)),)
    )
    for cap in range(150, 420, 15):
        writer = QuestionWriter(TemplateSizes(tokenizer), of, lambda _: PATHS[:0:-1], 0.1, 1)
        built = writer.write(asked, Band(1, 0, 100, cap))
        if built is not None:
            shown = SegmentReader(tokenizer).read(*built.arrays(), ["a.py", *PATHS])
            assert any(f"lazy.{name}" in one.text for one in shown), cap
    assert built is not None
