"""What a commit changed in a file, as the rows of a unified diff."""

from __future__ import annotations

from difflib import SequenceMatcher

CONTEXT_ROWS = 3
_MATCHED_CELLS = 4_000_000  # SequenceMatcher is quadratic: beyond this the changed middle is one replacement


def hunk_rows(before: str, after: str) -> list[str]:
    """Rows beginning with "@@", " ", "-" or "+", without line breaks; empty where nothing changed."""
    old, new = before.split("\n"), after.split("\n")
    head = 0
    while head < min(len(old), len(new)) and old[head] == new[head]:
        head += 1
    tail = 0
    while tail < min(len(old), len(new)) - head and old[-1 - tail] == new[-1 - tail]:
        tail += 1
    # Only the middle is compared, with enough of what is equal around it to show as context.
    first, last = max(0, head - CONTEXT_ROWS), max(0, tail - CONTEXT_ROWS)
    left, right = old[first : len(old) - last], new[first : len(new) - last]
    if len(left) * len(right) > _MATCHED_CELLS:
        groups = [[("replace", 0, len(left), 0, len(right))]]
    else:
        groups = list(SequenceMatcher(None, left, right, autojunk=False).get_grouped_opcodes(CONTEXT_ROWS))
    rows: list[str] = []
    for group in groups:
        old_from, old_to, new_from, new_to = group[0][1], group[-1][2], group[0][3], group[-1][4]
        rows.append(f"@@ -{first + old_from + 1},{old_to - old_from} +{first + new_from + 1},{new_to - new_from} @@")
        for tag, i1, i2, j1, j2 in group:
            if tag == "equal":
                rows.extend(" " + row for row in left[i1:i2])
                continue
            rows.extend("-" + row for row in left[i1:i2])
            rows.extend("+" + row for row in right[j1:j2])
    return rows if before != after else []


def added_rows(before: str, after: str) -> list[tuple[int, int]]:
    """Runs of rows of `after` (0-based, end excluded) that `before` doesn't have there."""
    runs: list[tuple[int, int]] = []
    row = 0
    for line in hunk_rows(before, after):
        if line.startswith("@@"):
            row = int(line.split("+")[1].split(",")[0]) - 1
        elif line.startswith("+"):
            if runs and runs[-1][1] == row:
                runs[-1] = (runs[-1][0], row + 1)
            else:
                runs.append((row, row + 1))
            row += 1
        elif line.startswith(" "):
            row += 1
    return runs
