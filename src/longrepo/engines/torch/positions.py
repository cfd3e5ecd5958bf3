"""Other positions for a model of transformers that is loaded: new rotary tables and windows, the same weights."""

from __future__ import annotations

from typing import Any

from longrepo.config.schema import ContextSettings
from longrepo.context.change import positioned
from longrepo.context.rotary import RECORD

_KEYS = ("max_position_embeddings", "rope_parameters", "sliding_window", "layer_types", "use_sliding_window", RECORD)


def set_positions(model: Any, context: ContextSettings) -> None:
    """Compute from here on by `context`, applied to the configuration that `load_base` read (`published_config`).

    Raises InputError where the model can't be computed so; it then stays as it was.
    """
    wanted = model.published_config | positioned(model.published_config, context)
    config, decoder = model.config, model.get_decoder()
    for key in _KEYS:
        if key in wanted or hasattr(config, key):
            setattr(config, key, wanted.get(key))
    for path, module in list(decoder.named_modules()):
        if hasattr(module, "original_inv_freq"):
            parent, _, name = path.rpartition(".")
            setattr(decoder.get_submodule(parent), name, type(module)(config).to(module.inv_freq.device))
    _set_windows(decoder, config)


def _set_windows(decoder: Any, config: Any) -> None:
    """Where modules have noted their layer's kind; others ask the configuration at each call."""
    kinds = getattr(config, "layer_types", None)
    if not kinds:
        return
    for kind, layer in zip(kinds, decoder.layers, strict=False):
        sliding = kind == "sliding_attention"
        noted = {
            "attention_type": kind,
            "layer_type": kind,
            "is_sliding": sliding,
            "sliding_window": config.sliding_window if sliding else None,
        }
        for module in layer.modules():
            for name in noted.keys() & vars(module).keys():
                setattr(module, name, noted[name])
    if hasattr(decoder, "has_sliding_layers"):
        decoder.has_sliding_layers = "sliding_attention" in kinds
