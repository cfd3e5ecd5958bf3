"""What one training step will need: an estimate in closed form for the plain step (accuracy: see the guide).

The constants come from counting what autograd keeps in PEFT's LoRA forward: of one recomputed layer about 2.3 times
the widths of its linear modules, and where attention is not fused (Metal) about 10 bytes for each score.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from longrepo.config.schema import Settings
from longrepo.memory.shape import ModelShape

KEPT_PER_WIDTH = 2.3
SCORE_BYTES = 10
NF4_BYTES = 0.5 + 1 / 64 * 1.02  # packed weight, one 8-bit constant for 64 weights, their own constants
NF4_PLAIN_BYTES = 0.5 + 4 / 64  # without double quantisation the constants are float32
HEAD_CHUNK = 512  # positions: see longrepo.engines.torch.loss
CPU_OVERHEAD = 550 * 2**20  # libraries and buffers of the process, measured: a CPU run is judged by its process


@dataclass(frozen=True)
class StepEstimate:
    """Bytes, by part, of the highest moment of one step at `length` tokens."""

    length: int
    weights: int
    adapter: int  # LoRA in float32: parameter, gradient and two moments
    activations: int
    head: int
    overhead: int

    @property
    def total(self) -> int:
        return self.weights + self.adapter + self.activations + self.head + self.overhead

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"total": self.total}


def estimate_step(
    shape: ModelShape, settings: Settings, length: int, device: str, bytes_per_value: int
) -> StepEstimate:
    """The peak of one step of `batch_size_reference` sequences of `length` tokens; `bytes_per_value` is 2 or 4."""
    tokens = length * settings.training.batch_size_reference
    per_linear: float = bytes_per_value
    if settings.model.quantization == "nf4":
        per_linear = NF4_BYTES if settings.model.double_quantization else NF4_PLAIN_BYTES
    one_layer = int(KEPT_PER_WIDTH * shape.layer_widths * bytes_per_value * tokens)
    kept_inputs = shape.layers * shape.hidden * bytes_per_value * tokens
    checkpointed = settings.training.use_gradient_checkpointing
    activations = kept_inputs + one_layer if checkpointed else shape.layers * one_layer
    if device == "mps":
        scores = SCORE_BYTES * shape.heads * settings.training.batch_size_reference * length**2
        activations += scores if checkpointed else scores * shape.layers
    return StepEstimate(
        length=length,
        weights=int(shape.linear * per_linear + shape.other * bytes_per_value),
        adapter=16 * shape.lora_parameters(settings.lora.r, settings.lora.target_modules),
        activations=activations,
        head=3 * 4 * min(HEAD_CHUNK, tokens) * shape.vocabulary,
        overhead=CPU_OVERHEAD if device == "cpu" else 0,
    )
