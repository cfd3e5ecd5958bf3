"""Measurements on held-out text: loss by position, the copy probe, context before a file."""

from __future__ import annotations

import random

import numpy as np
import torch
from packing import Corpus, pack
from tokenizer import FILE_SEP, REPO_NAME
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


def windows(corpus: Corpus, language: str, length: int, most: int) -> list[list[int]]:
    """Repository-style windows of held-out documents: `<repo_name>R<file_sep>path\\ncode`, one a document."""
    out = []
    for number in corpus.languages[language][0]:
        row = corpus.rows[number]
        name = corpus.tokenizer.encode(row["repository"]).ids
        tokens = [REPO_NAME, *name, FILE_SEP, *corpus.document(number)]
        if len(tokens) >= length:
            out.append(tokens[:length])
    random.Random(0).shuffle(out)
    return out[:most]


def quick(model: torch.nn.Module, corpus: Corpus) -> dict[str, float]:
    """A few seconds' look: held-out loss (mean of four languages) and the copy ratio at two gaps."""
    shown = {
        name: float(losses(model, windows(corpus, name, 512, 16)).mean())
        for name in ("python", "go", "java", "javascript", "c")
    }
    for gap in (64, 1000):
        first, second = copy_probe(model, corpus, 12, gap)
        shown[f"first{gap}"], shown[f"second{gap}"] = float(first.mean()), float(second.mean())
        shown[f"ratio{gap}"] = shown[f"second{gap}"] / shown[f"first{gap}"]
    return {name: round(value, 3) for name, value in shown.items()}
