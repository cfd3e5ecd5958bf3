"""The names and shapes of published weights, and how they become those of the MLX engine's models."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

# What a published model has beside its language model: what sees images, and layers that guess further tokens.
OTHER_PARTS = ("mtp.", "visual.", "vision_tower.", "multi_modal_projector.")


def language_model_path(path: str) -> str | None:
    """Return the path in the language model alone of a tensor or module of one that sees images too, as transformers or
    mlx-lm names it; None if it is none of the language model's."""
    if path.removeprefix("model.").startswith(OTHER_PARTS):
        return None
    path = path.removeprefix("language_model.")
    return "model." + path.removeprefix("model.language_model.") if path.startswith("model.language_model.") else path


def rename_weights(model: Any, weights: dict[str, mx.array], centred_norms: bool) -> dict[str, mx.array]:
    """Rename the weights to the model's names, and empty `weights`, so that nothing else holds them.

    A bare decoder is published without the prefix, a tied head sometimes with a copy of its table, and old folders
    contain rotary frequencies. `centred_norms`: norms are published less 1."""
    modules = {path for path, _ in model.named_modules()}
    named: dict[str, mx.array] = {}
    while weights:
        published, array = weights.popitem()
        if (name := language_model_path(published)) is None:
            continue
        module = name.rpartition(".")[0]
        if name.endswith("rotary_emb.inv_freq") or (module == "lm_head" and module not in modules):
            continue
        named[f"model.{name}" if module not in modules and f"model.{module}" in modules else name] = array
    for path in modules:
        if path.endswith(".shared_mlp"):
            _join_shared_mlp(path, named)
    _turn_convolutions(named, centred_norms)
    return named


def _join_shared_mlp(path: str, weights: dict[str, mx.array]) -> None:
    """Rename and join the matrices of Granite 4's MLP if they are mlx-lm's, which splits the first one in two."""
    theirs = path.removesuffix("shared_mlp") + "mlp"
    for name in ("weight", "scales", "biases"):
        halves = [weights.pop(f"{theirs}.{part}_proj.{name}", None) for part in ("gate", "up")]
        if halves[0] is not None and halves[1] is not None:
            weights[f"{path}.input_linear.{name}"] = mx.concatenate(halves)  # type: ignore[arg-type]
        if (down := weights.pop(f"{theirs}.down_proj.{name}", None)) is not None:
            weights[f"{path}.output_linear.{name}"] = down


NORMS = ("layernorm.weight", "q_norm.weight", "k_norm.weight", "model.norm.weight")


def _turn_convolutions(weights: dict[str, mx.array], centred_norms: bool) -> None:
    """Make of transformers' `[channels, 1, width]` mlx-lm's `[channels, width, 1]`. A folder of mlx-lm's has the latter
    already, and then its norms are whole, too."""
    convolutions = [name for name in weights if name.endswith("conv1d.weight")]
    ours = [name for name in convolutions if weights[name].shape[-1] == 1]
    for name in convolutions if not ours else ():
        weights[name] = mx.swapaxes(weights[name], 1, 2)
    for name in weights if centred_norms and not ours else ():
        if name.endswith(NORMS):
            weights[name] = weights[name].astype(mx.float32) + 1
