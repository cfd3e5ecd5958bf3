"""What is compared: each arm as settings on top of the demo's, and how its training sequences are made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from longrepo.config.loader import load_settings
from longrepo.config.schema import Settings
from longrepo.data.metadata import PREPARATION_VERSION

DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo.yaml"
TOKENS = 200_000  # trained on in a run
STAGES = 6  # validated stretches of a run: the demo's three phases (1, 1 and 4 epochs), or one of six
ACCUMULATION = 3  # micro-batches an update of ours: about 70 updates
LENGTHS = (1024, 2048)  # tokens, measured at
RATES = (3e-3, 1e-3, 1e-2, 3e-2)  # base learning rates tried for the arms in TUNED
RATES_ON = "pallets/click"
TRIED_ON = ("pallets/click", "google/gson")
ABLATED_ON = ("pallets/click", "google/gson", "tokio-rs/axum")


def folder_of(work: Path, what: str) -> Path:
    """The folder of "data", "samples" or "results": of another version of the preparation they are others."""
    return work / f"{what}-{PREPARATION_VERSION}"


Made = Literal["longrepo", "plain", "single_file", "shuffled", "ranges", "code"]

COMMON = (
    "training.early_stopping_patience=0",  # equal tokens
    "training.save_every_steps=0",
    "training.max_validation_sequences=3",
    "training.precision=bfloat16",  # 1.6 times as fast as float32 on a CPU with AMX
)
ONE_PHASE = (
    "long_context.phase1_max_length=2048",
    f"long_context.phase1_epochs={STAGES}",
    "long_context.phase2_min_length=3072",
    "long_context.phase2_max_length=4096",
    "long_context.phase2_epochs=0",
    "long_context.phase3_min_length=6144",
    "long_context.phase3_max_length=8192",
    "long_context.phase3_enabled=false",
)


@dataclass(frozen=True)
class Arm:
    """`data`, `training`: settings for preparing and for the run; `made`: what is done with what was prepared;
    `marks`: whether structure tokens exist; `mean_rows`: whether their rows begin as the mean of the base's, as
    transformers widens an embedding, in place of a related token's; `frozen`: parts of the model that aren't trained.
    """

    name: str
    says: str
    made: Made = "longrepo"
    data: tuple[str, ...] = ()
    training: tuple[str, ...] = ()
    marks: bool = True
    mean_rows: bool = False
    frozen: tuple[str, ...] = ()

    def prepared_with(self) -> Settings:
        """The settings that its sequences are prepared with."""
        return load_settings(DEMO, (*self.data, f"data.structure_tokens={str(self.marks).lower()}"))

    def trained_with(self, rate: float, seed: int, tokens_an_epoch: int, accumulation: int) -> Settings:
        """The settings of a run."""
        return load_settings(
            DEMO,
            (
                *COMMON,
                *self.training,
                f"data.structure_tokens={str(self.marks).lower()}",
                f"training.base_learning_rate={rate}",
                f"training.seed={seed}",
                f"training.max_tokens_per_epoch={tokens_an_epoch}",
                f"training.gradient_accumulation_steps={accumulation}",
            ),
        )


BASE = Arm("base", "the embedded base, untrained")
PLAIN = Arm(
    "plain", "chunks of single files of code, shuffled, loss on every token", "plain", training=ONE_PHASE, marks=False
)
OURS = Arm("ours", "the defaults as the demo scales them")
ABLATIONS = (
    Arm("no_curriculum", "all lengths and difficulties shuffled, one phase", "shuffled", training=ONE_PHASE),
    Arm(
        "no_order",
        "files of a sequence in random order, nothing kept free for what they depend on",
        data=("data.random_order_share=1", "data.context_share=0", "data.hard_negative_share=0"),
    ),
    Arm("single_file", "one file a sequence, in place of several", "single_file"),
    Arm("no_commits", "no changes", data=("data.commit_share=0",)),
    Arm("no_questions", "no questions", data=("data.question_share=0",)),
    Arm("no_fim", "no fill-in-the-middle", data=("data.fim_share=0",)),
    Arm("frozen_marks", "structure tokens, their rows not trained", frozen=("rows",)),
    Arm("ranges", "only lengths in the guide's ranges (256-512, 768-1024, 1536-2048)", "ranges"),
    Arm("text_marks", "marks as text of the base's own vocabulary", marks=False),
)
THIRDS = tuple(f"long_context.phase{number}_epochs=2" for number in (1, 2, 3))  # as long as the demo's had once
FALLING = ("long_context.phase2_lr_multiplier=0.5", "long_context.phase3_lr_multiplier=0.25")
MUCH = ("data.prose_share=1", "data.commit_share=0.25", "data.question_share=0.12")  # what defaults once were
FEWER_OTHERS = ("data.prose_share=1", "data.commit_share=0.1", "data.question_share=0.04")
TOGETHER = (*FEWER_OTHERS, "data.context_weight=1")
BEFORE = Arm(
    "before", "all prose, a quarter changes, 12 % questions, as `thirds`", data=MUCH, training=(*THIRDS, *FALLING)
)
TRIED = (
    Arm("code", "before, without what is mostly prose", "code", data=MUCH, training=(*THIRDS, *FALLING)),
    Arm("fewer_others", "before, a tenth changes, 4 % questions", data=FEWER_OTHERS, training=(*THIRDS, *FALLING)),
    Arm(
        "weight_1", "before, context and prompts weigh 1",
        data=(*MUCH, "data.context_weight=1"), training=(*THIRDS, *FALLING),
    ),
    Arm("same_rate", "before, one peak learning rate in all phases", data=MUCH, training=THIRDS),
    Arm("together", "the four above", "code", data=TOGETHER, training=THIRDS),
    Arm(
        "together_no_fim", "the four above, no fill-in-the-middle", "code",
        data=(*TOGETHER, "data.fim_share=0"), training=THIRDS,
    ),
    Arm("thirds", "ours, two epochs in each phase, falling peaks", training=(*THIRDS, *FALLING)),
    Arm(
        "thirds_weight_03", "thirds, context and prompts weigh 0.3",
        data=("data.context_weight=0.3",), training=(*THIRDS, *FALLING),
    ),
)  # fmt: skip
PACKS = (
    "data.prose_share=0",
    "data.commit_share=0",
    "data.question_share=0",
    "data.fim_share=0",
    "data.context_weight=1",
)
VARIED = (
    Arm("rank_64", "ours, LoRA of rank 64, alpha 128", training=("lora.r=64", "lora.alpha=128")),
    Arm("mean_marks", "ours, structure tokens' rows begin as the mean of the base's", mean_rows=True),
    Arm("full_weight", "ours, context and prompts weigh 1", data=("data.context_weight=1",)),
    Arm("packs_alone", "packs of code alone, all tokens weigh 1, one phase", "shuffled", PACKS, ONE_PHASE),
    Arm("packs_phased", "packs of code alone, all tokens weigh 1, the phases of ours", data=PACKS),
    Arm("packs_fim", "packs_alone, with fill-in-the-middle", "shuffled", (*PACKS, "data.fim_share=0.5"), ONE_PHASE),
)
TUNED = (PLAIN, OURS)
ARMS = {arm.name: arm for arm in (BASE, PLAIN, OURS, BEFORE, *ABLATIONS, *TRIED, *VARIED)}


@dataclass(frozen=True)
class Job:
    """One run: a repository (public name), an arm, a seed, a base learning rate (0: nothing is trained)."""

    repository: str
    arm: str
    seed: int
    rate: float

    @property
    def key(self) -> str:
        """The name of its result."""
        return f"{self.repository.rpartition('/')[2]}--{self.arm}--{self.seed}--{self.rate:g}"

    @property
    def tried(self) -> bool:
        """Whether it is an experiment: measured on validation alone."""
        return self.arm in {arm.name for arm in (BEFORE, *TRIED, *VARIED)}

    @property
    def chooses(self) -> bool:
        """Whether something is chosen by its validation loss, which then is measured on all blocks."""
        return self.tried or (self.repository in TRIED_ON and self.seed == 1)


def rate_jobs() -> Iterator[Job]:
    """The search for each tuned arm's learning rate."""
    for rate in RATES:
        for arm in TUNED:
            yield Job(RATES_ON, arm.name, 1, rate)


def main_jobs(repositories: list[str], seeds: int, rates: dict[str, float]) -> Iterator[Job]:
    """Plain against ours: the first seed of every repository first."""
    for seed in range(1, seeds + 1):
        for repository in repositories:
            if seed == 1:
                yield Job(repository, BASE.name, 0, 0)
            for arm in TUNED:
                yield Job(repository, arm.name, seed, rates[arm.name])


def ablation_jobs(repositories: list[str], seed: int, rates: dict[str, float]) -> Iterator[Job]:
    """Ours with one thing taken out, at the learning rate of ours."""
    for arm in ABLATIONS:
        for repository in repositories:
            if repository in ABLATED_ON:
                yield Job(repository, arm.name, seed, rates[OURS.name])


def tried_jobs(rates: dict[str, float]) -> Iterator[Job]:
    """Changes of ours, judged by validation before any becomes a default."""
    for arm in (*TUNED, BEFORE, *TRIED, *VARIED):
        for repository in TRIED_ON:
            yield Job(repository, arm.name, 1, rates.get(arm.name, rates[OURS.name]))
