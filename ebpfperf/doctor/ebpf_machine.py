"""Checks of what a node's machine offers to eBPF mode: kernel, BPF file system, processor. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ebpfperf.calico.releases import minor
from ebpfperf.diagnosis import Outcome, Verdict
from ebpfperf.doctor.case import Case, Missing, unknown

# felix/bpf/bpf.go (GetMinKernelVersionForDistro), v3.13 to v3.34; the documentation asks for more
# since v3.31. Red Hat's kernels carry newer eBPF under an old number, so the build counts.
CODE_MINIMUM, CODE_MINIMUM_RHEL = (5, 3, 0, 0), (4, 18, 0, 193)
DOCS_MINIMUM, DOCS_MINIMUM_RHEL = (5, 10, 0, 0), (4, 18, 0, 305)
DOCS_RAISED_IN = (3, 31)
_RELEASE = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?(?:-(\d+))?")
_RED_HAT = re.compile(r"\.el\d")
_NAME = re.compile(r"^PRETTY_NAME=\"?([^\"\n]*)", re.M)
_BIG_ENDIAN = ("s390", "s390x", "ppc", "ppc64", "mips", "mips64", "sparc64", "armeb", "aarch64_be")
_NAMED_EARLY, _NAMED_LATE = ("x86_64",), ("x86_64", "aarch64")

Version = tuple[int, int, int, int]


def kernel(case: Case, node: str) -> Iterator[Outcome]:
    """Whether the kernel is new enough for Felix, and for the release's documentation."""
    release, _ = uname(case, node)
    found = kernel_version(release)
    shown = (case.show("kernel", node), case.show("os", node, _distribution(case, node)))
    if found is None:
        yield unknown(f"The kernel's release {release} is no version.", *shown)
        return
    red_hat = bool(_RED_HAT.search(release))
    least, advised = minima(red_hat)
    where = f"{release}{' (Red Hat)' if red_hat else ''}"
    wanted = advised if _docs_raised(case) else least
    remedy = f"Boot a kernel of at least {written(wanted)}."
    if found < least:
        yield Outcome(
            Verdict.FAIL,
            f"Kernel {where} is older than {written(least)}, which Felix asks for: it falls back "
            "to the standard dataplane.",
            shown,
            remedy=remedy,
        )
    elif found < advised and minor_or_none(case) is None:
        yield unknown(f"Kernel {where} is enough for releases before v3.31; {_UNSAID}.", *shown)
    elif found < wanted:
        yield Outcome(
            Verdict.WARN,
            f"Kernel {where} is older than {written(wanted)}, which the documentation of "
            f"{case.release} asks for; Felix starts, but the kernel may refuse its programs.",
            shown,
            remedy=remedy,
            corrected=f"The page of v3.16 asks for {written(least)}; Felix's own check is still "
            "so, but the documentation has asked for more since v3.31.",
        )
    else:
        yield Outcome(Verdict.OK, f"Kernel {where} is at least {written(wanted)}.", shown)


def bpffs(case: Case, node: str) -> Iterator[Outcome]:
    """Whether the file system that pins outlive Felix in is mounted."""
    # findmnt ends with 1 where nothing is mounted there.
    item = case.item("bpffs", node)
    shown = case.show("bpffs", node)
    kinds = item.text.split()
    if item.status not in (0, 1) or (item.status == 1 and kinds):
        yield unknown("Whether /sys/fs/bpf is mounted cannot be read.", shown)
    elif "bpf" in kinds:
        yield Outcome(Verdict.OK, "/sys/fs/bpf is a bpf file system.", (shown,))
    else:
        yield Outcome(
            Verdict.FAIL,
            f"/sys/fs/bpf is {'a ' + kinds[0] if kinds else 'not mounted'}: what Felix pins is "
            "lost when it restarts, and pods drop packets until programs are loaded anew.",
            (shown,),
            remedy="Mount it at boot, by a systemd unit sys-fs-bpf.mount or in the node's image.",
        )


def architecture(case: Case, node: str) -> Iterator[Outcome]:
    """Whether Calico's programs run on the node's processor."""
    _, machine = uname(case, node)
    shown = (case.show("kernel", node),)
    found = minor_or_none(case)
    named = _NAMED_EARLY if found is not None and found <= (3, 16) else _NAMED_LATE
    if machine in _BIG_ENDIAN:
        yield Outcome(
            Verdict.FAIL,
            f"The node is {machine}, which is big-endian: Felix has no eBPF mode there.",
            shown,
            remedy="Use the standard dataplane in a cluster with such nodes.",
        )
    elif machine in named:
        yield Outcome(Verdict.OK, f"The node is {machine}.", shown)
    else:
        yield Outcome(
            Verdict.WARN,
            f"The node is {machine}; Calico's documentation of {case.release or 'this release'} "
            f"names {' and '.join(named)} alone.",
            shown,
            remedy="Ask Calico's people whether eBPF mode is tested there.",
        )


# ------------------------------------------------------------------------------------ parts

_UNSAID = "the cluster does not say which release it runs"


def uname(case: Case, node: str) -> tuple[str, str]:
    """The kernel's release and the machine's architecture; Missing."""
    words = case.text("kernel", node).split()
    if len(words) != 2:
        raise Missing("uname -rm did not print two words", case.show("kernel", node))
    return words[0], words[1]


def kernel_version(release: str) -> Version | None:
    """(4, 18, 0, 193) of ``4.18.0-193.14.3.el8_2.x86_64``; None for text that is no version."""
    match = _RELEASE.match(release)
    if match is None:
        return None
    first, second, third, build = (int(part or 0) for part in match.groups())
    return first, second, third, build


def minima(red_hat: bool) -> tuple[Version, Version]:
    """What Felix asks for, and what the documentation asks for since v3.31."""
    if red_hat:
        return CODE_MINIMUM_RHEL, DOCS_MINIMUM_RHEL
    return CODE_MINIMUM, DOCS_MINIMUM


def written(version: Version) -> str:
    """``5.3``, or ``4.18.0-193``."""
    first, second, third, build = version
    return f"{first}.{second}.{third}-{build}" if build else f"{first}.{second}"


def newer_kernel(case: Case, node: str) -> str:
    """What to do where Felix says that the kernel does not do, for the release and the node."""
    try:
        release, _ = uname(case, node)
    except Missing:
        release = ""
    least, advised = minima(bool(_RED_HAT.search(release)))
    wanted = advised if _docs_raised(case) else least
    found = kernel_version(release)
    if found is None or found < wanted:
        return f"Boot a kernel of at least {written(wanted)}."
    return (
        f"By its number the kernel is new enough ({written(wanted)}): see A9, what error= says "
        "in calico-node's log, and whether the kernel has CONFIG_BPF_SYSCALL."
    )


def minor_or_none(case: Case) -> tuple[int, int] | None:
    """The release as numbers, or None where the cluster does not say it."""
    try:
        return minor(case.release)
    except ValueError:
        return None


def _docs_raised(case: Case) -> bool:
    found = minor_or_none(case)
    return found is not None and found >= DOCS_RAISED_IN


def _distribution(case: Case, node: str) -> str:
    try:
        match = _NAME.search(case.text("os", node))
    except Missing:
        return ""
    return match[1] if match else ""
