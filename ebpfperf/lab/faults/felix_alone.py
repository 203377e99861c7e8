"""Faults of one node's Felix: what it is told otherwise than the others, what it cannot do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ebpfperf.lab.faults import pods
from ebpfperf.lab.faults.acting import collection, follow, needs_ebpf
from ebpfperf.lab.faults.declaration import Fault, Record
from ebpfperf.lab.faults.place import FELIX, Place
from ebpfperf.lab.kubelet import device_name
from ebpfperf.lab.own_annotations import DIRTY, FAULT_NAMESPACE, UNSUPPORTED, owned

_CALICO_PODS = collection("pods", "kube-system")
_MODE, _MODE_ENV = "bpfExternalServiceMode", "FELIX_BPFEXTERNALSERVICEMODE"


def _nothing(_: Place) -> Record:
    return {}


def _annotated(name: str, *, on: bool) -> Callable[[Place, Record], None]:
    def act(place: Place, _: Record) -> None:
        follow(place, lambda: place.annotate(name, on=on))

    return act


def _own_name(place: Place) -> str:
    return f"node.{place.node.name}"


def _own(place: Place) -> Record:
    needs_ebpf(place)
    found = place.get(f"{FELIX}/{_own_name(place)}")
    if found is None:
        return {"own": False}
    return {"own": True, "fields": {"bpfEnabled": (found.get("spec") or {}).get("bpfEnabled")}}


def _mix(place: Place, record: Record) -> None:
    def act() -> None:
        body = {
            "apiVersion": "projectcalico.org/v3",
            "kind": "FelixConfiguration",
            "metadata": {"name": _own_name(place)},
            "spec": {"bpfEnabled": False},
        }
        place.create(FELIX, body)
        place.set_felix({"bpfEnabled": False}, _own_name(place))

    follow(place, act)


def _unmix(place: Place, record: Record) -> None:
    def act() -> None:
        if record["own"]:
            place.set_felix(record["fields"], _own_name(place))
        else:
            place.delete(f"{FELIX}/{_own_name(place)}")

    follow(place, act)


def _calico_pod(place: Place) -> Record:
    """The node's calico-node pod, to be made anew, and the field that its environment is to beat.

    A pod's environment cannot be changed.
    """
    items = (place.get(_CALICO_PODS) or {}).get("items") or []
    pod = next(
        pod
        for pod in items
        if (pod["metadata"].get("labels") or {}).get("k8s-app") == "calico-node"
        and pod["spec"].get("nodeName") == place.node.name
    )
    meta = {
        name: pod["metadata"][name]
        for name in ("name", "namespace", "labels", "annotations", "ownerReferences")
        if name in pod["metadata"]
    }
    made = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": pod["spec"]}
    return {"pod": made, "fields": {_MODE: place.felix_spec().get(_MODE)}}


def _override(place: Place, record: Record) -> None:
    container, *others = record["pod"]["spec"]["containers"]
    given = [each for each in container.get("env") or [] if each["name"] != _MODE_ENV]
    changed = {**container, "env": [*given, {"name": _MODE_ENV, "value": "DSR"}]}
    spec = {**record["pod"]["spec"], "containers": [changed, *others]}

    def act() -> None:
        place.set_felix({_MODE: "Tunnel"})
        _make_anew(place, {**record["pod"], "spec": spec})

    follow(place, act)


def _no_override(place: Place, record: Record) -> None:
    def act() -> None:
        place.set_felix(record["fields"])
        _make_anew(place, record["pod"])

    follow(place, act)


def _make_anew(place: Place, pod: Mapping[str, Any], *, always: bool = False) -> None:
    """The pod, made anew where it is another (or ``always``), running."""
    path = f"{_CALICO_PODS}/{pod['metadata']['name']}"
    found = place.get(path)
    if always or found is None or found["spec"].get("containers") != pod["spec"]["containers"]:
        place.delete(path)
        place.wait("the end of calico-node's pod", lambda: place.get(path) is None)
        place.create(_CALICO_PODS, pod)
    place.wait(
        "calico-node's pod",
        lambda: ((place.get(path) or {}).get("status") or {}).get("phase") == "Running",
    )


def _ready_pod(place: Place) -> Record:
    needs_ebpf(place)
    return _calico_pod(place)


def _dirty(place: Place, _: Record) -> None:
    place.annotate(DIRTY, on=True)
    pod = pods.make(place, owned(DIRTY, place.node.name))
    for rule in _drops(pod.device):
        if not place.run(["sh", "-c", f"iptables -w -C {rule} && echo there"], check=False):
            place.run(["iptables", "-w", "-I", *rule.split()])
    place.wait("Felix's word of it", lambda: f'name="{pod.device}"' in place.log())
    place.wait("no program on it", lambda: not place.program(pod.device))


def _clean(place: Place, record: Record) -> None:
    name = owned(DIRTY, place.node.name)
    for rule in _drops(device_name(FAULT_NAMESPACE, name)):
        place.run(["iptables", "-w", "-D", *rule.split()], check=False)
    pods.remove(place, name)
    place.annotate(DIRTY, on=False)
    # Whose log would go on telling of it.
    follow(place, lambda: _make_anew(place, record["pod"], always=True))


def _drops(device: str) -> list[str]:
    """Rules for a workload that Felix does not list among those that have their programs."""
    return [f"{chain} -i {device} -j DROP" for chain in ("FORWARD", "INPUT")]


FAULTS: tuple[Fault, ...] = (
    Fault(
        "kernel-fallback",
        "Felix finds the kernel too old and forwards without eBPF; services may be dead.",
        ("A1", "A6"),
        "The lab's Felix behaves and logs as Calico's does; the kernel is what it was.",
        _nothing,
        _annotated(UNSUPPORTED, on=True),
        _annotated(UNSUPPORTED, on=False),
    ),
    Fault(
        "mixed-cluster",
        "Services and policy are unlike on one node; it forwards without eBPF.",
        ("A6", "A5"),
        "FelixConfiguration node.NAME with bpfEnabled false.",
        _own,
        _mix,
        _unmix,
    ),
    Fault(
        "env-override",
        "What one sets with kubectl has no effect on the node.",
        ("A5",),
        f"The node's calico-node pod is made anew with {_MODE_ENV}=DSR; the resource says Tunnel.",
        _calico_pod,
        _override,
        _no_override,
    ),
    Fault(
        DIRTY,
        "One pod of the node has no network.",
        ("A7", "A2"),
        "A pod of the fault's own really gets no program, what it sends is dropped by iptables, "
        "and Felix logs why, as Calico's does; the verifier was not asked.",
        _ready_pod,
        _dirty,
        _clean,
    ),
)
