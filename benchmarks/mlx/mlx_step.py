"""Micro-batches of a training run, the second measured: mlx-lm's own trainer, or our chunked step.

    python benchmarks/mlx/mlx_step.py FOLDER TOKENS mlx-lm|CHUNK 4-bit|full REPORT

Both compute the same model (`longrepo.engines.mlx.load`) with the same LoRA in float32 and the mean loss of the same
TOKENS targets; gradients are accumulated and AdamW's moments are held on both sides. The first micro-batch is short and
warms up, the third is short and brings the update. REPORT.json gets bytes and seconds, REPORT.npz the accumulated
gradient. mlx-lm's `train` is called as it is, with `default_loss` and `grad_checkpoint`; the batch iterator, which it
lets its caller give, is where the measuring happens.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.tuner.trainer import TrainingArgs, default_loss, train
from mlx_lm.tuner.utils import linear_to_lora_layers
from shapes import Tokens

from longrepo.config.loader import load_settings
from longrepo.config.schema import Settings
from longrepo.engines.base import Batch, StepMethod
from longrepo.engines.lora_targets import automatic_targets, with_lora_targets
from longrepo.engines.mlx.device import select_mlx_device
from longrepo.engines.mlx.engine import MlxEngine
from longrepo.engines.mlx.load import layer_linears, load_base

RANK, ALPHA = 16, 32
MEASURED, LAST = 1, 2  # micro-batches
Gradients = dict[str, mx.array]


class Meter:
    """What is held before, the highest moment and the CPU-seconds between `start` and `stop`."""

    def start(self) -> None:
        mx.synchronize()
        self.held = mx.get_active_memory()
        mx.reset_peak_memory()
        self._begun = time.process_time()

    def stop(self) -> None:
        self.seconds = time.process_time() - self._begun
        self.peak = mx.get_peak_memory()


def main() -> None:
    folder, tokens, way, bits, report = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4], Path(sys.argv[5])
    settings = load_settings(
        None,
        [
            f"model.name={folder}",
            f"model.quantization={'nf4' if bits == '4-bit' else 'none'}",
            "training.precision=float32",
            f"lora.r={RANK}",
            f"lora.alpha={ALPHA}",
            "lora.dropout=0",
        ],
    )
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    select_mlx_device("cpu", "float32")
    model, _ = load_base(settings.model, Tokens(vocabulary), mx.float32)  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    batches = [rng.integers(0, vocabulary, (1, length + 1)) for length in (128, tokens, 64)]
    meter = Meter()
    if way == "mlx-lm":
        found = theirs(model, settings, batches, meter)
    else:
        found = ours(model, settings, batches, meter, int(way))
    np.savez(report.with_suffix(".npz"), **{name: np.array(gradient) for name, gradient in found.items()})
    report.write_text(json.dumps({"held": meter.held, "peak": meter.peak, "cpu_seconds": meter.seconds}))


def same_start(named: list[tuple[str, mx.array]], put: Callable[[str, mx.array], None]) -> None:
    """The same adapter for both: LoRA's arrays, in the order of their names, from one generator."""
    rng = np.random.default_rng(1)
    for name, array in sorted(named):
        put(name, mx.array(rng.standard_normal(array.shape).astype(np.float32) * 0.02))


def ours(model: Any, settings: Settings, batches: list[Any], meter: Meter, chunk: int) -> Gradients:
    engine = MlxEngine(model, None, settings, select_mlx_device("cpu", "float32"))
    slots = {slot.name: slot for slot in engine.slots}

    def put(name: str, array: mx.array) -> None:
        slots[name].value = array

    same_start([(name, slot.value) for name, slot in slots.items()], put)
    engine._optimizer.moments = {n: (mx.zeros_like(s.value), mx.zeros_like(s.value)) for n, s in slots.items()}
    mx.eval([slot.value for slot in engine.slots], list(engine._optimizer.moments.values()))
    engine.use(StepMethod("chunked", chunk))
    for number, ids in enumerate(batches):
        batch = Batch.of([(ids[0], np.ones(ids.shape[1]))], 0)
        if number == MEASURED:
            mx.clear_cache()  # as mlx-lm after each step
            meter.start()
        engine.accumulate(batch, len(batches) * batch.weight, number)
        if number == MEASURED:
            meter.stop()
    return engine._gradients.by_name


def theirs(model: Any, settings: Settings, batches: list[Any], meter: Meter) -> Gradients:
    modules = with_lora_targets(settings, automatic_targets(layer_linears(model))).lora.module_names
    keys = {path for path, _ in model.named_modules() if path.rpartition(".")[2] in modules}
    config = {"rank": RANK, "scale": ALPHA / RANK, "dropout": 0.0, "keys": keys}
    linear_to_lora_layers(model, len(model.layers), config)
    trained = dict(tree_flatten(model.trainable_parameters()))
    same_start([*trained.items()], lambda name, array: model.load_weights([(name, array)], strict=False))
    # A first moment that forgets is the gradient; both are held all the same.
    optimizer = optim.AdamW(0.0, betas=[0.0, 0.999], weight_decay=0.0)
    optimizer.init(model.trainable_parameters())
    mx.eval(model.parameters(), optimizer.state)

    def iterate(**_: Any) -> Iterator[tuple[mx.array, mx.array]]:
        for number, ids in enumerate(batches):
            if number == MEASURED:
                meter.start()
            if number == LAST:
                meter.stop()
            yield mx.array(ids.astype(np.int32)), mx.array([[1, ids.shape[1] - 1]])

    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArgs(
            batch_size=1,
            iters=len(batches),
            steps_per_report=10**6,
            steps_per_eval=10**6,
            steps_per_save=10**6,
            max_seq_length=batches[0].shape[1],
            adapter_file=str(Path(scratch) / "adapters.safetensors"),
            grad_checkpoint=True,
            grad_accumulation_steps=len(batches),
        )
        train(model, optimizer, None, None, arguments, default_loss, iterate)
    moments = dict(tree_flatten(optimizer.state))
    return {name: moments[f"{name}.m"] for name in trained}


if __name__ == "__main__":
    main()
