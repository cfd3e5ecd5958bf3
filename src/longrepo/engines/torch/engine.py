"""The torch engine: a 4-bit base from transformers, LoRA from PEFT, one weighted step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bitsandbytes
import numpy as np
import numpy.typing as npt
import peft
import torch
import transformers

from longrepo.config.schema import LoraSettings, Settings
from longrepo.engines.base import Batch
from longrepo.engines.torch.adapter_files import read_adapter, write_adapter
from longrepo.engines.torch.device import Placement, place
from longrepo.engines.torch.load import load_base
from longrepo.engines.torch.loss import backward_weighted, token_nll
from longrepo.engines.torch.optimizer_files import read_optimizer, write_optimizer
from longrepo.engines.torch.peak import PeakMemory
from longrepo.engines.torch.rows import TokenRows, patch
from longrepo.errors import InputError, RunError

if TYPE_CHECKING:
    from longrepo.sequences.tokenizer import RepoTokenizer


class TorchEngine:
    """See `longrepo.engines.base.Engine` for what each method promises."""

    name = "torch"

    def __init__(self, model: peft.PeftModel, rows: TokenRows | None, settings: Settings, placement: Placement) -> None:
        self.model, self.rows, self._settings, self._placement = model, rows, settings, placement
        self.device = placement.device.type
        self.choices: list[tuple[str, str]] = list(placement.choices)
        base: Any = model.get_base_model()
        self._decoder, self._head = base.get_decoder(), base.get_output_embeddings()
        self.pad_id = 0  # any token would do: padding is neither attended to nor scored
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=0.0, weight_decay=settings.training.weight_decay
        )
        self._peak = PeakMemory(placement.device)

    @classmethod
    def create(cls, settings: Settings, tokenizer: RepoTokenizer, device: str = "auto") -> TorchEngine:
        """Load the base, attach the adapter and the structure-token rows. Raises InputError for what can't be had."""
        placement = place(device, settings.training.precision)
        base: Any
        base, notes = load_base(settings.model, tokenizer, placement)
        _check_plain_head(base, settings.model.name)
        ids = list(tokenizer.initial_from)
        rows = patch(base, ids, bool(base.config.tie_word_embeddings)) if ids else None
        model = _attach_lora(base, settings)
        if rows is not None:
            rows.weight.requires_grad_(True)
        engine = cls(model, rows, settings, placement)
        quantised = "4-bit NF4" if settings.model.quantization == "nf4" else "not quantised"
        engine.choices.append((f"base: {settings.model.name}, {quantised}", "as set in model.quantization"))
        engine.choices += [("dropout", note) for note in notes]
        return engine

    def accumulate(self, batch: Batch, normaliser: float, key: int) -> float:
        torch.manual_seed(key)  # every device's generator; a checkpointed layer restores it for its recompute
        self.model.train()
        ids, weights = self._tensor(batch.input_ids), self._tensor(batch.loss_weights)
        with self._autocast(), _one_line_when_memory_ends(self.device, ids.numel()):
            hidden = self._hidden(ids)[:, :-1]
            return backward_weighted(
                self._head, hidden.flatten(0, 1), ids[:, 1:].flatten(), weights[:, 1:].flatten(), normaliser
            )

    def apply_update(self, learning_rate: float, max_grad_norm: float) -> float:
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), max_grad_norm).item()
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        if np.isfinite(norm):  # otherwise the caller ends the run; the weights stay as they were
            self._optimizer.step()
        self.drop_gradients()
        return norm

    def drop_gradients(self) -> None:
        self._optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def score(self, batch: Batch) -> npt.NDArray[np.float32]:
        self.model.eval()
        ids = self._tensor(batch.input_ids)
        wanted = batch.loss_weights != 0
        wanted[:, 0] = False
        before = self._tensor(wanted[:, 1:])
        with self._autocast():
            nll = token_nll(self._head, self._hidden(ids)[:, :-1][before], ids[:, 1:][before])
        scores = np.zeros(batch.input_ids.shape, dtype=np.float32)
        scores[wanted] = nll.float().cpu().numpy()
        return scores

    @torch.no_grad()
    def generate(self, prompt: Sequence[int], max_new_tokens: int) -> list[int]:
        self.model.eval()
        ids = torch.tensor([list(prompt)], device=self._placement.device)
        with self._autocast():
            out = self.model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_new_tokens, do_sample=False
            )
        new: list[int] = out[0, len(prompt) :].tolist()
        end = self.model.generation_config.eos_token_id
        return new[: new.index(end)] if end in new else new

    @contextmanager
    def base_only(self) -> Iterator[None]:
        with self.model.disable_adapter():
            if self.rows is not None:
                self.rows.active = False
            try:
                yield
            finally:
                if self.rows is not None:
                    self.rows.active = True

    def save_adapter(self, folder: Path) -> None:
        write_adapter(folder, self.model, self.rows, self._settings.model.name)

    def load_adapter(self, folder: Path) -> None:
        read_adapter(folder, self.model, self.rows)

    def save_optimizer(self, file: Path) -> None:
        write_optimizer(file, self._optimizer, self.parameters)

    def load_optimizer(self, file: Path) -> None:
        read_optimizer(file, self._optimizer, self.parameters)

    def peak_memory(self) -> int:
        return self._peak.read()

    def reset_peak_memory(self) -> None:
        self._peak.reset()

    def facts(self) -> dict[str, Any]:
        # A packed 4-bit weight holds two parameters a byte; PEFT counts them as they were.
        trainable, total = self.model.get_nb_trainable_parameters()
        return {
            "engine": self.name,
            "device": self.device,
            "dtype": str(self._placement.dtype).removeprefix("torch."),
            "parameters": total,
            "trainable_parameters": trainable,
            "threads": torch.get_num_threads(),
            "versions": {m.__name__: m.__version__ for m in (torch, transformers, peft, bitsandbytes)},
        }

    def _hidden(self, ids: torch.Tensor) -> torch.Tensor:
        # No attention mask: rows are padded on the right, and causal attention never looks there.
        return self._decoder(input_ids=ids, use_cache=False).last_hidden_state

    def _autocast(self) -> Any:
        return torch.autocast(self.device, self._placement.dtype) if self._placement.autocast else nullcontext()

    def _tensor(self, array: npt.NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(array).to(self._placement.device)


@contextmanager
def _one_line_when_memory_ends(device: str, tokens: int) -> Iterator[None]:
    """CUDA has an exception of its own for it; Metal's and the CPU's allocator say it in a RuntimeError's text."""
    try:
        yield
    except RuntimeError as error:
        if not any(words in str(error) for words in ("out of memory", "can't allocate memory")):
            raise
        raise RunError(
            f"{device}: out of memory in a step of {tokens} tokens; the checkpoints are whole: end other programs, or "
            "leave out the longest phase, or lower lora.r, and go on with --resume auto"
        ) from None


def _attach_lora(base: Any, settings: Settings) -> peft.PeftModel:
    lora: LoraSettings = settings.lora
    modules = {name.rpartition(".")[2] for name, m in base.named_modules() if isinstance(m, torch.nn.Linear)}
    missing = [name for name in lora.target_modules if name not in modules]
    if missing:
        raise InputError(
            f"lora.target_modules: {settings.model.name} has no {', '.join(missing)}; "
            f"it has {', '.join(sorted(modules))}"
        )
    if settings.training.use_gradient_checkpointing:
        base.activation_checkpointing_enable({"use_reentrant": False})
    torch.manual_seed(settings.training.seed)  # LoRA's A matrices start random
    return peft.get_peft_model(
        base,
        peft.LoraConfig(
            r=lora.r,
            lora_alpha=lora.alpha,  # type: ignore[arg-type]  # declared int, used as a factor
            lora_dropout=lora.dropout,
            target_modules=list(lora.target_modules),
            task_type="CAUSAL_LM",
        ),
    )


@torch.no_grad()
def _check_plain_head(model: Any, name: str) -> None:
    """The step computes logits as head(last hidden state). Some architectures scale or cap them: refuse those."""
    model.eval()
    ids = torch.tensor([[1, 2]], device=model.device)
    plain = model.get_output_embeddings()(model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state)
    if not torch.allclose(model(input_ids=ids, use_cache=False).logits, plain, rtol=1e-2, atol=1e-3):
        raise InputError(
            f"model {name}: its logits are not a plain product of its head; this architecture can't be tuned"
        )
