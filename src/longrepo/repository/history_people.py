"""The names and e-mail addresses that a history holds."""

from __future__ import annotations

from longrepo.repository.git import ObjectReader
from longrepo.repository.git_changes import decode_words


def read_people(reader: ObjectReader, tip: str) -> tuple[tuple[str, str], ...]:
    """The sorted distinct (name, e-mail address) of authors and committers of every commit that `tip` reaches."""
    found = set[tuple[bytes, bytes, bytes]]()
    for field in reader.fields("log", "-z", "--encoding=UTF-8", "--format=%e%n%an%n%ae%n%cn%n%ce", tip, "--"):
        encoding, *words = field.split(b"\n")
        found |= {(encoding, words[0], words[1]), (encoding, words[2], words[3])}
    return tuple(
        sorted({(decode_words(name, encoding), decode_words(email, encoding)) for encoding, name, email in found})
    )
