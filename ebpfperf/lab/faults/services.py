"""Faults of who serves Services: two that fight over it, nobody, and too many changes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ebpfperf.lab import cgroups, processes
from ebpfperf.lab.faults.acting import Asked, collection, follow, needs_ebpf, tell
from ebpfperf.lab.faults.declaration import Fault, Record
from ebpfperf.lab.faults.place import Place
from ebpfperf.lab.kuberules import restore_text, rules_of
from ebpfperf.lab.nodes import marked_environment
from ebpfperf.lab.own_annotations import FAULT_NAMESPACE, NEITHER
from ebpfperf.lab.seed import POOL_CIDR, SERVICES_ENDPOINT
from ebpfperf.lab.services import SERVICE_CIDR, SERVICE_LABEL, Backend, ServicePort, service_ports

_SYSTEM, _NAME = "kube-system", "kube-proxy"
_LABELS = {"k8s-app": _NAME}
_CLEANUP = "bpfKubeProxyIptablesCleanupEnabled"
# It writes this long after it saw its rules gone, and looks this often: so within each second, in
# which Felix removes them once, they are there for a while and gone for a while.
_AFTER_S, _LOOK_S = 0.3, 0.2
_CHURN = "fault-service-churn"


# ------------------------------------------------------------------------------ kube-proxy


def _cleanup(place: Place) -> Record:
    needs_ebpf(place)
    return {"fields": {_CLEANUP: place.felix_spec().get(_CLEANUP)}}


def _fight(place: Place, record: Record) -> None:
    if record["fields"][_CLEANUP] is False:
        tell(place, {_CLEANUP: None})
    _declare(place)
    _start_proxy(place)
    place.wait("rules of kube-proxy", lambda: _rules(place))
    place.wait("their removal by Felix", lambda: not _rules(place))


def _leave(place: Place, _: Record) -> None:
    tell(place, {_CLEANUP: False})
    _declare(place)
    _start_proxy(place)
    place.wait("rules of kube-proxy", lambda: _rules(place))


def _end_proxy(place: Place, record: Record) -> None:
    for pid in _proxies(place):
        place.end(pid)
    _withdraw(place)
    tell(place, record["fields"])
    # Where kube-proxy's part is the lab's own again, the rules are its.
    if place.forwards_by_programs():
        place.wait("the end of its rules", lambda: _remove_rules(place))


def _remove_rules(place: Place) -> bool:
    """Whether there is no rule of kube-proxy; what there is goes, unless Felix is faster."""
    text = restore_text({}, place.run(["iptables-save"]))
    if text:
        place.run(["iptables-restore", "--noflush", "--wait"], input=text, check=False)
    return not text


def _start_proxy(place: Place) -> None:
    if _proxies(place):
        return
    file = place.node.dir / "kube-proxy.rules"
    file.write_text(restore_text(_tables(place), ""))
    place.start(_NAME, proxy_script(str(file)))


def proxy_script(rules: str) -> list[str]:
    """Lines of a shell script that has the rules of a file back whenever they are gone."""
    return [
        "while :; do",
        "  if ! iptables-save -t nat | grep -q '^:KUBE-SERVICES '; then",
        f"    sleep {_AFTER_S}",
        f"    iptables-restore --noflush --wait <'{rules}'",
        "  fi",
        f"  sleep {_LOOK_S}",
        "done",
    ]


def _tables(place: Place) -> dict[str, Any]:
    """What kube-proxy writes for the API's Services, and for the API itself, which each has."""
    first = SERVICE_CIDR.split("/")[0].rsplit(".", 1)[0] + ".1"
    api = Backend(place.lab.nodes[0].underlay_ip, 6443, place.lab.nodes[0].name)
    itself = ServicePort(
        "default/kubernetes:https", first, "TCP", 443, None, 0, False, False, (api,)
    )
    ports = (*service_ports(Asked(place)), itself)
    return dict(rules_of(ports, place.node.name, cluster_cidr=POOL_CIDR))


def _proxies(place: Place) -> list[int]:
    """Pids of the lab's processes on the node that are called kube-proxy."""
    space = processes.netns(place.node.holder_pid)
    return [
        pid
        for pid in sorted(processes.marked(place.lab.name))
        if processes.netns(pid) == space and _comm(pid) == _NAME
    ]


def _comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _rules(place: Place) -> bool:
    return "KUBE-SERVICES" in place.run(["iptables-save", "-t", "nat"])


def _declare(place: Place) -> None:
    """kube-proxy's pod on the node, and its DaemonSet, in the API."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": _pod(place), "namespace": _SYSTEM, "labels": _LABELS},
        "spec": {"hostNetwork": True, "nodeName": place.node.name, **_template()},
    }
    place.create(collection("pods", _SYSTEM), pod)
    _write_daemonset(place)


def _withdraw(place: Place) -> None:
    path = f"{collection('pods', _SYSTEM)}/{_pod(place)}"
    place.delete(path)
    place.wait("the end of kube-proxy's pod", lambda: place.get(path) is None)
    _write_daemonset(place)


def _write_daemonset(place: Place) -> None:
    """The DaemonSet for as many nodes as have its pod; none for none."""
    found = [each for each in place.everywhere() if place.get(_pod_path(each))]
    path = collection("daemonsets", _SYSTEM)
    if not found:
        place.delete(f"{path}/{_NAME}")
        return
    names = [each.node.name for each in found]
    expression = {"key": "metadata.name", "operator": "In", "values": names}
    chosen = {"nodeSelectorTerms": [{"matchFields": [expression]}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": chosen}}
    template = {"metadata": {"labels": _LABELS}, "spec": {**_template(), "affinity": affinity}}
    spec = {"selector": {"matchLabels": _LABELS}, "template": template}
    body = {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": _NAME, "namespace": _SYSTEM, "labels": _LABELS},
        "spec": spec,
    }
    place.create(path, body)
    place.patch(f"{path}/{_NAME}", {"spec": spec})
    counts = ("currentNumberScheduled", "desiredNumberScheduled", "numberReady", "numberAvailable")
    status = {**dict.fromkeys(counts, len(found)), "numberMisscheduled": 0}
    place.patch(f"{path}/{_NAME}/status", {"status": status})


def _template() -> dict[str, Any]:
    image = "registry.k8s.io/kube-proxy:v1.30.0"
    return {"hostNetwork": True, "containers": [{"name": _NAME, "image": image}]}


def _pod(place: Place) -> str:
    return f"{_NAME}-{place.node.name}"


def _pod_path(place: Place) -> str:
    return f"{collection('pods', _SYSTEM)}/{_pod(place)}"


# ---------------------------------------------------------------------------------- nobody


def _ready(place: Place) -> Record:
    needs_ebpf(place)
    return {}


def _annotated(*, on: bool) -> Callable[[Place, Record], None]:
    def act(place: Place, _: Record) -> None:
        follow(place, lambda: place.annotate(NEITHER, on=on))

    return act


def _endpoint_path() -> str:
    return f"{collection('configmaps', _SYSTEM)}/{SERVICES_ENDPOINT}"


def _endpoint(place: Place) -> Record:
    found = place.get(_endpoint_path())
    if found is None:
        return {"object": None}
    for field in ("uid", "resourceVersion", "creationTimestamp", "managedFields"):
        found["metadata"].pop(field, None)
    return {"object": found}


def _remove_endpoint(place: Place, _: Record) -> None:
    place.delete(_endpoint_path())


def _restore_endpoint(place: Place, record: Record) -> None:
    if record["object"] is not None:
        place.create(collection("configmaps", _SYSTEM), record["object"])


# --------------------------------------------------------------------------------- changes


def _no_record(_: Place) -> Record:
    return {}


def _churn(place: Place, record: Record) -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": _CHURN, "namespace": FAULT_NAMESPACE},
        "spec": {"ports": [{"port": 80, "targetPort": 8080}]},
    }
    place.create(collection("services", FAULT_NAMESPACE), service)
    slices = collection("endpointslices", FAULT_NAMESPACE)
    each = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": _CHURN,
            "namespace": FAULT_NAMESPACE,
            "labels": {SERVICE_LABEL: _CHURN},
        },
        "addressType": "IPv4",
        "endpoints": [],
        "ports": [{"port": 8080, "protocol": "TCP"}],
    }
    place.create(slices, each)
    if not processes.carries(record.get("pid") or 0, place.lab.name):
        record["pid"] = _start_churn(place, f"{slices}/{_CHURN}")
    before = _generation(place)
    place.wait("changes", lambda: _generation(place) > before + 2)


def _start_churn(place: Place, path: str) -> int:
    """Pid of a process of the lab, beside its nodes: the API listens where the lab was started."""
    lab = place.lab
    argv = [sys.executable, "-m", "ebpfperf.lab.faults.churn", str(lab.kubeconfig), path]
    process = subprocess.Popen(
        cgroups.joining(cgroups.make(cgroups.lab_cgroup(lab.name) / "faults"), argv),
        env=marked_environment(lab.name),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    return process.pid


def _generation(place: Place) -> int:
    found = place.get(f"{collection('endpointslices', FAULT_NAMESPACE)}/{_CHURN}") or {}
    return int((found.get("metadata") or {}).get("generation") or 0)


def _end_churn(place: Place, record: Record) -> None:
    place.end(record.get("pid"))
    for pid in cgroups.members(cgroups.lab_cgroup(place.lab.name) / "faults"):
        processes.end({pid}, grace_s=0.2)
    for resource in ("endpointslices", "services"):
        place.delete(f"{collection(resource, FAULT_NAMESPACE)}/{_CHURN}")


FAULTS: tuple[Fault, ...] = (
    Fault(
        "kube-proxy-fighting",
        "calico-node and kube-proxy take much processor time; services fail now and then.",
        ("C2", "C1"),
        "A process kube-proxy that writes its real rules whenever they are gone; the lab's Felix "
        "removes them every second, at much less cost than Calico's.",
        _cleanup,
        _fight,
        _end_proxy,
    ),
    Fault(
        "cleanup-off",
        "Two implementations of Services: iptables rules that nothing needs, and their cost.",
        ("C1",),
        f"A process kube-proxy that has its real rules there, and {_CLEANUP} false.",
        _cleanup,
        _leave,
        _end_proxy,
    ),
    Fault(
        NEITHER,
        "No service answers on the node.",
        ("B1", "A1"),
        "The lab's Felix behaves and logs as on a kernel that is too old, and no kube-proxy "
        "serves; the kernel is what it was.",
        _ready,
        _annotated(on=True),
        _annotated(on=False),
    ),
    Fault(
        "no-services-endpoint",
        "Calico cannot reach the API once kube-proxy is gone and it starts anew.",
        ("B12",),
        f"The ConfigMap {SERVICES_ENDPOINT} is deleted; the lab's parts do not need it.",
        _endpoint,
        _remove_endpoint,
        _restore_endpoint,
        of_node=False,
    ),
    Fault(
        "service-churn",
        "calico-node takes much processor time without traffic.",
        ("C3",),
        "A process changes the endpoints of a Service of the fault's own five times a second.",
        _no_record,
        _churn,
        _end_churn,
        of_node=False,
    ),
)
