"""The recipes' divergence is the plain one, loss and gradient; a piece's teacher sees other files alone."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "benefit"))

import recipes


def _logs(seed: int, width: int) -> torch.Tensor:
    logits = 3 * torch.randn(7, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.log_softmax(logits, -1)


@pytest.mark.parametrize("width", [65, 200])
def test_the_divergence_is_the_plain_one_with_the_unlikely_tokens_as_one(width: int) -> None:
    teacher, logits = _logs(1, width), _logs(2, width).requires_grad_()
    student = torch.log_softmax(logits, -1)
    values, at = teacher.topk(recipes.TOP, -1)
    loss = recipes._divergence((at, values, recipes._rest(values)), student)
    others = torch.ones_like(teacher, dtype=torch.bool).scatter(-1, at, False)
    plain = torch.zeros((), dtype=torch.float64)
    for p, q, other in zip(teacher.exp(), student.exp(), others, strict=True):
        for one in (~other).nonzero().flatten():
            plain = plain + p[one] * (p[one] / q[one]).log()
        plain = plain + p[other].sum() * (p[other].sum() / q[other].sum()).log()
    torch.testing.assert_close(loss, plain, rtol=1e-6, atol=1e-6)  # what is left beside the likeliest is 1e-6 at least
    gradients = [torch.autograd.grad(one, logits, retain_graph=True)[0] for one in (loss, plain)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)
    same = recipes._divergence((at, values, recipes._rest(values)), teacher)
    assert abs(float(same)) < 1e-12 < 0.1 < float(loss.detach())


def test_the_nearest_pieces_are_other_files_and_the_likest_is_last() -> None:
    ids = {"a": [5, 6, 7, 8] * 20, "b": [5, 6, 7, 9] * 20, "c": [50, 51, 52, 9] * 20, "a2": [5, 6, 7, 8] * 18}
    pieces = [(name[0], np.array(one, np.int64)) for name, one in ids.items()]
    shown = recipes.Nearest(pieces).of(0)
    assert shown.tolist() == [0, *ids["c"], 0, *ids["b"], 0]
