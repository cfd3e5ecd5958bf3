"""How fast the tokenizer alone encodes the text of prepared sequences.

    python benchmarks/data/tokenizer_rate.py SEQUENCES

The text of every sequence, structure tokens spelled out, goes through `encode_batch_fast` of the tokenizers library,
1,000 at once; only that is timed. RAYON_NUM_THREADS=1 keeps it to one core. Prints one line of JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from tokenizers import AddedToken, Tokenizer

from longrepo import embedded
from longrepo.data.dataset import read_sequences
from longrepo.data.metadata import tokenizer_of

AT_ONCE = 1000


def main() -> None:
    file = read_sequences(Path(sys.argv[1]))
    reader = tokenizer_of(file.header)
    alone = Tokenizer.from_file(str(embedded.path() / "tokenizer.json"))
    alone.add_special_tokens([AddedToken(name, special=True) for name in file.header.tokenizer.structure_tokens])
    seconds, emitted, encoded = 0.0, 0, 0
    for first in range(0, len(file), AT_ONCE):
        ids = [file.tokens(index) for index in range(first, min(first + AT_ONCE, len(file)))]
        texts = [reader.decode(one.tolist()) for one in ids]
        began = time.perf_counter()
        found = alone.encode_batch_fast(texts, add_special_tokens=False)
        seconds += time.perf_counter() - began
        emitted += sum(map(len, ids))
        encoded += sum(map(len, found))
    print(json.dumps({"emitted": emitted, "encoded": encoded, "seconds": seconds}))


if __name__ == "__main__":
    main()
