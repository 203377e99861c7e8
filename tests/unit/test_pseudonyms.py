"""Pseudonyms: alike everywhere, prefixes kept, nothing true left, and the same diagnosis."""

from __future__ import annotations

import gzip
import ipaddress
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from evidence_made import changed, felix, healthy, objects

from ebpfperf import bundle, map_answers
from ebpfperf.diagnosis import Diagnosis
from ebpfperf.doctor import judge
from ebpfperf.evidence import Evidence
from ebpfperf.evidence_sources import MAPS
from ebpfperf.pseudonyms import pseudonymous
from ebpfperf.pseudonyms.addresses import Addresses
from ebpfperf.pseudonyms.names import Names

SECRET = b"of these tests: always the same."
CLUSTER = frozenset({"10.65.0.7", "10.0.3.17", "192.168.7.9"})


# ----------------------------------------------------------------------------------- names


KNOWN = {
    "node": ["node-1", "thor", "ip-10-0-3-17.ec2.internal", "config"],
    "ns": ["shop", "default", "ingress"],
    "svc": ["checkout"],
    "pod": ["checkout-7d9f8-abcde", "calico-node-x7k2p", "kube-proxy-thor"],
}  # fmt: skip


@pytest.fixture
def names() -> Names:
    return Names(SECRET, Addresses(SECRET), KNOWN, known_addresses=CLUSTER)


def test_names_say_their_kind_and_none_is_given_twice(names: Names) -> None:
    found = dict(names.given())
    assert len(set(found.values())) == len(found)
    assert re.fullmatch(r"node-a[1-4]", found["thor"])
    assert re.fullmatch(r"ns-a[12]", found["shop"])
    assert re.fullmatch(r"calico-node-[0-9a-f]{5}", found["calico-node-x7k2p"])
    assert found["kube-proxy-thor"] == f"kube-proxy-{found['thor']}"
    assert "default" not in found


def test_a_pseudonym_is_no_other_objects_name() -> None:
    many = {"node": [f"node-{letter}{digit}" for letter in "abc" for digit in range(1, 10)]}
    found = Names(SECRET, Addresses(SECRET), many).given()
    assert not set(found) & set(found.values())


def test_there_are_names_for_any_number() -> None:
    many = {"pod": [f"p{number}x" for number in range(9 * 26 * 28)]}
    found = Names(SECRET, Addresses(SECRET), many).given()
    assert len(set(found.values())) == len(many["pod"])
    assert {"pod-a1", "pod-z9", "pod-aa1", "pod-zz9", "pod-aaa1"} <= set(found.values())


@pytest.mark.parametrize(
    "text",
    [
        "thor is not ready", 'host="thor"', "thor: x", "(thor)", "shop/checkout", "thor.", "thor's",
        "http://checkout.shop.svc.cluster.local:80/", "checkout-7d9f8-abcde", "checkout-55-zz",
        "ip-10-0-3-17.ec2.internal", "ip-10-0-3-17", "node-1=5", "-n shop", "node.thor",
    ],
)  # fmt: skip
def test_names_are_replaced_wherever_they_stand(names: Names, text: str) -> None:
    found = names.text(text)
    for name in ("thor", "shop", "checkout", "10-0-3-17", "abcde", "node-1"):
        assert name not in found, found


@pytest.mark.parametrize(
    "text",
    [
        "Loading config...", "qdisc ingress ffff:", "felix/config_params.go 1047: config changed",
        "calico_from_hos", "cali_v4_ct3", "default", "kube-system/kube-proxy", "authority shopping",
        "2026-11-29 18:20:23.183 [INFO][101] felix/daemon.go 386: version=3.26.1.2",
        "version 10.1.2.3", "v3.26.1.2", "5.4.0-1.2.3.4 ", "kernel 4.18.0-193.28.1.2.el8", "1.2.3",
        "256.1.1.1", "1.2.3.4.5", "09:05:33.123", "std::vector", "7783-7084-3265-9085-8269-3286-77",
        "29 nodes: 1.5.2", "ee:ee:ee:ee:ee:ee", "10.0.0.0/8", "rx:1 tx:2", "cali+", "a::b::c",
    ],
)  # fmt: skip
def test_what_is_no_name_stays(names: Names, text: str) -> None:
    assert names.text(text) == text


def test_ordinary_words_are_names_where_it_shows(names: Names) -> None:
    found = names.text("ingress/checkout on ingress of config")
    assert found.startswith(f"{names.given()['ingress']}/")
    assert found.endswith(" on ingress of config")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.65.0.7:80", "10.65.0.7"), ("[fd00::7]:443", "fd00::7"), ("(10.65.0.7)", "10.65.0.7"),
        ("src 10.65.0.7.", "10.65.0.7"), ("10.65.0.7,10.65.0.8", "10.65.0.7"),
        ("a=fd00::7", "fd00::7"),
        ("https://10.65.0.7/x", "10.65.0.7"), ("dev eth0 via 10.65.0.7 proto", "10.65.0.7"),
        ("10.65.0.7-10.65.0.9", "10.65.0.7"), ("10.65.0.7.nip.io", "10.65.0.7"),
        ("fd00::7/64", "fd00::7"), ("FD00::7", "fd00::7"), ('{"a":"10.65.0.7"}', "10.65.0.7"),
    ],
)  # fmt: skip
def test_addresses_are_replaced_in_any_text(names: Names, text: str, address: str) -> None:
    other = Addresses(SECRET).text(address)
    found = names.text(text)
    assert other in found
    assert address not in found.lower()


def test_uuids_devices_and_macs_are_replaced_alike(names: Names) -> None:
    uuid = "57347a7f-89dc-49b4-b6ec-d9e6077068af"
    found = names.text(f"{uuid} kubepods-pod{uuid.replace('-', '_')}.slice")
    first, second = found.split()
    assert first != uuid
    assert len(first) == len(uuid)
    assert second == f"kubepods-pod{first.replace('-', '_')}.slice"
    assert names.text("ec2e1916-89dc-49b4-b6ec-d9e6077068af").startswith("ec2")
    found = names.text("cali0761ccbeace: dev cali0761ccbeace_x 02:00:c6:12:00:0b " + "a" * 64)
    assert "0761ccbeace" not in found
    assert re.fullmatch(
        r"(cali[0-9a-f]{11}): dev \1_x [0-9a-f:]{17} [0-9a-f]{64}", found
    ), found  # fmt: skip


def test_a_workload_that_is_gone_gets_a_name_too(names: Names) -> None:
    found = names.text('WorkloadId:"gone-ns/gone-pod" kns.gone-ns ksa.gone-ns.robot')
    assert "gone" not in found
    assert "robot" not in found
    namespaces = re.findall(r"ns-[0-9a-f]{8}", found)
    assert len(namespaces) == 3
    assert len(set(namespaces)) == 1


# --------------------------------------------------------------------------- whole evidence


def with_names() -> Evidence:
    """The recorded evidence, and names that a company has."""
    base = healthy()

    def pods(found: list[Any]) -> None:
        found.append({
            "kind": "Pod",
            "metadata": {
                "name": "checkout-7d9f8-abcde", "namespace": "shop-prod", "uid": "1",
                "labels": {"team": "payments", "corp.example/owner": "alice", "app": "checkout"},
                "annotations": {"corp.example/wiki": "https://wiki.corp.example/alice",
                                "cni.projectcalico.org/podIP": "198.19.0.77/32"},
            },
            "spec": {"nodeName": "node-1", "containers": [
                {"name": "checkout", "image": "registry.corp.example/shop/checkout:1.2.3"},
                {"name": "proxy", "image": "registry.corp.example/mirror/calico/node:v3.26.1"},
            ]},
            "status": {"phase": "Running", "podIP": "198.19.0.77",
                       "podIPs": [{"ip": "198.19.0.77"}]},
        })  # fmt: skip

    def services(found: list[Any]) -> None:
        found.append({
            "kind": "Service",
            "metadata": {"name": "checkout", "namespace": "shop-prod"},
            "spec": {"clusterIP": "None", "selector": {"app": "checkout"},
                     "ports": [{"name": "payapi", "port": 80}]},
            "status": {"loadBalancer": {"ingress": [{"hostname": "lb-77.eu.corp.example"}]}},
        })  # fmt: skip

    def nodes(found: list[Any]) -> None:
        found[0]["spec"] = {
            "providerID": "aws:///eu-west-1a/i-0123456789abcdef0",
            "taints": [{"key": "team", "value": "payments", "effect": "NoSchedule"}],
        }
        found[0]["metadata"]["labels"]["corp.example/rack"] = "rack-17b"
        found[0]["metadata"]["labels"]["node.kubernetes.io/instance-type"] = "m5.large"
        found[0]["status"]["images"] = [{"names": ["registry.corp.example/hidden:1"]}]
        found[0]["status"]["nodeInfo"]["machineID"] = "0123456789abcdef0123456789abcdee"

    def pools(found: list[Any]) -> None:
        found.append({"kind": "IPPool", "metadata": {"name": "corp-pool"},
                      "spec": {"cidr": "198.19.128.0/17", "disabled": True,
                               "nodeSelector": "team == 'payments'"}})  # fmt: skip

    log = base.items["log", "node-1"].text + (
        '2026-11-29 18:20:26.000 [INFO][175] felix/x.go 1: id=WorkloadId:"shop-prod/gone-1" '
        "host=node-1 addr=198.19.0.77 server api.corp.example.com\n"
    )
    answers = {
        ("pods", ""): objects(base, "pods", pods),
        ("services", ""): objects(base, "services", services),
        ("nodes", ""): objects(base, "nodes", nodes),
        ("ippools", ""): objects(base, "ippools", pools),
        ("felixconfigurations", ""): felix(base, {"bpfLogLevel": "Off"}, "node.node-2"),
        ("log", "node-1"): log,
        ("sockets", "node-1"): 'UNCONN 0 0 198.18.0.11:4789 0.0.0.0:* users:(("x",pid=1,fd=2))\n',
        ("cloud", "node-1"): "/sys/class/dmi/id/board_asset_tag:i-0123456789abcdef0\n",
        ("felix-process", "node-1"): "==> environment <==\nFELIX_FELIXHOSTNAME=node-1\n",
    }
    return changed(base, answers)


ADDED = (
    "198.19.0.77", "checkout", "shop-prod", "payments", "alice", "corp.example", "registry.corp",
    "payapi", "abcde", "7d9f8", "i-0123456789abcdef0", "rack-17b", "hidden", "198.19.128.0",
    "0123456789abcdef0123456789abcdee", "corp-pool", "gone-1", "lb-77", "eu-west-1a",
)  # fmt: skip


def originals(evidence: Evidence) -> dict[str, set[str]]:
    """What the recorded objects and devices are called, and their addresses."""
    found: dict[str, set[str]] = {"names": set(), "addresses": set(), "identities": set()}
    for source in ("nodes", "pods", "services", "endpointslices"):
        for each in json.loads(evidence.items[source, ""].text):
            found["names"].add(each["metadata"]["name"])
            found["identities"].add(each["metadata"].get("uid", ""))
            found["addresses"] |= set(each.get("spec", {}).get("clusterIPs", ()))
            found["addresses"] |= {one["ip"] for one in each.get("status", {}).get("podIPs", ())}
    for node in evidence.nodes:
        found["identities"].add(json.loads(evidence.items["counts", node].text)["boot_id"])
        for link in json.loads(evidence.items["links", node].text):
            if link["ifname"] == "lo":
                continue
            found["addresses"] |= {one["local"] for one in link["addr_info"]}
            if link["ifname"].startswith("cali"):
                found["names"].add(link["ifname"])
            if link["address"] != "ee:ee:ee:ee:ee:ee":
                found["identities"].add(link["address"])
    found["names"] -= {"calico-node", "kubernetes"}
    found["identities"] -= {"", "1"}
    found["addresses"] -= {"None", "fe80::ecee:eeff:feee:eeee"}
    return found


def every_byte(path: Path) -> bytes:
    """All that a bundle holds, unpacked, the maps as well; once more without blanks."""
    evidence = bundle.read(path)
    content = gzip.decompress(path.read_bytes())
    for node in evidence.nodes:
        content += map_answers.unpacked(evidence.items[MAPS, node].content)[1]
    return content


def alone(text: str) -> str:
    return rf"(?<![\w-]){re.escape(text)}(?![\w-])"


def test_nothing_true_is_left_in_a_bundle(tmp_path: Path) -> None:
    original = with_names()
    known = originals(original)
    assert {kind: len(found) >= 6 for kind, found in known.items()} == dict.fromkeys(known, True)
    bundle.write(original, tmp_path / "true")
    before = every_byte(tmp_path / "true").decode("latin-1")
    texts = {*known["names"], *known["identities"], *known["addresses"]}
    for text in ADDED:
        assert text in before, text
    for text in texts:
        assert re.search(alone(text), before), text
    other, given = pseudonymous(original, secret=SECRET)
    bundle.write(other, tmp_path / "other")
    after = every_byte(tmp_path / "other").decode("latin-1")
    for text in ADDED:
        assert text not in after, text
    for text in texts:
        assert not re.search(alone(text), after), text
    assert set(known["names"]) <= set(given) | {n for n in known["names"] if n.startswith("cali")}
    assert SECRET.decode() not in after


def test_nothing_true_is_left_as_bytes(tmp_path: Path) -> None:
    """Addresses in network order, as the maps have them."""
    bundle.write(healthy(), tmp_path / "true")
    other, _ = pseudonymous(healthy(), secret=SECRET)
    bundle.write(other, tmp_path / "other")
    packed = {
        ipaddress.ip_address(each).packed
        for each in originals(healthy())["addresses"]
        if "." in each
    }
    before, after = every_byte(tmp_path / "true"), every_byte(tmp_path / "other")
    assert sum(each in before for each in packed) >= 5
    assert not any(each in after for each in packed)


def judged(found: Diagnosis, names: Mapping[str, str]) -> list[tuple[str, str, str, str]]:
    def other(text: str) -> str:
        return "".join(names.get(each, each) for each in re.split(r"([/:, ])", text))

    return [
        (result.id, each.verdict.value, other(each.node), other(each.subject))
        for result, each in found.outcomes()
    ]


def faulty() -> Evidence:
    """With much that is wrong, so that most checks have something to say of names."""
    base = with_names()

    def services(found: list[Any]) -> None:
        found[0]["spec"]["clusterIPs"] = [found[0]["spec"]["clusterIP"]]
        found[0]["spec"]["clusterIP"] = found[0]["spec"]["clusterIPs"][0] = "198.18.253.99"

    answers = {
        ("services", ""): objects(base, "services", services),
        ("bpffs", "node-2"): "",
        ("felixconfigurations", ""): felix(base, {"bpfLogLevel": "Debug", "ipipEnabled": True}),
    }
    return changed(base, answers)


def newest() -> Evidence:
    return healthy("v3.32")


def oldest() -> Evidence:
    return healthy("v3.16")


@pytest.mark.parametrize("make", [healthy, oldest, newest, with_names, faulty])
def test_the_diagnosis_is_the_same_but_for_names(make: Any) -> None:
    evidence = make()
    other, given = pseudonymous(evidence, secret=SECRET)
    one, two = judge.diagnose(evidence), judge.diagnose(other)
    assert judged(two, {}) == judged(one, given)
    assert two.pseudonyms
    assert not one.pseudonyms
    if make is faulty:
        found = {(each[0], each[1]) for each in judged(one, {})}
        assert {("A4", "FAIL"), ("B2", "FAIL")} <= found


def test_structure_stays(tmp_path: Path) -> None:
    evidence = with_names()
    other, given = pseudonymous(evidence, secret=SECRET)
    assert set(other.nodes) == {given["node-1"], given["node-2"]}
    (pod,) = [
        each for each in json.loads(other.items["pods", ""].text)
        if each["metadata"]["name"] == given["checkout-7d9f8-abcde"]
    ]  # fmt: skip
    assert pod["metadata"]["namespace"] == given["shop-prod"]
    assert pod["spec"]["nodeName"] == given["node-1"]
    assert pod["metadata"]["labels"]["app"] == given["checkout"]
    assert pod["spec"]["containers"][1]["image"].endswith("/node:v3.26.1")
    assert list(pod["metadata"]["annotations"]) == ["cni.projectcalico.org/podIP"]
    (node,) = [
        each for each in json.loads(other.items["nodes", ""].text) if "taints" in each["spec"]
    ]
    assert node["spec"]["providerID"].startswith("aws://")
    assert node["metadata"]["labels"]["node.kubernetes.io/instance-type"] == "m5.large"
    assert given["team"] in node["spec"]["taints"][0]["key"]
    pools = json.loads(other.items["ippools", ""].text)
    assert pools[1]["spec"]["nodeSelector"] == f"{given['team']} == '{given['payments']}'"
    configurations = json.loads(other.items["felixconfigurations", ""].text)
    assert configurations[1]["metadata"]["name"] == f"node.{given['node-2']}"


def test_without_a_secret_it_is_another_one_each_time() -> None:
    evidence = healthy()
    (one, first), (other, second) = pseudonymous(evidence), pseudonymous(evidence)
    assert first != second
    assert one != other
    own = {address for address in first if re.fullmatch(r"[\d.]+", address)}
    assert len(own) >= 5
    assert not originals(evidence)["addresses"] & {first[address] for address in own}


def test_an_answer_that_cannot_be_read_is_left_out() -> None:
    evidence = changed(
        healthy(), {("pods", ""): "[{torn web-1", (MAPS, "node-1"): b'{"maps": 1}\nweb-1'}
    )
    other, given = pseudonymous(evidence, secret=SECRET)
    for where in (("pods", ""), (MAPS, given["node-1"])):
        item = other.items[where]
        assert item.content == b""
        assert item.error.startswith("left out")


# ------------------------------------------------------- where free text and glue hide something


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("x_thor thor_y cni_thor_if", "thor"), ('id="default%2Fthor"', "thor"),
        ("a%2fcheckout%2fthor", "thor"), ("node_10.65.0.7 10.65.0.7_y x10.65.0.7", "10.65.0.7"),
        ("to:2001:db8:1::7 via", "2001:db8:1::7"), ("node:2001:db8:1::7", "2001:db8:1::7"),
        ("iface:2001:db8:1::7", "2001:db8:1::7"), ("2001:db8:1::7_y", "2001:db8:1::7"),
        ("[2001:db8:1::7]:443", "2001:db8:1::7"), ("src=2001:db8:1::7,", "2001:db8:1::7"),
    ],
)  # fmt: skip
def test_what_is_glued_to_other_words_is_replaced(names: Names, text: str, hidden: str) -> None:
    found = names.text(text)
    assert hidden not in found
    assert len(found.split()) == len(text.split())


@pytest.mark.parametrize("text", ["v10.1.2.3", "x86_64", "nft_chain_nat", "a10.9.9.9b", "12:34:56"])
def test_what_is_glued_and_nobodys_stays(names: Names, text: str) -> None:
    assert names.text(text) == text


PLANTED = "zq7marker"


def planted() -> Mapping[str, Any]:
    """Objects with a marker where free text may stand, by source."""
    name = {"name": "own", "namespace": "default"}
    return {
        "services": {
            "kind": "Service",
            "metadata": {
                **name,
                "annotations": {
                    "service.beta.kubernetes.io/aws-load-balancer-ssl-cert": f"arn:{PLANTED}",
                    "external.k8s.io/team": PLANTED,
                    "projectcalico.org/metadata": PLANTED,
                },
            },
            "spec": {
                "ports": [{"port": 80, "targetPort": PLANTED}],
                "loadBalancerClass": PLANTED,
            },
            "status": {"conditions": [{"type": "Ready", "message": f"of {PLANTED}"}]},
        },
        "configmaps": {
            "kind": "ConfigMap",
            "metadata": name,
            "data": {"KUBERNETES_SERVICE_PORT": "6443", "note": PLANTED, PLANTED: "x"},
        },
        "ippools": {
            "kind": "IPPool",
            "metadata": {"name": "own"},
            "spec": {"cidr": "10.77.0.0/16", "nodeSelector": f"{PLANTED} == 'a' && has(b)"},
        },
        "felixconfigurations": {
            "kind": "FelixConfiguration",
            "metadata": {"name": "own"},
            "spec": {
                "nodeSelector": f"team in {{'{PLANTED}', \"c\"}}",
                "healthHost": PLANTED,
                "prometheusMetricsHost": PLANTED,
            },
        },
        "endpointslices": {
            "kind": "EndpointSlice",
            "metadata": {**name, "labels": {"kubernetes.io/service-name": "own"}},
            "endpoints": [
                {"addresses": ["10.77.0.1"], "deprecatedTopology": {"zone": PLANTED, PLANTED: "a"}}
            ],
        },
    }


@pytest.mark.parametrize("source", sorted(planted()))
def test_free_text_of_objects_is_replaced_or_left_out(source: str) -> None:
    base = healthy()
    text = objects(base, source, lambda found: found.append(planted()[source]))
    log = f"line with {PLANTED}\n"
    evidence = changed(base, {(source, ""): text, ("log", "node-1"): log})
    other, _ = pseudonymous(evidence, secret=SECRET)
    item = other.item(source)
    assert item is not None
    assert PLANTED not in item.text
    assert len(json.loads(item.text)) == len(json.loads(text))


def test_what_checks_read_of_annotations_stays_alike() -> None:
    base = healthy()

    def change(found: list[Any]) -> None:
        found[0]["metadata"]["annotations"] |= {
            "projectcalico.org/IPv4Address": "10.9.8.7/24", "other.io/x": "10.9.8.7"}  # fmt: skip

    evidence = changed(base, {("nodes", ""): objects(base, "nodes", change)})
    other, given = pseudonymous(evidence, secret=SECRET)
    item = other.item("nodes")
    assert item is not None
    annotations = json.loads(item.text)[0]["metadata"]["annotations"]
    assert annotations["projectcalico.org/IPv4Address"] == f"{given['10.9.8.7']}/24"
    assert "lab.ebpfperf/emulation" in annotations
    assert not [key for key in annotations if "other" in key]


def test_true_names_within_other_words_are_not_left() -> None:
    base = healthy()
    node = "rack7.corp.example"
    pool, mac, digits = "10.244.64.0/18", "0a:1b:2c:3d:4e:5f", "0a1b2c3d4e5f"
    log = (
        f"WorkloadEndpoint(rack7.corp.example-k8s-{PLANTED}--7d9f8--x2k4q-eth0) on rack7 up\n"
        f"block 10-244-77-0-26 by https://etcd1.{PLANTED}.example:2379/v2 of enx{digits}\n"
        f"{mac} {mac.replace(':', '-').upper()}\n"
    )

    def links(found: list[Any]) -> None:
        found.append({"ifname": f"enx{digits}", "ifindex": 77, "mtu": 1500, "address": mac,
                      "ifalias": f"to {PLANTED}"})  # fmt: skip

    found = json.loads(base.items["links", "node-1"].text)
    links(found)
    filters = {"cali0a1b2c3d4e5": "tcp"}
    evidence = changed(base, {
        ("pods", ""): objects(base, "pods", lambda pods: pods.append({
            "kind": "Pod", "metadata": {"name": f"{PLANTED}-7d9f8-x2k4q", "namespace": "default"},
            "spec": {"nodeName": node, "subdomain": PLANTED},
            "status": {"containerStatuses": [{"imageID": f"a.example/{PLANTED}/x@sha256:0"}]},
        })),
        ("ippools", ""): objects(base, "ippools", lambda pools: pools[0]["spec"].update(cidr=pool)),
        ("felixconfigurations", ""): felix(base, {
            "bpfLogFilters": filters, "etcdEndpoints": f"https://{PLANTED}.example:2379"}),
        ("links", "node-1"): json.dumps(found),
        ("log", "node-1"): log,
    })  # fmt: skip
    other, given = pseudonymous(evidence, secret=SECRET)
    text = "\n".join(item.text for item in other if item.source != MAPS)
    for true in (PLANTED, "x2k4q", "rack7", "10-244-77", digits, "0a1b2c3d4e5", mac, "0A-1B"):
        assert true not in text, true
    written = other.items["log", given.get("node-1", "node-1")].text
    # The same MAC is the same pseudonym, however it is written.
    fields = written.split()
    assert {fields[-1].replace("-", ""), fields[-2].replace(":", "")} == {
        fields[-3].removeprefix("enx")
    }


@pytest.mark.parametrize("text", ["a--b", "10-9-8-7-26", "https://github.com/x", "enx12", "index0"])
def test_words_of_the_same_form_stay(names: Names, text: str) -> None:
    assert names.text(text) == text
