"""Write a tokenizer's files so that other libraries give the ids that training used.

transformers 5 takes vocabulary and merges from `tokenizer.json`, but for many classes (GPT2Tokenizer, Qwen2Tokenizer,
…) the class's own pre-tokenizer instead of the file's, and saves that. So nothing is saved through transformers: the
file is written as it was trained with, and `tokenizer_config.json` names a class that reads it unchanged.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER_FILE, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
COPIED_FILES = ("chat_template.jinja", "chat_template.json", "tokenizer.model")
_MODEL_CONFIGS = ("config.json", "adapter_config.json")  # what AutoTokenizer chooses a class by
_DROPPED_KEYS = ("auto_map", "tokenizer_file", "vocab_file", "merges_file", "special_tokens_map_file", "name_or_path")
_FILE_CLASS = "PreTrainedTokenizerFast"  # reads tokenizer.json unchanged, in transformers 4 and 5
_CODE_FILE = "longrepo_tokenizer.py"
_CODE = '''"""The tokenizer of tokenizer.json, unchanged, for programs that trust this folder's code."""

from transformers import PreTrainedTokenizerFast


class FileTokenizer(PreTrainedTokenizerFast):
    """Reads tokenizer.json with its own pre-tokenizer."""
'''
# Digits, contractions, letters of many scripts, marks, spaces, line ends and punctuation in runs: pre-tokenizers differ
# in how they split these.
_PROBE = (
    " def total_amount2(self, x1=1234567890, y: float = 3.14e-10) -> None:\n        return [1, 22, 345]\n\n\n"
    "\tif (a&&b||!c) { s += \"it's\" + 'We'LL' + `${i}`; }\r\n\r\n  // ... ==== <<<>>> !== \u2014\u00bb\n   \n \t \n"
    "I'm can't THEY'RE you'd camelCase HTTPServer2 __init__ _x  \u00a0\u2003end   \n"
    "\u00e9 e\u0301 \u00df \ufb01 \u212b \u4f60\u597d\u4e16\u754c123 \u65e5\u672c\u8a9e\u306e\u30c6\u30b9\u30c8 "
    "\ud55c\uad6d\uc5b4 \u0440\u0443\u0441\u0441\u043a\u0438\u0439 \u0639\u0631\u0628\u064a\u0663\u0664 "
    "\u0939\u093f\u0928\u094d\u0926\u0940\u0967\u0968 \u1785\u17b6\u1793\u17cb \U0001f600\U0001f468\u200d\U0001f469 "
    "\u2460\u00bd 0x1F 1_000 12.5% #@$^*~\\ 3333333 333 33 3"
)


@dataclass(frozen=True)
class TokenizerFiles:
    """`texts`: file name → text. `note`: how to load them, if AutoTokenizer needs help; else empty."""

    texts: Mapping[str, str]
    note: str = ""

    @property
    def config(self) -> dict[str, Any]:
        """The content of tokenizer_config.json."""
        tree: dict[str, Any] = json.loads(self.texts[TOKENIZER_CONFIG])
        return tree


def write_tokenizer_files(folder: Path, state: str, config: Mapping[str, Any], beside: Path | None) -> tuple[str, ...]:
    """Write a tokenizer into a folder whose config.json, if it has one, is there already; return notes for its README.

    `state`: the text of tokenizer.json; `config`: the base's tokenizer_config.json; `beside`: the base's folder, whose
    chat template and sentencepiece model are copied.
    """
    files = make_tokenizer_files(state, config, folder)
    for name, text in files.texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    for name in COPIED_FILES:
        if beside is not None and (beside / name).is_file() and beside != folder:
            shutil.copyfile(beside / name, folder / name)
    return (files.note,) if files.note else ()


def make_tokenizer_files(state: str, config: Mapping[str, Any], folder: Path) -> TokenizerFiles:
    """Choose the tokenizer_config.json with which AutoTokenizer, in `folder`, reads `state` unchanged.

    The base's own class stays if it does. Imports transformers, which takes seconds.
    """
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(state)
    config = _portable_config(backend, config)
    kind = _model_type(folder)
    for choice in _choices(config):
        texts = {TOKENIZER_FILE: state, TOKENIZER_CONFIG: _to_json(choice)}
        mapped = "auto_map" in choice
        texts |= {_CODE_FILE: _CODE} if mapped else {}
        if _is_read_unchanged(backend, texts, folder):
            note = (
                f"its tokenizer.json splits text by other rules than transformers' class for {kind}: "
                "`auto_map` in tokenizer_config.json keeps the file's. A program that gives other ids should load the "
                f"tokenizer with {_FILE_CLASS}.from_pretrained"
            )
            return TokenizerFiles(texts, note if mapped else "")
    note = (
        "transformers' AutoTokenizer reads tokenizer.json here with rules other than its own: load the tokenizer with "
        f"{_FILE_CLASS}.from_pretrained"
    )
    return TokenizerFiles({TOKENIZER_FILE: state, TOKENIZER_CONFIG: _to_json(config | _class(_FILE_CLASS))}, note)


def is_read_unchanged(state: str, config: Mapping[str, Any], folder: Path) -> bool:
    """Return whether AutoTokenizer gives the ids of `state` in a folder with this tokenizer_config.json and `folder`'s
    config.json."""
    from tokenizers import Tokenizer

    texts = {TOKENIZER_FILE: state, TOKENIZER_CONFIG: _to_json(config)}
    return _is_read_unchanged(Tokenizer.from_str(state), texts, folder)


def _choices(config: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield configurations to try: the base's class, the plain one, and the plain one named again in `auto_map`.

    transformers ignores the class that is named for a list of model types (qwen2, qwen3_5, …), but not if `auto_map`
    names code; that code itself runs only with trust_remote_code.
    """
    yield dict(config)
    yield dict(config) | _class(_FILE_CLASS)
    code = f"{Path(_CODE_FILE).stem}.FileTokenizer"
    yield dict(config) | _class(_FILE_CLASS) | {"auto_map": {"AutoTokenizer": [code, code]}}


def _class(name: str) -> dict[str, str]:
    return {"tokenizer_class": name}


def _portable_config(backend: Tokenizer, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the base's configuration with the added tokens, and without what would alter text or names its files."""
    portable = {name: value for name, value in config.items() if name not in _DROPPED_KEYS}
    portable["clean_up_tokenization_spaces"] = False  # decoded code has the spaces that were generated
    added = {id: token for id, token in backend.get_added_tokens_decoder().items() if token.special}
    if not isinstance(portable.get("extra_special_tokens"), dict):
        # transformers 4 fails on a list of extra_special_tokens; 5 reads the older key too
        listed = [
            *(portable.pop("additional_special_tokens", None) or []),
            *(portable.pop("extra_special_tokens", None) or []),
        ]
        known = {one["content"] if isinstance(one, dict) else one for one in listed}
        known |= {_content(portable.get(f"{name}_token")) for name in ("bos", "eos", "unk", "pad")}
        listed += [token.content for _, token in sorted(added.items()) if token.content not in known]
        portable["additional_special_tokens"] = listed
    if "added_tokens_decoder" in portable:
        portable["added_tokens_decoder"] = {
            str(id): {
                "content": token.content,
                "lstrip": token.lstrip,
                "normalized": token.normalized,
                "rstrip": token.rstrip,
                "single_word": token.single_word,
                "special": token.special,
            }
            for id, token in sorted(backend.get_added_tokens_decoder().items())
        }
    return portable


def _content(token: Any) -> Any:
    return token.get("content") if isinstance(token, dict) else token


def _is_read_unchanged(backend: Tokenizer, texts: Mapping[str, str], folder: Path) -> bool:
    from transformers import AutoTokenizer
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    with tempfile.TemporaryDirectory() as scratch:
        for name in _MODEL_CONFIGS:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, Path(scratch) / name)
        for name, text in texts.items():
            (Path(scratch) / name).write_text(text, encoding="utf-8")
        logging.set_verbosity_error()
        try:
            return _agrees(AutoTokenizer.from_pretrained(scratch, trust_remote_code=False), backend)
        except Exception:  # whatever a class makes of a file that isn't its own
            return False
        finally:
            logging.set_verbosity(verbosity)


def _agrees(loaded: Any, backend: Tokenizer) -> bool:
    """Compare vocabulary, splits, ids and decoded text of a transformers tokenizer and a file."""
    if not hasattr(loaded, "backend_tokenizer") or loaded.get_vocab() != backend.get_vocab(with_added_tokens=True):
        return False
    added = " ".join(token.content for token in backend.get_added_tokens_decoder().values())
    for text in (_PROBE, added):
        if _pieces(loaded.backend_tokenizer, text) != _pieces(backend, text):
            return False
        ids = backend.encode(text, add_special_tokens=False).ids
        if loaded.encode(text, add_special_tokens=False) != ids:
            return False
        if loaded.decode(ids, clean_up_tokenization_spaces=False) != backend.decode(ids, skip_special_tokens=False):
            return False
    return True


def _pieces(backend: Tokenizer, text: str) -> Sequence[str]:
    """Return the text as it is normalised and split before any merge."""
    text = backend.normalizer.normalize_str(text) if backend.normalizer else text
    return [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(text)] if backend.pre_tokenizer else [text]


def _model_type(folder: Path) -> str:
    try:
        return str(json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type"))
    except (OSError, ValueError):
        return "this folder"


def _to_json(tree: Mapping[str, Any]) -> str:
    return json.dumps(tree, indent=2, ensure_ascii=False, sort_keys=True) + "\n"
