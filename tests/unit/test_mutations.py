"""What a treatment changes, and that nothing more is changed: on a simulated cluster of dicts."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebpfperf.model import (
    Campaign,
    ClusterRef,
    Dataplane,
    Flow,
    Overlay,
    Path,
    Scope,
    Treatment,
    Trial,
)
from ebpfperf.mutations import (
    AS_IT_WAS,
    Mutation,
    canonical,
    create_pod,
    describe,
    is_ours,
    plan_mutations,
    plan_restore,
    pod_workloads,
    treatment_mutations,
)

POOL = "default-ipv4-ippool"
NONE = Treatment("none", Overlay.NONE)
VXLAN = Treatment("vxlan", Overlay.VXLAN)
IPIP = Treatment("ipip", Overlay.IPIP)
FLAGS = Treatment("flags", Overlay.VXLAN, felix=(("ipipEnabled", None), ("vxlanMTU", 1400)))


def merged(spec: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    """RFC 7386 on one level, which is all that is ever sent."""
    return {k: v for k, v in {**spec, **fields}.items() if v is not None}


def calls(treatment: Treatment, pool: dict[str, Any], felix: Any, **more: Any) -> Any:
    return treatment_mutations(treatment, {POOL: pool}, felix=felix, **more)


def test_only_what_differs_is_changed() -> None:
    assert calls(NONE, {"ipipMode": "Never", "vxlanMode": "Never"}, {}) == ()
    assert calls(NONE, {}, {"bpfLogLevel": ""}) == ()
    (call,) = calls(VXLAN, {"ipipMode": "Always", "vxlanMode": "Never"}, {})
    assert call.body == {"spec": {"ipipMode": "Never", "vxlanMode": "Always"}}
    (call,) = calls(VXLAN, {"cidr": "198.19.0.0/16"}, {})
    assert call.body == {"spec": {"vxlanMode": "Always"}}


def test_none_removes_a_field_and_absence_needs_no_call() -> None:
    felix, pool = calls(FLAGS, {}, {"ipipEnabled": False})
    assert felix.body == {"spec": {"ipipEnabled": None, "vxlanMTU": 1400}}
    assert json.loads(json.dumps(felix.body))["spec"]["ipipEnabled"] is None
    assert pool.kind == "IPPool"
    assert calls(FLAGS, {"vxlanMode": "Always"}, {"vxlanMTU": 1400}) == ()


def test_true_is_not_one() -> None:
    treatment = Treatment("t", Overlay.NONE, felix=(("vxlanEnabled", True),))
    assert calls(treatment, {}, {"vxlanEnabled": True}) == ()
    assert len(calls(treatment, {}, {"vxlanEnabled": 1})) == 1


def test_an_absent_felix_configuration_is_created_only_when_needed() -> None:
    felix, _ = calls(FLAGS, {}, None)
    assert (felix.verb, felix.name) == ("create", "default")
    assert felix.body["spec"] == {"vxlanMTU": 1400}
    assert [call.kind for call in calls(VXLAN, {}, None)] == ["IPPool"]


def test_before_v3_23_the_flags_are_what_later_releases_derive() -> None:
    felix, _ = calls(VXLAN, {}, {"ipipEnabled": True}, release="v3.16.1")
    assert felix.body["spec"] == {"ipipEnabled": False, "vxlanEnabled": True}
    assert [call.kind for call in calls(VXLAN, {}, {}, release="v3.26.1")] == ["IPPool"]
    named = Treatment("t", Overlay.VXLAN, felix=(("vxlanEnabled", False),))
    felix, _ = calls(named, {}, {}, release="v3.16.1")
    assert felix.body["spec"]["vxlanEnabled"] is False


def test_dataplane_is_bpf_enabled_and_none_leaves_it() -> None:
    ebpf = Treatment("e", Overlay.NONE, dataplane=Dataplane.EBPF)
    (felix,) = calls(ebpf, {}, {})
    assert felix.body == {"spec": {"bpfEnabled": True}}
    assert calls(NONE, {}, {"bpfEnabled": True}) == ()


def test_cross_subnet_is_spelt_as_calico_does() -> None:
    treatment = Treatment("t", Overlay.IPIP, Scope.CROSS_SUBNET)
    (call,) = calls(treatment, {}, {})
    assert call.body == {"spec": {"ipipMode": "CrossSubnet"}}


values = st.none() | st.booleans() | st.integers(1000, 9000) | st.text("abc", max_size=3)
fields = st.sampled_from(["ipipEnabled", "vxlanEnabled", "vxlanMTU", "bpfLogLevel", "x"])
treatments = st.builds(
    Treatment,
    name=st.just("t"),
    overlay=st.sampled_from(Overlay),
    scope=st.sampled_from(Scope),
    felix=st.dictionaries(fields, values, max_size=3).map(lambda d: tuple(sorted(d.items()))),
)


@given(
    felix=st.dictionaries(fields, values.filter(lambda v: v is not None)),
    order=st.lists(treatments, min_size=1, max_size=5),
    release=st.sampled_from([None, "v3.16.1", "v3.26.1"]),
)
def test_a_treatment_is_the_same_whatever_came_before(
    felix: dict[str, Any], order: list[Treatment], release: str | None
) -> None:
    start = {"cidr": "198.19.0.0/16", "vxlanMode": "Never"}

    def run(path: list[Treatment]) -> tuple[str, dict[str, Any]]:
        live, pool, originals = dict(felix), dict(start), {}
        for treatment in path:
            made = calls(treatment, pool, live, originals=originals, release=release)
            for call in made:
                if call.kind == "IPPool":
                    pool = merged(pool, call.fields)
                    continue
                for name in call.fields:
                    originals.setdefault(name, felix.get(name))
                live = merged(live, call.fields)
            both = [pool.get(mode, "Never") for mode in ("ipipMode", "vxlanMode")]
            assert "Never" in both, "Calico refuses both modes at once"
            again = calls(treatment, pool, live, originals=originals, release=release)
            assert again == (), "settling twice changes nothing"
        return canonical(live), {m: pool.get(m, "Never") for m in ("ipipMode", "vxlanMode")}

    assert run(order) == run(order[-1:])


def test_pods_get_an_address_from_the_pools_that_change() -> None:
    ref = ClusterRef(ippools=("a", "b"), namespace="perf")
    pods = pod_workloads(ref, "node-1", "node-2")
    call = create_pod(pods["server"], ref)
    assert call.body is not None
    meta = call.body["metadata"]
    assert json.loads(meta["annotations"]["cni.projectcalico.org/ipv4pools"]) == ["a", "b"]
    assert call.body["spec"]["nodeName"] == "node-2"
    assert is_ours(dict(call.body))
    assert not is_ours({"metadata": {"labels": None}})


def test_describe_is_one_line() -> None:
    call = Mutation(
        "patch", "IPPool", POOL, body={"spec": {"vxlanMode": "Always", "x": None}}, why="w"
    )
    assert describe(call) == f"patch IPPool {POOL}: vxlanMode=Always, x removed (w)"
    assert describe(Mutation("delete", "Pod", "p", "n")) == "delete Pod n/p"


def campaign() -> Campaign:
    return Campaign(
        name="demo",
        seed=1,
        blocks=1,
        baseline="none",
        treatments=(NONE, VXLAN, FLAGS),
        flows=(Flow("tcp", Path.POD_POD, "tcp"),),
        cluster=ClusterRef(client_node="node-1", server_node="node-2"),
    )


def test_dry_run_shows_each_switch_and_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a dry run opened a socket")

    monkeypatch.setattr(socket, "socket", refuse)
    flow = campaign().flows[0]
    order = [
        Trial(f"t{i}", 0, i, treatment, flow)
        for i, treatment in enumerate((FLAGS, FLAGS, NONE, VXLAN))
    ]
    plan = plan_mutations(campaign(), order)
    assert [trial.trial_id for trial, _ in plan] == ["t0", "t1", "t2", "t3"]
    first, second, third, fourth = (made for _, made in plan)
    assert [(c.verb, c.kind) for c in first] == [
        ("patch", "FelixConfiguration"),
        ("patch", "IPPool"),
        ("create", "Namespace"),
        ("create", "Pod"),
        ("create", "Pod"),
    ]
    assert second == ()
    assert dict(third[0].fields) == {"ipipEnabled": AS_IT_WAS, "vxlanMTU": AS_IT_WAS}
    assert [c.verb for c in third] == ["patch", "patch", "delete", "delete", "create", "create"]
    assert [c.kind for c in fourth if c.verb == "patch"] == ["IPPool"]
    assert {c.kind for c in plan_restore(campaign())} == {
        "Pod",
        "Namespace",
        "FelixConfiguration",
        "IPPool",
    }
    assert all("\n" not in describe(call) for _, made in plan for call in made)
