"""The code in a request is found, whatever template an editor puts it in, and names of tokens in code stay text."""

from __future__ import annotations

import pytest

from longrepo.data.dialects import NO_DIALECT
from longrepo.data.tokenizer_loading import load_tokenizer
from longrepo.errors import InputError
from longrepo.serve.prompts import EditorText, PromptBuilder, take_apart

P, S, M = "<fim_prefix>", "<fim_suffix>", "<fim_middle>"
BEFORE = "def total(items):\n    return "
AFTER = "\n\nprint(total([]))\n"
CODE = f'STOP = ["<|endoftext|>", "{M}"]\nMARK = "<|FILE_END|>"\n\ndef cut(text):\n    return '

CASES = {
    "prefix, suffix, middle": (f"{P}{BEFORE}{S}{AFTER}{M}", ("", None, BEFORE, AFTER)),
    "suffix first": (f"{S}{AFTER}{P}{BEFORE}{M}", ("", None, BEFORE, AFTER)),
    "StarCoder's other order": (f"{P}{S}{AFTER}{M}{BEFORE}", ("", None, BEFORE, AFTER)),
    "nothing before": (f"{P}{S}{AFTER}{M}", ("", None, "", AFTER)),
    "nothing after": (f"{P}{BEFORE}{S}{M}", ("", None, BEFORE, "")),
    "a path": (
        f"<|FILE_START|> web/a b.py\n{P}{BEFORE}{S}{AFTER}{M}",
        ("<|FILE_START|> web/a b.py\n", "web/a b.py", BEFORE, AFTER),
    ),
    "a path with a carriage return": (
        f"<|FILE_START|> web\\a.py\r\n{P}{BEFORE}{S}{AFTER}{M}",
        ("<|FILE_START|> web\\a.py\r\n", "web\\a.py", BEFORE, AFTER),
    ),
    "other files and a path": (
        f"<|FILE_START|> b.py\nB = 1\n<|FILE_END|><|FILE_START|> a.py\n{P}{BEFORE}{S}{AFTER}{M}",
        ("<|FILE_START|> b.py\nB = 1\n<|FILE_END|><|FILE_START|> a.py\n", "a.py", BEFORE, AFTER),
    ),
    "only other files": (
        f"<|FILE_START|> b.py\nB = 1\n<|FILE_END|>{P}{BEFORE}{S}{AFTER}{M}",
        ("<|FILE_START|> b.py\nB = 1\n<|FILE_END|>", None, BEFORE, AFTER),
    ),
    "names of tokens in the code before": (f"{P}{CODE}{S}{AFTER}{M}", ("", None, CODE, AFTER)),
    "names of tokens in the code after": (f"{P}{BEFORE}{S}{CODE}{M}", ("", None, BEFORE, CODE)),
    "the cursor in quotation marks": (f'{P}name = "{S}"\n{M}', ("", None, 'name = "', '"\n')),
    "a comment with a URI": (
        f"{P}// Language: Go (go)\n// File uri: file:///home/me/shop/a.go (go)\n{BEFORE}{S}{AFTER}{M}",
        (
            "",
            "file:///home/me/shop/a.go",
            f"// Language: Go (go)\n// File uri: file:///home/me/shop/a.go (go)\n{BEFORE}",
            AFTER,
        ),
    ),
    "Qwen's marks": (f"<|fim_prefix|>{BEFORE}<|fim_suffix|>{AFTER}<|fim_middle|>", ("", None, BEFORE, AFTER)),
    "GLM's marks": (f"<|code_prefix|>{BEFORE}<|code_suffix|>{AFTER}<|code_middle|>", ("", None, BEFORE, AFTER)),
    "CodeLlama's marks": (f"<PRE> {BEFORE} <SUF>{AFTER} <MID>", ("", None, BEFORE, AFTER)),
    "DeepSeek's marks": (f"<｜fim▁begin｜>{BEFORE}<｜fim▁hole｜>{AFTER}<｜fim▁end｜>", ("", None, BEFORE, AFTER)),
    "another model's marks in code": (
        "# see <|fim_prefix|> and <|fim_suffix|>\nEND = <|fim_middle|>",
        ("", None, "# see <|fim_prefix|> and <|fim_suffix|>\nEND = <|fim_middle|>", None),
    ),
    "the end token": ("<|endoftext|>", ("<|endoftext|>", None, "", None)),
    "code alone": (CODE, ("", None, CODE, None)),
    "line ends around a template": (f"\n{P}{BEFORE}{S}{AFTER}{M}\n", ("", None, BEFORE, AFTER)),
    "line ends around Qwen's": (
        f"\n<|fim_prefix|>{BEFORE}<|fim_suffix|>{AFTER}<|fim_middle|>\n",
        ("", None, BEFORE, AFTER),
    ),
    "Continue's snippets": (
        f"<file_sep>B = '{M}'\n<file_sep>C = 3<file_sep>{P}{BEFORE}{S}{AFTER}{M}",
        (f"<file_sep>B = '{M}'\n<file_sep>C = 3<file_sep>", None, BEFORE, AFTER),
    ),
    "the base's own format": (
        f"<repo_name>shop\n<file_sep>b.py\nB = 1\n<file_sep>web/a.py\n{P}{BEFORE}{S}{AFTER}{M}",
        ("<repo_name>shop\n<file_sep>b.py\nB = 1\n<file_sep>web/a.py\n", "web/a.py", BEFORE, AFTER),
    ),
    "a path and code": (f"<|FILE_START|> a.py\n{CODE}", ("<|FILE_START|> a.py\n", "a.py", CODE, None)),
    "marks in code alone": (f"# {P} and {S}, then {M} here\n", ("", None, f"# {P} and {S}, then {M} here\n", None)),
    "nothing": ("", ("", None, "", None)),
}


@pytest.mark.parametrize("name", CASES)
def test_code_is_found_in_a_template(name: str) -> None:
    text, expected = CASES[name]
    assert take_apart(text, None, load_tokenizer("embedded")) == EditorText(*expected)


def test_with_a_suffix_both_texts_are_code() -> None:
    asked = f"{P}{CODE}{S}{AFTER}{M}"
    assert take_apart(asked, AFTER, load_tokenizer("embedded")) == EditorText("", None, asked, AFTER)


@pytest.mark.parametrize("after", [AFTER, None])
def test_names_of_tokens_in_code_stay_text(after: str | None) -> None:
    tokenizer = load_tokenizer("embedded")
    prompt = PromptBuilder(tokenizer, 2048).asked(CODE, after, 64)
    marks = [tokenizer.decode([id]) for id in prompt.ids if id in tokenizer.special_ids]
    assert marks == ([P, S, M] if after else []) and prompt.fim == bool(after)


def test_marks_of_a_template_are_tokens() -> None:
    tokenizer = load_tokenizer("embedded")
    text = f"<|FILE_START|> b.py\nB = '<|FILE_END|>'\n<|FILE_END|><|FILE_START|> a.py\n{P}{CODE}{S}{AFTER}{M}"
    ids = PromptBuilder(tokenizer, 2048).asked(text, None, 64).ids
    marks = [tokenizer.decode([id]) for id in ids if id in tokenizer.special_ids]
    assert marks[-5:] == ["<|FILE_END|>", "<|FILE_START|>", P, S, M]
    assert tokenizer.decode(ids) == text


def test_a_model_without_marks_for_a_gap_says_so() -> None:
    plain = load_tokenizer("embedded")
    plain.dialect = NO_DIALECT
    for text, after in ((f"{P}{BEFORE}{S}{AFTER}{M}", None), (BEFORE, AFTER)):
        with pytest.raises(InputError, match="no fill-in-the-middle tokens"):
            PromptBuilder(plain, 2048).asked(text, after, 64)


def test_no_text_at_all_begins_a_document() -> None:
    tokenizer = load_tokenizer("embedded")
    assert PromptBuilder(tokenizer, 2048).asked("", None, 64).ids == [tokenizer.end_id]
    assert PromptBuilder(tokenizer, 2048).asked("", "", 64).ids == [tokenizer.end_id]


def test_fewer_new_tokens_are_left_if_the_prompt_needs_the_room() -> None:
    tokenizer = load_tokenizer("embedded")
    for lines, asked, left in ((1, 16, 16), (1, 5000, 512 - 64), (60, 5000, None), (1, 0, 0)):
        prompt = PromptBuilder(tokenizer, 512).asked("value = 1\n" * lines, None, asked)
        assert prompt.new == (512 - len(prompt.ids) if left is None else left)
