"""Structure tokens: what marks files, commits and snippets, and which known token each one starts from.

StarCoder2 spells each of these in 7-8 tokens of plain text, so they join the vocabulary as special tokens. A new
row of the embedding begins as the row of the nearest token the base model knows and is trained with the adapter.
"""

from __future__ import annotations

END = "<|endoftext|>"
FILE_START, FILE_END = "<|FILE_START|>", "<|FILE_END|>"
COMMIT_START, COMMIT_END = "<|COMMIT_START|>", "<|COMMIT_END|>"
SNIPPETS = tuple(f"<|SNIPPET_{n}|>" for n in range(16))
STRUCTURE_TOKENS = (FILE_START, FILE_END, COMMIT_START, COMMIT_END, *SNIPPETS)

# What redacted text becomes; StarCoder2's tokenizer has a token for each, for others they are text.
PLACEHOLDERS = ("<NAME>", "<EMAIL>", "<KEY>", "<PASSWORD>")

FIM_PREFIX, FIM_MIDDLE, FIM_SUFFIX = "<fim_prefix>", "<fim_middle>", "<fim_suffix>"

# The first of these that the base tokenizer has; a tokenizer with none of them falls back to its end token.
NEAREST: dict[str, tuple[str, ...]] = {
    FILE_START: ("<file_sep>",),
    FILE_END: (END,),
    COMMIT_START: ("<pr_base>", "<commit_before>", "<file_sep>"),
    COMMIT_END: (END,),
    **dict.fromkeys(SNIPPETS, ("<pr_diff_hunk>", "<file_sep>")),
}
