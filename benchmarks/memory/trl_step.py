"""What usual_stack.py runs in a process of its own: quantise the model once, or take steps with TRL's SFTTrainer.

    python trl_step.py quantise MODEL LAYERS FOLDER
    PYTHONPATH=TRL python trl_step.py step FOLDER LENGTH composite|fused STEPS REPORT

The report (JSON) says how far it came, after each stage: it is all that is left of a process that the kernel killed.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

DROPOUTS = ("attention_dropout", "residual_dropout", "embedding_dropout")
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "c_fc", "c_proj"]


def quantise(model: str, layers: str, folder: str) -> None:
    """Save the first layers of a model in NF4: transformers reads that without needing more than it holds."""
    config = transformers.AutoConfig.from_pretrained(model)
    config.num_hidden_layers = int(layers)
    for name in DROPOUTS:
        setattr(config, name, 0.0)  # fused attention on a CPU has no dropout
    quantised = transformers.AutoModelForCausalLM.from_pretrained(
        model,
        config=config,
        dtype=torch.bfloat16,
        device_map={"": "cpu"},
        quantization_config=transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        ),
    )
    beside = Path(folder).with_suffix(".part")
    quantised.save_pretrained(beside)
    beside.rename(folder)


def load(folder: str) -> Any:
    """The saved model, trainable by PEFT, all of it in the process's own memory."""
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, device_map={"": "cpu"}, attn_implementation="sdpa"
    )
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # the inference packing has no backward pass
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()  # on a CPU the loader maps the file; a GPU has to hold it
    return model


def held_by(model: Any) -> list[torch.Tensor]:
    """A model's tensors, with those that packed weights keep beside them."""
    found = [*model.parameters(), *model.buffers()]
    states = [getattr(parameter, "quant_state", None) for parameter in model.parameters()]
    for state in [one for outer in states if outer for one in (outer, outer.state2) if one]:
        found += [tensor for tensor in (state.absmax, state.code, state.offset) if tensor is not None]
    return found


def tokenizer() -> transformers.PreTrainedTokenizerFast:
    """SFTTrainer wants one, to pad with; the sequences are numbers already."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    end = "<|endoftext|>"
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({end: 0}, unk_token=end)), eos_token=end, pad_token=end, unk_token=end
    )


class Report:
    """The file that says how far the run came."""

    def __init__(self, file: Path) -> None:
        self._file, self.facts = file, dict[str, Any]()

    def note(self, **facts: Any) -> None:
        self.facts |= facts
        self._file.write_text(json.dumps(self.facts))


class Clock(transformers.TrainerCallback):
    """Processor and wall seconds of each step, from its batch to the end of its optimizer's work; `enter` is told when
    that begins."""

    def __init__(self, enter: Callable[[str], None]) -> None:
        self._enter = enter
        self.began = (0.0, 0.0)
        self.steps: list[tuple[float, float]] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.began = (time.process_time(), time.perf_counter())

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self._enter("optimizer")

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.steps.append((time.process_time() - self.began[0], time.perf_counter() - self.began[1]))


def step(folder: str, length: str, attention: str, steps: str, report_file: str) -> None:
    """SFTTrainer's defaults (gradient checkpointing, bf16, fused AdamW) but batch 1 and no truncation."""
    report = Report(Path(report_file))
    report.note(stage="loading")
    from datasets import Dataset
    from peft import LoraConfig
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from trl import SFTConfig, SFTTrainer

    from longrepo.engines.torch.fake_model import PeakTracker

    def enter(stage: str) -> None:
        report.note(stage=stage)
        tracker.enter(stage)

    class StagedTrainer(SFTTrainer):  # type: ignore[misc]
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            enter("forward")
            loss = super().compute_loss(*args, **kwargs)
            enter("backward")
            return loss

    count, clock, tracker = int(steps), Clock(enter), PeakTracker()
    model = load(folder)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.config.vocab_size, (count, int(length)), generator=generator).tolist()
    with tempfile.TemporaryDirectory() as output:
        trainer = StagedTrainer(
            model=model,
            args=SFTConfig(
                output_dir=output,
                per_device_train_batch_size=1,
                max_steps=count,
                max_length=None,
                bf16=True,
                use_cpu=True,
                report_to="none",
                save_strategy="no",
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_dict({"input_ids": tokens}),
            processing_class=tokenizer(),
            peft_config=LoraConfig(r=32, lora_alpha=64, target_modules=TARGETS, task_type="CAUSAL_LM"),
            callbacks=[clock],
        )
        report.note(stage="loaded", trainable=sum(p.numel() for p in trainer.model.parameters() if p.requires_grad))
        backend = SDPBackend.MATH if attention == "composite" else SDPBackend.FLASH_ATTENTION
        tracked = count == 1
        with sdpa_kernel(backend):
            if tracked:
                tracker.adopt(held_by(trainer.model), "model")
                with tracker:
                    trainer.train()
            else:
                trainer.train()
    report.note(
        stage="done",
        steps=clock.steps,
        loss=trainer.state.log_history[-1].get("train_loss"),
        **({"tensors": tracker.peaks} if tracked else {}),
    )


if __name__ == "__main__":
    {"quantise": quantise, "step": step}[sys.argv[1]](*sys.argv[2:])
