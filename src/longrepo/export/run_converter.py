"""Run a script of llama.cpp: `python -m longrepo.export.run_converter SCRIPT PRE ARGUMENTS`.

Its converter recognises a tokenizer by a hash of some ids, so it doesn't know one that has its own vocabulary, even if
it splits text exactly as a known one does. PRE names that one; it is used only if the converter recognises none.
"""

from __future__ import annotations

import runpy
import sys
from importlib import import_module
from pathlib import Path
from typing import Any


def main() -> None:
    script, pre, *arguments = sys.argv[1:]
    sys.argv = [script, *arguments]
    sys.path.insert(0, str(Path(script).parent))
    if pre:
        _register_pre_tokenizer(pre)
    runpy.run_path(script, run_name="__main__")


def _register_pre_tokenizer(pre: str) -> None:
    text_model: Any = import_module("conversion.base").TextModel
    known = text_model.get_vocab_base_pre

    def name(self: Any, tokenizer: Any) -> str:
        try:
            return str(known(self, tokenizer))
        except NotImplementedError:
            return pre

    text_model.get_vocab_base_pre = name


if __name__ == "__main__":
    main()
