from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebpfperf.lab.patches import PatchError, json_patch, merge_patch
from ebpfperf.lab.strategic import strategic_merge

SCALARS = st.none() | st.booleans() | st.integers(-9, 9) | st.text("ab~/", max_size=3)
DOCUMENTS = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text("ab~/", max_size=2), inner, max_size=3)
    ),
    max_leaves=8,
)


# RFC 7386, appendix A.
@pytest.mark.parametrize(
    ("document", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch_does_what_the_rfc_says(document: Any, patch: Any, result: Any) -> None:
    assert merge_patch(document, patch) == result


@given(DOCUMENTS, DOCUMENTS)
def test_a_merge_patch_is_idempotent_and_changes_neither_argument(
    document: Any, patch: Any
) -> None:
    before = deepcopy((document, patch))
    once = merge_patch(document, patch)
    assert merge_patch(once, patch) == once
    assert (document, patch) == before


# RFC 6902, appendix A.
@pytest.mark.parametrize(
    ("document", "operations", "result"),
    [
        (
            {"foo": "bar"},
            [{"op": "add", "path": "/baz", "value": "qux"}],
            {"baz": "qux", "foo": "bar"},
        ),
        (
            {"foo": ["bar", "baz"]},
            [{"op": "add", "path": "/foo/1", "value": "qux"}],
            {"foo": ["bar", "qux", "baz"]},
        ),
        ({"baz": "qux", "foo": "bar"}, [{"op": "remove", "path": "/baz"}], {"foo": "bar"}),
        ({"foo": ["a", "b", "c"]}, [{"op": "remove", "path": "/foo/1"}], {"foo": ["a", "c"]}),
        ({"baz": "qux"}, [{"op": "replace", "path": "/baz", "value": "boo"}], {"baz": "boo"}),
        (
            {"foo": {"bar": "baz", "waldo": "fred"}, "qux": {"corge": "grault"}},
            [{"op": "move", "from": "/foo/waldo", "path": "/qux/thud"}],
            {"foo": {"bar": "baz"}, "qux": {"corge": "grault", "thud": "fred"}},
        ),
        (
            {"foo": ["all", "grass", "cows", "eat"]},
            [{"op": "move", "from": "/foo/1", "path": "/foo/3"}],
            {"foo": ["all", "cows", "eat", "grass"]},
        ),
        ({"baz": "qux"}, [{"op": "test", "path": "/baz", "value": "qux"}], {"baz": "qux"}),
        ({"a": 1}, [{"op": "copy", "from": "/a", "path": "/b"}], {"a": 1, "b": 1}),
        ({"foo": ["bar"]}, [{"op": "add", "path": "/foo/-", "value": 7}], {"foo": ["bar", 7]}),
        ({"/": 9, "~1": 10}, [{"op": "test", "path": "/~01", "value": 10}], {"/": 9, "~1": 10}),
        ({"a": 1}, [{"op": "replace", "path": "", "value": [2]}], [2]),
    ],
)
def test_json_patch_does_what_the_rfc_says(document: Any, operations: Any, result: Any) -> None:
    before = deepcopy(document)
    assert json_patch(document, operations) == result
    assert document == before


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "remove", "path": "/nothing"},
        {"op": "replace", "path": "/nothing", "value": 1},
        {"op": "add", "path": "/a/b", "value": 1},
        {"op": "add", "path": "/list/3", "value": 1},
        {"op": "add", "path": "/list/01", "value": 1},
        {"op": "remove", "path": "/list/-"},
        {"op": "add", "path": "/a"},
        {"op": "add", "path": "a", "value": 1},
        {"op": "test", "path": "/a", "value": True},
        {"op": "test", "path": "/list", "value": [1]},
        {"op": "move", "from": "/deep", "path": "/deep/er"},
        {"op": "frob", "path": "/a"},
        {"path": "/a"},
        "add",
    ],
)
def test_a_json_patch_that_does_not_apply_says_so_and_changes_nothing(operation: Any) -> None:
    document = {"a": 1, "list": [0, 1], "deep": {"er": {}}}
    before = deepcopy(document)
    good = {"op": "replace", "path": "/a", "value": 2}
    with pytest.raises(PatchError, match="operation 1"):
        json_patch(document, [good, operation])
    assert document == before


@given(DOCUMENTS, DOCUMENTS)
def test_add_then_remove_gives_the_document_back(document: Any, value: Any) -> None:
    start = {"kept": document}
    operations = [
        {"op": "add", "path": "/new", "value": value},
        {"op": "test", "path": "/new", "value": value},
        {"op": "remove", "path": "/new"},
    ]
    assert json_patch(start, operations) == start


def test_strategic_merge_matches_containers_by_name() -> None:
    pod = {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]}
    patch = {
        "$setElementOrder/containers": [{"name": "a"}, {"name": "b"}],
        "containers": [{"name": "b", "image": "2"}, {"name": "a", "$patch": "delete"}],
        "restartPolicy": "Never",
    }
    assert strategic_merge(pod, patch) == {
        "containers": [{"name": "b", "image": "2"}],
        "restartPolicy": "Never",
    }


def test_strategic_merge_replaces_lists_it_has_no_key_for_and_removes_nulls() -> None:
    merged = strategic_merge(
        {"args": ["a", "b"], "x": {"y": 1, "z": 2}}, {"args": ["c"], "x": {"y": None}}
    )
    assert merged == {"args": ["c"], "x": {"z": 2}}


def test_a_strategic_patch_of_nonsense_is_merged_not_a_defect() -> None:
    assert strategic_merge({}, {"env": [None, None]}) == {"env": [None, None]}
    assert strategic_merge({"env": "text"}, {"env": [{"name": "a"}]}) == {"env": [{"name": "a"}]}
    assert strategic_merge({"env": 1}, {"$deleteFromPrimitiveList/env": 2}) == {"env": 1}
    replaced = strategic_merge({"env": []}, {"env": [{"$patch": "replace"}, None]})
    assert replaced == {"env": [None]}
