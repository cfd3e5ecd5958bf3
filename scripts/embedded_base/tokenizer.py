"""Train the byte-level BPE with StarCoder2's reserved tokens, and encode the documents.

    python tokenizer.py train WORK     writes WORK/tokenizer/
    python tokenizer.py encode WORK    writes WORK/tokens.npy and WORK/index.json

As in StarCoder2 every digit is a token of its own and the reserved tokens have the ids from 0 in
the same order; 4,096 entries instead of 49,152, because an embedding row is trained by the tokens
it meets.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from sources import digest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

VOCABULARY = 4096
RESERVED = [
    "<|endoftext|>",
    "<fim_prefix>",
    "<fim_middle>",
    "<fim_suffix>",
    "<fim_pad>",
    "<repo_name>",
    "<file_sep>",
    "<issue_start>",
    "<issue_comment>",
    "<issue_closed>",
    "<jupyter_start>",
    "<jupyter_text>",
    "<jupyter_code>",
    "<jupyter_output>",
    "<jupyter_script>",
    "<empty_output>",
    "<code_to_intermediate>",
    "<intermediate_to_code>",
    "<pr>",
    "<pr_status>",
    "<pr_is_merged>",
    "<pr_base>",
    "<pr_file>",
    "<pr_base_code>",
    "<pr_diff>",
    "<pr_diff_hunk>",
    "<pr_comment>",
    "<pr_event_id>",
    "<pr_review>",
    "<pr_review_state>",
    "<pr_review_comment>",
    "<pr_in_reply_to_review_id>",
    "<pr_in_reply_to_comment_id>",
    "<pr_diff_hunk_comment_line>",
    "<NAME>",
    "<EMAIL>",
    "<KEY>",
    "<PASSWORD>",
]
SAMPLE = 2_500_000  # characters a language that the merges are learned from
END, FIM_PREFIX, FIM_MIDDLE, FIM_SUFFIX, REPO_NAME, FILE_SEP = 0, 1, 2, 3, 5, 6
PR, PR_BASE, PR_FILE, PR_BASE_CODE, PR_DIFF, PR_DIFF_HUNK = 18, 21, 22, 23, 24, 25


def read(work: Path) -> list[dict]:
    """All documents."""
    with open(work / "documents.jsonl") as opened:
        return [json.loads(line) for line in opened]


def sample(rows: list[dict]) -> Iterator[str]:
    """Training documents, at most SAMPLE characters a language."""
    taken: dict[str, int] = {}
    for row in sorted(rows, key=lambda row: digest(row["repository"] + row["path"])):
        if row["split"] == "train" and taken.get(row["language"], 0) < SAMPLE:
            taken[row["language"]] = taken.get(row["language"], 0) + len(row["text"])
            yield row["path"] + "\n" + row["text"]


def train(work: Path) -> None:
    """Learn the merges and save a folder AutoTokenizer loads."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=RESERVED,
        max_token_length=16,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sample(read(work)), trainer)
    end = RESERVED[END]
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=end,
        eos_token=end,
        pad_token=end,
        unk_token=end,
        additional_special_tokens=RESERVED[1:],
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(work / "tokenizer")


def encode(work: Path) -> None:
    """Token ids of `path\\ntext` of every document end to end (uint16), with an index beside them."""
    tokenizer = Tokenizer.from_file(str(work / "tokenizer" / "tokenizer.json"))
    tokenizer.encode_special_tokens = True  # a reserved token spelled out in a file is plain text
    rows, parts, start = read(work), [], 0
    for at in range(0, len(rows), 512):
        block = rows[at : at + 512]
        encodings = tokenizer.encode_batch([row["path"] + "\n" + row["text"] for row in block])
        for row, encoding in zip(block, encodings, strict=True):
            parts.append(np.array(encoding.ids, dtype=np.uint16))
            row["start"], row["length"] = start, len(encoding.ids)
            start += len(encoding.ids)
            row["characters"] = len(row.pop("text"))
    np.save(work / "tokens.npy", np.concatenate(parts))
    (work / "index.json").write_text(json.dumps(rows))
    characters = sum(row["characters"] for row in rows)
    print(f"{len(rows)} documents, {start / 1e6:.1f} M tokens, {characters / start:.2f} characters a token")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["train", "encode"])
    parser.add_argument("work", type=Path)
    options = parser.parse_args()
    {"train": train, "encode": encode}[options.action](options.work)


if __name__ == "__main__":
    main()
