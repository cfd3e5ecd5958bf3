"""Trained rows for the structure tokens, without touching the rest of a 300 MB embedding.

PEFT's own `trainable_token_indices` makes the tied head a computed tensor: each step copies the whole embedding and
computes its full gradient (288 MiB and 576 MiB for StarCoder2-3B) to train twenty rows. Here k rows are a parameter
of their own that replaces k lookups in the embedding and, where the head is tied, k columns of the logits. On disk
it is PEFT's format, and PEFT loads it (`longrepo.engines.torch.adapter_files`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

Tensor = torch.Tensor


class TokenRows(nn.Module):
    """`weight` `[k, hidden]` in float32, for the token ids `ids` `[k]`, ascending. `active` False: the base's rows."""

    ids: Tensor

    def __init__(self, ids: list[int], embedding: nn.Embedding) -> None:
        super().__init__()
        device = embedding.weight.device
        self.register_buffer("ids", torch.tensor(ids, device=device), persistent=False)
        self.weight = nn.Parameter(embedding.weight.detach()[self.ids].float())
        self.active = True


class PatchedEmbedding(nn.Module):
    """The base's embedding with the rows of some ids looked up in `rows` instead."""

    def __init__(self, base: nn.Embedding, rows: TokenRows) -> None:
        super().__init__()
        self.base, self.rows = base, rows

    @property
    def weight(self) -> Tensor:
        """The base's table, for what asks an embedding its dtype, device or size."""
        return self.base.weight

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.base(ids)
        if not self.rows.active:
            return hidden
        place = torch.searchsorted(self.rows.ids, ids.contiguous()).clamp(max=len(self.rows.ids) - 1)
        ours = self.rows.ids[place] == ids
        return torch.where(ours.unsqueeze(-1), self.rows.weight[place].to(hidden.dtype), hidden)


class PatchedHead(nn.Module):
    """A tied head: the base's logits `[…, vocabulary]` with the columns of the trained rows replaced."""

    def __init__(self, base: nn.Linear, rows: TokenRows) -> None:
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
        # In place: the product before it keeps no reference to its output, so nothing of the backward pass is lost.
        return logits.index_copy_(-1, self.rows.ids, columns.to(logits.dtype))


def patch(model: Any, ids: list[int], tied: bool) -> TokenRows:
    """Put trained rows for `ids` into a causal language model of transformers (before PEFT wraps it); return them."""
    embedding = model.get_input_embeddings()
    rows = TokenRows(sorted(ids), embedding)
    model.set_input_embeddings(PatchedEmbedding(embedding, rows))
    if tied:
        model.set_output_embeddings(PatchedHead(model.get_output_embeddings(), rows))
    return rows
