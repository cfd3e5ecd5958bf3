"""Python code that loads what was trained, as READMEs, model cards and the report print it."""

from __future__ import annotations

from pathlib import Path

from longrepo.config.schema import ModelSettings

_ADAPTER_CODE = """from peft import {peft}
from transformers import AutoModelForCausalLM, AutoTokenizer
{imports}
tokenizer = AutoTokenizer.from_pretrained("{adapter}")
model = AutoModelForCausalLM.from_pretrained({base})
if len(tokenizer) > model.get_input_embeddings().num_embeddings:
    model.resize_token_embeddings(len(tokenizer))
model = PeftModel.from_pretrained(model, "{adapter}")"""
_MODEL_CODE = """from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{model}")
model = AutoModelForCausalLM.from_pretrained("{model}")"""


def adapter_code(adapter: str, model: ModelSettings, show_path: bool = True) -> str:
    """Return code that loads an adapter's folder onto its base.

    The embedding needs room for the structure tokens before the adapter is loaded, which has their rows. Without
    `show_path` a base in a local folder is looked up in the adapter's configuration, so that no path of this machine
    is published.
    """
    peft, imports, base = "PeftModel", "", f'"{model.name}"'
    if model.name == "embedded":
        imports, base = "\nfrom longrepo import embedded\n", "embedded.path()"
    elif Path(model.name).expanduser().is_dir():
        base = f'"{base_reference(model.name)}"'
        if not show_path:
            peft, base = "PeftConfig, PeftModel", f'PeftConfig.from_pretrained("{adapter}").base_model_name_or_path'
    elif model.revision:
        base += f', revision="{model.revision}"'
    return _ADAPTER_CODE.format(peft=peft, imports=imports, adapter=adapter, base=base)


def base_reference(name: str) -> str:
    """Return what an adapter's configuration calls its base: a local folder by its whole path."""
    folder = Path(name).expanduser()
    return str(folder.absolute()) if name != "embedded" and folder.is_dir() else name


def model_code(model: str) -> str:
    """Return code that loads the folder of a model whose weights were all trained."""
    return _MODEL_CODE.format(model=model)
