"""The adapter as PEFT loads it, with its tokenizer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from longrepo.config.files import write_text
from longrepo.engines.peft_names import CONFIG
from longrepo.export.card import Use, shown_base, write_card
from longrepo.export.source import Source, read_adapter_config
from longrepo.sequences.tokenizer import load_tokenizer

_HOW = """Load {shown}, then the adapter. The tokenizer in this folder has the structure tokens, for which the
embedding needs room:

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{folder}")
model = AutoModelForCausalLM.from_pretrained("{base}")
if len(tokenizer) > model.get_input_embeddings().num_embeddings:
    model.resize_token_embeddings(len(tokenizer))
model = PeftModel.from_pretrained(model, "{folder}")
```"""
_POSITIONS = "trained on other positions than its base's ({context}): the other formats hold them, this one doesn't"


def write_peft(source: Source, folder: Path, final: Path) -> list[str]:
    """Copy the adapter's folder into an existing empty one; return lines for the terminal."""
    shutil.copytree(source.adapter, folder, dirs_exist_ok=True)
    settings, config = source.settings, read_adapter_config(folder)
    if not (folder / "tokenizer.json").is_file():
        tokenizer = load_tokenizer(source.tokenizer, settings.model.revision, settings.data.structure_tokens)
        tokenizer.source.save_pretrained(str(folder))
    if config.get("base_model_name_or_path") != settings.model.name:
        text = json.dumps(config | {"base_model_name_or_path": settings.model.name}, indent=2, sort_keys=True)
        write_text(folder / CONFIG, text + "\n")
    notes = (_POSITIONS.format(context=settings.context),) if source.repositioned else ()
    name = settings.model.name
    how = _HOW.format(folder=final.name, base=name if shown_base(name) == name else "BASE", shown=shown_base(name))
    write_card(folder, source, Use("peft", "A LoRA adapter in PEFT's format.", how, notes))
    return [f"adapter: {final} (base: {name})", *notes]
