"""Checks of whether eBPF mode is really on. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from ebpfperf.diagnosis import Outcome, Verdict
from ebpfperf.doctor.case import Case
from ebpfperf.doctor.declaration import Check


def bpffs(case: Case, node: str) -> Iterator[Outcome]:
    """Whether the file system that pins outlive Felix in is mounted."""
    # findmnt ends with 1 where nothing is mounted there.
    kind = case.text("bpffs", node).strip()
    shown = case.show("bpffs", node)
    if kind == "bpf":
        yield Outcome(Verdict.OK, "/sys/fs/bpf is a bpf file system.", (shown,))
        return
    yield Outcome(
        Verdict.FAIL,
        f"/sys/fs/bpf is {'a ' + kind if kind else 'not mounted'}: what Felix pins is lost when "
        "it restarts, and pods drop packets until programs are loaded anew.",
        (shown,),
        remedy="Mount it at boot, by a systemd unit sys-fs-bpf.mount or in the node's image.",
    )


CHECKS: tuple[Check, ...] = (
    Check(
        "A4",
        "bpffs",
        "Is the BPF file system mounted?",
        "Pods lose packets for seconds whenever calico-node restarts.",
        ("bpffs",),
        "bpf is OK; anything else, or nothing, is FAIL.",
        "felix/bpf/bpffs",
        of_node=bpffs,
        preflight=True,
    ),
)
