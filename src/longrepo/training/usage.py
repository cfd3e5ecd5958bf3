"""Python code that loads what was trained, as READMEs, model cards and the report print it."""

from __future__ import annotations

from pathlib import Path

from longrepo.config.schema import Settings
from longrepo.utils.hub import OWN_NAMES, PACKAGED_MODELS, gguf_file, is_hub_id

_ADAPTER_CODE = """from peft import {peft}
from transformers import AutoModelForCausalLM, AutoTokenizer
{imports}
tokenizer = AutoTokenizer.from_pretrained("{adapter}")
model = AutoModelForCausalLM.from_pretrained({base})
{resize}model = PeftModel.from_pretrained(model, "{adapter}")"""
_RESIZE_CODE = """if len(tokenizer) > model.get_input_embeddings().num_embeddings:
    model.resize_token_embeddings(len(tokenizer))
"""
_MODEL_CODE = """from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{model}")
model = AutoModelForCausalLM.from_pretrained("{model}")"""


def has_new_rows(settings: Settings) -> bool:
    """Return whether an adapter has rows of added tokens, and its tokenizer more tokens than the base's."""
    return settings.data.structure_tokens in ("added", "auto") or settings.data.fim == "add"


def adapter_code(adapter: str, settings: Settings, show_path: bool = True) -> str:
    """Return code that loads an adapter's folder onto its base.

    The embedding needs room for added tokens before the adapter is loaded, which has their rows. Without
    `show_path` a base in a local folder is looked up in the adapter's configuration, so that no path of this machine
    is published.
    """
    model = settings.model
    peft, imports, base = "PeftModel", "", f'"{model.name}"'
    if model.name == "embedded":
        imports, base = "\nfrom longrepo import embedded\n", "embedded.path()"
    elif not is_hub_id(model.name):
        base = f'"{base_reference(model.name)}"'
        if not show_path and model.name not in PACKAGED_MODELS:
            peft, base = "PeftConfig, PeftModel", f'PeftConfig.from_pretrained("{adapter}").base_model_name_or_path'
        if gguf_file(model.name) is not None:
            imports, base = "\nfrom longrepo.utils.hub import model_location\n", f"model_location({base})"
    elif model.revision:
        base += f', revision="{model.revision}"'
    resize = _RESIZE_CODE if has_new_rows(settings) else ""
    return _ADAPTER_CODE.format(peft=peft, imports=imports, adapter=adapter, base=base, resize=resize)


def base_reference(name: str) -> str:
    """Return what an adapter's configuration calls its base: a local folder or file by its whole path."""
    return name if is_hub_id(name) or name in OWN_NAMES else str(Path(name).expanduser().absolute())


def model_code(model: str) -> str:
    """Return code that loads the folder of a model whose weights were all trained."""
    return _MODEL_CODE.format(model=model)
