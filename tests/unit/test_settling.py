"""Waiting for the nodes: with an observer that plays a script, and a clock that only it moves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ebpfperf import settling
from ebpfperf.calico.nodelog import FelixState, LoggedDataplane
from ebpfperf.errors import KubeError, SettleError
from ebpfperf.model import Dataplane, Overlay, Treatment
from ebpfperf.network_view import Link, NodeView, Route
from ebpfperf.settling import FelixSeen, Observer, await_shown, wanted_on
from ebpfperf.verify import Wanted

CIDR = "198.19.0.0/16"


def seen(pid: int | None, *, leaving: str = "", dataplane: str = "unsaid") -> FelixSeen:
    return FelixSeen(FelixState(pid, LoggedDataplane(dataplane), leaving))


def views(device: str) -> dict[str, NodeView]:
    found = {}
    for index, other in ((1, 2), (2, 1)):
        nic = Link(f"ens1{index}", 2, 1500, "", True, (f"198.18.0.1{index}/24",), None, None)
        vxlan = Link("vxlan.calico", 9, 1450, "vxlan", True, (), None, 4096)
        by = device or nic.name
        found[f"node-{index}"] = NodeView(
            f"node-{index}",
            f"198.18.0.1{index}",
            (nic, vxlan) if device else (nic,),
            (
                Route(f"198.19.{index}.0/26", "blackhole", "", "", "bird"),
                Route(f"198.19.{other}.0/26", "unicast", "", by, "bird"),
            ),
        )
    return found


class Script:
    """What the nodes show, second by second; the last scene stays."""

    def __init__(self, *scenes: tuple[str, FelixSeen], ready: bool = True) -> None:
        self.scenes = list(scenes)
        self.ready = ready
        self.looks = 0

    def views(self, *, programs: bool = False) -> tuple[dict[str, NodeView], dict[str, bytes]]:
        return views(self.now[0]), {"settle.node-1.addr.json": b"[]"}

    def felix(self) -> dict[str, FelixSeen]:
        found = dict.fromkeys(("node-1", "node-2"), self.now[1])
        self.looks += 1
        return found

    def calico_ready(self, name: str) -> bool:
        return self.ready

    @property
    def now(self) -> tuple[str, FelixSeen]:
        return self.scenes[min(self.looks, len(self.scenes) - 1)]


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[], float]:
    """A second passes with every pause, and only then."""
    now = [0.0]

    def pause(_: float) -> None:
        now[0] += 1.0

    class Clock:
        sleep = staticmethod(pause)
        monotonic = staticmethod(lambda: now[0])

    monkeypatch.setattr(settling, "time", Clock)
    return lambda: now[0]


def wanted(treatment: Treatment) -> dict[str, Wanted]:
    mode = "Always" if treatment.overlay is Overlay.VXLAN else "Never"
    want = Wanted(treatment, {}, ({"vxlanMode": mode},), (CIDR,))
    return {"node-1": want, "node-2": want}


VXLAN = Treatment("vxlan", Overlay.VXLAN)
OLD, NEW = seen(101), seen(102)


def wait(script: Script, treatment: Treatment = VXLAN, *, expected: bool = True) -> Any:
    observer: Any = script
    return await_shown(
        observer,
        wanted(treatment),
        before=dict.fromkeys(("node-1", "node-2"), OLD),
        restart_expected=expected,
    )


def test_it_waits_for_the_routes_and_for_the_new_process() -> None:
    script = Script(
        ("", OLD), ("", seen(101, leaving="Exiting")), ("vxlan.calico", OLD), ("vxlan.calico", NEW)
    )
    shown = wait(script)
    assert script.looks == 4
    facts = {(fact.node, fact.name): fact.value for fact in shown.facts}
    assert facts["node-1", "felix_process"] == "102 (restarted, was 101)"
    assert facts["node-2", "peer_route"] == "198.19.1.0/26 dev vxlan.calico"
    assert facts["node-1", "vxlan_mtu"] == "1450"


def test_a_process_about_to_leave_is_waited_for_even_unasked() -> None:
    leaving = seen(101, leaving="Exiting for config change")
    script = Script(("vxlan.calico", leaving), ("vxlan.calico", NEW))
    wait(script, expected=False)
    assert script.looks == 2


def test_a_restart_that_never_comes_is_given_up(clock: Callable[[], float]) -> None:
    wait(Script(("vxlan.calico", OLD)))
    assert settling.RESTART_S <= clock() < settling.SHOWN_S


def test_an_unreadable_log_does_not_hold_it_up(clock: Callable[[], float]) -> None:
    blind = FelixSeen(FelixState(None, LoggedDataplane.UNSAID, ""), "may not get pods/log.")
    shown = wait(Script(("vxlan.calico", blind)))
    assert clock() == 0
    assert any(fact.value == "UNKNOWN: may not get pods/log." for fact in shown.facts)


def test_the_end_of_patience_says_who_shows_what(clock: Callable[[], float]) -> None:
    with pytest.raises(SettleError, match="not shown after 90 s") as caught:
        wait(Script(("", NEW)))
    assert "node-2 sends 198.19.1.0/26 by ens12, not vxlan.calico" in str(caught.value)
    assert "operator" in caught.value.remedy
    assert clock() < settling.SHOWN_S + 5
    with pytest.raises(SettleError, match="calico-node on node-1 is not ready"):
        wait(Script(("vxlan.calico", NEW), ready=False))


def test_ebpf_that_falls_back_ends_it_at_once(clock: Callable[[], float]) -> None:
    ebpf = Treatment("e", Overlay.VXLAN, dataplane=Dataplane.EBPF)
    fell = seen(102, dataplane="unsupported")
    with pytest.raises(SettleError, match="does not support the eBPF dataplane"):
        wait(Script(("vxlan.calico", fell)), ebpf)
    assert clock() == 0
    # The old process's word is about the old setting.
    stale = seen(101, dataplane="unsupported")
    assert wait(
        Script(("vxlan.calico", stale), ("vxlan.calico", seen(102, dataplane="ebpf"))), ebpf
    )


class Api:
    """Just enough of ``Kube`` for what a node's own Felix settings are."""

    def __init__(self, env: list[dict[str, Any]], own: dict[str, Any] | None = None) -> None:
        self.pod = {
            "metadata": {"name": "calico-node-x", "namespace": "kube-system"},
            "spec": {"containers": [{"name": "calico-node", "env": env}, {"name": "side"}]},
        }
        self.own = own
        self.asked: list[object] = []

    def calico_node_pod(self, node: str) -> dict[str, Any]:
        return self.pod

    def felix_configuration(self, name: str) -> dict[str, Any] | None:
        return None if self.own is None else {"spec": self.own}

    def logs(self, namespace: str, pod: str, *, tail_lines: int, container: str | None) -> str:
        self.asked.append(container)
        raise KubeError("User eve may not get pods/log.")


def on(api: Any, **felix: Any) -> Wanted:
    treatment = Treatment("t", Overlay.VXLAN, felix=tuple(felix.items()))
    return wanted_on(
        api, "n", treatment, felix={"ipipMTU": 0} | felix, pools=(), cidrs=(), release=None
    )


def test_settings_that_beat_the_treatment_are_refused() -> None:
    env = [{"name": "FELIX_VXLANMTU", "value": "1400"}]
    with pytest.raises(SettleError, match="FELIX_VXLANMTU beats"):
        on(Api(env), vxlanMTU=1450)
    with pytest.raises(SettleError, match=r"node\.n beats"):
        on(Api([], {"vxlanMTU": 1400}), vxlanMTU=1450)
    assert on(Api(env)).felix == {"ipipMTU": 0, "vxlanMTU": 1400}


def test_a_field_that_the_release_does_not_have_is_refused() -> None:
    treatment = Treatment("t", Overlay.NONE, felix=(("bpfAttachType", "TCX"),))
    stored = {"bpfLogLevel": ""}
    api: Any = Api([])

    def asked(felix: dict[str, Any], told: Treatment = treatment) -> Wanted:
        return wanted_on(api, "n", told, felix=felix, pools=(), cidrs=(), release="v3.26.1")

    with pytest.raises(SettleError, match=r"Calico v3\.26\.1 has no field bpfAttachType") as caught:
        asked(stored)
    assert "Leave bpfAttachType out" in caught.value.remedy
    assert asked(stored | {"bpfAttachType": "TCX"}).felix["bpfAttachType"] == "TCX"
    # What is to be removed, or is empty text, need not come back.
    for value in (None, ""):
        asked(stored, Treatment("t", Overlay.NONE, felix=(("bpfAttachType", value),)))


def test_a_value_from_a_config_map_is_unknown() -> None:
    env = [{"name": "FELIX_IPINIPMTU", "valueFrom": {"configMapKeyRef": {}}}]
    wanted = on(Api(env))
    assert wanted.unknown_fields == {"ipipMTU"}
    assert wanted.felix == {}


def test_a_log_that_may_not_be_read_is_a_reason() -> None:
    api: Any = Api([])
    node: Any = object()
    felix = Observer(api, {"n": node}, {"n": "198.18.0.11"}).felix()["n"]
    assert felix.state.pid is None
    assert felix.unknown == "User eve may not get pods/log."
    assert api.asked == ["calico-node"]
