"""All settings as one typed tree, each explained in `training_config.yaml`; and its phases as one list."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(ge=1)]


Patterns = Annotated[tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]


class Section(BaseModel):
    """A part of the settings: immutable; unknown keys are refused, defaults are validated too."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class ModelSettings(Section):
    name: str = "bigcode/starcoder2-3b"
    revision: str | None = None
    max_position_embeddings: Annotated[int, Field(ge=64)] = 2048
    quantization: Literal["nf4", "none"] = "nf4"
    double_quantization: bool = True


class LoraSettings(Section):
    r: Positive = 32
    alpha: Annotated[float, Field(gt=0)] = 64
    dropout: Fraction = 0.05
    final_scale: Annotated[float, Field(gt=0, le=1)] = 1.0
    target_modules: Literal["auto"] | Annotated[tuple[str, ...], Field(min_length=1)] = "auto"

    @property
    def module_names(self) -> tuple[str, ...]:
        """The target modules by name. Raises ValueError for `auto`, which is resolved for a model first
        (`longrepo.engines.lora_targets`)."""
        if self.target_modules == "auto":
            raise ValueError("lora.target_modules: auto isn't resolved for a model yet")
        return self.target_modules


StructureTokens = Literal["auto", "native", "added", "none"]
FimSetting = Literal["auto", "add"]
_STRUCTURE_TOKENS: dict[bool, StructureTokens] = {True: "added", False: "none"}  # as older settings have it


def structure_tokens_name(value: Any) -> Any:
    """Return a value of `data.structure_tokens` by its name of today; what isn't one stays as it is."""
    return _STRUCTURE_TOKENS[value] if isinstance(value, bool) else value


class DataSettings(Section):
    recipe: Literal["structured", "plain"] = "structured"
    structure_tokens: Annotated[StructureTokens, BeforeValidator(structure_tokens_name)] = "auto"
    overlap: Annotated[int, Field(ge=0)] = 512
    include: Patterns = ()
    exclude: Patterns = ()
    path: str = ""
    max_file_bytes: Positive = 1_000_000
    redact: bool = True
    max_commits: Annotated[int, Field(ge=0)] = 2000
    max_changes_per_file: Positive = 40
    prose_share: Annotated[float, Field(ge=0, le=1)] = 0.1
    commit_share: Fraction = 0.1
    question_share: Fraction = 0.04
    fim: FimSetting = "auto"
    fim_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    context_share: Annotated[float, Field(ge=0, le=0.5)] = 0.12
    random_order_share: Annotated[float, Field(ge=0, le=1)] = 0.25
    hard_negative_share: Annotated[float, Field(ge=0, le=1)] = 0.1
    model_difficulty: bool = False
    replay_share: Fraction = 0.2
    validation_share: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    test_share: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    held_out_per_length: Positive = 16
    context_weight: Annotated[float, Field(ge=0, le=1)] = 0.1


class TrainingSettings(Section):
    weights: Literal["lora", "all"] = "lora"
    base_learning_rate: Annotated[float, Field(gt=0)] = 5e-5
    warmup_ratio: Fraction = 0.15
    final_learning_rate_ratio: Annotated[float, Field(ge=0, le=1)] = 0.1
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    batch_size_reference: Positive = 1
    gradient_accumulation_steps: Positive = 16
    use_gradient_checkpointing: bool = True
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 42
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    time_budget_hours: Annotated[float, Field(gt=0)] | None = None
    early_stopping_patience: Annotated[int, Field(ge=0)] = 3
    early_stopping_min_delta: Fraction = 0.001
    save_every_steps: Annotated[int, Field(ge=0)] = 50
    keep_last: Positive = 2
    max_tokens_per_epoch: Positive | None = None
    max_updates: Positive | None = None
    max_validation_sequences: Positive | None = None
    report_to: Literal["tensorboard", "trackio", "wandb", "mlflow", "none"] = "tensorboard"


Factor = Annotated[float, Field(ge=1, allow_inf_nan=False)]


class ContextSettings(Section):
    method: Literal["none", "linear", "base", "dynamic", "yarn", "longrope", "llama3"] = "none"
    target_length: Annotated[int, Field(ge=64)] | None = None
    window: Annotated[int, Field(ge=64)] | Literal["keep", "full"] = "keep"
    factor: Factor | None = None
    long_factors: Annotated[tuple[Factor, ...], Field(min_length=1)] | None = None


class FurtherPhaseSettings(Section):
    min_length: Positive
    max_length: Annotated[int, Field(ge=64)]
    epochs: Annotated[int, Field(ge=0)]
    lr_multiplier: Annotated[float, Field(gt=0)] = 0.1
    enabled: bool | Literal["auto"] = True
    replay_share: Fraction | None = None
    context: ContextSettings | None = None


class LongContextSettings(Section):
    phase1_max_length: Annotated[int, Field(ge=64)] = 1024
    phase1_epochs: Annotated[int, Field(ge=0)] = 5
    phase1_lr_multiplier: Annotated[float, Field(gt=0)] = 1.0
    phase2_min_length: Annotated[int, Field(ge=1)] = 1536
    phase2_max_length: Annotated[int, Field(ge=64)] = 2048
    phase2_epochs: Annotated[int, Field(ge=0)] = 8
    phase2_lr_multiplier: Annotated[float, Field(gt=0)] = 0.5
    phase3_min_length: Annotated[int, Field(ge=1)] = 3072
    phase3_max_length: Annotated[int, Field(ge=64)] = 4096
    phase3_epochs: Annotated[int, Field(ge=0)] = 8
    phase3_lr_multiplier: Annotated[float, Field(gt=0)] = 0.1
    phase3_enabled: bool | Literal["auto"] = False
    further_phases: tuple[FurtherPhaseSettings, ...] = ()
    strict_difficulty: bool = False

    @property
    def phase1_min_length(self) -> int:
        """The length that the builder fills phase 1 up to: half the cap, as in the guide (512 of 1024)."""
        return self.phase1_max_length // 2


class MemorySettings(Section):
    budget_gb: Annotated[float, Field(gt=0)] | None = None
    step: Literal["auto", "plain", "chunked"] = "auto"
    store: Literal["auto", "memory", "recompute", "disk"] = "auto"
    chunk_tokens: Annotated[int, Field(ge=16)] | Literal["auto"] = "auto"
    allow_lossy: bool = False
    max_disk_gb: Annotated[float, Field(gt=0)] | None = None
    disk_write_gb: Annotated[float, Field(gt=0)] | None = None


class Settings(Section):
    """All settings of a run, loaded by `longrepo.config.loader.load_settings`."""

    model: ModelSettings = ModelSettings()
    lora: LoraSettings = LoraSettings()
    data: DataSettings = DataSettings()
    training: TrainingSettings = TrainingSettings()
    long_context: LongContextSettings = LongContextSettings()
    context: ContextSettings = ContextSettings()
    memory: MemorySettings = MemorySettings()


NUMBERED_PHASES = 3  # phases that have keys of their own
_CONTEXT_KEYS = re.compile(rf"\bcontext\.(?={'|'.join(ContextSettings.model_fields)})")


@dataclass(frozen=True)
class PhaseConfig:
    """A phase as it is set, enabled or not. `prefix` begins its settings' names; None: the run's value."""

    number: int
    prefix: str
    min_length: int
    max_length: int
    epochs: int
    lr_multiplier: float
    enabled: bool | Literal["auto"] = True
    replay_share: float | None = None
    context: ContextSettings | None = None

    def setting(self, name: str) -> str:
        """Return the dotted name of one of its settings."""
        return self.prefix + name

    @property
    def is_further(self) -> bool:
        return self.number > NUMBERED_PHASES

    @property
    def off(self) -> str:
        """The setting that disables it."""
        return self.setting("epochs=0" if self.number < NUMBERED_PHASES else "enabled=false")

    def positions(self, of_run: ContextSettings) -> ContextSettings:
        """Return the positions it computes at. Without a `target_length`, scaling reaches its longest sequence."""
        own = self.context
        if own is None:
            return of_run
        if own.method != "none" and own.target_length is None:
            return own.model_copy(update={"target_length": self.max_length})
        return own

    def beyond_positions(self, model: str, reach: int) -> str:
        """Say that its longest sequence is beyond the positions of a model, and what to do."""
        farther = self.setting("context.") if self.is_further else "context."
        return (
            f"{self.setting('max_length')}: {self.max_length:,} tokens, and the positions of {model} reach {reach:,}: "
            f"set it to that or less, or have them reach farther with {farther}target_length={self.max_length} and a "
            f"{farther}method"
        )

    def named(self, message: str) -> str:
        """Return a message about its positions that names the settings by their full names."""
        return message if self.context is None else _CONTEXT_KEYS.sub(self.setting("context."), message)


def phase_list(settings: Settings) -> tuple[PhaseConfig, ...]:
    """Return every phase in order: 1 to 3 by their keys, then `further_phases`, including those that are disabled. The
    plain recipe has phase 1 alone."""
    given = settings.long_context

    def numbered(number: int) -> PhaseConfig:
        def value(name: str) -> Any:
            return getattr(given, f"phase{number}_{name}", True)  # phases 1 and 2 can't be off

        return PhaseConfig(
            number, f"long_context.phase{number}_", value("min_length"), value("max_length"), value("epochs"),
            value("lr_multiplier"), value("enabled"),
        )  # fmt: skip

    if settings.data.recipe == "plain":
        return (numbered(1),)
    further = (
        PhaseConfig(NUMBERED_PHASES + 1 + index, f"long_context.further_phases[{index}].", **dict(one))
        for index, one in enumerate(given.further_phases)
    )
    return (*map(numbered, range(1, NUMBERED_PHASES + 1)), *further)
