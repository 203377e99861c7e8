from __future__ import annotations

from typing import Any

import pytest

from ebpfperf.lab.admission import Admission
from ebpfperf.lab.podlogs import overlap, select
from ebpfperf.lab.requests import Request, target_of
from ebpfperf.lab.resources import CALICO, CRD, RESOURCES
from ebpfperf.lab.schema import minor_of, schema_of
from ebpfperf.lab.selectors import field_selector, label_selector
from ebpfperf.lab.status import BadRequest, Invalid, NotFound, UnsupportedMediaType


def admit(
    resource: str,
    spec: Any,
    *,
    old: Any = None,
    minor: int = 26,
    validation: str = "Warn",
    view: tuple[str, str] = CRD,
) -> tuple[dict[str, Any], list[str]]:
    """The admitted spec and the warnings."""
    admission = Admission(RESOURCES[resource], view, minor=minor, field_validation=validation)
    before = None if old is None else {"metadata": {"name": "x"}, "spec": old}
    new = admission({"metadata": {"name": "x"}, "spec": spec}, before)
    return new["spec"], admission.warnings


def refused(resource: str, spec: Any, **settings: Any) -> set[str]:
    """The fields a refusal names."""
    with pytest.raises(Invalid) as error:
        admit(resource, spec, **settings)
    return {field for field, _, _ in error.value.causes}


@pytest.mark.parametrize(
    ("field", "releases"),
    [
        ("vxlanEnabled", {16, 26, 30, 32}),
        ("ipipEnabled", {16, 26, 30, 32}),
        ("bpfKubeProxyEndpointSlicesEnabled", {16, 26, 30}),
        ("vxlanMTUV6", {26, 30, 32}),
        ("bpfHostConntrackBypass", {26, 30, 32}),
        ("bpfConntrackTimeouts", {30, 32}),
        ("programClusterRoutes", {32}),
        ("ipInIpEnabled", set()),
    ],
)
def test_a_felix_field_exists_in_its_releases_only(field: str, releases: set[int]) -> None:
    found = set()
    for minor in (16, 26, 30, 32):
        schema = schema_of("felixconfigurations", minor)
        if field in schema["properties"]["spec"]["properties"]:
            found.add(minor)
    assert found == releases


def test_unknown_fields_are_pruned_with_a_warning_and_refused_when_strict() -> None:
    spec, warnings = admit("felixconfigurations", {"vxlanMTU": 1, "ipInIpEnabled": True})
    assert spec == {"vxlanMTU": 1}
    assert warnings == ['unknown field "spec.ipInIpEnabled"']
    assert admit("felixconfigurations", {"a": 1}, validation="Ignore") == ({}, [])
    with pytest.raises(BadRequest, match=r'unknown field "spec\.a"'):
        admit("felixconfigurations", {"a": 1}, validation="Strict")


def test_a_null_is_dropped_without_a_word() -> None:
    assert admit("felixconfigurations", {"vxlanEnabled": None}) == ({}, [])


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"vxlanEnabled": "yes"}, "spec.vxlanEnabled"),
        ({"vxlanMTU": "1450"}, "spec.vxlanMTU"),
        ({"vxlanMTU": True}, "spec.vxlanMTU"),
        ({"vxlanMTU": 1.5}, "spec.vxlanMTU"),
        ({"bpfLogLevel": "Loud"}, "spec.bpfLogLevel"),
        ({"awsSrcDstCheck": "doNothing"}, "spec.awsSrcDstCheck"),
        ({"reportingInterval": "soon"}, "spec.reportingInterval"),
        ({"bpfDSROptoutCIDRs": [1]}, "spec.bpfDSROptoutCIDRs[0]"),
        ({"bpfPSNATPorts": []}, "spec.bpfPSNATPorts"),
        ({"routeTableRange": {"min": 1}}, "spec.routeTableRange.max"),
        ([], "spec"),
    ],
)
def test_a_wrong_felix_value_is_named(spec: Any, field: str) -> None:
    assert refused("felixconfigurations", spec) == {field}


def test_felix_values_are_taken_as_the_definition_has_them() -> None:
    spec = {
        "bpfLogLevel": "dEBUG",
        "bpfExternalServiceMode": "",
        "reportingInterval": "1m30s",
        "bpfPSNATPorts": "20000:29999",
        "vxlanMTU": 1450.0,
        "failsafeInboundHostPorts": [{"port": 22, "protocol": "tcp"}],
    }
    assert admit("felixconfigurations", spec) == (spec, [])
    # Before there were patterns, Felix alone judged.
    assert admit("felixconfigurations", {"bpfLogLevel": "Loud"}, minor=16)[0]


def test_every_wrong_field_is_a_cause_of_its_own() -> None:
    assert refused("felixconfigurations", {"vxlanMTU": "a", "vxlanPort": "b"}) == {
        "spec.vxlanMTU",
        "spec.vxlanPort",
    }


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (
            {"cidr": "198.19.0.0/16", "ipipMode": "Always", "vxlanMode": "CrossSubnet"},
            "spec.ipipMode",
        ),
        ({"cidr": "198.19.0.0/16", "ipipMode": "always"}, "spec.ipipMode"),
        ({"cidr": "198.19.0.0/16", "blockSize": 19}, "spec.blockSize"),
        ({"cidr": "198.19.0.0/16", "blockSize": 33}, "spec.blockSize"),
        ({"cidr": "198.19.0.0/27"}, "spec.cidr"),
        ({"cidr": "198.19.0.1/16"}, "spec.cidr"),
        ({"cidr": "nonsense"}, "spec.cidr"),
        ({"cidr": "fd00::/64", "ipipMode": "Always"}, "spec.ipipMode"),
        ({"cidr": "fd00::/64", "blockSize": 26}, "spec.blockSize"),
        ({}, "spec.cidr"),
    ],
)
def test_an_impossible_pool_is_refused(spec: Any, field: str) -> None:
    assert refused("ippools", spec) == {field}


def test_a_pool_keeps_its_cidr_and_block_size() -> None:
    old = {"cidr": "198.19.0.0/16", "blockSize": 26}
    assert refused("ippools", old | {"cidr": "198.18.0.0/16"}, old=old) == {"spec.cidr"}
    assert refused("ippools", old | {"blockSize": 28}, old=old) == {"spec.blockSize"}
    assert refused("ippools", {"cidr": old["cidr"]}, old=old) == {"spec.blockSize"}
    # Through Calico's own API a manifest need not repeat what that API filled in.
    assert admit("ippools", {"cidr": old["cidr"]}, old=old, view=CALICO)[0] == old


def test_calicos_own_api_fills_in_and_the_definition_does_not() -> None:
    spec = {"cidr": "198.19.0.0/16"}
    assert admit("ippools", spec)[0] == spec
    assert admit("ippools", spec, view=CALICO)[0] == spec | {
        "blockSize": 26,
        "ipipMode": "Never",
        "vxlanMode": "Never",
        "nodeSelector": "all()",
        "allowedUses": ["Workload", "Tunnel"],
    }


def pod(**spec: Any) -> dict[str, Any]:
    return {"containers": [{"name": "c", "image": "pause"}]} | spec


def test_a_pod_gets_its_defaults_and_keeps_its_spec() -> None:
    made, _ = admit("pods", pod())
    assert made["restartPolicy"] == "Always"
    assert made["terminationGracePeriodSeconds"] == 30
    changed = {**made, "containers": [{**made["containers"][0], "image": "other"}]}
    assert admit("pods", changed, old=made)[0] == changed
    assert refused("pods", {**made, "nodeName": "node-2"}, old=made) == {"spec"}


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({}, "spec.containers"),
        (pod(containers=[{"name": "c"}]), "spec.containers[0].image"),
        (pod(containers=[{"image": "c"}]), "spec.containers[0].name"),
        (pod(restartPolicy="Sometimes"), "spec.restartPolicy"),
    ],
)
def test_a_pod_that_cannot_run_is_refused(spec: Any, field: str) -> None:
    assert refused("pods", spec) == {field}


@pytest.mark.parametrize("name", ["Upper", "-a", "a_b", "a" * 254, "a..b"])
def test_names_are_those_of_dns(name: str) -> None:
    admission = Admission(RESOURCES["ippools"], CRD, minor=26)
    with pytest.raises(Invalid, match="alphanumeric"):
        admission({"metadata": {"name": name}, "spec": {"cidr": "198.19.0.0/16"}}, None)


def test_a_main_write_leaves_status_and_a_status_write_leaves_the_rest() -> None:
    old = {"metadata": {"name": "n"}, "spec": {"a": 1}, "status": {"x": 1}}
    new = {"metadata": {"name": "n"}, "spec": {"a": 2}, "status": {"x": 2}}
    kind, view = RESOURCES["nodes"], RESOURCES["nodes"].views[0]
    main = Admission(kind, view, minor=26)({**new}, old)
    below = Admission(kind, view, minor=26, subresource="status")({**new}, old)
    assert (main["spec"], main["status"]) == ({"a": 2}, {"x": 1})
    assert (below["spec"], below["status"]) == ({"a": 1}, {"x": 2})


@pytest.mark.parametrize(
    ("release", "minor"), [("v3.16.1", 16), ("3.26", 26), ("v3.30.2", 30), (None, 32), ("?", 32)]
)
def test_the_minor_release_is_read(release: str | None, minor: int) -> None:
    assert minor_of(release) == minor


LABELS = {"metadata": {"labels": {"app": "web", "tier": "a"}}}


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("", True),
        ("app=web", True),
        ("app==web,tier!=b", True),
        ("app=db", False),
        ("app in (web, db),tier", True),
        ("app notin (web)", False),
        ("missing notin (x)", True),
        ("!app", False),
        ("!missing", True),
        ("missing!=x", True),
    ],
)
def test_label_selectors(text: str, fits: bool) -> None:
    assert label_selector(text)(LABELS) is fits


@pytest.mark.parametrize("text", ["a=b=c", "in (a)", "app in web", ",", "a b"])
def test_a_label_selector_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        label_selector(text)


def test_field_selectors() -> None:
    obj = {"metadata": {"name": "a"}, "spec": {"nodeName": "node-1"}}
    assert field_selector("pods", "metadata.name=a,spec.nodeName!=node-2")(obj)
    assert not field_selector("pods", "status.phase=Running")(obj)
    assert field_selector("pods", "status.phase=")(obj)
    with pytest.raises(BadRequest, match="not supported"):
        field_selector("pods", "spec.color=red")
    with pytest.raises(BadRequest):
        field_selector("pods", "metadata.name")


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/api/v1/pods", ("pods", None, "", "")),
        ("/api/v1/namespaces/x/pods/a/log", ("pods", "x", "a", "log")),
        ("/api/v1/namespaces/x", ("namespaces", None, "x", "")),
        ("/api/v1/namespaces/x/status", ("namespaces", None, "x", "status")),
        ("/apis/projectcalico.org/v3/ippools/p", ("ippools", None, "p", "")),
        ("/apis/apps/v1/namespaces/x/daemonsets", ("daemonsets", "x", "", "")),
    ],
)
def test_paths_name_targets(path: str, found: tuple[str, str | None, str, str]) -> None:
    target = target_of(path)
    assert (target.kind.plural, target.namespace, target.name, target.subresource) == found


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/api/v1/widgets",
        "/api/v1/ippools",
        "/apis/projectcalico.org/v3/ipamblocks",
        "/api/v1/pods/a",
        "/api/v1/namespaces/x/nodes",
        "/api/v1/namespaces//pods",
        "/api/v1/namespaces/x/pods/a/log/more",
        "/apis/nowhere/v1/things",
    ],
)
def test_paths_that_lead_nowhere_are_404(path: str) -> None:
    with pytest.raises(NotFound):
        target_of(path)


def test_bodies_are_json_or_yaml_and_nothing_else() -> None:
    def read(media: str, body: bytes) -> Any:
        return Request.of("POST", "/api", {"Content-Type": media}, body).document()

    assert read("application/json; charset=utf-8", b'{"a": 1}') == {"a": 1}
    assert read("application/yaml", b"a: 1") == {"a": 1}
    for media, body in (
        ("application/json", b"{"),
        ("application/json", b'{"a": NaN}'),
        ("application/json", b"[" * 100_000),
        ("application/yaml", b"a: ]"),
        ("application/vnd.kubernetes.protobuf", b"k8s\x00\x0a"),
        ("application/vnd.kubernetes.protobuf", b"xyz"),
    ):
        with pytest.raises(BadRequest):
            read(media, body)
    with pytest.raises(UnsupportedMediaType):
        read("text/plain", b"hello")


LOG = [
    "2026-01-31 09:00:00.000 [INFO][1] a",
    "2026-01-31 09:00:05.000 [INFO][1] b",
    "  a line that belongs to b",
    "2026-01-31 09:00:09.000 [INFO][1] c",
]


def test_log_lines_are_chosen_by_time_and_number() -> None:
    assert select(LOG, tail_lines=1) == LOG[-1:]
    assert select(LOG, tail_lines=0) == []
    assert select(LOG, tail_lines=99) == LOG
    since = 1769850005.0
    assert select(LOG, since=since) == LOG[1:]
    assert select(LOG, since=since + 1, timestamps=True) == [
        f"2026-01-31T09:00:09.000000Z {LOG[3]}"
    ]


def test_new_log_lines_are_those_after_the_overlap() -> None:
    assert overlap(["a", "b", "c"], ["b", "c", "d"]) == 2
    assert overlap(["a"], ["b"]) == 0
    assert overlap([], ["b"]) == 0
    assert overlap(["a", "a"], ["a", "a", "a"]) == 2
