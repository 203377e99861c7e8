"""Calico's selectors: expressions × labels, what is none and where, and a naive evaluator."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebpfperf.calico.selectors import parse

NONE: dict[str, str] = {}
AB = {"a": "b"}


@pytest.mark.parametrize(
    ("text", "chosen", "others"),
    [
        ('a == "b"', [AB, {"a": "b", "c": "d"}], [NONE, {"a": "c"}, {"c": "b"}]),
        ("a=='b'", [AB], [{"a": "'b'"}]),
        ("a != 'b'", [NONE, {"a": "c"}], [AB]),
        ("""a in {"'", '"', "c"}""", [{"a": "c"}, {"a": '"'}, {"a": "'"}], [NONE, {"a": "e"}]),
        ("a not in {'b', 'c'}", [NONE, {"a": "d"}], [AB, {"a": "c"}]),
        ("a notin{'b',}", [NONE, {"a": ""}], [AB]),
        ("a in {}", [], [NONE, AB, {"a": ""}]),
        ("a not in {}", [NONE, AB], []),
        ("has(a)", [AB, {"a": ""}], [NONE, {"b": "a"}]),
        ("has( a )", [AB], [NONE]),
        ("!has(a)", [NONE, {"b": "a"}], [AB]),
        ("a contains 'x'", [{"a": "axb"}, {"a": "x"}], [NONE, {"a": "b"}]),
        ("a starts with 'x'", [{"a": "xb"}], [NONE, {"a": "bx"}]),
        ("a startswith 'x'", [{"a": "x"}], [{"a": "ax"}]),
        ("a ends \t with 'x'", [{"a": "bx"}], [NONE, {"a": "xb"}]),
        ("contains contains 'n'", [{"contains": "n"}], [NONE]),
        ("has == 'in' && in in {'all'}", [{"has": "in", "in": "all"}], [{"has": "in"}]),
        ("all()", [NONE, AB], []),
        ("global( )", [NONE, AB], []),
        ("!all()", [], [NONE, AB]),
        ("", [NONE, AB], []),
        (" \t", [NONE, AB], []),
        ("has(a) || has(b) && has(c)", [AB, {"b": "", "c": ""}], [{"b": ""}, {"c": ""}]),
        ("(has(a) || has(b)) && has(c)", [{"a": "", "c": ""}], [AB, {"b": ""}, {"c": ""}]),
        ("!a == 'b' && has(a)", [{"a": "c"}], [NONE, AB]),
        ("!(a == 'b' && has(c))", [NONE, AB], [{"a": "b", "c": ""}]),
        ("!!has(a)", [AB], [NONE]),
        ("! !! has(a)", [NONE], [AB]),
        ("!(!has(a) || has(b))", [AB], [NONE, {"a": "", "b": ""}]),
        (
            "kubernetes.io/os == 'linux' && k8s-app_1/x.y in {'1'}",
            [{"kubernetes.io/os": "linux", "k8s-app_1/x.y": "1"}],
            [{"kubernetes.io/os": "linux"}],
        ),
        ("a == 'x && !has(a) \\'", [{"a": "x && !has(a) \\"}], [AB]),
    ],
)
def test_what_a_selector_chooses(
    text: str, chosen: list[dict[str, str]], others: list[dict[str, str]]
) -> None:
    selector = parse(text)
    assert [selector.chooses(labels) for labels in chosen] == [True] * len(chosen)
    assert [selector.chooses(labels) for labels in others] == [False] * len(others)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("b == b", "a string in quotes at character 6, not 'b'"),
        ("b contains b", "a string in quotes at character 12"),
        ("'b1' == b", "a label's name, .* at character 1, not"),
        ("b", "an operator at character 2, not the end"),
        ("b ", "an operator at character 3, not the end"),
        ("a b", "an operator at character 3"),
        ("a = 'b'", "an operator at character 3"),
        ("a starts 'b'", "an operator at character 3"),
        ("a not 'b'", "an operator at character 3"),
        ("!", "at character 2, not the end"),
        ('foo == "bar" &', "'&' at character 14 has no meaning"),
        ('foo == "bar" |', "'|' at character 14 has no meaning"),
        ("foo != ||", "a string in quotes at character 8"),
        ('foo in {"", ||', "} at character 13"),
        ("foo in {,}", "} at character 9"),
        ("foo in {'a' 'b'}", "} at character 13"),
        ("foo in ''", "{ at character 8"),
        ('"FOO', "the string at character 1 has no end"),
        ("\"FOO'", "the string at character 1 has no end"),
        ("a == 'b", "the string at character 6 has no end"),
        ("(", "at character 2, not the end"),
        ("has(c) && (a == 'b'", r"the \) of character 11 at character 20, not the end"),
        (")", "at character 1, not"),
        ("()", "at character 2, not"),
        ("all())", "or the end at character 6"),
        ("%", "'%' at character 1 has no meaning"),
        ("has(foo) &&", "at character 12, not the end"),
        ("has(a) has(b)", "or the end at character 8, not 'has"),
        ("has (a)", "an operator at character 5"),
        ("has('a')", "an operator at character 4"),
        ("all(a)", "an operator at character 4"),
        ("has(a)\n", r"'\\n' at character 7 has no meaning"),
        ("gpu=true", "an operator at character 4"),
    ],
)
def test_what_is_none_says_where(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse(text)


def test_any_depth_is_understood() -> None:
    deep = 2000
    assert parse("(" * deep + "has(a)" + ")" * deep).chooses(AB)
    assert parse("!" * deep + "has(a)").chooses(AB)
    assert not parse("!(" * (deep + 1) + "has(a)" + ")" * (deep + 1)).chooses(AB)


LABELS = ("a", "in", "has", "x.y/z-1_")
VALUES = ("", "u", "uv", "vu", "all()", "&& ")
quoted = st.tuples(st.sampled_from(VALUES), st.sampled_from("\"'"))
leaf = st.one_of(
    st.tuples(
        st.sampled_from(("==", "!=", "contains", "starts with", "ends with")),
        st.sampled_from(LABELS),
        quoted,
    ),
    st.tuples(
        st.sampled_from(("in", "not in")), st.sampled_from(LABELS), st.lists(quoted, max_size=3)
    ),
    st.tuples(st.just("has"), st.sampled_from(LABELS)),
    st.sampled_from((("all",), ("global",))),
)
tree = st.recursive(
    leaf,
    lambda inner: st.one_of(
        st.tuples(st.just("!"), inner),
        st.tuples(st.sampled_from(("&&", "||")), st.lists(inner, min_size=2, max_size=4)),
    ),
    max_leaves=12,
)
labelled = st.dictionaries(st.sampled_from(LABELS), st.sampled_from(VALUES))


def written(node: Any, above: str = "") -> str:
    """The expression with no more parentheses than it needs."""
    kind, *rest = node
    if kind in ("&&", "||"):
        text = f" {kind} ".join(written(each, kind) for each in rest[0])
        needed = above in ("!", "&&") or above == kind
        return f"({text})" if needed else text
    if kind == "!":
        return f"!{written(rest[0], '!')}"
    if kind == "has":
        return f"has({rest[0]})"
    if kind in ("all", "global"):
        return f"{kind}()"
    if kind in ("in", "not in"):
        inside = ", ".join(f"{quote}{value}{quote}" for value, quote in rest[1])
        return f"{rest[0]} {kind} {{{inside}}}"
    value, quote = rest[1]
    return f"{rest[0]} {kind} {quote}{value}{quote}"


def holds(node: Any, labels: dict[str, str]) -> bool:
    """The same by Python's own operators."""
    kind, *rest = node
    if kind == "&&":
        return all(holds(each, labels) for each in rest[0])
    if kind == "||":
        return any(holds(each, labels) for each in rest[0])
    if kind == "!":
        return not holds(rest[0], labels)
    if kind in ("all", "global"):
        return True
    there, value = rest[0] in labels, labels.get(rest[0], "")
    if kind == "has":
        return there
    if kind in ("in", "not in"):
        within = there and value in [each for each, _ in rest[1]]
        return within if kind == "in" else not within
    wanted = rest[1][0]
    return {
        "==": there and value == wanted,
        "!=": not there or value != wanted,
        "contains": there and wanted in value,
        "starts with": there and value.startswith(wanted),
        "ends with": there and value.endswith(wanted),
    }[kind]


@given(node=tree, labels=labelled)
def test_a_naive_evaluator_says_the_same(node: Any, labels: dict[str, str]) -> None:
    assert parse(written(node)).chooses(labels) is holds(node, labels)
