"""What a model is asked: as much of a file as fits, behind its repository's related files where there are any."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from threading import Lock

from longrepo.errors import InputError
from longrepo.sequences.analysed import unpack
from longrepo.sequences.analysis import Analyser, FileJob
from longrepo.sequences.compose import FilePiece, Sizes
from longrepo.sequences.draft import Draft
from longrepo.sequences.prompt import fitting, following, write_beginning, write_gap, write_others
from longrepo.sequences.text import TokenizedText, path_tokens
from longrepo.sequences.tokenizer import Fim, RepoTokenizer
from longrepo.sequences.tokens import FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX
from longrepo.use.around import Around

_LEAST = 64  # tokens that a prompt has room for at least
_GAP = re.compile(f".*?{FIM_PREFIX}(.*){FIM_SUFFIX}(.*){FIM_MIDDLE}", re.DOTALL)


@dataclass(frozen=True)
class Prompt:
    """`ids` `[tokens]`; whether they ask for what fills a gap; the other files in them, the nearest first."""

    ids: list[int]
    fim: bool
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prompts:
    """Makes prompts that leave room for a completion: in `length` tokens what is put together here; a text that is
    taken as it is may have `longest`, the completion's with it (None: `length`, too)."""

    tokenizer: RepoTokenizer
    length: int
    around: Around | None = None
    longest: int | None = None
    _turn: Lock = field(default_factory=Lock)

    def at(self, path: str, before: str, after: str | None, new: int) -> Prompt:
        """For `new` tokens in the file at `path`, between two texts; None: at the end. What doesn't fit is left out,
        the farthest first; the file itself has half the room at least."""
        with self._turn:
            return self._at(path, before, after, _room(self.length, new))

    def as_given(self, text: str, after: str | None, new: int) -> Prompt:
        """For `new` tokens after a text as it is, in which the names of special tokens are these tokens, or between
        it and another. Raises InputError where it doesn't fit."""
        ids = self._marked(text)
        if after is not None:
            fim = self._fim()
            ids = [fim.prefix, *ids, fim.suffix, *self._marked(after), fim.middle]
        longest = self.longest or self.length
        if len(ids) > (room := _room(longest, new)):
            raise InputError(
                f"the prompt has {len(ids)} tokens; of {longest} in all, {new} new ones leave {room}: give less, or a "
                "larger --length, and beyond the model's positions a context.method and a context.target_length"
            )
        return Prompt(ids, after is not None or (self.tokenizer.fim is not None and FIM_MIDDLE in text))

    def asked(self, text: str, after: str | None, new: int) -> Prompt:
        """As an editor asks, which doesn't say in which file: where one of the repository is recognised, with what
        stands around it there, else as given."""
        gap = _GAP.fullmatch(text) if after is None else None
        before, rest = (gap[1], gap[2]) if gap else (text, after)
        path = self.around.path_of(f"{before}\n{rest or ''}") if self.around else None
        return self.at(path, before, rest, new) if path else self.as_given(text, after, new)

    def _at(self, path: str, before: str, after: str | None, room: int) -> Prompt:
        own, rest = self._read(path, before), self._read(path, after or "")
        sizes = Sizes(self.tokenizer)
        room -= sizes.frame(own) + (3 if after is not None else 0)
        seen = (*own.outline.imports, *rest.outline.imports)
        others = self.around.others(path, seen) if self.around else ()
        if after is None:
            return self._written(own, None, others, room, sizes)
        return self._written(own, following(rest, 0, room // 4), others, room, sizes)

    def _written(
        self, own: TokenizedText, after: FilePiece | None, others: Iterable[FilePiece], room: int, sizes: Sizes
    ) -> Prompt:
        room -= after.size if after else 0
        chosen = fitting(others, room - min(len(own), room // 2), sizes)
        left = room - sum(map(sizes.file, chosen))
        before = FilePiece(own, own.start_in(len(own), left), len(own), (), False)
        draft = Draft(self.tokenizer)
        write_others(draft, chosen)
        if after is None:
            write_beginning(draft, before)
        else:
            write_gap(draft, before, after, self._fim())
        files = tuple(dict.fromkeys(piece.of.path for piece in chosen))
        return Prompt(draft.arrays()[0].tolist(), after is not None, files)

    def _read(self, path: str, text: str) -> TokenizedText:
        """As the files of training, but nothing redacted: it is to go on as it stands."""
        found = Analyser(self.tokenizer, None, 1.0).analyse([FileJob(path, text)])[0]
        return unpack(found, path, path_tokens(self.tokenizer, path)).text

    def _marked(self, text: str) -> list[int]:
        return list(self.tokenizer.source.encode(text, add_special_tokens=False))

    def _fim(self) -> Fim:
        if self.tokenizer.fim is None:
            raise InputError(f"{self.tokenizer.name}: its tokenizer has no fill-in-the-middle tokens")
        return self.tokenizer.fim


def _room(length: int, new: int) -> int:
    if (room := length - new) < _LEAST:
        raise InputError(
            f"{new} new tokens leave {max(room, 0)} of {length} for the prompt, which takes {_LEAST} at least"
        )
    return room
