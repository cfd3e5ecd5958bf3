"""Tells a secret's value from an identifier, a placeholder or prose by its characters alone."""

from __future__ import annotations

import re
from functools import lru_cache

# The 130 commonest letter pairs of English: about 80 % of a word's pairs, 19 % of random letters'.
_COMMON_PAIRS = (
    "th he in er an re on at en nd ti es or te of ed is it al ar st to nt ng se ha as ou io le ve co me de hi ri ro ic "
    "ne ea ra ce li ch ll be ma si om ur ca el ta la ns di fo ho pe ec pr no ct us ac ot il tr ly nc et ut ss so rs un "
    "lo wa ge ie wh ee wi em ad ol rt po we na ul ni ts mo ow pa im mi ai sh ir su id os iv ia am fi ci vi pl ig tu ev "
    "ld ry mp fe bl ab gh ty op sa ay ex ke fr oo av ag ap gr od bo sp rd do uc ei ov by"
)
_PAIRS = frozenset(_COMMON_PAIRS.split())
_CHUNK = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+|[^A-Za-z0-9]+")
_PLACEHOLDER_WORDS = (
    "abc access account admin aladdin alice and any api app are auth bar basic baz bearer blah bob bogus change "
    "changeme client correct credential credentials custom default demo dev dummy empty enter env example fake false "
    "foo foobar for from generated guest has have here hidden insert invalid jwt key keys letmein login missing mock "
    "mypassword mysecret mysecretpassword name new none not null old open pass passphrase passw passwd password "
    "passwords placeholder please private public put pwd random real redacted refresh replace root sample secret "
    "secretkey secrets sesame session set sha site some somepassword something state store string super supersecret "
    "supersecretpassword test testing testpass testpassword that the this todo token tokens too true undefined unused "
    "user username valid value was webhook will with wrong xxx xyz you your"
)
_WORDS = frozenset(_PLACEHOLDER_WORDS.split())
_PLACEHOLDER_SHARE = 0.7  # of a placeholder's letters are such words: `hunter2supersecret` is none
_MOST_OTHER_LETTERS = 5
_ANY_WORD = re.compile("|".join(sorted((word for word in _WORDS if len(word) > 3), key=len, reverse=True)))
_SENTENCE_WORDS = (
    "all and any are but can enter field for from has have must new not old password please secret should that the "
    "then this token use used user value was when which will with you your"
)
_SENTENCE = frozenset(_SENTENCE_WORDS.split())
_PLACEHOLDER_MARKS = re.compile(
    r"xxxx|\*\*\*|\.\.\.|…|0123456|1234567890|abcdefgh"
    r"|\$\{|\$\(|\{\{|\}\}|%\(|\{\w*\}|<[\w $/-]*>|(?<!\w)%[sdrv](?!\w)"
    r"|#\{|\\[wdsbWDSB]|\(\?|\[\^|<%|^\$[A-Za-z_]+$|^%\w+%$|^%[a-z_]{4}|%\.\*s|^!\w+$|/\d{8}/"
    r"|ENC\[|^@\w+@$|\[[\w-]+[*^$|~]?=|\w:@$|^[\w.]+\?[a-z]+$|^\$\$\w+|(?-i:EXAMPLE(?:KEY)?$)",
    re.IGNORECASE,
)
_PLAIN_VALUE = re.compile(
    r"v?\d+(?:[.,:/-]\d+)*[a-z%]{0,3}"  # versions, numbers, dates, times, sizes
    r"|0x[0-9a-f]+"
    r"|\W*[a-z_$][\w$]*(?:(?:\.|->|::)[a-z_$][\w$]*)*(?:\.|->|::)(?:[a-z_$][\w$]*)?[a-z_$](?:\(.*)?"  # a.b->c(d)
    r"|(?:\.{0,2}|~|[a-z]:)?[/\\][\w./\\@-]*[a-z]{3}[\w./\\@-]*"  # paths
    r"|\w[\w.-]*(?:/[\w.-]*[a-z_]{3}[\w.-]*){1,}"  # more paths
    r"|[a-z][a-z0-9+.-]*:(?://.*)?"  # addresses
    r"|[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[a-z]{2,}|@[\w.-]+/[\w.-]+",
    re.IGNORECASE,
)
_CONSTANT = re.compile(r"[A-Z]+(?:_[A-Z0-9]+)+")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_TELLING_CHARACTERS = 256  # only this many characters of a longer value are looked at
_STRONG_SYMBOLS = frozenset("!@#$%^&*?~+=")


def is_placeholder(value: str) -> bool:
    """Return whether a value is a placeholder: `changeme`, `<your-token>`, `${TOKEN}`, `xxxx`, `test_password`."""
    if _PLACEHOLDER_MARKS.search(value) or len(set(value)) < min(5, len(value)):
        return True
    chunks = _CHUNK.findall(value)
    letters = sum(len(chunk) for chunk in chunks if chunk.isalpha())
    known = sum(_covered(chunk.lower()) for chunk in chunks if chunk.isalpha())
    return letters == 0 or (known >= max(3, _PLACEHOLDER_SHARE * letters) and letters - known <= _MOST_OTHER_LETTERS)


@lru_cache(maxsize=20_000)
def _covered(letters: str) -> int:
    """Return how many of a run of letters are words of placeholders."""
    if letters in _WORDS:
        return len(letters)
    return sum(len(match[0]) for match in _ANY_WORD.finditer(letters))


def is_random(value: str) -> bool:
    """Return whether letters and digits follow each other at random, not in words and numbers."""
    chunks = _CHUNK.findall(value)
    parts = [chunk for chunk in chunks if chunk[0].isalnum()]
    kinds = {_character_kind(chunk) for chunk in chunks} - {"separator"}
    if len(kinds) < 2:
        return len(value) >= 12 and kinds == {"lower"} and not any(map(_is_word, parts))
    numbers = [len(part) for part in parts if part.isdigit()]
    if max(numbers, default=0) >= 0.6 * len(value) or len(parts) < 3:
        return False
    worded = sum(len(part) for part in parts if len(part) > 3 and part.isalpha() and _is_word(part.lower()))
    mixed = len(numbers) >= 3 and len(parts) >= len(value) / 5
    return worded <= (0.7 if mixed else 0.35) * len(value)


@lru_cache(maxsize=20_000)
def is_token(value: str) -> bool:
    """Return whether a value could be a generated key or token: 12 characters or more, no spaces."""
    value = value[:_TELLING_CHARACTERS]
    if len(value) < 12 or _is_plain(value) or is_placeholder(value) or _UUID.fullmatch(value):
        return False
    return is_random(value) and (any(c.isdigit() for c in value) or len(value) >= 16)


@lru_cache(maxsize=20_000)
def is_password(value: str) -> bool:
    """Return whether a value could be a real password, memorable ones with a digit or a symbol included."""
    value = value[:_TELLING_CHARACTERS]
    if len(value) < 6 or _is_plain(value) or is_placeholder(value):
        return False
    if is_random(value):
        return True
    if value.isalpha():
        return len(value) >= 16 and value.islower()
    return any(c.isdigit() for c in value) or not _STRONG_SYMBOLS.isdisjoint(value)


@lru_cache(maxsize=20_000)
def is_strong(value: str) -> bool:
    """Return whether a value is a secret in any context: random, 10 characters or more of three kinds."""
    value = value[:_TELLING_CHARACTERS]
    kinds = {_character_kind(c) for c in value} - {"separator"}
    enough = len(kinds) >= 3 or (len(kinds) == 2 and len(value) >= 20 and any(c.isdigit() for c in value))
    return len(value) >= 10 and enough and is_random(value) and not _is_plain(value) and not is_placeholder(value)


def is_mixed(value: str) -> bool:
    """Return whether a value has three of lower case, upper case, digits and symbols, or is random."""
    return len(value) >= 8 and (len({_character_kind(c) for c in value} - {"separator"}) >= 3 or is_random(value))


def is_passphrase(value: str) -> bool:
    """Return whether a value is four to eight plain words that don't form a sentence."""
    words = value.split(" ")
    return 4 <= len(words) <= 8 and all(
        word.isalpha() and word.islower() and 3 <= len(word) <= 9 and word not in _SENTENCE for word in words
    )


def is_uuid(value: str) -> bool:
    """Return whether a value has the form of a UUID."""
    return _UUID.fullmatch(value) is not None


def _is_plain(value: str) -> bool:
    if _CONSTANT.fullmatch(value):
        return True
    if _PLAIN_VALUE.fullmatch(value) is None:
        return False
    is_path = "://" in value or (value.count("/") > 2 and value.islower())
    return is_path or len(value) < 24 or not is_random(value)


@lru_cache(maxsize=20_000)
def _is_word(letters: str) -> bool:
    pairs = [letters[at : at + 2] for at in range(len(letters) - 1)]
    return sum(pair in _PAIRS for pair in pairs) >= 0.6 * len(pairs)


def _character_kind(chunk: str) -> str:
    if chunk.isdigit():
        return "digit"
    if not chunk[-1].isalpha():
        return "symbol" if not _STRONG_SYMBOLS.isdisjoint(chunk) else "separator"
    return "lower" if chunk.islower() else "upper" if chunk.isupper() else "both"
