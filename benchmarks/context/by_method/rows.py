"""What is compared: each row as settings of `context`, all to the same target."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from longrepo.config.loader import load_settings
from longrepo.config.schema import ContextSettings, Settings

DEMO = Path(__file__).resolve().parents[3] / "examples" / "demo.yaml"
NATIVE = 2048  # tokens, of the embedded base
LENGTHS = (2048, 4096, 8192, 16384)  # tokens, measured at
TARGET = max(LENGTHS)
COMMON = ("training.precision=bfloat16", "model.quantization=none")


@dataclass(frozen=True)
class Row:
    """`reads`: only so many tokens at the end of a text are read at all; `by_length`: positions for the length of each
    text in turn, which an adapter, tuned at one setting, can't follow; `searched`: with factors that are searched."""

    name: str
    says: str
    method: str = "none"
    window: str = "full"
    reads: int = TARGET
    by_length: bool = False
    searched: bool = False

    def settings(self) -> Settings:
        """The demo's, with this row's positions at the target."""
        return load_settings(
            DEMO,
            (
                *COMMON,
                f"context.method={self.method}",
                f"context.window={self.window}",
                f"context.target_length={TARGET}",
            ),
        )

    def context(self, length: int, factors: tuple[float, ...] | None) -> ContextSettings:
        """The positions for texts of `length` tokens."""
        if self.by_length and length <= NATIVE:
            return ContextSettings()
        own = self.settings().context
        return own.model_copy(update={"target_length": length if self.by_length else TARGET, "long_factors": factors})


ROWS = (
    Row("truncated", "the last 2,048 tokens alone", window="keep", reads=NATIVE),
    Row("kept", "own positions, the window of 4,096 kept", window="keep"),
    Row("extrapolated", "own positions, the window opened"),
    Row("linear", "position interpolation", "linear"),
    Row("base", "adjusted base frequency; `dynamic` is the same at one length for all texts", "base"),
    Row("dynamic", "`dynamic` at each text's own length", "dynamic", by_length=True),
    Row("yarn", "YaRN", "yarn"),
    Row("llama3", "Llama 3's", "llama3"),
    Row("longrope", "LongRoPE's factors, searched on the tuning text", "longrope", searched=True),
)
