"""PEFT's LoRA on a frozen base, trained rows for the structure tokens, and dropout with derived masks.

PEFT's own `trainable_token_indices` makes the tied head a computed tensor: each step copies the whole embedding and
computes its full gradient (288 MiB and 576 MiB for StarCoder2-3B) to train twenty rows. Here k rows are a parameter
of their own that replaces k lookups in the embedding and, if the head is tied, k columns of the logits. The files are
in PEFT's format, and PEFT loads them (`longrepo.engines.adapter_io`). Dropout of LoRA's inputs takes its masks from
`longrepo.engines.chunked`.
"""

from __future__ import annotations

import math
from typing import Any

import peft
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.function import once_differentiable

from longrepo.config.schema import Settings
from longrepo.engines.chunked import DROPOUT_BLOCK, DropoutKey, dropout_blocks, dropout_seed
from longrepo.engines.lora_targets import automatic_targets, with_lora_targets
from longrepo.errors import InputError


def attach_lora(base: Any, settings: Settings) -> peft.PeftModel:
    """Add LoRA to a transformers causal language model, on those of its target modules that it has. Raises InputError
    if PEFT refuses one."""
    lora = with_lora_targets(settings, automatic_targets(linear_modules(base))).lora
    if settings.training.use_gradient_checkpointing:
        base.activation_checkpointing_enable({"use_reentrant": False})
    torch.manual_seed(settings.training.seed)  # LoRA's A matrices start random
    config = peft.LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # declared int, used as a factor
        lora_dropout=lora.dropout,
        target_modules=list(lora.module_names),
        task_type="CAUSAL_LM",
    )
    try:
        return peft.get_peft_model(base, config)
    except ValueError as error:  # such as a layer that Mamba's fused kernel computes past LoRA
        reason = next(iter(str(error).splitlines()), "")
        raise InputError(f"lora.target_modules: PEFT can't train those of {settings.model.name}: {reason}") from None


def set_training(model: nn.Module) -> None:
    """Set a model to training, but for Mamba-2's mixers, in which that changes only one thing: with the `mamba_ssm`
    package, transformers (5.23, granitemoehybrid) then gives the weight of `out_proj` to a kernel, past its LoRA."""
    model.train()
    for module in model.modules():
        if hasattr(module, "A_log") and hasattr(module, "out_proj"):
            module.training = False


def linear_modules(base: Any) -> list[str]:
    """Return the paths of a model's linear modules, without its head."""
    head = base.get_output_embeddings()
    return [path for path, one in base.named_modules() if isinstance(one, nn.Linear) and one is not head]


Tensor = torch.Tensor


class TorchTokenEmbeddings(nn.Module):
    """Trained embedding rows: `weight` `[k, hidden]` in float32 for the ascending token ids `ids` `[k]`. If `active` is
    False, the base's rows are used."""

    ids: Tensor

    def __init__(self, ids: list[int], embedding: nn.Embedding) -> None:
        super().__init__()
        device = embedding.weight.device
        self.register_buffer("ids", torch.tensor(ids, device=device), persistent=False)
        self.weight = nn.Parameter(embedding.weight.detach()[self.ids].float())
        self.active = True


class TorchPatchedEmbedding(nn.Module):
    """The base's embedding, in which some ids are looked up in `rows` instead. Gemma's multiplies what it looked up by
    its `embed_scale`, and so does this."""

    def __init__(self, base: nn.Embedding, rows: TorchTokenEmbeddings) -> None:
        super().__init__()
        self.base, self.rows = base, rows

    @property
    def weight(self) -> Tensor:
        """The base's table, for code that asks an embedding for its dtype, device or size."""
        return self.base.weight

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.base(ids)
        if not self.rows.active:
            return hidden
        index = torch.searchsorted(self.rows.ids, ids.contiguous()).clamp(max=len(self.rows.ids) - 1)
        trained = self.rows.ids[index] == ids
        own = self.rows.weight[index].to(hidden.dtype)
        if (scale := getattr(self.base, "embed_scale", None)) is not None:
            own = own * torch.as_tensor(scale, dtype=hidden.dtype, device=hidden.device)
        return torch.where(trained.unsqueeze(-1), own, hidden)


class PatchedHead(nn.Module):
    """A tied head: the base's logits `[…, vocabulary]` with the columns of the trained rows replaced."""

    def __init__(self, base: nn.Linear, rows: TorchTokenEmbeddings) -> None:
        super().__init__()
        self.base, self.rows = base, rows

    @property
    def weight(self) -> Tensor:
        return self.base.weight

    def forward(self, hidden: Tensor) -> Tensor:
        logits = self.base(hidden)
        if not self.rows.active:
            return logits
        columns = nn.functional.linear(hidden, self.rows.weight.to(hidden.dtype))
        # In place: the product keeps no reference to its output, so the backward pass loses nothing.
        return logits.index_copy_(-1, self.rows.ids, columns.to(logits.dtype))


def add_trained_tokens(model: Any, ids: list[int], tied: bool) -> TorchTokenEmbeddings:
    """Put trained rows for `ids` into a transformers causal language model before PEFT wraps it; return the rows."""
    embedding = model.get_input_embeddings()
    rows = TorchTokenEmbeddings(sorted(ids), embedding)
    model.set_input_embeddings(TorchPatchedEmbedding(embedding, rows))
    if tied:
        model.set_output_embeddings(PatchedHead(model.get_output_embeddings(), rows))
    return rows


def adapter_tensors(model: peft.PeftModel, rows: TorchTokenEmbeddings | None) -> dict[str, Tensor]:
    """Return the trained tensors by PEFT's names; they are the model's own, not copies."""
    named = dict(peft.get_peft_model_state_dict(model, save_embedding_layers=False))
    if rows is not None:
        embedding = next(name for name, module in model.named_modules() if isinstance(module, TorchPatchedEmbedding))
        named[f"{embedding}.token_adapter.trainable_tokens_delta"] = rows.weight.data
    return named


def peft_config(model: peft.PeftModel, rows: TorchTokenEmbeddings | None, base: str) -> dict[str, Any]:
    """Return `adapter_config.json` with everything that this version of PEFT writes there."""
    return model.peft_config["default"].to_dict() | {
        "base_model_name_or_path": base,
        "inference_mode": True,
        "trainable_token_indices": rows.ids.tolist() if rows else None,
    }


class TorchDerivedDropout(nn.Module):
    """Zeroes each element of `[rows, tokens, features]` with probability `p` and scales the others by 1 / (1 - p).

    It is the identity in eval mode. It costs one byte per element until the backward pass.
    """

    def __init__(self, p: float, number: int, key: DropoutKey) -> None:
        super().__init__()
        self.p, self.number, self.key = p, number, key

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        if x.ndim != 3:
            raise ValueError(f"dropout needs [rows, tokens, features], not {list(x.shape)}; set lora.dropout to 0")
        return _MaskedScale.apply(x, self.mask(x), 1 / (1 - self.p))

    def mask(self, x: Tensor) -> Tensor:
        """Return which elements of `x` are kept, bool `[rows, tokens, features]`; for a fake tensor, a fake mask."""
        mask = torch.empty_like(x, dtype=torch.bool)
        if isinstance(x, FakeTensor):
            return mask
        rows, tokens, features = x.shape
        generator = torch.Generator(x.device)
        for row in range(rows):
            done = 0
            for block, first, last in dropout_blocks(self.key.start, self.key.start + tokens):
                generator.manual_seed(dropout_seed(self.key.key, self.number, row, block))
                kept = _keep_mask(DROPOUT_BLOCK * features, self.p, generator).view(DROPOUT_BLOCK, features)
                mask[row, done : done + last - first] = kept[first:last]
                done += last - first
        return mask


def install_dropout(model: nn.Module, p: float) -> DropoutKey:
    """Replace the dropout of every LoRA layer in `model`; layers are numbered in the order of `named_modules`."""
    from peft.tuners.lora import LoraLayer

    key, number = DropoutKey(), 0
    for _, module in model.named_modules():
        if p and isinstance(module, LoraLayer):
            for adapter in module.lora_dropout:
                module.lora_dropout[adapter] = TorchDerivedDropout(p, number, key).train(model.training)
                number += 1
    return key


def _keep_mask(count: int, p: float, generator: torch.Generator) -> Tensor:
    """Return `count` independent draws, each True with probability 1 - p, bool `[count]`.

    It draws the gaps between zeros, which are geometric, instead of every element: at p = 0.05 a twentieth of the work.
    It draws eight standard deviations more gaps than expected: one draw in 10**15 would end before `count`.
    """
    expected = count * p
    gaps = min(count, math.ceil(expected + 8 * math.sqrt(expected) + 16))
    uniform = torch.rand(gaps, generator=generator, device=generator.device)
    steps = (-uniform).log1p_().div_(math.log1p(-p)).floor_().long().add_(1)
    kept = torch.ones(count + 1, dtype=torch.bool, device=generator.device)
    return kept.index_fill_(0, steps.cumsum_(0).sub_(1).clamp_(max=count), False)[:count]


class _MaskedScale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(mask)
        ctx.scale = scale
        return (x * mask).mul_(scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (mask,) = ctx.saved_tensors
        return (gradient * mask).mul_(ctx.scale), None, None
