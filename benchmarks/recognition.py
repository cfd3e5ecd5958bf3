"""How often `serve --repo` recognizes the file that an editor asks about without a name, by its lines alone.

    python benchmarks/recognition.py CLONE [CLONE …]

Windows of 1,500 characters of files at HEAD, as they are and with a third of their lines new; and the beginnings (8 to
40 lines) of files that are taken out of the tree first, which should not be recognized as another file.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

from longrepo.config.loader import load_settings
from longrepo.data.tokenizer_loading import load_tokenizer
from longrepo.serve.working_tree import WorkingTree

WINDOWS, BEGINNINGS, MIN_CHARACTERS = 400, 300, 400


def outcome(tree: WorkingTree, text: str, path: str) -> str:
    """`right`, `none` or `wrong`; a file with the same content is right too."""
    found = tree.path_of(text)
    if found is None:
        return "none"
    texts = tree.tree.texts
    return "right" if path in texts and texts[found].text == texts[path].text else "wrong"


def with_new_lines(text: str, draw: random.Random) -> str:
    """Replace about a third of the lines."""
    lines = text.split("\n")
    new = (f"    value_{draw.randrange(10**6)} = compute_{draw.randrange(10**6)}(x)" for _ in lines)
    return "\n".join(fresh if draw.random() < 1 / 3 else line for line, fresh in zip(lines, new, strict=True))


def measure(tree: WorkingTree, draw: random.Random) -> dict[str, Counter[str]]:
    """Outcomes by kind of text."""
    counts = {kind: Counter[str]() for kind in ("window", "a third of its lines new", "beginning of a new file")}
    texts = tree.tree.texts
    paths = sorted(path for path, file in texts.items() if len(file.text) > MIN_CHARACTERS)
    for _ in range(WINDOWS):
        path = draw.choice(paths)
        at = draw.randrange(len(texts[path].text))
        window = texts[path].text[max(0, at - 800) : at + 700]
        counts["window"][outcome(tree, window, path)] += 1
        counts["a third of its lines new"][outcome(tree, with_new_lines(window, draw), path)] += 1
    for _ in range(BEGINNINGS):
        path = draw.choice(paths)
        others = {other: file for other, file in texts.items() if file.text != texts[path].text}
        beginning = "\n".join(texts[path].text.split("\n")[: draw.choice([8, 15, 25, 40])])
        without = WorkingTree(tree.folder, replace(tree.tree, texts=others))
        counts["beginning of a new file"][outcome(without, beginning, path)] += 1
    return counts


def main() -> None:
    tokenizer, settings = load_tokenizer("embedded"), load_settings(None, [])
    for clone in sys.argv[1:]:
        tree = WorkingTree.read(Path(clone), tokenizer, settings)
        print(f"{clone}: {len(tree.tree.texts)} files")
        for kind, outcomes in measure(tree, random.Random(5)).items():
            print(f"  {kind}: " + ", ".join(f"{outcomes[one]} {one}" for one in ("right", "none", "wrong")))


if __name__ == "__main__":
    main()
