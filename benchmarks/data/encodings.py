"""Text in older encodings: how much of it is read, left out as unsure, and read wrongly (aim: 1 in 100 at most).

python benchmarks/data/encodings.py --prose progit --code click [--code gson]

PROSE is a clone of progit/progit, a book in many languages. Its chapters, and code of the other clones with one to
fifteen of its sentences as comments, are encoded in the encodings that the language was written in before UTF-8.
"""

from __future__ import annotations

import argparse
import random
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from longrepo.repository.encodings import decode_text
from longrepo.repository.repository import Repository

ENCODINGS = {
    "zh": ("gbk",),
    "zh-tw": ("big5",),
    "ja": ("cp932", "euc_jp"),
    "ko": ("cp949",),
    "ru": ("cp1251", "koi8_r"),
    "uk": ("cp1251", "koi8_u"),
    "be": ("cp1251",),
    "de": ("latin-1", "cp1252"),
    "fr": ("latin-1", "cp1252"),
    "es": ("cp1252",),
    "it": ("cp1252",),
    "pl": ("cp1250", "iso8859_2"),
    "cs": ("cp1250", "iso8859_2"),
    "hu": ("cp1250",),
    "tr": ("cp1254",),
    "pt-br": ("latin-1",),
    "nl": ("latin-1",),
    "no-nb": ("latin-1",),
    "ro": ("cp1250",),
}
FILES_OF_CODE, CHAPTERS = 40, 8  # of each language and encoding
MARKS = {"Python": "#"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prose", type=Path, required=True)
    parser.add_argument("--code", type=Path, action="append", required=True)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    code = [one for folder in given.code for one in ascii_code(folder)]
    chance = random.Random(given.seed)
    table = Table("language", "encoding", "files", "right", "left out", "wrong")
    total = Counter[str]()
    for language, encodings in ENCODINGS.items():
        chapters = list(read_chapters(given.prose, language))
        for encoding in encodings:
            counts = Counter(judge(text, encoding) for text in files(chapters, encoding, code, chance))
            del counts["the same in UTF-8"]
            total += counts
            table.add_row(
                language,
                encoding,
                str(counts.total()),
                *map(str, (counts["right"], counts["left out"], counts["wrong"])),
            )
    table.add_row("together", "", str(total.total()), *map(str, (total["right"], total["left out"], total["wrong"])))
    Console().print(table)


def ascii_code(folder: Path) -> Iterator[tuple[str, str]]:
    """(mark of a comment, text) of files in ASCII of a fair size."""
    with Repository.open(folder) as repository:
        for file in repository.snapshot(repository.resolve()).files:
            if (
                file.text.isascii()
                and 500 < len(file.text) < 20_000
                and file.language in ("Python", "Java", "JavaScript", "C")
            ):
                yield MARKS.get(file.language, "//"), file.text


def read_chapters(folder: Path, language: str) -> Iterator[str]:
    """The book's chapters in a language."""
    names = git(folder, "ls-tree", "-r", "--name-only", "HEAD", f"{language}/").decode().split("\n")
    for name in names:
        if name.endswith((".markdown", ".md")):
            yield git(folder, "show", f"HEAD:{name}").decode("utf-8", "replace")


def git(folder: Path, *arguments: str) -> bytes:
    return subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, check=True).stdout


def files(chapters: list[str], encoding: str, code: list[tuple[str, str]], chance: random.Random) -> Iterator[str]:
    """Code with a few comments in the language, and whole chapters."""
    lines = [line.strip() for text in chapters for line in text.split("\n") if not line.startswith(("    ", "\t", "#"))]
    sentences = [
        one for line in lines for one in re.split(r"(?<=[。.!?])\s*", line) if len(one) > 5 and not one.isascii()
    ]
    usable = [one for one in sentences if can_encode(one, encoding)]
    for _ in range(FILES_OF_CODE):
        mark, text = chance.choice(code)
        rows = text.split("\n")
        for _ in range(chance.choice((1, 2, 3, 5, 8, 15))):
            rows.insert(
                chance.randrange(len(rows)), f"{mark} {chance.choice(usable)[: chance.choice((12, 25, 60, 90))]}"
            )
        yield "\n".join(rows)
    for text in chapters[:CHAPTERS]:
        yield text.encode(encoding, "ignore").decode(encoding)


def can_encode(text: str, encoding: str) -> bool:
    try:
        return bool(text.encode(encoding))
    except UnicodeEncodeError:
        return False


def judge(text: str, encoding: str) -> str:
    raw = text.encode(encoding)
    if raw == text.encode("utf-8"):
        return "the same in UTF-8"
    read = decode_text(raw)
    return "left out" if read is None else "right" if read == text else "wrong"


if __name__ == "__main__":
    main()
