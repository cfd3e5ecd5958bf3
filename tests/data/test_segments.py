"""A stored row is read back as it was written, whatever marks it was written with."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from longrepo.config.schema import DataSettings, StructureTokens
from longrepo.data.builder import LongContextSequenceBuilder, Version
from longrepo.data.dialects import DIALECTS, NO_DIALECT
from longrepo.data.rows import row_from_sequence
from longrepo.data.segments import Segment, SegmentReader
from longrepo.data.sequence import LongContextSequence, NotBuilt
from longrepo.data.tokenizer import RepoTokenizer

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from dialect_tokenizers import in_dialect

CODE = "import os\n\n\ndef total(amounts):\n    return sum(amounts)\n"
CHANGED = CODE.replace("sum(amounts)", "sum(amounts[1:])")
DIALECT_NAMES = {dialect.name: dialect for dialect in (*DIALECTS, NO_DIALECT)}
# A dialect of each form: path in the prefix or before it, marks as text, no mark before a file, no mark for the middle.
KINDS: list[tuple[str, StructureTokens]] = [
    ("StarCoder2", "native"), ("StarCoder2", "added"), ("Qwen", "native"), ("CodeGemma", "native"),
    ("Code Llama", "native"), ("Codestral", "native"), ("DeepSeek", "native"), ("none", "native"), ("none", "none"),
]  # fmt: skip


@pytest.fixture(params=KINDS, ids=lambda kind: "-".join(kind))
def marked(request: pytest.FixtureRequest, backend: Tokenizer) -> RepoTokenizer:
    name, kind = request.param
    state, config = in_dialect(json.loads(backend.to_str()), DIALECT_NAMES[name])
    return RepoTokenizer(Tokenizer.from_str(json.dumps(state)), name, kind, config)


def read(tokenizer: RepoTokenizer, sequence: LongContextSequence | NotBuilt) -> list[Segment]:
    assert isinstance(sequence, LongContextSequence)
    row = row_from_sequence(sequence)
    return SegmentReader(tokenizer).read(row.input_ids, row.loss_weights, row.files)


def test_files_with_the_weights_of_their_ends(marked: RepoTokenizer) -> None:
    builder = LongContextSequenceBuilder(marked, data=DataSettings(fim_share=0))
    files = read(marked, builder.build_hierarchical_sequence([("a.py", "A = 1\n"), ("shop/a b.py", CODE)]))
    assert [(one.kind, one.path, one.text, one.target) for one in files] == [
        ("file", "a.py", "A = 1\n", True),
        ("file", "shop/a b.py", CODE, True),
    ]
    assert [one.end_weight for one in files] == [1, 1] and [one.head for one in files] == ["", ""]


def test_a_change_behind_the_file_as_it_was(marked: RepoTokenizer) -> None:
    builder = LongContextSequenceBuilder(marked, data=DataSettings(fim_share=0))
    version = Version("abcdef0123", "Sum less\n\n- not the first", CHANGED)
    before, change = read(marked, builder.build_commit_evolution_sequence("shop/a.py", [version], CODE))
    assert (before.kind, before.text, before.target) == ("file", CODE, False)
    assert before.end_weight == pytest.approx(0.1)
    assert (change.kind, change.name, change.end_weight) == ("commit", "abcdef01", 1)
    assert change.text.startswith("@@ -2,5 +2,5 @@\n") and change.text.endswith("+    return sum(amounts[1:])\n \n")
    assert "".join(text for text, _ in change.message) == "Sum less\n\n- not the first\n"
    assert change.path == ("shop/a.py" if marked.kind == "native" else "")


def test_snippets_and_the_question_about_them(marked: RepoTokenizer) -> None:
    builder = LongContextSequenceBuilder(marked, data=DataSettings(fim_share=0))
    snippets = [("shop/a.py", CODE), ("b.py", "B = A\nQUESTION: none\n")]
    first, last = read(marked, builder.build_qa_sequence(snippets, "Where is total?", "shop/a.py, in the first"))
    assert [(one.kind, one.name, one.path, one.text) for one in (first, last)] == [
        ("snippet", "0", "shop/a.py", CODE),
        ("snippet", "1", "b.py", "B = A\nQUESTION: none\n"),
    ]
    assert [(one.question, one.answer) for one in last.questions] == [("Where is total?", "shop/a.py, in the first")]


def test_a_snippet_whose_path_is_cut_at_its_beginning(marked: RepoTokenizer) -> None:
    builder = LongContextSequenceBuilder(marked, data=DataSettings(fim_share=0))
    snippets = [("folder/" * 60 + "a.py", CODE), ("b.py", "B = A\n")]
    first, last = read(marked, builder.build_qa_sequence(snippets, "Where is total?", "a.py"))
    assert first.path.endswith("folder/a.py") and len(first.path) < 400 and first.text == CODE
    assert (last.name, last.questions[0].answer) == ("1", "a.py")


def test_a_gap_in_every_order_of_the_base(marked: RepoTokenizer) -> None:
    seen = set()
    for seed in range(8):
        builder = LongContextSequenceBuilder(marked, data=DataSettings(fim_share=1), seed=seed)
        context, file = read(marked, builder.build_hierarchical_sequence([("a.py", "A = 1\n"), ("b.py", CODE * 4)]))
        assert (file.path, file.text, context.gap) == ("b.py", CODE * 4, None)
        if marked.fim is None:
            assert file.gap is None
            continue
        assert file.gap and file.gap.middle
        assert bool(file.gap.prefix) is not file.gap.joined
        seen.add(file.gap.joined)
    assert len(seen) == (len(marked.fim.orders) if marked.fim else 0)


def test_a_head_is_what_stands_before_a_target(marked: RepoTokenizer) -> None:
    first = LongContextSequenceBuilder(marked, data=DataSettings(fim_share=0))
    sequence = first.build_hierarchical_sequence([("a.py", "import os\nfrom a import b\ntotal = b\n")])
    assert isinstance(sequence, LongContextSequence)
    size = len(marked.encode("import os\nfrom a import b\n"))
    start = next(at for at, weight in enumerate(sequence.loss_weights) if weight == 1)
    sequence.loss_weights[start : start + size] = [0.1] * size
    (file,) = read(marked, sequence)
    assert file.head == "import os\nfrom a import b\n" and file.target
