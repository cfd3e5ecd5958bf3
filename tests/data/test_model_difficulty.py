from __future__ import annotations

from copy import copy

import numpy as np
import pytest
from numpy.typing import NDArray

from longrepo.data.difficulty import add_model_difficulty
from longrepo.data.features import FeatureExtractor, FileJob, unpack_features
from longrepo.data.template import BuiltSequence, FilePiece, SequenceBuilder, write_file
from longrepo.data.tokenizer import RepoTokenizer


@pytest.fixture
def built(tokenizer: RepoTokenizer) -> BuiltSequence:
    """A file as context, then one as target."""
    draft = SequenceBuilder(tokenizer)
    analyser = FeatureExtractor(tokenizer, None, 0.1)
    for name, target in (("a.py", False), ("b.py", True)):
        text = f"def make_{name[0]}(count):\n    return count + 1\n"
        of = unpack_features(analyser.extract([FileJob(name, text)])[0], name, np.zeros(0, np.int32)).text
        write_file(draft, FilePiece.whole(of, target), 0.1)
    draft.end()
    return BuiltSequence(draft, "hierarchical", "train", "r", score=0.4, parts={"unseen": 0.4})


def judged(built: BuiltSequence, after_all: float, alone: float) -> BuiltSequence:
    """Judged by a model whose loss is `after_all` behind all of the context and `alone` without any."""

    def score(ids: NDArray[np.int32], weights: NDArray[np.float32]) -> float:
        assert len(ids) == len(weights) and set(np.unique(weights)) == {0.0, 1.0}
        return after_all if len(ids) == len(built.builder) else alone

    one = copy(built)
    add_model_difficulty(one, score)
    return one


def test_a_higher_loss_and_a_context_that_helps_less_are_harder(built: BuiltSequence) -> None:
    usual = judged(built, 2.0, 3.0)
    assert usual.parts == {"unseen": 0.4, "loss": 0.4, "context": 0.5}
    assert usual.score == pytest.approx(0.6 * 0.4 + 0.25 * 0.4 + 0.15 * 0.5)
    assert judged(built, 2.5, 3.5).score > usual.score > judged(built, 2.0, 4.0).score


def test_what_is_judged_are_the_target_s_tokens(built: BuiltSequence, tokenizer: RepoTokenizer) -> None:
    seen: list[str] = []

    def score(ids: NDArray[np.int32], weights: NDArray[np.float32]) -> float:
        seen.append(tokenizer.decode(ids[weights == 1].tolist()))
        return 1.0

    add_model_difficulty(built, score)
    assert seen[0] == seen[1] and "return count + 1" in seen[0] and "make_a" not in seen[0]
