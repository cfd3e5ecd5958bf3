"""Keys and tokens that say by their own letters whose they are."""

from __future__ import annotations

import re
from collections.abc import Iterator

from longrepo.redaction.scan import Scan
from longrepo.redaction.shapes import is_random
from longrepo.redaction.spans import KEY, Span

# (kind, pattern). Each pattern begins with letters that are looked for; a (group) is the part that is secret.
_RULES = (
    ("aws key", r"A(?:KI|SI|BI|CC)A[A-Z2-7]{16}(?![A-Za-z0-9])"),
    ("github token", r"gh[pousr]_[A-Za-z0-9]{30,255}|github_pat_[A-Za-z0-9_]{22,255}"),
    ("gitlab token", r"gl(?:pat|dt|ptt|rt|ft|cbt|soat|agent|oas|imt)-[\w.-]{20,300}|GR1348941[\w-]{20,}"),
    ("slack token", r"xox[abceoprs][.-][\w-]{10,}|xapp-\d-[\w-]{10,}"),
    ("slack webhook", r"hooks\.slack\.com/(?:services|workflows|triggers)/([\w/+-]{20,})"),
    ("stripe key", r"[sr]k_(?:live|test|prod)_[A-Za-z0-9]{16,}"),
    ("google key", r"AIza[\w-]{35}|GOCSPX-[\w-]{20,}|ya29\.[\w-]{20,}|AAAA[\w-]{7}:APA91b[\w-]{100,}"),
    ("anthropic or openai key", r"sk-(?:ant-|proj-|svcacct-|admin-|or-v1-)?[A-Za-z0-9_-]{20,}"),
    ("hugging face token", r"hf_[A-Za-z0-9]{30,}|api_org_[A-Za-z0-9]{30,}"),
    ("npm token", r"npm_[A-Za-z0-9]{36}"),
    ("pypi token", r"pypi-[\w-]{50,}"),
    ("sendgrid key", r"SG\.[\w-]{16,32}\.[\w-]{16,64}"),
    ("twilio key", r"SK[0-9a-f]{32}(?![A-Za-z0-9])"),
    ("mailgun key", r"key-[0-9a-z]{32}(?![A-Za-z0-9])"),
    ("digitalocean token", r"do[opr]_v1_[0-9a-f]{64}"),
    ("shopify token", r"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}"),
    ("square token", r"sq0[a-z]{3}-[\w-]{22,}|EAAA[\w-]{60,}"),
    ("databricks token", r"dapi[0-9a-f]{32}(?:-\d)?"),
    ("atlassian token", r"AT[AC]TT3[\w=-]{60,}|ATBB[A-Za-z0-9]{24,}"),
    ("vault token", r"hv[sbr]\.[\w-]{24,}"),
    ("age key", r"AGE-SECRET-KEY-1[0-9A-Z]{50,}"),
    ("heroku key", r"HRKU-[\w-]{36,}"),
    ("service token", r"(?:glsa|glc|nfp|sbp|tfp|ntn|figd|gsk|pat|fo1|lin_api|lin_oauth|pscale_\w{2,5}|dckr_pat|dckr_oat"
     r"|rubygems|sntry[su]|secret|aio|r8|cio|rnd|frp|glffct|ops|dp\.(?:pt|st|ct|sa))_[A-Za-z0-9_.=+/-]{24,}"),
    ("service token", r"(?:xai|pplx|pul|PMAK|NRAK|NRII|xkeysib|tskey|CFPAT|nvapi|doppler|sgp|tk|fm2|FlyV1|LTAI)[-_ ]"
     r"[A-Za-z0-9_.=+/-]{24,}|LTAI[A-Za-z0-9]{16,20}(?![A-Za-z0-9])|AKID[A-Za-z0-9]{32}|oy2[a-z0-9]{43}|sl\.[\w-]{100,}|mfa\.[\w-]{80,}|1//0[\w-]{40,}|dp\.(?:pt|st|ct|sa)\.[A-Za-z0-9.]{40,}"),
)  # fmt: skip
_FIXED = re.compile("|".join(f"(?:{pattern})" for _, pattern in _RULES))
_JWT = re.compile(r"eyJ(?:(?<![\w-]eyJ)|(?<=\\[nrt]eyJ))[\w-]{8,}(?:\.eyJ[\w-]{8,}(?:\.[\w-]+)?|(?:\.[\w-]*){4})")
_SIGNING = re.compile(r"whsec_[A-Za-z0-9+/=]{24,}")
_WHOLE = [(kind, re.compile(pattern)) for kind, pattern in _RULES]

# Those that begin with no letters of their own are looked for by what stands in their middle.
_DISCORD = re.compile(r"\.(?<=[\w-]{23}\.)[\w-]{6}\.[\w-]{27,40}(?![\w-])")
_DISCORD_HEAD = re.compile(r"[MNO][\w-]{22,28}\Z")
_TELEGRAM = re.compile(r":A(?<=\d{8}:A)A[\w-]{32,33}(?![\w-])")
_TELEGRAM_HEAD = re.compile(r"\d{8,12}\Z")
_TERRAFORM = re.compile(r"\.atlasv1\.[\w-]{50,}")
_TERRAFORM_HEAD = re.compile(r"[A-Za-z0-9]{14}\Z")
_HEADED = (
    ("discord token", _DISCORD, _DISCORD_HEAD, "."),
    ("telegram token", _TELEGRAM, _TELEGRAM_HEAD, ":AA"),
    ("terraform token", _TERRAFORM, _TERRAFORM_HEAD, "atlasv1"),
)
_WEBHOOK = re.compile(
    r"discord(?:app)?\.com/api/(?:v\d+/)?webhooks/(\d+/[\w-]{40,})|webhook\.office\.com/(webhookb2/[\w@/-]{60,})"
)
_MAILCHIMP = re.compile(r"-us\d{1,2}(?<=[0-9a-f]{32}-us\d)(?!\w)|-us\d{1,2}(?<=[0-9a-f]{32}-us\d\d)(?!\w)")
_AWS_PARTNER = re.compile(r"(?<![A-Za-z0-9/+=])[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+=])")
_SHOWN = re.compile(
    r"example|x{5}|y{5}|0{6}|\.\.\.|placeholder|your[_-]|redacted|0123456|1234567890|abcdefgh", re.IGNORECASE
)
# Lower case: the letters of those that 20 characters without a digit may follow; 1 in 30 has none.
_WITHOUT_DIGITS = (
    b"akia asia abia acca ghp_ gho_ ghu_ ghs_ ghr_ github_pat_ glpat- sk_live rk_live aiza gocspx- hf_ npm_ sq0 hvs "
    b"dapi shpat_ xox"
)
_FRONTS = tuple(_WITHOUT_DIGITS.split())
_GUESSED = frozenset({"service token", "anthropic or openai key", "google key"})  # their letters start words, too
_REACH = 64  # characters that a rule's letters may stand in front of its longest word
_NEAR = 300  # characters between an AWS key's id and its secret


def find(scan: Scan) -> Iterator[Span]:
    """Every key or token of a known shape, but those shown as examples."""
    text = scan.text
    for kind, start, end in _fixed(scan):
        if _is_generated(text[start:end], kind in _GUESSED):
            yield Span(start, end, kind, KEY)
            if kind == "aws key":
                yield from _aws_secrets(text, end)
    for kind, pattern, letters in (("jwt", _JWT, "eyJ"), ("stripe key", _SIGNING, "whsec_")):
        if scan.has(letters.lower()):
            yield from (Span(*m.span(), kind, KEY) for m in pattern.finditer(text) if _is_generated(m[0]))
    for kind, tail, head, letters in _HEADED:
        if letters in text:
            yield from _headed(text, tail, head, kind)
    if scan.has("webhook"):
        for match in _WEBHOOK.finditer(text):
            yield Span(*match.span(match.lastindex or 0), "webhook", KEY)
    if scan.has("-us"):
        for match in _MAILCHIMP.finditer(text):
            yield Span(match.start() - 32, match.end(), "mailchimp key", KEY)


def _fixed(scan: Scan) -> Iterator[tuple[str, int, int]]:
    text, done = scan.text, 0
    for word_start, word_end in scan.long_words(_FRONTS):
        for match in _FIXED.finditer(text, max(done, word_start - _REACH), max(done, word_end)):
            start = match.start()
            if start and (text[start - 1].isalnum() or text[start - 1] == "_") and not _after_escape(text, start):
                continue
            kind, start, end = _named(match)
            yield kind, start, end
            done = end


def _named(match: re.Match[str]) -> tuple[str, int, int]:
    for kind, pattern in _WHOLE:
        if whole := pattern.match(match.string, match.start()):
            return kind, *whole.span(whole.lastindex or 0)
    raise AssertionError("the union of the rules has one more than they are")


def _after_escape(text: str, start: int) -> bool:
    return text[start - 2 : start] in ("\\n", "\\t", "\\r") or text[start - 3 : start].upper() in ("%3D", "%20", "%22")


def _is_generated(value: str, guessed: bool = False) -> bool:
    if len(set(value)) < 8 or _SHOWN.search(value):
        return False
    return not guessed or (any(c.isdigit() for c in value) and is_random(value[value.rfind("_", 0, 12) + 1 :]))


def _aws_secrets(text: str, at: int) -> Iterator[Span]:
    for match in _AWS_PARTNER.finditer(text, max(0, at - _NEAR), at + _NEAR):
        value = match[0]
        mixed = not value.islower() and not value.isupper() and any(c.isdigit() for c in value)
        if mixed and is_random(value) and not _SHOWN.search(value):
            yield Span(*match.span(), "aws key", KEY)


def _headed(text: str, tail: re.Pattern[str], head: re.Pattern[str], kind: str) -> Iterator[Span]:
    for match in tail.finditer(text):
        front = head.search(text, max(0, match.start() - 32), match.start())
        if front and not _SHOWN.search(match[0]):
            yield Span(front.start(), match.end(), kind, KEY)
