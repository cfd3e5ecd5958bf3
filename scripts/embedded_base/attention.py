"""Causal attention in blocks of queries with its own backward pass, for training on a CPU.

With bf16 matrix tiles (AMX) the library's fused backward took 38 % of a step; these plain products
take less. Only for full sequences inside the window, without a cache.
"""

from __future__ import annotations

import torch
from transformers import AttentionInterface

BLOCK = 256
NAME = "blocked_causal"


class BlockedCausal(torch.autograd.Function):
    """query [rows, tokens, group, width], key and value [rows, tokens, width]; rows are batch x kv heads."""

    @staticmethod
    def forward(ctx, query, key, value):
        rows, tokens, group, width = query.shape
        output, kept = torch.empty_like(query), []
        for start in range(0, tokens, BLOCK):
            end = min(start + BLOCK, tokens)
            block = query[:, start:end].reshape(rows, -1, width)
            scores = torch.bmm(block, key[:, :end].transpose(1, 2)).view(rows, end - start, group, end)
            hidden = torch.full((end - start, end - start), float("-inf"), dtype=scores.dtype).triu_(1)
            scores[..., start:] += hidden[:, None]
            weights = torch.softmax(scores, dim=-1).view(rows, -1, end)
            output[:, start:end] = torch.bmm(weights, value[:, :end]).view(rows, end - start, group, width)
            kept.append(weights)
        ctx.save_for_backward(query, key, value)
        ctx.kept = kept
        return output

    @staticmethod
    def backward(ctx, gradient):
        query, key, value = ctx.saved_tensors
        rows, tokens, group, width = query.shape
        d_query = torch.empty_like(query)
        d_key = torch.zeros_like(key, dtype=torch.float32)
        d_value = torch.zeros_like(value, dtype=torch.float32)
        for start in range(0, tokens, BLOCK):
            end = min(start + BLOCK, tokens)
            weights, ctx.kept[start // BLOCK] = ctx.kept[start // BLOCK], None
            above = gradient[:, start:end].reshape(rows, -1, width)
            block = query[:, start:end].reshape(rows, -1, width)
            d_value[:, :end] += torch.bmm(weights.transpose(1, 2), above)
            d_weights = torch.bmm(above, value[:, :end].transpose(1, 2))
            d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
            d_query[:, start:end] = torch.bmm(d_scores, key[:, :end]).view(rows, end - start, group, width)
            d_key[:, :end] += torch.bmm(d_scores.transpose(1, 2), block)
        return d_query, d_key.to(key.dtype), d_value.to(value.dtype)


def blocked_causal(module, query, key, value, attention_mask=None, scaling=1.0, dropout=0.0, **_):
    """transformers' attention interface: [batch, heads, tokens, width] in, [batch, tokens, heads, width] out."""
    batch, heads, tokens, width = query.shape
    shared, group = key.shape[1], heads // key.shape[1]
    grouped = (query * scaling).view(batch, shared, group, tokens, width).transpose(2, 3)
    output = BlockedCausal.apply(
        grouped.reshape(batch * shared, tokens, group, width).contiguous(),
        key.reshape(batch * shared, tokens, width),
        value.reshape(batch * shared, tokens, width),
    )
    return output.view(batch, shared, tokens, group, width).transpose(1, 2).reshape(batch, tokens, heads, width), None


def register() -> str:
    """Make the function known to transformers; returns the name to load a model with."""
    AttentionInterface.register(NAME, blocked_causal)
    return NAME
