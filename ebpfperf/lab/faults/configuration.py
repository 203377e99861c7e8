"""Faults of configuration: what somebody told Felix, the pools or the kernel wrongly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ebpfperf.calico.releases import derives_encapsulation
from ebpfperf.lab.faults import pods
from ebpfperf.lab.faults.acting import collection, follow, needs_ebpf, tell
from ebpfperf.lab.faults.declaration import Fault, Record
from ebpfperf.lab.faults.place import FELIX, Place
from ebpfperf.lab.own_annotations import DIRTY, UNSUPPORTED, owned
from ebpfperf.lab.seed import POOL

_POOL = f"{collection('ippools')}/{POOL}"
_FLAGS = ("ipipEnabled", "vxlanEnabled")
_MODES = ("ipipMode", "vxlanMode")
_IPIP_POD = "fault-ipip-pool"
_CALICO_PODS = collection("pods", "kube-system")
_MODE, _MODE_ENV = "bpfExternalServiceMode", "FELIX_BPFEXTERNALSERVICEMODE"

Before = Callable[[Place], Record]
Put = Callable[[Place, Record], None]


def _nothing(_: Place) -> Record:
    return {}


def _ready(place: Place) -> Record:
    needs_ebpf(place)
    return {}


# ------------------------------------------------------------------------------------ fields


def _fields(fields: Mapping[str, Any]) -> tuple[Before, Put]:
    """``before`` and ``put`` of a fault that sets fields of FelixConfiguration default."""

    def before(place: Place) -> Record:
        spec = place.felix_spec()
        return {"fields": {name: spec.get(name) for name in fields}}

    def put(place: Place, _: Record) -> None:
        tell(place, fields)

    return before, put


def _put_back(place: Place, record: Record) -> None:
    tell(place, record["fields"])


def _annotated(name: str, *, on: bool) -> Put:
    def act(place: Place, _: Record) -> None:
        follow(place, lambda: place.annotate(name, on=on))

    return act


# ------------------------------------------------------------------------------------- pools


def _pool_and_flags(place: Place) -> Record:
    spec, pool = place.felix_spec(), (place.get(_POOL) or {}).get("spec", {})
    return {
        "fields": {name: spec.get(name) for name in _FLAGS},
        "pool": {name: pool.get(name) for name in _MODES},
    }


def _set_pool(place: Place, modes: Mapping[str, Any]) -> None:
    """Set the pool's modes; up to v3.22 one that it takes up has its flag on a moment later."""
    old = (place.get(_POOL) or {}).get("spec", {})
    place.patch(_POOL, {"spec": dict(modes)})
    if derives_encapsulation(place.lab.shape.release):
        return
    for mode, flag in zip(_MODES, _FLAGS, strict=True):
        if _on(modes.get(mode)) and not _on(old.get(mode)):
            place.wait(flag, lambda: place.felix_spec().get(flag) is True)  # noqa: B023


def _on(mode: object) -> bool:
    return mode not in (None, "", "Never")


def _flags_off(place: Place, _: Record) -> None:
    def act() -> None:
        _set_pool(place, {"ipipMode": "Never", "vxlanMode": "Always"})

    if derives_encapsulation(place.lab.shape.release):
        act()
    else:
        # In between the flag is on, and Felix goes that way first.
        follow(place, act)
    tell(place, {"vxlanEnabled": False})


def _ipip(place: Place, _: Record) -> None:
    follow(place, lambda: _set_pool(place, {"ipipMode": "Always", "vxlanMode": "Never"}))
    # Somebody who uses the pool, made after it: with the MTU that goes with it.
    pods.make(place, _IPIP_POD)


def _pool_back(place: Place, record: Record) -> None:
    def act() -> None:
        _set_pool(place, record["pool"])
        place.set_felix(record["fields"])

    pods.remove(place, _IPIP_POD)
    follow(place, act)


# ------------------------------------------------------------------------------ one node only


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


def _make_anew(place: Place, pod: Mapping[str, Any]) -> None:
    """The pod, made anew where it is another, running."""
    path = f"{_CALICO_PODS}/{pod['metadata']['name']}"
    found = place.get(path)
    if found is None or found["spec"].get("containers") != pod["spec"]["containers"]:
        place.delete(path)
        place.wait("the end of calico-node's pod", lambda: place.get(path) is None)
        place.create(_CALICO_PODS, pod)
    place.wait(
        "calico-node's pod",
        lambda: ((place.get(path) or {}).get("status") or {}).get("phase") == "Running",
    )


def _dirty(place: Place, _: Record) -> None:
    place.annotate(DIRTY, on=True)
    pod = pods.make(place, owned(DIRTY, place.node.name))
    place.wait("Felix's word of it", lambda: f'name="{pod.device}"' in place.log())
    place.wait("no program on it", lambda: not place.program(pod.device))


def _clean(place: Place, _: Record) -> None:
    pods.remove(place, owned(DIRTY, place.node.name))
    place.annotate(DIRTY, on=False)


_DEBUG_BEFORE, _DEBUG_PUT = _fields({"bpfLogLevel": "Debug"})
_PROFILING_BEFORE, _PROFILING_PUT = _fields({"bpfProfiling": "Enabled"})


def _flags_on(place: Place, _: Record) -> None:
    def act() -> None:
        _set_pool(place, dict.fromkeys(_MODES, "Never"))
        place.set_felix(dict.fromkeys(_FLAGS, True))

    follow(place, act)


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
        "One pod of the node has no network, and calico-node is not Ready.",
        ("A7",),
        "A pod of the fault's own really gets no program, and Felix logs why, as Calico's does; "
        "the verifier was not asked.",
        _ready,
        _dirty,
        _clean,
    ),
    Fault(
        "flags-on-without-overlay",
        "Pods are slower than they could be, or have a smaller MTU.",
        ("E2",),
        "ipipEnabled and vxlanEnabled are true, and no pool has an overlay.",
        _pool_and_flags,
        _flags_on,
        _pool_back,
        of_node=False,
    ),
    Fault(
        "flags-off-with-overlay",
        "Pods of different nodes do not reach each other.",
        ("E3",),
        "A pool with vxlanMode Always, and vxlanEnabled false.",
        _pool_and_flags,
        _flags_off,
        _pool_back,
        of_node=False,
    ),
    Fault(
        "ipip-pool",
        "Traffic between nodes is slower than it could be.",
        ("E1",),
        "A pool with ipipMode Always, and a pod in it.",
        _pool_and_flags,
        _ipip,
        _pool_back,
        of_node=False,
    ),
    Fault(
        "debug-log",
        "Everything is slow: each packet is logged.",
        ("C5",),
        "bpfLogLevel Debug: the lab's programs print each packet's way.",
        _DEBUG_BEFORE,
        _DEBUG_PUT,
        _put_back,
        of_node=False,
    ),
    Fault(
        "profiling-on",
        "Every packet costs a little more.",
        ("C6",),
        "bpfProfiling Enabled; the lab's programs do not measure themselves.",
        _PROFILING_BEFORE,
        _PROFILING_PUT,
        _put_back,
        of_node=False,
        since=(3, 30),
    ),
)
