"""Change the positions of a loaded transformers model, and verify a model's folder.

A change of positions replaces rotary tables and windows; the weights stay. `verify_folder` checks that a folder loads
in plain transformers and computes finite logits at the far end of its positions.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from longrepo.config.schema import ContextSettings
from longrepo.engines.base import truncate_config
from longrepo.errors import InputError
from longrepo.rope.apply import engine_config_changes
from longrepo.rope.scaling import CONTEXT_KEY

_POSITION_KEYS = (
    "max_position_embeddings",
    "rope_parameters",
    "sliding_window",
    "layer_types",
    "use_sliding_window",
    CONTEXT_KEY,
)


def set_positions(model: Any, context: ContextSettings) -> None:
    """Use the positions of `context` from now on, applied to the configuration that `load_base` read.

    Raises InputError if the model doesn't support them; it then stays unchanged.
    """
    wanted = model.published_config | engine_config_changes(model.published_config, context)
    config, decoder = model.config, model.get_decoder()
    for key in _POSITION_KEYS:
        if key in wanted or hasattr(config, key):
            setattr(config, key, wanted.get(key))
    for path, module in list(decoder.named_modules()):
        if hasattr(module, "original_inv_freq"):
            parent, _, name = path.rpartition(".")
            setattr(decoder.get_submodule(parent), name, type(module)(config).to(module.inv_freq.device))
    _set_windows(decoder, config)


def _set_windows(decoder: Any, config: Any) -> None:
    """Update the modules that store their layer's type; others read the configuration at each call."""
    kinds = getattr(config, "layer_types", None)
    if not kinds:
        return
    for kind, layer in zip(kinds, decoder.layers, strict=False):
        sliding = kind == "sliding_attention"
        attributes = {
            "attention_type": kind,
            "layer_type": kind,
            "is_sliding": sliding,
            "sliding_window": config.sliding_window if sliding else None,
        }
        for module in layer.modules():
            for name in attributes.keys() & vars(module).keys():
                setattr(module, name, attributes[name])
    if hasattr(decoder, "has_sliding_layers"):
        decoder.has_sliding_layers = "sliding_attention" in kinds


PROBE_LAYERS, PROBE_TOKENS = 2, 8


def verify_folder(folder: Path, reach: int, expected: dict[str, Any]) -> str:
    """Check the configuration, and the logits of the first two layers at both ends of `reach` tokens.

    Only those layers' weights are read from the folder; if it has none, random ones are used. Returns one line about
    what was checked. Raises InputError if transformers reads a value other than `expected` (key → value), or if logits
    aren't finite.
    """
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    config = transformers.AutoConfig.from_pretrained(folder)
    read = config.to_dict()
    for key in ("max_position_embeddings", "sliding_window"):
        if key in expected and read[key] != expected[key]:
            raise InputError(f"{folder}: transformers reads {key} as {read[key]}, not {expected[key]}")
    for key, value in expected.get("rope_parameters", {}).items():
        if read["rope_parameters"].get(key) != value:
            raise InputError(f"{folder}: transformers reads {key} as {read['rope_parameters'].get(key)}, not {value}")
    if "quantization_config" in json.loads((folder / "config.json").read_text(encoding="utf-8")):
        return "transformers reads the configuration; the weights are published quantized and weren't tried"
    few = truncate_config(config, min(PROBE_LAYERS, config.num_hidden_layers))
    own = any(folder.glob("*.safetensors"))
    kind: Any = transformers.AutoModelForCausalLM
    model = kind.from_pretrained(folder, config=few, dtype="auto") if own else kind.from_config(few)
    model.eval()
    ids = torch.arange(1, PROBE_TOKENS + 1)[None]
    for start in (0, reach - PROBE_TOKENS):
        at = torch.arange(start, start + PROBE_TOKENS)[None]
        with torch.no_grad():
            logits = model(input_ids=ids, position_ids=at, use_cache=False).logits
        if not logits.isfinite().all():
            raise InputError(f"{folder}: logits at tokens {start:,} to {start + PROBE_TOKENS:,} aren't finite")
    weights = "its own weights" if own else "random weights, as it has none"
    return (
        f"transformers loads it: configuration, and logits of {few.num_hidden_layers} of {config.num_hidden_layers} "
        f"layers at tokens 1 and {reach:,} ({weights})"
    )
