"""Every number that a document names and the source decides: the sentence stands there, and the source agrees.

Each row holds a document, a phrase of it with `{}` in place of the number, how the number is written, and the number in
the source. Whoever changes the one is told of the other. (Numbers that were measured have their dates, and no row.)
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from longrepo import embedded
from longrepo.cli.generate import generate, serve
from longrepo.cli.plan import plan
from longrepo.config import schema
from longrepo.config.schema import FurtherPhaseSettings, Settings
from longrepo.curriculum import schedule
from longrepo.data import bm25, dataset, dedup, difficulty, metadata, repo_tree, splits, summary
from longrepo.data.marks import STRUCTURE_TOKENS
from longrepo.engines import tiers
from longrepo.engines.mlx import kv_cache
from longrepo.engines.prompt_cache import PROMPT_PART
from longrepo.engines.torch import load, loss
from longrepo.evaluation import change_tasks, context_loss, controls, needle, results, scope_tasks, scoring, tasks
from longrepo.evaluation.completion import TASKS
from longrepo.evaluation.run import FULL, GLANCE, QUICK
from longrepo.export import merged
from longrepo.memory import guard, planner
from longrepo.pretrain import presets
from longrepo.repository import filters
from longrepo.rope import extend, scaling
from longrepo.serve import protocol, working_tree
from longrepo.training.validation import VALIDATION_SHARE
from longrepo.utils import cache as caches
from longrepo.utils import hashing

ROOT = Path(__file__).parents[1]
README, GUIDE, SETTINGS_FILE = "README.md", "LONG_CONTEXT_OPTIMIZATION.md", "training_config.yaml"
DEFAULTS = Settings()
D, T, C = DEFAULTS.data, DEFAULTS.training, DEFAULTS.long_context
GIB = 2**30
FURTHER = FurtherPhaseSettings.model_fields
EMBEDDED = json.loads((embedded.path() / "config.json").read_text(encoding="utf-8"))


@cache
def text_of(document: str) -> str:
    """A document in one line: its own breaks, and the marks of a comment, are no part of a phrase."""
    return re.sub(r"\s+", " ", re.sub(r"\n\s*#", "\n", (ROOT / document).read_text(encoding="utf-8")))


def option(command: Callable[..., Any], name: str) -> Any:
    """The default of a command's option."""
    return inspect.signature(command).parameters[name].default


FRACTIONS = {
    "half": 0.5,
    "A quarter": 0.25,
    "a quarter": 0.25,
    "a fifth": 0.2,
    "a tenth": 0.1,
    "A tenth": 0.1,
    "nine tenths": 0.9,
}
WORDS = {
    "once": 1, "one": 1, "two": 2, "2 nats": 2, "three": 3, "four": 4, "five": 5, "six": 6, "eight": 8, "ten": 10,
}  # fmt: skip


def number(written: str) -> float:
    """12,345; 5e-5; 80 %; a tenth; three; also 1K."""
    if written in FRACTIONS or written in WORDS:
        return FRACTIONS.get(written, WORDS.get(written, 0))
    plain = written.replace(",", "").removesuffix(" %").removesuffix(" ×").removesuffix("th")
    thousands = plain.endswith("K")
    value = float(plain.removesuffix("K")) * (1024 if thousands else 1)
    return value / 100 if written.endswith(" %") else value


Row = tuple[str, str, str, float]
ROWS: list[Row] = [
    # phases
    (README, "growing length ({} →", "1K", C.phase1_max_length),
    (README, "→ {} → 4K tokens", "2K", C.phase2_max_length),
    (README, "2K → {} tokens; more phases", "4K", C.phase3_max_length),
    (GUIDE, "| 1 general adaptation | up to {} tokens", "1,024", C.phase1_max_length),
    (GUIDE, "up to 1,024 tokens | {}–1,024 |", "512", C.phase1_min_length),
    (GUIDE, "512–1,024 | {} (1–5)", "5", C.phase1_epochs),
    (GUIDE, "5 (1–5) | {} |", "1.0 ×", C.phase1_lr_multiplier),
    (GUIDE, "| 2 long context | {}–2,048", "1,025", C.phase1_max_length + 1),
    (GUIDE, "1,025–{} |", "2,048", C.phase2_max_length),
    (GUIDE, "1,025–2,048 | {}–2,048 |", "1,536", C.phase2_min_length),
    (GUIDE, "1,536–2,048 | {} (6–13)", "8", C.phase2_epochs),
    (GUIDE, "8 (6–13) | {} |", "0.5 ×", C.phase2_lr_multiplier),
    (GUIDE, "8 (6–{}) |", "13", C.phase1_epochs + C.phase2_epochs),
    (GUIDE, "| 3 extended context | {}–4,096", "2,049", C.phase2_max_length + 1),
    (GUIDE, "2,049–{} |", "4,096", C.phase3_max_length),
    (GUIDE, "2,049–4,096 | {}–4,096 |", "3,072", C.phase3_min_length),
    (GUIDE, "3,072–4,096 | {} (14–21)", "8", C.phase3_epochs),
    (GUIDE, "8 ({}–21) |", "14", C.phase1_epochs + C.phase2_epochs + 1),
    (GUIDE, "8 (14–{}) |", "21", C.phase1_epochs + C.phase2_epochs + C.phase3_epochs),
    (GUIDE, "8 (14–21) | {} |", "0.1 ×", C.phase3_lr_multiplier),
    (GUIDE, "5 (1–{}) |", "5", C.phase1_epochs),
    (GUIDE, "8 ({}–13) |", "6", C.phase1_epochs + 1),
    (GUIDE, "./model_long_context --epochs {} --verbose", "13", C.phase1_epochs + C.phase2_epochs),
    (README, "./model_long_context_extended --epochs {}", "8", C.phase3_epochs),
    (README, "in {} phases of growing length", "three", schema.NUMBERED_PHASES),
    (GUIDE, "by a cosine to {} of its rate", "a tenth", T.final_learning_rate_ratio),
    (GUIDE, "its last epoch is within {} of its best", "2 %", schedule.MAX_RISE_ABOVE_BEST),
    (SETTINGS_FILE, "its last is within {} of its best", "2 %", schedule.MAX_RISE_ABOVE_BEST),
    (SETTINGS_FILE, "the phase takes {}–2048", "1025", C.phase1_max_length + 1),
    (SETTINGS_FILE, "the phase takes {}–4096", "2049", C.phase2_max_length + 1),
    ("docs/context.md", "lr_multiplier: 0.05 # default: {}", "0.1", FURTHER["lr_multiplier"].default),
    (SETTINGS_FILE, "lr_multiplier: {} # the default", "0.1", FURTHER["lr_multiplier"].default),
    ("docs/context.md", "the phase takes {}–8192", "4097", C.phase3_max_length + 1),
    # positions
    ("docs/context.md", "embedded model: {})", "2,048", EMBEDDED["max_position_embeddings"]),
    ("docs/context.md", "*window* of its layers ({} in both models)", "4,096", EMBEDDED["sliding_window"]),
    ("docs/context.md", "more than {} turns within the native length", "32", scaling.YARN_BETA_FAST),
    ("docs/context.md", "less than {}: divided by s", "one", scaling.YARN_BETA_SLOW),
    ("docs/context.md", "wavelengths of L / {} and L as bounds", "4", scaling.LLAMA3_HIGH_FACTOR),
    ("docs/context.md", "and {} new tokens if nothing else bounds an answer", "4,096", extend._NEW_TOKENS),
    ("docs/context.md", "| {} and its doublings up to the trained reach", "4,096", tiers.FIRST_TIER),
    ("docs/context.md", "{} new tokens are generated", "16", tiers.NEW_TOKENS),
    ("docs/context.md", "within `--measure-seconds` ({};", "60", option(plan, "seconds")),
    ("docs/context.md", "and what is read together ({} tokens)", "256", PROMPT_PART),
    ("docs/context.md", "groups of {} values (32 if", "64", kv_cache.GROUP_SIZES[0]),
    ("docs/context.md", "64 values ({} if the head size", "32", kv_cache.GROUP_SIZES[1]),
    # sequences
    (GUIDE, "{} of the sequences use path order or random order", "A quarter", D.random_order_share),
    (GUIDE, "and {} of the targets are fill-in-the-middle", "half", D.fim_share),
    (GUIDE, "in {} of the sequences, one similar file", "a tenth", D.hard_negative_share),
    (GUIDE, "unchanged context weighs {}", "a tenth", D.context_weight),
    (GUIDE, "the prompt weighs {}", "a tenth", D.context_weight),
    (GUIDE, "commits of more than {} files", "30", filters.BULK_FILES),
    (GUIDE, "everything beyond {} changes of one file", "40", D.max_changes_per_file),
    (GUIDE, "At most {} of the files' tokens", "a tenth", D.prose_share),
    (GUIDE, "{} of the sequences are changes", "A tenth", D.commit_share),
    (GUIDE, "and {} are questions", "4 %", D.question_share),
    (SETTINGS_FILE, "never by date; at most {})", "200", splits.MAX_HELD_OUT_COMMITS),
    (SETTINGS_FILE, "newest commits (at most {})", "200", splits.MAX_HELD_OUT_COMMITS),
    ("docs/formats.md", "{} is context, 0 is not scored", "0.1", D.context_weight),
    ("docs/formats.md", "has `format_version` {}.", "2", metadata.FORMAT_VERSION),
    ("docs/formats.md", "`summary_version` {};", "3", summary.SUMMARY_VERSION),
    ("docs/formats.md", "Lines of fewer than {} characters never count", "4", hashing.MIN_CHARACTERS),
    ("docs/formats.md", "contains {} of the distinct shingles", "80 %", dedup.COPY_SHARE),
    ("docs/formats.md", "({} consecutive tokens that contain letters)", "five", dedup.SHINGLE_WORDS),
    ("docs/formats.md", "1 is a target (validation counts only these), {} is context", "0.1", D.context_weight),
    ("docs/formats.md", "Blocks of fewer than {} shingles are not judged", "20", dedup.MIN_SHINGLES),
    ("docs/formats.md", "languages, the {} largest", "ten", summary._MAX_LISTED),
    ("docs/formats.md", "the {} most imported files", "ten", summary._MAX_LISTED),
    ("docs/formats.md", "the {} newest quantized base models", "three", load.MAX_CACHED_BASES),
    ("docs/formats.md", "Rows are written in batches of {}", "256", dataset.ROWS_PER_BATCH),
    ("docs/formats.md", "It is limited to {} GiB", "2", caches.MAX_CACHE_BYTES / GIB),
    # evaluation
    ("docs/evaluation.md", "| `format` | {} |", "2", results.EVALUATION_FORMAT),
    ("docs/evaluation.md", "intervals from {} resamples of whole groups", "2,000", scoring.RESAMPLES),
    ("docs/evaluation.md", "among {} decoys", "four", needle.DECOY_COUNT),
    ("docs/evaluation.md", "pieces of {} lines found by BM25", "20", bm25.PIECE_LINES),
    ("docs/evaluation.md", "with the {} lines before", "20", bm25.PIECE_LINES),
    ("docs/evaluation.md", "names that occur in {} of the project's files", "a tenth", repo_tree.COMMON_SHARE),
    ("docs/evaluation.md", "project's files (at least {})", "eight", repo_tree.COMMON_FILES),
    ("docs/evaluation.md", "under the base is below {} with related context", "2 nats", context_loss.LONGPPL_BETA),
    ("docs/evaluation.md", "more than {} lower than after", "2 nats", context_loss.LONGPPL_ALPHA),
    ("docs/evaluation.md", "lower than after {} tokens of their own file", "128", context_loss.SHORT_CONTEXT_TOKENS),
    ("docs/evaluation.md", "behind at most {} tokens: an editor", "2,048", tasks.TASK_TOKENS),
    ("docs/evaluation.md", "the row after it, at most {} tokens", "256", change_tasks.MAX_EDIT_TOKENS),
    ("docs/evaluation.md", "in a body), {} rows at most", "eight", scope_tasks._MAX_SCOPE_ROWS),
    ("docs/evaluation.md", "its parentheses ({} characters at most)", "160", scope_tasks._MAX_ARGUMENT_CHARACTERS),
    # memory
    (GUIDE, "for LoRA of rank {} with gradients", "32", DEFAULTS.lora.r),
    (SETTINGS_FILE, "what is free, less {}", "a tenth", 1 - planner.DISK_SHARE),
    (GUIDE, "speed {} a second", "once", guard.SAMPLE_SECONDS),
    ("docs/use.md", "at `--max-tokens` ({})", "64", option(generate, "max_tokens")),
    # answers
    (README, "as OpenAI, llama.cpp, Ollama; port {}", "8080", option(serve, "port")),
    ("docs/use.md", "longrepo serve RUN # http://127.0.0.1:{}/v1", "8080", option(serve, "port")),
    ("docs/use.md", "at least {} of those asked about", "three", working_tree._MIN_MATCH_LINES),
    ("docs/use.md", "{} of those that any file has", "nine tenths", working_tree._MIN_KNOWN_SHARE),
    ("docs/use.md", "any file has, and {} of all", "a fifth", working_tree._MIN_MATCH_SHARE),
    ("docs/use.md", "| `max_tokens` | default {};", "256", protocol.DEFAULT_MAX_TOKENS),
    ("docs/use.md", "answers to each prompt; {} in all", "128", protocol.MAX_ANSWERS),
    ("docs/use.md", "before temperature and penalties; up to {} |", "20", protocol.MAX_LOGPROBS),
    # exports
    ("docs/export.md", "into files of at most {} GiB", "1", merged._SHARD_BYTES / GIB),
    ("docs/export.md", "set `-c {}` to get what was trained", "4096", EMBEDDED["sliding_window"]),
    # difficulty
    (GUIDE, "score = {} unseen", "0.35", difficulty.PART_WEIGHTS["unseen"]),
    (GUIDE, "+ {} distance", "0.25", difficulty.PART_WEIGHTS["distance"]),
    (GUIDE, "+ {} references", "0.20", difficulty.PART_WEIGHTS["references"]),
    (GUIDE, "+ {} nesting", "0.20", difficulty.PART_WEIGHTS["nesting"]),
    # from scratch
    ("docs/models.md", "GPT-3's table ({} to 3e-4", "6e-4", presets.LEARNING_RATES["150M"]),
    ("docs/models.md", "(6e-4 to {};", "3e-4", presets.LEARNING_RATES["500M"]),
    ("docs/models.md", "{} for the embedded shape", "3e-3", presets.LEARNING_RATES["embedded"]),
    ("docs/models.md", "a size alone means {} (", "1024", presets.find_preset("150M").context),
    ("docs/models.md", "means 1024 (`embedded`: {})", "2048", presets.find_preset("embedded").context),
    ("docs/models.md", "Training adds {} embeddings for the structure tokens", "20", len(STRUCTURE_TOKENS)),
    ("docs/models.md", "in {} sizes, and the shape", "five", len(presets.size_files()) - 1),
    ("docs/models.md", "logits exist for {} positions at a time", "512", loss.LOSS_CHUNK),
    ("docs/models.md", "by one token, every {} held out", "20th", 1 / VALIDATION_SHARE),
    ("docs/models.md", "leaves the embeddings above {} unused", "4,096", EMBEDDED["vocab_size"]),
]  # fmt: skip


@pytest.mark.parametrize("document, phrase, written, found", ROWS, ids=lambda value: str(value)[:40])
def test_the_document_says_what_the_source_does(document: str, phrase: str, written: str, found: float) -> None:
    assert phrase.format(written) in text_of(document)
    assert number(written) == pytest.approx(found, rel=1e-9)


def test_the_sentence_on_reserved_context_rounds_an_eighth() -> None:
    """0.12 of a sequence; the guide says an eighth."""
    assert "An eighth of each sequence is reserved" in text_of(GUIDE)
    assert round(1 / D.context_share) == 8


@pytest.mark.parametrize(
    "phrase, file, tolerance",
    [
        ("logits of plain transformers within 1e-5", "test_whole_model.py", "1e-5"),
        ("of mlx-lm within 1e-3", "test_whole_model.py", "1e-3"),
        ("logits within 1e-4 of plain PEFT", "test_export.py", "1e-4"),
        ("`pytest tests/export` requires 1e-4", "test_merged.py", "1e-4"),
    ],
)
def test_exports_are_compared_as_closely_as_the_document_says(phrase: str, file: str, tolerance: str) -> None:
    assert phrase in text_of("docs/export.md")
    assert f"atol={tolerance})" in (ROOT / "tests" / "export" / file).read_text()


def test_the_evaluations_amounts_are_those_of_the_table() -> None:
    assert FULL.tasks == (*TASKS,) and QUICK.tasks == ("line", "fim") and GLANCE.tasks == ("line",)
    assert len(FULL.depths) == 5 and QUICK.depths == (50,) and not GLANCE.needles
    for row in (
        f"| full | {FULL.blocks} | {FULL.completions} points: line, block, middle "
        f"| {FULL.scored}, {FULL.written} places each | {FULL.questions} "
        f"| {FULL.needles} at each of {len(FULL.depths)} depths | {FULL.neutral} | all | each |",
        f"| `--quick` | {QUICK.blocks} | {QUICK.completions} points: line, middle "
        f"| {QUICK.scored}, {QUICK.written} | {QUICK.questions} "
        f"| {QUICK.needles}, halfway down | {QUICK.neutral} | {QUICK.sequences} of each length | the longest |",
    ):
        assert row in text_of("docs/evaluation.md")
    said = f"{FULL.neutral} pieces of public code in nine languages that ship with longrepo"
    assert said in text_of("docs/evaluation.md") and len(controls.neutral_texts()) == FULL.neutral
    assert f"at most {controls.NEUTRAL_TOKENS} tokens each, plain" in text_of("docs/evaluation.md")
    assert "with fewer than four nothing is called better or worse" in text_of("docs/evaluation.md")
    assert results.FEW_GROUPS == 4


def test_a_preset_is_trained_from_scratch_by_the_settings_that_the_document_names() -> None:
    text, chosen = text_of("docs/models.md"), presets.pretrain_overrides(presets.find_preset("150M_1024"), None)
    assert "weight decay 0.1 on matrices only" in text and "training.weight_decay=0.1" in chosen
    assert "warm-up of 5 %" in text and "training.warmup_ratio=0.05" in chosen
    assert "eight sequences per update" in text and "training.gradient_accumulation_steps=8" in chosen
    assert "no early stopping" in text and "training.early_stopping_patience=0" in chosen
    assert f"Contexts: {', '.join(map(str, presets.PRESET_CONTEXTS))};" in text
