"""Measurements on held-out text: losses, and the copy probe."""

from __future__ import annotations

import random

import numpy as np
import torch
from packing import Corpus, pack
from torch.nn.functional import cross_entropy


@torch.no_grad()
def losses(model: torch.nn.Module, sequences: list[list[int]], batch: int = 8) -> np.ndarray:
    """Nats of every token but the first, [sequences, tokens - 1]; equal lengths."""
    out = []
    for at in range(0, len(sequences), batch):
        ids = torch.tensor(sequences[at : at + batch])
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
        out.append(cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none").numpy())
    return np.concatenate(out)


def copy_probe(
    model: torch.nn.Module, corpus: Corpus, count: int, gap: int = 1000, block: int = 64, seed: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Mean loss of the first and the second copy of a block of random identifiers, `gap` held-out tokens between."""
    draw, sequences = random.Random(f"copy/{seed}"), []
    for _ in range(count):
        ids = corpus.identifiers.block(draw, block)
        filler = pack(corpus, draw, 32 + gap)
        sequences.append(filler[:32] + ids + filler[32:] + ids)
    all_losses = losses(model, sequences)
    # The first token of a copy can't be foretold: nothing says that the block begins.
    return all_losses[:, 32 : 31 + block].mean(1), all_losses[:, -(block - 1) :].mean(1)
