from __future__ import annotations

import pytest
from small_packages import module

from longrepo.config.schema import DataSettings
from longrepo.data.builder import LongContextSequenceBuilder, Version
from longrepo.data.sequence import DIFFICULTIES, LongContextSequence, NotBuilt
from longrepo.data.tokenizer import RepoTokenizer

FILES = [("package/amber.py", module("amber", None, 3)), ("package/birch.py", module("birch", "amber", 3))]
PLAIN = DataSettings(fim_share=0)


def built(sequence: LongContextSequence | NotBuilt) -> LongContextSequence:
    assert isinstance(sequence, LongContextSequence), sequence
    return sequence


def text_with_weight(tokenizer: RepoTokenizer, sequence: LongContextSequence, weight: float) -> str:
    return tokenizer.decode(
        [id for id, w in zip(sequence.tokens, sequence.loss_weights, strict=True) if w == pytest.approx(weight)]
    )


def test_files_stand_in_the_guides_format_and_their_code_is_scored(tokenizer: RepoTokenizer) -> None:
    sequence = built(LongContextSequenceBuilder(tokenizer, data=PLAIN).build_hierarchical_sequence(FILES, {"by": "me"}))
    (first, one), (second, two) = FILES
    assert tokenizer.decode(sequence.tokens) == (
        f"<|FILE_START|> {first}\n{one}<|FILE_END|><|FILE_START|> {second}\n{two}<|FILE_END|><|endoftext|>"
    )
    assert text_with_weight(tokenizer, sequence, 1.0) == f"{one}<|FILE_END|>{two}<|FILE_END|><|endoftext|>"
    assert sequence.loss_weights[0] == 0
    assert sequence.metadata["files_included"] == [first, second]
    assert sequence.metadata["curriculum_difficulty"] in DIFFICULTIES
    assert sequence.metadata["by"] == "me" and sequence.metadata["split"] == "train"


def test_fim_is_starcoder2s_and_puts_together_the_same_file(tokenizer: RepoTokenizer) -> None:
    orders = set()
    for seed in range(12):
        builder = LongContextSequenceBuilder(tokenizer, data=DataSettings(fim_share=1), seed=seed)
        text = tokenizer.decode(built(builder.build_hierarchical_sequence(FILES)).tokens)
        head, _, last = text.partition(f"<|FILE_START|> {FILES[1][0]}\n")
        assert "<fim_prefix>" not in head
        last = last.removesuffix("<|endoftext|>")
        if last.startswith("<fim_prefix><fim_suffix>"):
            suffix, _, rest = last.removeprefix("<fim_prefix><fim_suffix>").partition("<fim_middle>")
            orders.add("spm")
            assert rest + suffix == FILES[1][1]
        else:
            prefix, _, rest = last.removeprefix("<fim_prefix>").partition("<fim_suffix>")
            suffix, _, middle = rest.partition("<fim_middle>")
            orders.add("psm")
            assert middle and prefix + middle + suffix == FILES[1][1]
    assert orders == {"psm", "spm"}


def test_padding_is_never_scored_and_the_end_token_always_is(tokenizer: RepoTokenizer) -> None:
    assert tokenizer.pad_id == tokenizer.end_id  # the case in which scoring by id would go wrong
    sequence = built(
        LongContextSequenceBuilder(tokenizer, 1500, data=PLAIN).build_hierarchical_sequence(FILES, pad_to_max=True)
    )
    assert len(sequence) == 1500
    end = max(at for at, weight in enumerate(sequence.loss_weights) if weight)
    assert sequence.tokens[end] == tokenizer.end_id and sequence.loss_weights[end] == 1.0
    assert set(sequence.tokens[end + 1 :]) == {tokenizer.pad_id} and set(sequence.loss_weights[end + 1 :]) == {0.0}


def test_too_long_is_not_built_and_says_how_long_it_is(tokenizer: RepoTokenizer) -> None:
    result = LongContextSequenceBuilder(tokenizer, 200).build_hierarchical_sequence(FILES)
    assert isinstance(result, NotBuilt) and not result
    assert result.tokens > 200 and "at most 200" in result.reason
    assert isinstance(LongContextSequenceBuilder(tokenizer).build_hierarchical_sequence([("a.py", "")]), NotBuilt)


@pytest.mark.parametrize("length", [150, 300, 450])
def test_truncation_cuts_between_functions_and_scores_no_end(tokenizer: RepoTokenizer, length: int) -> None:
    builder = LongContextSequenceBuilder(tokenizer, length, data=PLAIN)
    sequence = built(builder.build_hierarchical_sequence(FILES[:1], truncate=True))
    text = tokenizer.decode(sequence.tokens)
    assert len(sequence) <= length and text.endswith("<|endoftext|>")
    code = text.partition("\n")[2].removesuffix("<|endoftext|>").removesuffix("<|FILE_END|>")
    assert sequence.loss_weights[-1] == (code == FILES[0][1]) == text.endswith("<|FILE_END|><|endoftext|>")
    assert FILES[0][1].startswith(code)
    rest = FILES[0][1][len(code) :].lstrip("\n")
    assert not rest or rest.startswith(("def ", "from "))
    assert sequence.metadata["tokens_cut"] == len(tokenizer.encode(FILES[0][1])) - len(tokenizer.encode(code))


def test_a_commit_chain_scores_messages_and_added_rows(tokenizer: RepoTokenizer) -> None:
    before = "def one():\n    return 1\n\n\ndef two():\n    return 2\n"
    after = before.replace("return 1", "return 11").replace("two", "second")
    later = after + "\n\ndef third():\n    return 3\n"
    versions = [Version("a" * 40, "Rename two", after), Version("b" * 40, "Add third", later)]
    sequence = built(LongContextSequenceBuilder(tokenizer).build_commit_evolution_sequence("x.py", versions, before))
    text = tokenizer.decode(sequence.tokens)
    assert text.startswith(f"<|FILE_START|> x.py\n{before}<|FILE_END|><|COMMIT_START|> aaaaaaaa Rename two\n@@ ")
    assert (
        text.index("-def two():") < text.index("+def second():") < text.index("<|COMMIT_END|><|COMMIT_START|> bbbbbbbb")
    )
    scored = text_with_weight(tokenizer, sequence, 1.0)
    for wanted in ("Rename two", "+    return 11", "+def second():", "Add third", "+def third():", "<|endoftext|>"):
        assert wanted in scored
    for context in ("-def two", "aaaaaaaa", "@@", "x.py", "<|COMMIT_START|>"):
        assert context not in scored
    assert sequence.metadata["commits_included"] == ["a" * 40, "b" * 40]
    assert isinstance(
        LongContextSequenceBuilder(tokenizer).build_commit_evolution_sequence("x.py", versions[:1], after), NotBuilt
    )


def test_a_long_commit_chain_is_cut_at_a_row(tokenizer: RepoTokenizer) -> None:
    versions = [Version("a" * 40, "Grow", module("amber", None, 9))]
    builder = LongContextSequenceBuilder(tokenizer, 300)
    assert isinstance(builder.build_commit_evolution_sequence("x.py", versions, "x = 1\n"), NotBuilt)
    sequence = built(builder.build_commit_evolution_sequence("x.py", versions, "x = 1\n", truncate=True))
    assert len(sequence) <= 300 and sequence.tokens[-1] == tokenizer.end_id and sequence.metadata["tokens_cut"] > 0


def test_only_the_answer_of_a_question_is_scored_fully(tokenizer: RepoTokenizer) -> None:
    sequence = built(
        LongContextSequenceBuilder(tokenizer).build_qa_sequence(FILES, "Where is amber_step_1?", "package/amber.py")
    )
    text = tokenizer.decode(sequence.tokens)
    assert text.startswith("<|SNIPPET_0|> package/amber.py\n") and "<|SNIPPET_1|> package/birch.py\n" in text
    assert text.endswith("\nQUESTION: Where is amber_step_1?\nANSWER: package/amber.py<|endoftext|>")
    assert text_with_weight(tokenizer, sequence, 1.0) == " package/amber.py<|endoftext|>"
    assert {round(weight, 6) for weight in sequence.loss_weights} == {0.0, 0.1, 1.0}


def test_a_question_is_truncated_in_its_snippets(tokenizer: RepoTokenizer) -> None:
    builder = LongContextSequenceBuilder(tokenizer, 250)
    assert isinstance(builder.build_qa_sequence(FILES, "Where?", "Here"), NotBuilt)
    sequence = built(builder.build_qa_sequence(FILES, "Where?", "Here", truncate=True))
    assert len(sequence) <= 250
    assert tokenizer.decode(sequence.tokens).endswith("\nQUESTION: Where?\nANSWER: Here<|endoftext|>")
    assert isinstance(builder.build_qa_sequence(FILES * 9, "Where?", "Here"), NotBuilt)
    assert isinstance(builder.build_qa_sequence([], "Where? " * 200, "Here", truncate=True), NotBuilt)
