"""Check of the overlay's VXLAN device: whether it is up, and if not, who holds its port. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from ebpfperf.diagnosis import Outcome, Shown, Verdict
from ebpfperf.doctor import values
from ebpfperf.doctor.case import Case, Missing, not_applicable, unknown
from ebpfperf.doctor.declaration import CURRENT, Check
from ebpfperf.doctor.underlay_pairs import COMPILED_IN_UNTIL
from ebpfperf.evidence_sources import LOG
from ebpfperf.network_view import Link

VXLAN_DEVICE = "vxlan.calico"
IN_USE = "address already in use"


def vxlan_device(case: Case, node: str) -> Iterator[Outcome]:
    """B11: whether ``vxlan.calico`` is up, and if not, who holds its port."""
    value = case.value(node, "vxlanEnabled")
    if values.is_unknown(value):
        yield unknown(f"{values.spoken(value)}.", values.shown(case, value))
        return
    if not value.value:
        why = f"no VXLAN device is to be there: {values.spoken(value)}"
        yield not_applicable(why, values.shown(case, value))
        return
    device = next((link for link in case.links(node) if link.name == VXLAN_DEVICE), None)
    wanted = case.value(node, "vxlanPort")
    port = int(wanted.value)
    state = "not there" if device is None else "up" if device.up else "down"
    links = case.show("links", node, f"{VXLAN_DEVICE}: {state}")
    if device is not None and device.up:
        yield Outcome(Verdict.OK, f"{VXLAN_DEVICE} is up.", (links,))
        return
    holder, evidence = _holder(case, node, port, device)
    logged = _logged(case, node)
    taken = bool(holder) or bool(logged)
    why = f"UDP port {port} is held by {holder}" if holder else ""
    if not why and logged:
        why = f"calico-node logged '{IN_USE}': something holds UDP port {port}"
    remedy = (
        f"Set vxlanPort to a free port such as {port + 1} {values.place(wanted).rstrip(',')}, and "
        "let it pass between the nodes; or end what holds the port."
        if taken
        else "See calico-node's log on the node for why it does not set the device up."
    )
    note = ""
    if taken and case.minor <= COMPILED_IN_UNTIL:
        note = "In this release node ports go on using 4789, whatever vxlanPort says."
    yield Outcome(
        Verdict.FAIL,
        f"{VXLAN_DEVICE} is {state}: the overlay does not work there{'; ' + why if why else ''}.",
        (links, *evidence, *logged), subject=VXLAN_DEVICE, remedy=remedy, corrected=note,
    )  # fmt: skip


def _holder(case: Case, node: str, port: int, device: Link | None) -> tuple[str, tuple[Shown, ...]]:
    """Who holds a UDP port: a process by name, or another VXLAN device; empty where nobody does."""
    try:
        lines = case.text("sockets", node).splitlines()
    except Missing as missing:
        return "", missing.shown
    for line in lines:
        words = line.split()
        if len(words) > 3 and words[3].rpartition(":")[2] == str(port):
            process = next((word for word in words if word.startswith("users:")), "")
            name = process.partition('"')[2].partition('"')[0]
            others = [
                link.name
                for link in case.links(node)
                if link.kind == "vxlan" and link.up and link is not device
            ]
            who = f"the process {name}" if name else f"the device {others[0]}" if others else ""
            return who or "the kernel (a tunnel)", (case.show("sockets", node, line),)
    return "", (case.show("sockets", node, f"nobody listens to UDP port {port}"),)


def _logged(case: Case, node: str) -> tuple[Shown, ...]:
    try:
        lines = [line for line in case.text(LOG, node).splitlines() if IN_USE in line]
    except Missing:
        return ()
    return (case.show(LOG, node, lines[-1]),) if lines else ()


CHECKS: tuple[Check, ...] = (
    Check(
        "B11", "vxlan-device", "Is vxlan.calico up where it is to be?",
        "Pods do not reach pods of other nodes over VXLAN; 'address already in use' in the log.",
        ("links", "sockets", "log", "felixconfigurations", "ippools"),
        "Down or missing although VXLAN is enabled is FAIL.",
        CURRENT, of_node=vxlan_device,
    ),
)  # fmt: skip
