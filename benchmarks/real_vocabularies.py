"""Read published tokenizers: their dialect, and whether real code survives being tokenized, cut and decoded.

    python benchmarks/real_vocabularies.py TOKENIZER… --code FOLDER [--files 200]

TOKENIZERs are folders with a tokenizer.json, or GGUF files, of which only the tokens' names are read. Each file of
the folder is decoded whole and from the beginning of every line; prints how many come back as they were, and the files
in which a special token was read from the text. Exit status 1 if any wasn't the same.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from longrepo.data.dialects import Dialect, find_dialect
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.data.tokenizer_loading import load_tokenizer

SPACE_OF_SENTENCEPIECE = "\N{LOWER ONE EIGHTH BLOCK}"  # which these tokenizers can't tell from a space


def describe(dialect: Dialect) -> str:
    """Return a dialect's name and tokens in a line."""
    fim = " ".join(dialect.fim.marks) if dialect.fim else "no fill-in-the-middle"
    return f"{dialect.name}: {fim}; repository {dialect.repository}, file {dialect.file}"


def wrong_texts(tokenizer: RepoTokenizer, texts: list[str]) -> tuple[int, int]:
    """Return how many texts don't come back, whole or from a line on, and how many hold a special token."""
    wrong = special = 0
    for text, (ids, starts) in zip(texts, tokenizer.encode_many(texts), strict=True):
        lines = [at for at, start in enumerate(starts.tolist()) if start == 0 or text[start - 1] == "\n"]
        wrong += any(tokenizer.decode(ids[at:].tolist()) != text[starts[at] :] for at in lines[:: len(lines) // 20 + 1])
        special += bool(tokenizer.special_ids & set(ids.tolist()))
    return wrong, special


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizers", nargs="+", type=Path)
    parser.add_argument("--code", type=Path, required=True)
    parser.add_argument("--files", type=int, default=200)
    options = parser.parse_args()
    texts = [file.read_text("utf-8") for file in sorted(options.code.rglob("*.py"))[: options.files]]
    texts = [text for text in texts if SPACE_OF_SENTENCEPIECE not in text]
    texts.append('x = "<|fim_prefix|> <fim_suffix> <|file_sep|> [PREFIX] <s> </s> <bos>"\n')
    failed = 0
    for path in options.tokenizers:
        if path.suffix == ".gguf":
            from gguf import GGUFReader

            field = GGUFReader(path).fields["tokenizer.ggml.tokens"]
            print(f"{path.name}: {describe(find_dialect({bytes(field.parts[at]).decode() for at in field.data}))}")
            continue
        tokenizer = load_tokenizer(str(path))
        wrong, special = wrong_texts(tokenizer, texts)
        begin = None if tokenizer.begin_id is None else tokenizer.decode([tokenizer.begin_id])
        print(f"{path}: {describe(tokenizer.dialect)}; begins with {begin}; marks {tokenizer.marks}")
        print(f"  {len(texts)} texts: {wrong} differ, {special} hold a special token")
        failed += wrong + special
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
