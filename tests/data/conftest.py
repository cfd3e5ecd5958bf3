"""A small byte-level tokenizer and small real repositories."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from git_helper import make_repo
from small_packages import NAMES, history, module
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from longrepo.config.loader import load_settings
from longrepo.config.schema import Settings
from longrepo.data.features import FeatureExtractor, FileJob, unpack_features
from longrepo.data.text import TokenizedText, path_tokens
from longrepo.data.tokenizer import RepoTokenizer

SPECIAL = ["<|endoftext|>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<file_sep>", "<pr_base>"]


@pytest.fixture(scope="session")
def backend() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([module(name, "amber", 6) for name in NAMES[:5]], trainer)
    return tokenizer


@pytest.fixture(scope="session")
def tokenizer(backend: Tokenizer) -> RepoTokenizer:
    return RepoTokenizer(backend, "tiny")


@pytest.fixture(scope="session")
def read(tokenizer: RepoTokenizer) -> Callable[[str, str], TokenizedText]:
    """Path and text → the file as sequences are cut from."""
    analyser = FeatureExtractor(tokenizer, None, 0.1)

    def analysed(path: str, text: str) -> TokenizedText:
        (result,) = analyser.extract([FileJob(path, text)])
        return unpack_features(result, path, path_tokens(tokenizer, path)).text

    return analysed


@pytest.fixture(scope="session")
def settings() -> Settings:
    return load_settings()


@pytest.fixture(scope="session")
def long_history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of 41 commits."""
    return make_repo(tmp_path_factory.mktemp("long") / "package-of-ten", history(40))
