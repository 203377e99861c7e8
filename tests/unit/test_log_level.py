"""bpfLogLevel switched for some seconds: what is refused, what is sent, what is found again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ebpfperf import log_level
from ebpfperf.cli import app
from ebpfperf.errors import InputError, KubeError
from ebpfperf.felix_values import Evidence
from ebpfperf.journal import FILE_NAME, Journal
from ebpfperf.model import ClusterRef
from ebpfperf.mutations import Mutation, describe, set_log_level
from ebpfperf.restoration import restoration

ON = {"bpfEnabled": True}


@pytest.mark.parametrize(
    ("live", "verb"),
    [
        (None, "create"),
        ({"spec": {}}, "patch"),
        ({"spec": {"bpfLogLevel": ""}}, "patch"),
        ({"spec": {"bpfLogLevel": "Info"}}, "patch"),
        ({"spec": {"bpfLogLevel": "debug"}}, None),
    ],
)
def test_only_what_differs_is_sent(live: dict[str, Any] | None, verb: str | None) -> None:
    call = set_log_level("node.node-1", live, "Debug")
    assert (None if call is None else call.verb) == verb
    if call is not None:
        assert call.fields == {"bpfLogLevel": "Debug"}
        assert describe(call).startswith(f"{verb} FelixConfiguration node.node-1: bpfLogLevel=")


@pytest.mark.parametrize(
    ("original", "call"),
    [
        (None, ("delete", None)),
        ({"metadata": {"name": "n"}, "spec": {}}, ("patch", {"spec": {"bpfLogLevel": None}})),
        (
            {"metadata": {"name": "n"}, "spec": {"bpfLogLevel": ""}},
            ("patch", {"spec": {"bpfLogLevel": ""}}),
        ),
    ],
)
def test_the_way_back_restores_absence(
    tmp_path: Path, original: dict[str, Any] | None, call: tuple[str, Any]
) -> None:
    journal = Journal(tmp_path / FILE_NAME, ClusterRef(ippools=()), cluster_uid="u")
    sent = set_log_level("n", original, "Debug")
    assert sent is not None
    journal.remember(sent.kind, sent.name, original=original)
    journal.intend(sent)
    again = Journal.load(tmp_path / FILE_NAME)
    assert again is not None
    live = {(sent.kind, "", "n"): {"metadata": {"name": "n"}, "spec": {"bpfLogLevel": "Debug"}}}
    plan = restoration(again.objects(), live)
    assert plan.conflicts == ()
    (back,) = plan.mutations
    assert isinstance(back, Mutation)
    assert (back.verb, back.body) == call


def seen(**given: Any) -> Evidence:
    return Evidence("node-1", "v3.26.1", **{"default": ON, **given})


@pytest.mark.parametrize(
    ("evidence", "words"),
    [
        (seen(default={}), "node-1 does not forward by eBPF"),
        (seen(unsupported=True), "node-1 does not forward by eBPF"),
        (seen(environment={"FELIX_BPFLOGLEVEL": "Off"}), "bpfLogLevel is Off by FELIX_BPFLOGLEVEL"),
        (seen(file={"BPFLogLevel": "Info"}), "bpfLogLevel is Info by /etc/calico/felix.cfg"),
        (seen(own={"bpfLogLevel": "Off"}), "bpfLogLevel is Off by FelixConfiguration node.node-1"),
    ],
)
def test_what_would_do_nothing_is_refused(tmp_path: Path, evidence: Evidence, words: str) -> None:
    with (
        pytest.raises(InputError, match=words),
        log_level.raised(
            ClusterRef(kubeconfig=str(tmp_path / "none")), {}, [evidence],
            everywhere=True, programs=dict, say=print, directory=tmp_path / "here",
        ),
    ):  # fmt: skip
        raise AssertionError("it was changed")
    assert not (tmp_path / "here").exists()


def test_a_nodes_own_resource_beats_only_what_is_set_for_all(tmp_path: Path) -> None:
    """Of one node it is what is changed: then the cluster is asked next, which is not there."""
    own = seen(own={"bpfLogLevel": "Off"})
    with (
        pytest.raises(KubeError),
        log_level.raised(
            ClusterRef(kubeconfig=str(tmp_path / "none")), {}, [own],
            everywhere=False, programs=dict, say=print, directory=tmp_path / "here",
        ),
    ):  # fmt: skip
        raise AssertionError("it was changed")


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        log_level._alone(tmp_path),
        pytest.raises(InputError, match="has the debug log on"),
    ):
        log_level.restored(tmp_path)


def test_restore_knows_a_directory_that_is_no_campaigns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "runs" / "log-level"
    journal = Journal(place / FILE_NAME, ClusterRef(ippools=()), cluster_uid="u")
    journal.close()
    for arguments in ([], ["runs/log-level"]):
        done = CliRunner().invoke(app, ["restore", "--json", *arguments])
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout) == {"runs/log-level": []}
