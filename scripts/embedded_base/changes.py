"""Text that looks like a repository's changes, in StarCoder2's pull-request form, made from plain files.

Two kinds: an identifier renamed, and a block of lines added. They teach the form (title, base file,
hunk) and that a hunk repeats the base; what people really change, and why, they cannot teach.
"""

from __future__ import annotations

import difflib
import random

from identifiers import KEYWORDS, WORD, Identifiers
from tokenizer import END, PR, PR_BASE, PR_BASE_CODE, PR_DIFF, PR_DIFF_HUNK, PR_FILE, REPO_NAME
from tokenizers import Tokenizer


def hunks(before: list[str], after: list[str]) -> list[str]:
    """The unified diff's hunks, each beginning with its `@@` line."""
    out: list[str] = []
    for line in list(difflib.unified_diff(before, after, n=2, lineterm=""))[2:]:
        if line.startswith("@@"):
            out.append(line)
        else:
            out[-1] += "\n" + line
    return out


def change(
    tokenizer: Tokenizer, identifiers: Identifiers, draw: random.Random, row: dict, tokens: list[int], length: int
) -> list[int] | None:
    """A change of the file's beginning in at most `length` tokens, or None where none fits."""
    text = tokenizer.decode(tokens[: length // 2])
    path, _, code = text.partition("\n")
    before = code.split("\n")[:-1]
    if len(before) < 12:
        return None
    if draw.random() < 0.5:
        words = [word for word in set(WORD.findall(code)) - KEYWORDS if 2 <= code.count(word) <= 12]
        if not words:
            return None
        old, new = draw.choice(sorted(words)), identifiers.name(draw)
        after = [WORD.sub(lambda found: new if found.group() == old else found.group(), line) for line in before]
        title = draw.choice(("Rename {0} to {1}", "{2}: rename {0} to {1}", "refactor: {0} is now {1}"))
        title = title.format(old, new, path.rsplit("/", 1)[-1])
    else:
        at, size = draw.randint(4, len(before) - 6), draw.randint(1, 6)
        after = before
        before = before[:at] + before[at + size :]
        words = sorted(set(WORD.findall("\n".join(after[at : at + size]))) - KEYWORDS)
        title = "Add " + (draw.choice(words) if words else "lines") + " to " + path.rsplit("/", 1)[-1]

    def encode(piece: str) -> list[int]:
        return tokenizer.encode(piece).ids

    out = [
        PR,
        *encode(f"Title: {title}\n"),
        REPO_NAME,
        *encode(row["repository"] + "\n"),
        PR_BASE,
        PR_FILE,
        *encode(path + "\n"),
        PR_BASE_CODE,
        *encode("\n".join(before) + "\n"),
        PR_DIFF,
        PR_FILE,
        *encode(path + "\n"),
    ]
    for hunk in hunks(before, after):
        out += [PR_DIFF_HUNK, *encode(hunk + "\n")]
    return [*out, END] if len(out) < length else None
