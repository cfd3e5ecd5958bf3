"""Rules that find secrets in texts, in four groups.

Tokens are recognized by their provider's prefix; credentials by their context: URLs, headers, command lines, login
files; private keys by their block (PEM, OpenSSH, PGP, PuTTY; on several lines, in a string literal, or the whole block
in base64); assignments by the name: `password = "…"`, `AUTH_TOKEN=…`, `<secret>…</secret>` and so on.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from itertools import zip_longest

from longrepo.redaction.entropy import (
    is_mixed,
    is_passphrase,
    is_password,
    is_placeholder,
    is_random,
    is_strong,
    is_token,
    is_uuid,
)
from longrepo.redaction.spans import KEY, PASSWORD, Span, TextScan

# (kind, pattern). Each pattern begins with fixed letters; if it has a (group), only that part is secret.
_TOKEN_RULES = (
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
_TOKEN_PATTERN = re.compile("|".join(f"(?:{pattern})" for _, pattern in _TOKEN_RULES))
_JWT = re.compile(r"eyJ(?:(?<![\w-]eyJ)|(?<=\\[nrt]eyJ))[\w-]{8,}(?:\.eyJ[\w-]{8,}(?:\.[\w-]+)?|(?:\.[\w-]*){4})")
_SIGNING_SECRET = re.compile(r"whsec_[A-Za-z0-9+/=]{24,}")
_WHOLE_TOKEN_PATTERNS = [(kind, re.compile(pattern)) for kind, pattern in _TOKEN_RULES]

# Tokens without a fixed prefix: the search begins at a fixed part in their middle.
_DISCORD = re.compile(r"\.(?<=[\w-]{23}\.)[\w-]{6}\.[\w-]{27,40}(?![\w-])")
_DISCORD_HEAD = re.compile(r"[MNO][\w-]{22,28}\Z")
_TELEGRAM = re.compile(r":A(?<=\d{8}:A)A[\w-]{32,33}(?![\w-])")
_TELEGRAM_HEAD = re.compile(r"\d{8,12}\Z")
_TERRAFORM = re.compile(r"\.atlasv1\.[\w-]{50,}")
_TERRAFORM_HEAD = re.compile(r"[A-Za-z0-9]{14}\Z")
_TWO_PART_TOKENS = (
    ("discord token", _DISCORD, _DISCORD_HEAD, "."),
    ("telegram token", _TELEGRAM, _TELEGRAM_HEAD, ":AA"),
    ("terraform token", _TERRAFORM, _TERRAFORM_HEAD, "atlasv1"),
)
_WEBHOOK = re.compile(
    r"discord(?:app)?\.com/api/(?:v\d+/)?webhooks/(\d+/[\w-]{40,})|webhook\.office\.com/(webhookb2/[\w@/-]{60,})"
)
_MAILCHIMP = re.compile(r"-us\d{1,2}(?<=[0-9a-f]{32}-us\d)(?!\w)|-us\d{1,2}(?<=[0-9a-f]{32}-us\d\d)(?!\w)")
_AWS_PARTNER = re.compile(r"(?<![A-Za-z0-9/+=])[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+=])")
_EXAMPLE_MARKS = re.compile(
    r"example|x{5}|y{5}|0{6}|\.\.\.|placeholder|your[_-]|redacted|0123456|1234567890|abcdefgh", re.IGNORECASE
)
# In lower case: prefixes of tokens whose next 20 characters may have no digit, as 1 in 30 has.
_PREFIXES_WITHOUT_DIGITS = (
    b"akia asia abia acca ghp_ gho_ ghu_ ghs_ ghr_ github_pat_ glpat- sk_live rk_live aiza gocspx- hf_ npm_ sq0 hvs "
    b"dapi shpat_ xox"
)
_TOKEN_PREFIXES = tuple(_PREFIXES_WITHOUT_DIGITS.split())
_UNCERTAIN_KINDS = frozenset(
    {"service token", "anthropic or openai key", "google key"}
)  # their prefixes also begin ordinary words
_TOKEN_REACH = 64  # characters between a rule's prefix and its longest word, at most
_MAX_SECRET_DISTANCE = 300  # characters between an AWS key's id and its secret, at most


def find_tokens(scan: TextScan) -> Iterator[Span]:
    """Yield every key or token of a known form, except those that are examples."""
    text = scan.text
    for kind, start, end in _fixed_tokens(scan):
        if _is_generated(text[start:end], kind in _UNCERTAIN_KINDS):
            yield Span(start, end, kind, KEY)
            if kind == "aws key":
                yield from _aws_secrets(text, end)
    for kind, pattern, letters in (("jwt", _JWT, "eyJ"), ("stripe key", _SIGNING_SECRET, "whsec_")):
        if scan.has(letters.lower()):
            yield from (Span(*m.span(), kind, KEY) for m in pattern.finditer(text) if _is_generated(m[0]))
    for kind, tail, head, letters in _TWO_PART_TOKENS:
        if letters in text:
            yield from _two_part_tokens(text, tail, head, kind)
    if scan.has("webhook"):
        for match in _WEBHOOK.finditer(text):
            yield Span(*match.span(match.lastindex or 0), "webhook", KEY)
    if scan.has("-us"):
        for match in _MAILCHIMP.finditer(text):
            yield Span(match.start() - 32, match.end(), "mailchimp key", KEY)


def _fixed_tokens(scan: TextScan) -> Iterator[tuple[str, int, int]]:
    text, done = scan.text, 0
    for word_start, word_end in scan.long_words(_TOKEN_PREFIXES):
        for match in _TOKEN_PATTERN.finditer(text, max(done, word_start - _TOKEN_REACH), max(done, word_end)):
            start = match.start()
            if start and (text[start - 1].isalnum() or text[start - 1] == "_") and not _after_escape(text, start):
                continue
            kind, start, end = _kind_and_span(match)
            yield kind, start, end
            done = end


def _kind_and_span(match: re.Match[str]) -> tuple[str, int, int]:
    for kind, pattern in _WHOLE_TOKEN_PATTERNS:
        if whole := pattern.match(match.string, match.start()):
            return kind, *whole.span(whole.lastindex or 0)
    raise AssertionError("the union matched, but none of its rules does")


def _after_escape(text: str, start: int) -> bool:
    return text[start - 2 : start] in ("\\n", "\\t", "\\r") or text[start - 3 : start].upper() in ("%3D", "%20", "%22")


def _is_generated(value: str, guessed: bool = False) -> bool:
    if len(set(value)) < 8 or _EXAMPLE_MARKS.search(value):
        return False
    return not guessed or (any(c.isdigit() for c in value) and is_random(value[value.rfind("_", 0, 12) + 1 :]))


def _aws_secrets(text: str, at: int) -> Iterator[Span]:
    for match in _AWS_PARTNER.finditer(text, max(0, at - _MAX_SECRET_DISTANCE), at + _MAX_SECRET_DISTANCE):
        value = match[0]
        mixed = not value.islower() and not value.isupper() and any(c.isdigit() for c in value)
        if mixed and is_random(value) and not _EXAMPLE_MARKS.search(value):
            yield Span(*match.span(), "aws key", KEY)


def _two_part_tokens(text: str, tail: re.Pattern[str], head: re.Pattern[str], kind: str) -> Iterator[Span]:
    for match in tail.finditer(text):
        front = head.search(text, max(0, match.start() - 32), match.start())
        if front and not _EXAMPLE_MARKS.search(match[0]):
            yield Span(front.start(), match.end(), kind, KEY)


_PASSWORD_IN_URL = re.compile(
    r"://([^\s/:@\"'<>]{0,100}):([^\s\"'<>@]{1,300}(?:@[^\s\"'<>@/:.]{1,60})*)@(\[?[\w.-]+|\$|\{)"
)
_LOCAL_HOST = re.compile(r"localhost|127\.|0\.0\.0\.0|.*\bexample\b|.*\.(?:test|invalid|local)\Z|[a-z]+\Z|\$|\{", re.I)
_SENTRY = re.compile(r"://([0-9a-f]{32}(?::[0-9a-f]{32})?)@[\w.-]+/\d")
_BEARER_TOKEN = re.compile(r"bearer[ \t:]+[\"']?([\w.~+/=-]{16,4000})", re.IGNORECASE)
_BASIC_AUTH = re.compile(r"[Bb](?:asic|ASIC)[ \t]+([A-Za-z0-9+/]{8,400}={0,2})(?![\w+/=])")
_DOCKER_AUTH = re.compile(r"\"auth\"\s*:\s*\"([A-Za-z0-9+/]{8,400}={0,2})\"")
_SHARED_SIGNATURE = re.compile(r"\bsig=([\w%+/=-]{30,200})")
_JWK = re.compile(r"\\?\"(?:d|p|q|dp|dq|qi|k)\\?\"\s*:\s*\\?\"([\w-]{32,1400})\\?\"")
_LOGIN_PAIR = re.compile(
    r"(?:auth\w*|login|credentials?)[ \t]*[=:(]{1,2}[ \t]*[(\[]?[ \t]*([\"'])[^\"'\n]{1,80}\1,[ \t]*"
    r"(?:Some\()?([\"'][^\"'\n]{6,100}[\"'])",
    re.IGNORECASE,
)
_LOGIN_FILE = re.compile(
    r"\b(?:login|user|username|machine)[ \t]+(?!and |or |with )\S+\s+"
    r"(?:account[ \t]+\S+\s+)?password[ \t]+(\"[^\"\n]+\"|\S+)"
)
_PGPASS = re.compile(r"^[\w.*-]+:(?:5432|5433|6432|3306|\*):[^:\s]+:[^:\s]+:([^\s:]{3,100})$", re.MULTILINE)
_COMMAND_VALUE = r"(\"[^\"\n$]{4,100}\"|'[^'\n]{4,100}'|[^\s\"'$<>|;&`]{4,100})"
_COMMANDS = re.compile(
    rf"\b(?:sshpass[ \t]+-p[ \t]*{_COMMAND_VALUE}"
    rf"|(?:mysql|mysqldump|mysqladmin|mysqlimport|mariadb|mariadb-dump)\b[^\n|;&]{{0,200}}?[ "
    rf"\t]-p(?=[^\s]){_COMMAND_VALUE}"
    rf"|(?:curl|wget|httpie)\b[^\n|;&]{{0,300}}?[ \t](?:-u|--user|--proxy-user|-U|-a|--auth)"
    r"[ \t=]*[\"']?[^\s:\"'$]{1,60}:([^\s\"'$<>|;&`]{4,100})"
    rf"|(?:docker|podman|helm|mongo|mongosh|redis-cli|mosquitto_pub|mosquitto_sub|ldapsearch|smbclient|psql"
    r"|cqlsh|sqlcmd)\b"
    rf"[^\n|;&]{{0,200}}?[ \t](?:-p|-P|-a|-w|--pass)[ \t]+{_COMMAND_VALUE}"
    rf"|htpasswd[ \t]+-\w*b\w*[ \t]+\S+[ \t]+\S+[ \t]+{_COMMAND_VALUE}"
    rf"|net[ \t]+use\b[^\n]{{0,120}}/user:\S+[ \t]+{_COMMAND_VALUE}"
    rf"|echo[ \t]+(?:-n[ \t]+)?{_COMMAND_VALUE}[ \t]*\|[ \t]*sudo[ \t]+-S"
    r"|echo[ \t]+[\"']?[\w.-]+:([^\s\"'$]{4,100})[\"']?[ \t]*\|[ \t]*(?:sudo[ \t]+)?chpasswd)"
    rf"|-pass(?:in|out)[ \t]+[\"']?pass:([^\s\"'$]{{4,100}})"
)
_PROGRAMS = (
    "sshpass mysql mariadb curl wget httpie docker podman helm mongo redis-cli mosquitto ldapsearch smbclient psql "
    "cqlsh sqlcmd htpasswd chpasswd passin passout"
)
_COMMAND_STEMS = (*_PROGRAMS.split(), "net use", "sudo -s")


def find_credentials(scan: TextScan) -> Iterator[Span]:
    """Yield passwords and tokens in URLs, headers, command lines and login files that could be real."""
    text = scan.text
    if "://" in text:
        yield from _passwords_in_urls(text)
    for match in _stem_matches(scan, _BEARER_TOKEN, "bearer"):
        if is_token(match[1]):
            yield Span(*match.span(1), "token", KEY)
    for match in _stem_matches(scan, _BASIC_AUTH, "basic "):
        yield from _encoded_pair(match)
    for match in _stem_matches(scan, _DOCKER_AUTH, '"auth"'):
        yield from _encoded_pair(match)
    for match in _stem_matches(scan, _SHARED_SIGNATURE, "sig="):
        if is_random(match[1]) and not is_placeholder(match[1]):
            yield Span(*match.span(1), "azure signature", KEY)
    if scan.has("kty"):
        for match in _JWK.finditer(text):
            if is_random(match[1]):
                yield Span(*match.span(1), "private key", KEY)
    for match in _stem_matches(scan, _LOGIN_PAIR, "auth", "login", "credential"):
        yield from _value_spans(match, 2)
    for match in _stem_matches(scan, _LOGIN_FILE, "password ", "login ", "user ", "account "):
        yield from _value_spans(match, 1)
    for match in _stem_matches(scan, _PGPASS, ":5432:", ":3306:", ":6432:", ":*:"):
        yield from _value_spans(match, 1)
    for match in _stem_matches(scan, _COMMANDS, *_COMMAND_STEMS):
        yield from _value_spans(match, match.lastindex or 0)


def _stem_matches(scan: TextScan, pattern: re.Pattern[str], *stems: str) -> Iterator[re.Match[str]]:
    for start, end in scan.around(stems):
        yield from pattern.finditer(scan.text, start, end)


def _passwords_in_urls(text: str) -> Iterator[Span]:
    for match in _PASSWORD_IN_URL.finditer(text):
        user, value, host = match.groups()
        if value.startswith("//") or "://" in value or value.lower() == user.lower():
            continue
        weak = value.isalpha() and len(value) >= 6 and not is_placeholder(value) and not _LOCAL_HOST.match(host)
        if is_password(value) or weak:
            yield Span(*match.span(2), "password", PASSWORD)
    for match in _SENTRY.finditer(text):
        yield Span(*match.span(1), "sentry key", KEY)


def _encoded_pair(match: re.Match[str]) -> Iterator[Span]:
    """Yield the span of a base64-encoded `user:password`."""
    try:
        decoded = base64.b64decode(match[1] + "=" * (-len(match[1]) % 4), validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        return
    user, colon, password = decoded.partition(":")
    if colon and decoded.isprintable() and len(password) > 3 and password != user and not is_placeholder(password):
        yield Span(*match.span(1), "password", PASSWORD)


def _value_spans(match: re.Match[str], group: int) -> Iterator[Span]:
    start, end = match.span(group)
    value = match[group]
    if value[0] in "\"'" and value[-1] == value[0] and len(value) > 1:
        start, end, value = start + 1, end - 1, value[1:-1]
    if is_password(value):
        yield Span(start, end, "password", PASSWORD)


_KEY_BEGIN = re.compile(
    r"-----BEGIN (?:[A-Z0-9]+ ){0,4}PRIVATE KEY(?: BLOCK)?-----"
    r"|---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----"
)
_KEY_END = re.compile(r"-----END [A-Z0-9 ]{0,40}PRIVATE KEY|---- END SSH2")
_END_OF_KEY_TEXT = re.compile(r"\n(?![\s\"'+,#*|;]*(?:[A-Za-z0-9+/=]{16}|(?:Proc-Type|DEK-Info|Version|Comment):|\n))")
_MAX_KEY_CHARACTERS = 32_000  # characters of a block, at most; the longest RSA key in use takes 13,000
_KEY_BODY = re.compile(r"[A-Za-z0-9+/]{40}|(?:[A-Za-z0-9+/]{16,}\W+){2}")
_KEY_HEADER = re.compile(
    r"[\W\d]*(?:Proc-Type|DEK-Info|Version|Comment|Hash|MessageID|Charset|Subject|x-[\w-]+):", re.I
)
_KEY_RUN = re.compile(r"(\\+[nrt])|[A-Za-z0-9+/=]{4,}")
_JOINED_KEYS = re.compile(r"<KEY>(?:(?:\\+[nr])+<KEY>)+")
_PUTTY_KEY = re.compile(r"Private-Lines: (\d{1,3})\r?\n((?:[ \t]*[A-Za-z0-9+/=]+[ \t]*\r?\n?){1,200})")
_ENCODED_KEY = re.compile(r"LS0tLS1CRUdJTi[A-Za-z0-9+/]{40,}={0,2}")


def find_private_keys(scan: TextScan) -> Iterator[Span]:
    """Yield the bodies of private keys. Each line becomes `<KEY>`; a key within one line becomes one `<KEY>`."""
    text = scan.text
    if scan.has("private") and "PRIVATE KEY" in text:
        begins = list(_KEY_BEGIN.finditer(text))
        for begin, after in zip_longest(begins, begins[1:]):
            reach = min(begin.end() + _MAX_KEY_CHARACTERS, after.start() if after else len(text))
            end = _KEY_END.search(text, begin.end(), reach) or _END_OF_KEY_TEXT.search(text, begin.end(), reach)
            stop = end.start() if end else reach
            body = text[begin.end() : stop]
            if _KEY_BODY.search(body.replace("\\n", " ").replace("\\r", " ")):
                yield Span(begin.end(), stop, "private key", "\n".join(map(_redact_key_line, body.split("\n"))))
    if scan.has("private-lines"):
        for match in _PUTTY_KEY.finditer(text):
            lines = match[2].split("\n")
            count = min(int(match[1]), len(lines))
            stop = match.start(2) + len("\n".join(lines[:count]))
            yield Span(match.start(2), stop, "private key", "\n".join([KEY] * count))
    if scan.has("ls0tls1crudjti"):
        for match in _ENCODED_KEY.finditer(text):
            if _decodes_to_private(match[0]):
                yield Span(match.start(), match.end(), "private key", KEY)


def _redact_key_line(line: str) -> str:
    if _KEY_HEADER.match(line) or "<KEY>" in line:
        return line
    return _JOINED_KEYS.sub(KEY, _KEY_RUN.sub(lambda run: run[1] or KEY, line))


def _decodes_to_private(encoded: str) -> bool:
    head = encoded[:80]
    try:
        return b"PRIVATE KEY" in base64.b64decode(head[: len(head) // 4 * 4])
    except (binascii.Error, ValueError):
        return False


_PASSWORD_NAMES = (
    r"pass(?:w(?:or)?d|wrd|phrase|code|wort)?s?|pwd|\bpw|requirepass|masterauth|securestring"
    r"|identified(?:[ \t]+with[ \t]+\w+)?[ \t]+by"
)
_KEY_NAMES = (
    r"secret|token|credential|creds\b|jwt|_auth\b|(?:api|app|access|private|auth|account|encrypt(?:ion)?|signing|sign"
    r"|master|licen[sc]e|storage|service|subscription|shared|deploy|admin|consumer|client|publishable|webhook|cookie"
    r"|session|hmac|aes|crypto|cipher|rest|server|write|ingest|ikey|vapid|maps|heroku[\w.-]{0,8}|datadog|dd"
    r"|algolia)[_. -]?key"
)
_SECRET_STEMS = ("pass", "pw", "secret", "token", "cred", "jwt", "_auth", "key", "identified", "securestring")
_SECRET_NAME = re.compile(rf"(?:(?P<password>{_PASSWORD_NAMES})|{_KEY_NAMES})(?P<rest>[\w.-]{{0,40}})")
_QUOTE = r"\\{0,3}[\"'`]"
_SEPARATOR = re.compile(
    r"(?P<close>(?:\\{0,3}[\"'`]|[\])}]){0,3})[ \t]*"
    r"(?P<separator>"
    r"\??:[ \t]*&?(?:'?\w+[ \t]+)?[\w<>\[\].?| ]{1,30}[ \t]*=(?!=)"  # a type in between
    r"|=>|[:?+|]{0,2}={1,3}|!==?|->|:"
    r"|(?:[ \t]+(?:is|was|now|be|changed|set|reset|from|to|eq)){1,3}[ \t:]"
    r"|,?\s{0,40}\\{0,3}[\"']?\b(?:value|Value|default)\\{0,3}[\"']?[ \t]*[=:]"  # a name, then its value
    r"|[ \t]*\{\s*(?:(?:type|description|sensitive)[ \t]*=[^\n]*\s*){0,3}default[ \t]*="
    r"|,|</key>\s*<string>|>(?:<!\[CDATA\[|\s*<value>)?|\(|(?=[ \t])"
    r")[ \t]*"
)
_WRAPPING_CALL = r"(?:[\w.:]{1,40}(?<!encode)(?<!decode)[(!]{1,2}\s{0,20})?"
_QUOTED_VALUE = re.compile(
    rf"(?:(?:\\?\n)?[ \t]*|\(\s*|[|>][-+]?\n[ "
    rf"\t]*){_WRAPPING_CALL}[rbfuRBFUL@$]{{0,2}}(?P<quote>\\{{0,3}}(?:\"\"\"|'''|[\"'`]))"
    r"(?P<value>(?:(?!(?P=quote))(?:\\[^\n]|[^\\\n])){4,4000}?)(?P=quote)"
)
_BARE_VALUE = re.compile(r"(?:[|>][-+]?\n[ \t]*)?(?:\$\{\w+:[-=])?(?P<value>[^\s\"'`,;<>()\[\]{}\\|]{6,4000})")
_NEXT_FIELD = re.compile(r"&\w+=")  # in a URL's query
_PUNCTUATION = re.compile(r"[^\w\s]")
_NOT_SECRET_NAMES = re.compile(r"hash|digest|sha\d|md5|checksum|integrity|fingerprint|public|pub_?key")
_ABOUT_A_SECRET = re.compile(
    r"(?:^|[_.-]?)(?:url|uri|path|file|type|field|header|label|hint|prompt|message|text|title|expir\w*|ttl|endpoint|selector"
    r"|class|column|param|names?|ids?|len|length|limit|index|kind|format|count|regex|pattern|policy|manager|mgr\w*|service)s?\Z"
)
_ASSIGNMENT_SIGNS = frozenset({"=", ":", ":=", "?=", "is", "was", "to", "now", "be"})
# Languages of settings, shells and prose, whatever list named them: there `password = word1` has a value, no variable.
_BARE_VALUES = re.compile(
    r"^(?:Other|Data|HTML|XML|Markdown|reStructuredText|Makefile|Nix|HCL|Smarty|ERB|Groff|Org|Org Mode)$"
    r"|Text|\bINI\b|YAML|TOML|CSV|Shell|Bash|Zsh|Fish|Batch|Docker|Terraform|PowerShell|Console|Session|config"
    r"|Properties|Jinja|Templat|Nginx|Apache|systemd|Ansible|Puppet|dotenv",
    re.IGNORECASE,
)
_COMMAND_OPTION = re.compile(
    r"(?:--?[\w-]{0,30}|^[ \t]*(?:ENV|ARG|setenv|set -\w+)[ \t]+[\w.-]{0,40}|login[ \t]+\S+[ \t]+)\Z", re.M
)


def find_assignments(scan: TextScan, language: str) -> Iterator[Span]:
    """Yield every value assigned to a secret's name whose characters could be a secret."""
    text, bare_values = scan.text, _BARE_VALUES.search(language) is not None
    for start, end in scan.around(_SECRET_STEMS):
        for name in _SECRET_NAME.finditer(scan.lowered, start, end):
            before = _line_before(text, name.start())
            if not _is_another_word(text, name, before):
                yield from _value_of(text, name, before, bare_values)


def _line_before(text: str, at: int) -> str:
    """Return the part of the line before a position, at most 80 characters."""
    return text[max(text.rfind("\n", 0, at) + 1, at - 80) : at]


def _is_another_word(text: str, name: re.Match[str], before: str) -> bool:
    """Return whether a name isn't a secret's: `bypass`, `compass`, `password_hash`, `token_url`."""
    if name["password"] == "pass":
        hump = text[name.start()].isupper() and before[-1:].islower()  # dbPass
        joined = before[-1:].isalpha() and not hump and not before.lower().endswith(("user", "root", "db", "smtp"))
        return joined or (name["rest"][:1].isalpha() and not text[name.end("password")].isupper())
    front = re.search(r"[\w.-]{0,40}\Z", before)
    whole = (front[0].lower() if front else "") + name[0]
    return _NOT_SECRET_NAMES.search(whole) is not None or _ABOUT_A_SECRET.fullmatch(name["rest"]) is not None


def _value_of(text: str, name: re.Match[str], before: str, bare_values: bool) -> Iterator[Span]:
    separator = _SEPARATOR.match(text, name.end())
    if separator is None:
        return
    sign, close = separator["separator"].strip(), separator["close"]
    if sign == "," and not any(quote in close for quote in "\"'`"):
        return
    verb = name["password"] == "pass" and not re.search(r"\w\Z", before) and not _PUNCTUATION.search(sign)
    if verb or (sign == "(" and "." in name["rest"]):
        return  # pass `x` to it; password.encode("latin1")
    kind, placeholder = ("password", PASSWORD) if name["password"] else ("key", KEY)
    quoted = _QUOTED_VALUE.match(text, separator.end())
    if quoted and not (sign == "," and "\n" in text[separator.end() : quoted.start("value")]):
        if _is_secret(quoted["value"], name):
            yield Span(*quoted.span("value"), kind, placeholder)
        return
    bare = _BARE_VALUE.match(text, separator.end())
    if (
        bare is None
        or sign in ("(", ",")
        or (
            ">" in sign[:1] + sign[-1:]
            and "=" not in sign
            and sign != "->"
            and text[bare.end() : bare.end() + 1] not in ("<", "]")
        )
    ):
        return
    value = _NEXT_FIELD.split(bare["value"], 1)[0].rstrip("." if bare_values else ".:")
    start = bare.start("value")
    shown = (
        sign in _ASSIGNMENT_SIGNS
        or "value" in sign.lower()
        or sign[:1] in ("<", ">")
        or " " in separator[0].strip()
        or _COMMAND_OPTION.search(before) is not None
    )
    in_string = text[name.end()] == "=" and not text[name.end() + 1].isspace() and any(q in before for q in "\"'`")
    if value.rstrip("!?").isalpha() and value[-1:] in ("!", "?"):
        return
    if bare_values and shown:
        accepted = _is_secret(value, name)
    else:
        accepted = is_strong(value) or (in_string and is_mixed(value) and _is_secret(value, name))
    if accepted:
        yield Span(start, start + len(value), kind, placeholder)


def _is_secret(value: str, name: re.Match[str]) -> bool:
    if " " in value:
        return bool(name["password"]) and is_passphrase(value)
    if is_uuid(value):
        return "token" not in name[0]
    return is_password(value) if name["password"] or "secret" in name[0] else is_token(value)
