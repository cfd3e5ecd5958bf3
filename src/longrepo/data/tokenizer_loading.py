"""Load a base's tokenizer: of a folder, a GGUF file, the hub or another library, and what its files record."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from longrepo.data.marks import FILE_START, MarksKind
from longrepo.data.tokenizer import BEGIN_KEY, MARKS_KEY, RepoTokenizer
from longrepo.data.tokenizer_files import TOKENIZER_CONFIG
from longrepo.errors import InputError
from longrepo.utils.hub import check_not_misspelled, local_folder
from longrepo.utils.hub_access import check_on_hub

if TYPE_CHECKING:
    from longrepo.config.schema import FimSetting, Settings, StructureTokens


def load_tokenizer(
    name: str, revision: str | None = None, structure_tokens: StructureTokens = "auto", fim: FimSetting = "auto"
) -> RepoTokenizer:
    """Load the tokenizer of "embedded", of a model's folder or GGUF file, or of a model on the Hugging Face hub.

    It is read from `tokenizer.json` itself, without importing transformers. Raises InputError if that fails: no such
    folder or model, offline and not yet downloaded, not a tokenizer.
    """
    from tokenizers import Tokenizer

    if (files := _local_files(name)) is None:
        check_on_hub(name, revision, "tokenizer.json")
        files = _from_hub(name, revision)
    file, config = files
    try:
        backend = Tokenizer.from_file(str(file))
        tree = json.loads(config.read_text("utf-8")) if config else {}
    except Exception as error:  # the Rust library raises Exception itself
        raise InputError(f"--model {name}: {file} can't be read as a tokenizer ({_first_line(error)})") from None
    return RepoTokenizer(backend, name, structure_tokens, tree, file.parent, fim)


def base_tokenizer(settings: Settings) -> RepoTokenizer:
    """Load the tokenizer of the settings' model, with the tokens that they add. Raises InputError as
    `load_tokenizer`."""
    model, data = settings.model, settings.data
    return load_tokenizer(model.name, model.revision, data.structure_tokens, data.fim)


def marks_of_base(settings: Settings) -> MarksKind:
    """Return the kind of marks that the settings come to; `added`, which takes more, if only the base's tokenizer could
    tell and there is none."""
    model, asked = settings.model, settings.data.structure_tokens
    if asked != "auto":
        return asked
    try:
        return load_tokenizer(model.name, model.revision).kind
    except InputError:
        return "added"


def with_marks(settings: Settings, tokenizer: RepoTokenizer) -> Settings:
    """Return the settings with what `data.structure_tokens` and `data.fim` came to."""
    chosen = {"structure_tokens": tokenizer.kind, "fim": "add" if tokenizer.fim_added else "auto"}
    return settings.model_copy(update={"data": settings.data.model_copy(update=chosen)})


def new_token_rows(tokenizer: RepoTokenizer, base: str, revision: str | None) -> dict[int, int]:
    """Return `initial_from` of the added tokens that the base's own tokenizer lacks.

    A base that has them was trained with them, and keeps their rows. A base without a tokenizer lacks all."""
    try:
        known = load_tokenizer(base, revision, "none")
    except InputError:
        return tokenizer.initial_from
    return {new: source for new, source in tokenizer.initial_from.items() if not known.has(new)}


def as_repo_tokenizer(
    tokenizer: Any, structure_tokens: StructureTokens = "added", fim: FimSetting = "auto"
) -> RepoTokenizer:
    """Return a RepoTokenizer as it is, or wrap a transformers tokenizer; added tokens are added to it.

    Raises InputError if it isn't a fast one.
    """
    if isinstance(tokenizer, RepoTokenizer):
        return tokenizer
    name = str(getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__)
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise InputError(f"{name}: its tokenizer has no tokenizer.json (a fast one); use a model that has")
    config = {f"{part}_token": getattr(tokenizer, f"{part}_token", None) for part in ("bos", "eos", "unk", "pad")}
    named = {key: str(token) for key, token in config.items() if token}
    wrapped = RepoTokenizer(tokenizer.backend_tokenizer, name, structure_tokens, named, None, fim)
    if wrapped.structure_ids:
        added: dict[str, Any] = {"additional_special_tokens": list(wrapped.structure_ids)}
        tokenizer.add_special_tokens(added, replace_extra_special_tokens=False)
    for token, id in wrapped.structure_ids.items():
        if tokenizer.convert_tokens_to_ids(token) != id:
            raise ValueError(f"{name}: transformers gives {token} another id than its tokenizer.json ({id})")
    return wrapped


def _local_files(name: str) -> tuple[Path, Path | None] | None:
    """Return `tokenizer.json` and the configuration beside it if `name` is a folder on this machine, else None."""
    own = local_folder(name)
    folder = own or Path(name).expanduser()
    check_not_misspelled(name)
    if own is None and not (name.startswith((".", "~", "/")) or folder.exists()):
        return None
    if not (folder / "tokenizer.json").is_file():
        missing = "holds no tokenizer.json" if folder.is_dir() else "no such folder"
        raise InputError(f"--model {name}: {missing}; give a model folder, a hub name, or `embedded`")
    config = folder / "tokenizer_config.json"
    return folder / "tokenizer.json", config if config.is_file() else None


def _from_hub(name: str, revision: str | None) -> tuple[Path, Path]:
    from huggingface_hub import hf_hub_download

    try:
        file, config = (
            Path(hf_hub_download(name, one, revision=revision)) for one in ("tokenizer.json", "tokenizer_config.json")
        )
    except Exception as error:  # the hub raises a dozen classes; they mean the same to the user
        raise InputError(
            f"--model {name}: its tokenizer can't be loaded ({_first_line(error)}); connect once to download it, "
            "give a local model folder, or use `--model embedded`"
        ) from None
    return file, config


def _first_line(error: Exception) -> str:
    return textwrap.shorten((str(error).strip().splitlines() or [type(error).__name__])[0], 160, placeholder=" …")


def recorded_marks(folder: Path) -> MarksKind | None:
    """Return the kind of marks that the tokenizer's files in a folder record; None if they record none."""
    recorded = _recorded(folder).get(MARKS_KEY)
    return cast(MarksKind, recorded) if recorded in get_args(MarksKind) else None


def trained_with_begin(folder: Path) -> bool:
    """Return whether what was trained with the tokenizer's files in a folder began with its begin token: as they record
    it, and if they record nothing, unless they are longrepo's, which then wrote none."""
    config = _recorded(folder)
    if BEGIN_KEY in config:
        return bool(config[BEGIN_KEY])
    listed = (*config.get("additional_special_tokens", ()), *config.get("extra_special_tokens", ()))
    return FILE_START not in listed


def _recorded(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / TOKENIZER_CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}
