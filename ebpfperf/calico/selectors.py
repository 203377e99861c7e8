"""Calico's selectors over labels: ``role == 'gpu' && !has(spare)``. Pure.

Sources: libcalico-go/lib/selector (tokenizer/tokenizer.go, parser/parser.go, parser/ast.go), whose
peculiarities are kept: nothing but blanks and tabs stands between words, strings know no escapes,
a set may be empty or end with a comma, and ``!`` denies the one operation behind it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

Labels = Mapping[str, str]
Test = Callable[[Labels], bool]

_NAME = r"[a-zA-Z0-9_./-]+"
_SPACE = re.compile(r"[ \t]*")
_SYMBOL = re.compile(r"==|!=|&&|\|\||[(){},!]")
_STRING = re.compile(r"\"[^\"]*\"|'[^']*'")
# Only behind a label's name: a label may be called "contains", too.
_WORD = re.compile(r"contains|starts[ \t]*with|ends[ \t]*with|not[ \t]*in|in")
_CALL = re.compile(rf"has\([ \t]*({_NAME})[ \t]*\)|(?:all|global)\([ \t]*\)")
_LABEL = re.compile(_NAME)
_OPEN, _NOT, _AND, _OR = "(", "!", "&&", "||"
_END = "the end"

# What a value must be to pass, and whether a label that is not there passes.
_COMPARISONS: dict[str, tuple[Callable[[str, str], bool], bool]] = {
    "==": (lambda value, wanted: value == wanted, False),
    "!=": (lambda value, wanted: value != wanted, True),
    "contains": (lambda value, wanted: wanted in value, False),
    "startswith": (str.startswith, False),
    "endswith": (str.endswith, False),
}
_SETS = {"in": True, "notin": False}


@dataclass(frozen=True, slots=True)
class Selector:
    """A selector that was understood.

    Attributes
    ----------
    text
        As it was written.
    steps
        Tests, and ``!``, ``&&``, ``||`` behind what they apply to.
    """

    text: str
    steps: tuple[Test | str, ...]

    def chooses(self, labels: Labels) -> bool:
        """Whether something with these labels is chosen."""
        held: list[bool] = []
        for step in self.steps:
            if not isinstance(step, str):
                held.append(step(labels))
            elif step == _NOT:
                held.append(not held.pop())
            else:
                right, left = held.pop(), held.pop()
                held.append((left and right) if step == _AND else (left or right))
        return held.pop()


@cache
def parse(text: str) -> Selector:
    """The selector; empty text chooses everything.

    Raises
    ------
    ValueError
        It is none; says what was expected at which character, counted from 1.
    """
    if not text.strip(" \t"):
        return Selector(text, (_everything,))
    return Selector(text, tuple(_steps(_Words(text))))


@dataclass(frozen=True, slots=True)
class _Word:
    """A word and where it begins; ``kind`` is a symbol or operator itself, else what it is."""

    kind: str
    value: str
    at: int


class _Words:
    """The words of a selector, one after the other."""

    def __init__(self, text: str) -> None:
        self._words = list(_split(text))
        self._next = 0

    @property
    def now(self) -> _Word:
        return self._words[self._next]

    def take(self, kind: str = "", wanted: str = "") -> _Word:
        """The word here, which must be of this kind; the next one is the word here then."""
        word = self.now
        if kind and word.kind != kind:
            raise _expected(wanted or kind, word)
        self._next += 1
        return word


def _expected(wanted: str, word: _Word) -> ValueError:
    seen = word.kind if word.kind == _END else repr(word.value)
    return ValueError(f"expected {wanted} at character {word.at + 1}, not {seen}")


def _split(text: str) -> Iterator[_Word]:
    at, before = 0, ""
    while True:
        at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
        if at == len(text):
            break
        word = _word(text, at, after_label=before == "label")
        yield word
        at, before = at + len(word.value), word.kind
    yield _Word(_END, "", at)


def _word(text: str, at: int, *, after_label: bool) -> _Word:
    if found := _SYMBOL.match(text, at):
        return _Word(found[0], found[0], at)
    if found := _STRING.match(text, at):
        return _Word("string", found[0], at)
    if text[at] in "\"'":
        raise ValueError(f"the string at character {at + 1} has no end")
    if after_label:
        if found := _WORD.match(text, at):
            return _Word(re.sub(r"[ \t]", "", found[0]), found[0], at)
        raise ValueError(f"expected an operator at character {at + 1}, behind a label's name")
    if found := _CALL.match(text, at):
        return _Word("call", found[0], at)
    if found := _LABEL.match(text, at):
        return _Word("label", found[0], at)
    raise ValueError(f"{text[at]!r} at character {at + 1} has no meaning there")


def _steps(words: _Words) -> Iterator[Test | str]:
    """Tests and operators, operators last; ``!`` binds closest, then ``&&``."""
    waiting: list[_Word] = []
    while True:
        while words.now.kind in (_NOT, _OPEN):
            waiting.append(words.take())
        yield _operation(words)
        yield from _last(waiting, _NOT)
        while words.now.kind == ")":
            yield from _last(waiting, _AND, _OR)
            if not waiting:
                raise _expected(f"{_AND}, {_OR} or {_END}", words.now)
            waiting.pop()
            words.take()
            yield from _last(waiting, _NOT)
        if words.now.kind == _END:
            break
        if words.now.kind not in (_AND, _OR):
            raise _expected(f"{_AND}, {_OR} or {_END}", words.now)
        yield from _last(waiting, *((_AND,) if words.now.kind == _AND else (_AND, _OR)))
        waiting.append(words.take())
    yield from _last(waiting, _AND, _OR)
    if waiting:
        raise _expected(f"the ) of character {waiting[-1].at + 1}", words.now)


def _last(waiting: list[_Word], *kinds: str) -> Iterator[str]:
    while waiting and waiting[-1].kind in kinds:
        yield waiting.pop().kind


def _operation(words: _Words) -> Test:
    """A test of labels: a call, or a label's name with an operator and what it is held against."""
    word = words.take()
    if word.kind == "call":
        found = _CALL.match(word.value)
        return _has(found[1]) if found and found[1] else _everything
    if word.kind != "label":
        raise _expected("a label's name, has(…), all(), global(), ! or (", word)
    operator = words.take()
    if operator.kind in _SETS:
        return _within(word.value, _set(words), _SETS[operator.kind])
    if operator.kind in _COMPARISONS:
        wanted = words.take("string", "a string in quotes").value[1:-1]
        return _compared(word.value, wanted, *_COMPARISONS[operator.kind])
    raise _expected("an operator", operator)


def _set(words: _Words) -> frozenset[str]:
    words.take("{")
    found = []
    while words.now.kind == "string":
        found.append(words.take().value[1:-1])
        if words.now.kind != ",":
            break
        words.take()
    words.take("}")
    return frozenset(found)


def _everything(_: Labels) -> bool:
    return True


def _has(name: str) -> Test:
    return lambda labels: name in labels


def _within(name: str, values: frozenset[str], inside: bool) -> Test:
    """A label that is not there is in no set."""
    return lambda labels: (name in labels and labels[name] in values) is inside


def _compared(
    name: str,
    wanted: str,
    passes: Callable[[str, str], bool],
    absent: bool,
) -> Test:
    return lambda labels: passes(labels[name], wanted) if name in labels else absent
