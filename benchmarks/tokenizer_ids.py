"""Compare the token ids of every reader of a written tokenizer on real code, for tokenizers by published rules.

    python benchmarks/tokenizer_ids.py FOLDER… [--bytes 1000000] [--vocabulary 8000] [--only NAME]

FOLDERs hold source code; files are taken language by language, up to --bytes in all. Each tokenizer is trained on a
tenth of them, written as an adapter's folder and as a model's, and read by tokenizers, transformers and mlx-lm. Prints
files with other ids: in the published folder, as transformers reads it, and in the written ones. Exit status 1 if the
written ones have any.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "data"))

from dialects import DIALECTS, write_dialect
from mlx_lm.tokenizer_utils import load as load_for_mlx
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from longrepo.data.tokenizer import RepoTokenizer
from longrepo.data.tokenizer_loading import load_tokenizer

SUFFIXES = (".py", ".js", ".ts", ".go", ".rs", ".c", ".h", ".cpp", ".java", ".rb", ".sql", ".yml", ".sh", ".pl", ".css")


def read_code(folders: list[Path], most: int) -> list[str]:
    """Return texts, in turns of the suffixes, at most `most` bytes in all."""
    files: dict[str, list[Path]] = defaultdict(list)
    for folder in folders:
        for file in sorted(folder.rglob("*")):
            if file.suffix in SUFFIXES and file.is_file() and 200 < file.stat().st_size < 30_000:
                files[file.suffix].append(file)
    texts: list[str] = []
    size = 0
    while any(files.values()) and size < most:
        for suffix in SUFFIXES:
            if files[suffix]:
                texts.append(files[suffix].pop(0).read_text(encoding="utf-8", errors="ignore"))
                size += len(texts[-1].encode())
    print(f"{len(texts)} files, {size:,} bytes, {len({*files})} kinds of files")
    return texts


def other_ids(reader: Any, trained: list[list[int]], texts: list[str]) -> int:
    """Count the texts to which a reader gives other ids than training does."""
    return sum(reader.encode(text, add_special_tokens=False) != ids for text, ids in zip(texts, trained, strict=True))


class FileReader:
    """The tokenizers library, with transformers' call."""

    def __init__(self, folder: Path) -> None:
        self.file = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        ids: list[int] = self.file.encode(text, add_special_tokens=add_special_tokens).ids
        return ids


def check(name: str, texts: list[str], vocabulary: int, scratch: Path) -> int:
    """Print one tokenizer's row; return how many files have other ids in what was written."""
    base = scratch / "base"
    write_dialect(base, name, texts[::10], vocabulary)
    tokenizer: RepoTokenizer = load_tokenizer(str(base))
    trained = [tokenizer.encode(text) for text in texts]
    published = other_ids(AutoTokenizer.from_pretrained(base), trained, texts)
    wrong = 0
    for kind in ("adapter", "model"):
        folder = scratch / kind
        folder.mkdir()
        if kind == "model":
            shutil.copy(base / "config.json", folder)
        tokenizer.write(folder)
        readers = (FileReader(folder), AutoTokenizer.from_pretrained(folder), load_for_mlx(folder))
        wrong += sum(other_ids(reader, trained, texts) for reader in readers)
    print(f"{name:28} published: {published:4} of {len(texts)} files with other ids; written: {wrong}", flush=True)
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--bytes", type=int, default=1_000_000)
    parser.add_argument("--vocabulary", type=int, default=8000)
    parser.add_argument("--only", choices=[*DIALECTS], action="append")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    texts, wrong = read_code(given.folders, given.bytes), 0
    for name in given.only or DIALECTS:
        with tempfile.TemporaryDirectory() as scratch:
            wrong += check(name, texts, given.vocabulary, Path(scratch))
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
