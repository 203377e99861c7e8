"""A lab told to forward by eBPF, as ``kubectl patch`` of ``bpfEnabled`` would tell it."""

from __future__ import annotations

from ebpfperf.lab.faults.place import Place
from ebpfperf.lab.own_annotations import RESTART
from ebpfperf.lab.running import Lab


def switch_on(lab: Lab, *, restart_s: float | None = None) -> None:
    """Return once every node forwards by programs; idempotent.

    Parameters
    ----------
    restart_s
        How long its Felixes wait before they restart, from now on; None: as they do.

    Raises
    ------
    LabError
        A node does not come to it.
    """
    place = Place(lab, lab.nodes[0])
    if restart_s is not None:
        for node in lab.nodes:
            body = {"metadata": {"annotations": {RESTART: f"{restart_s:g}"}}}
            place.patch(f"/api/v1/nodes/{node.name}", body)
    place.set_felix({"bpfEnabled": True})
    wait_for(lab)


def wait_for(lab: Lab) -> None:
    """Return once every node forwards by programs, whoever told it to; LabError."""
    place = Place(lab, lab.nodes[0])
    place.wait("eBPF", lambda: all(each.forwards_by_programs() for each in place.everywhere()))
