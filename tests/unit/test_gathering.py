"""Gathering where the API refuses lists, nodes run Windows, or there are very many of them."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from ebpfperf import gathering, reach
from ebpfperf.diagnosis import Verdict
from ebpfperf.doctor import judge
from ebpfperf.errors import KubeError, NodeError
from ebpfperf.evidence import Evidence
from ebpfperf.evidence_sources import API_SOURCES
from ebpfperf.kube import Kube

KINDS = {source.name: source.kind for source in API_SOURCES}
FORBIDDEN = KubeError("You may not list it.", "Ask.", status=403, reason="Forbidden")
TIMEOUT = KubeError("The API did not answer in time.", "Is it up?", reason="unreachable")
Error = KubeError | None


def node(name: str, system: str = "linux") -> dict[str, Any]:
    labels = {"kubernetes.io/os": system}
    return {"metadata": {"name": name, "labels": labels, "managedFields": [1]}, "status": {}}


class Api:
    """An API of two nodes, one of which runs Windows, that answers some kinds with an error."""

    def __init__(self, errors: dict[str, KubeError], every: Error = None) -> None:
        self.errors, self.every = errors, every
        self.kept: list[Any] = []

    def cluster_wide(self, kind: str, *, kept: Callable[[Any], Any]) -> list[Any]:
        if error := self.errors.get(kind, self.every):
            raise error
        found = [node("linux-1"), node("win-1", "windows")] if kind == "Node" else []
        self.kept += [kept(each) for each in found]
        return [kept(each) for each in found]

    def everywhere(self, kind: str, *, kept: Callable[[Any], Any], named: str = "") -> list[Any]:
        return self.cluster_wide(kind, kept=kept)

    def release(self) -> str | None:
        if error := self.errors.get("ClusterInformation", self.every):
            raise error
        return "v3.26.1"

    def calico_node_pods(self) -> dict[str, Any]:
        if error := self.errors.get("Pod", self.every):
            raise error
        return {}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The nodes that SSH was tried to; it reaches none."""
    found: list[str] = []

    def connect(name: str, **_: Any) -> Any:
        found.append(name)
        raise NodeError(f"{name} refused the connection.")

    monkeypatch.setattr(reach.SSHNode, "connect", connect)
    return found


def gathered(api: Api) -> Evidence:
    return gathering.gather(
        cast(Kube, api), ["linux-1", "win-1"], ssh_config=None, seconds=0, probes=False
    )


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize("error", [FORBIDDEN, TIMEOUT])
@pytest.mark.parametrize("source", [each.name for each in API_SOURCES[1:]])
def test_a_list_that_is_refused_or_late_stops_nothing(source: str, error: KubeError) -> None:
    evidence = gathered(Api({KINDS[source]: error}))
    items = {item.source: item for item in evidence if not item.node}
    assert {name for name, item in items.items() if item.error} == {source}
    assert items[source].error == error.what
    assert evidence.release == "v3.26.1"


@pytest.mark.usefixtures("asked")
def test_an_api_that_refuses_everything_gives_reasons_and_no_health() -> None:
    found = judge.diagnose(gathered(Api({}, FORBIDDEN)))
    assert found.release == ""
    counts = found.counts()
    assert (counts[Verdict.FAIL], counts[Verdict.WARN], counts[Verdict.OK]) == (0, 0, 0)
    assert any("You may not list it" in each.what for r in found.results for each in r.outcomes)


@pytest.mark.usefixtures("asked")
def test_an_api_that_is_not_there_is_an_error() -> None:
    with pytest.raises(KubeError, match="did not answer"):
        gathered(Api({}, TIMEOUT))


def test_a_windows_node_is_not_asked_and_no_node_of_the_evidence(asked: list[str]) -> None:
    evidence = gathered(Api({}))
    assert asked == ["linux-1"]
    assert evidence.nodes == ("linux-1",)
    assert list(evidence.lost) == ["linux-1"]
    # Where nodes may not be listed, nobody knows what they run.
    assert gathered(Api({"Node": FORBIDDEN})).nodes == ("linux-1", "win-1")


@pytest.mark.usefixtures("asked")
def test_objects_are_trimmed_while_they_are_read() -> None:
    api = Api({})
    evidence = gathered(api)
    item = evidence.item("nodes")
    assert item is not None
    assert json.loads(item.content) == api.kept
    assert all("managedFields" not in each["metadata"] for each in api.kept)


@pytest.mark.usefixtures("asked")
def test_many_nodes_may_have_many_connections() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] < 2000:
        pytest.skip("cannot: the machine allows no more open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, before[1]))
    try:
        reach.log_in(["linux-1"] * 10, ssh_config=None)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 1024
        reach.log_in(["linux-1"] * 400, ssh_config=None)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (256 + 4 * 400, before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
