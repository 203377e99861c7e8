"""Evidence for tests of services: probes of the underlay, services, maps, changed singly."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from evidence_made import NODES, changed, felix, healthy, objects, outcomes

from ebpfperf import underlay_probe
from ebpfperf.diagnosis import Outcome
from ebpfperf.evidence import Evidence, Item
from ebpfperf.underlay_probe import Way, ways

RELEASES = ("v3.16", "v3.26", "v3.30", "v3.32")
OWN, WEB, KUBERNETES = "198.18.0.11", "default/web", "198.18.240.1"
ADDRESSES = {f"node-{at}": f"198.18.0.1{at}" for at in range(1, 8)}
CONFIGMAP = [
    {
        "metadata": {"name": "kubernetes-services-endpoint", "namespace": "kube-system"},
        "data": {"KUBERNETES_SERVICE_HOST": OWN, "KUBERNETES_SERVICE_PORT": "6443"},
    }
]
DSR = {"bpfExternalServiceMode": "DSR"}
AMAZON = "/sys/class/dmi/id/sys_vendor:Amazon EC2\n"
GOOGLE = (
    "/sys/class/dmi/id/sys_vendor:Google\n/sys/class/dmi/id/product_name:Google Compute Engine\n"
)
UNSUPPORTED = (
    "2026-11-29 18:20:29.451 [INFO][9] felix/daemon.go 386: Felix starting up\n"
    "2026-11-29 18:20:29.452 [ERROR][9] felix/daemon.go 337: BPF dataplane mode enabled but not "
    "supported by the kernel.  Disabling BPF mode.\n"
)


def probes(
    names: Iterable[str] = NODES,
    *,
    foreign: bool = False,
    arrived: Callable[[Way], int | None] = lambda way: 7,
    left: Callable[[Way], int | None] = lambda way: 7,
    failed: dict[str, str] | None = None,
    port: int = 4789,
    refused: str = "",
) -> list[Item]:
    """What the probe of the underlay finds, by pair."""
    plan = ways(list(names), foreign=foreign)
    heard: dict[str, dict[str, Any]] = {}
    for name in names:
        if name not in (failed or {}):
            heard[name] = {
                "sent": {str(w.pair): 0 if refused else 7 for w in plan if w.sender == name},
                "errors": {str(w.pair): refused for w in plan if w.sender == name and refused},
                "left": {str(w.pair): [left(w), ["eth0"]] for w in plan if w.sender == name},
                "arrived": {str(w.pair): [arrived(w), ["eth0"]] for w in plan
                            if w.receiver == name},
            }  # fmt: skip
    return underlay_probe.items(
        plan, heard, failed or {}, addresses=ADDRESSES, ports=dict.fromkeys(names, port), vni=9,
        taken_utc="2026-01-31T09:05:33Z",
    )  # fmt: skip


def with_items(evidence: Evidence, items: Iterable[Item]) -> Evidence:
    kept = {where: item for where, item in evidence.items.items() if "probe" not in where[0]}
    return replace(evidence, items={**kept, **{(i.source, i.node): i for i in items}})


def base(release: str = "v3.26", items: Iterable[Item] | None = None, **fields: Any) -> Evidence:
    """A healthy cluster with these fields of Felix, and the probes' items."""
    found = healthy(release)
    answers: dict[tuple[str, str], str | bytes] = {("configmaps", ""): json.dumps(CONFIGMAP)}
    if fields:
        answers["felixconfigurations", ""] = felix(found, fields)
    return with_items(changed(found, answers), probes() if items is None else items)


def one(evidence: Evidence, check: str, node: str = "node-1") -> Outcome:
    (found,) = outcomes(evidence, check)[node]
    return found


def on_both(evidence: Evidence, source: str, text: str) -> Evidence:
    return changed(evidence, {(source, node): text for node in NODES})


def with_service(evidence: Evidence, spec: dict[str, Any], **status: Any) -> Evidence:
    """The recorded service as this one."""

    def change(found: list[Any]) -> None:
        web = next(each for each in found if each["metadata"]["name"] == "web")
        web["spec"] = {**web["spec"], **spec}
        web["status"] = status

    return changed(evidence, {("services", ""): objects(evidence, "services", change)})


def with_map(
    evidence: Evidence, node: str, name: str, change: Callable[[list[tuple[bytes, bytes]]], Any]
) -> Evidence:
    """With the entries of the map whose name begins so changed in place."""
    line, _, packed = evidence.items["maps", node].content.partition(b"\n")
    head, content = json.loads(line), zlib.decompress(packed)
    at, parts = 0, []
    for told in head["maps"]:
        first, second = told["sizes"]
        keys, values = content[at : at + first], content[at + first : at + first + second]
        at += first + second
        if told["name"].startswith(name):
            k, v = told["key_bytes"], told["value_bytes"]
            entries = [
                (keys[n * k : (n + 1) * k], values[n * v : (n + 1) * v])
                for n in range(len(keys) // k)
            ]
            change(entries)
            keys, values = (b"".join(each) for each in zip(*entries, strict=True)) if entries else (
                b"", b"")  # fmt: skip
            told["sizes"] = [len(keys), len(values)]
        parts += [keys, values]
    answer = json.dumps(head).encode() + b"\n" + zlib.compress(b"".join(parts))
    return changed(evidence, {("maps", node): answer})
