"""Move a loaded model to other positions; verify a folder.

Other positions for a model of transformers that is loaded: new rotary tables and windows, the same weights.

Does a model's folder load in plain transformers, and compute at the far end of its positions?
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
    """Compute from here on by `context`, applied to the configuration that `load_base` read (`published_config`).

    Raises InputError where the model can't be computed so; it then stays as it was.
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


PROBE_LAYERS, PROBE_TOKENS = 2, 8


def verify_folder(folder: Path, reach: int, expected: dict[str, Any]) -> str:
    """Read the configuration, then logits of the first two layers at both ends of `reach` tokens, with the folder's own
    weights, read for those layers alone, or random ones where it has none. One line of what was seen.

    Raises InputError where transformers reads another value than `expected` (key → value), or logits aren't finite.
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
        return "transformers reads the configuration; published quantised, its weights weren't tried"
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
