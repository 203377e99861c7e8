"""Checks of the programs on a node's devices: whether they are there, and on all of them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from ebpfperf.calico.felix_fields import UNSET
from ebpfperf.calico.maps import DIRECTORY
from ebpfperf.diagnosis import Outcome, Shown, Verdict
from ebpfperf.doctor import values
from ebpfperf.doctor.case import Case, Missing, not_applicable, unknown
from ebpfperf.doctor.devices import (
    CALICO_DEVICES,
    L3_PATTERN,
    PATTERN,
    Device,
    below,
    matches,
    parse_devices,
    patterns,
)
from ebpfperf.drop_counts import NodeCounts, of_calico
from ebpfperf.felix_values import Effective
from ebpfperf.felix_values import shown as written
from ebpfperf.kube_objects import internal_ips
from ebpfperf.units import UNKNOWN

HOOKS = ("ingress", "egress")
# Kinds that Felix's program on a device is attached to otherwise.
_NETKIT = "netkit"
_CLEANUP_FROM = (3, 30)
_TUNNELS_KNOWN_FROM = (3, 30)
_NAMED = 5


def programs(case: Case, node: str) -> Iterator[Outcome]:
    """Whether Calico's programs are on both hooks of every NIC and workload device."""
    if not _asked_for(case, node):
        yield _leftovers(case, node)
        return
    counts, devices = case.programs(node), parse_devices(case.text("links", node))
    if not counts.calico_devices and any(known is not None for known in counts.programs.values()):
        maps = _pinned_maps(case, node)
        left = f"; {len(maps)} of its maps are pinned" if maps else ""
        yield Outcome(
            Verdict.FAIL,
            f"No program of Calico's is on any device{left}: the node does not forward by eBPF.",
            (_shown_programs(case, node, counts), *_shown_maps(case, node, maps)),
            remedy="Look at A1 for what Felix said, and at A8 for the NIC's pattern.",
        )
        return
    nics, workloads, unsure = _wanted(case, node, devices, counts)
    outcomes = [found for name in nics if (found := _nic(case, node, counts, name))]
    outcomes += _workloads(case, node, counts, devices, workloads)
    outcomes += [
        unknown(
            f"Whether {PATTERN} matches {name} is not known.", case.show("links", node, name),
            subject=name,
        )
        for name in unsure
    ]  # fmt: skip
    if not outcomes:
        several = "device" if len(workloads) == 1 else "devices"
        on = f"on both hooks of {', '.join(nics)} and of {len(workloads)} workload {several}"
        if not nics:
            on = f"on both hooks of {len(workloads)} workload {several}; no NIC is to have any (A8)"
        yield Outcome(
            Verdict.OK, f"Calico's programs are {on}.", (_shown_programs(case, node, counts),)
        )
    yield from outcomes


def nic_pattern(case: Case, node: str) -> Iterator[Outcome]:
    """Whether Felix's pattern matches the devices that carry the node's traffic."""
    devices = parse_devices(case.text("links", node))
    effective = case.value(node, PATTERN)
    expressions = patterns(effective.value, case.release)
    if not expressions:
        yield unknown(f"{PATTERN} is not known: {effective.value}.", values.shown(case, effective))
        return
    told = effective.value if len(expressions) == 1 else "the release's default"
    pattern = f"{PATTERN} ({effective.where}): {' or '.join(expressions)}"
    carriers = _carriers(case, node, devices)
    missing, covered = False, []
    for name, why in carriers.items():
        shown = (case.show("links", node, f"{name} carries {why}\n{pattern}"),)
        match = _matched(case, node, expressions, name)
        if match:
            covered.append(f"{name} ({why})")
            continue
        missing = True
        if match is None:
            yield unknown(
                f"Whether {PATTERN} ({told}) matches {name}, which carries {why}, cannot be told "
                "here.", *shown, subject=name,
            )  # fmt: skip
            continue
        stands_on = below(devices, name)
        yield Outcome(
            Verdict.FAIL if _ADDRESS in why else Verdict.WARN,
            f"{PATTERN} ({told}) does not match {name}, which carries {why}"
            f"{_kind(devices[name], stands_on)}: it gets no program, and node ports and pods' "
            "traffic between nodes fail there.",
            shown,
            subject=name,
            remedy=_remedy(case, name, expressions, effective),
        )
    if not missing:
        yield Outcome(
            Verdict.OK,
            f"{PATTERN} matches {', '.join(covered)}.",
            (case.show("links", node, pattern),),
        )


# -------------------------------------------------------------------------------- programs


def _asked_for(case: Case, node: str) -> bool:
    try:
        return case.wants_ebpf(node)
    except Missing:
        return True


def _wanted(
    case: Case, node: str, devices: dict[str, Device], counts: NodeCounts
) -> tuple[list[str], list[str], list[str]]:
    """NICs and workload devices that must have programs, and NICs of which that is not known.

    Only those that were there in both answers, and are up: Felix leaves others alone. What belongs
    to a bond or a bridge is left to its master.
    """
    prefixes = _prefixes(case, node)
    expressions = patterns(case.value(node, PATTERN).value, case.release)
    nics, workloads, unsure = [], [], []
    for name in counts.links.values():
        device = devices.get(name)
        if device is None or not device.up or device.loopback or name in CALICO_DEVICES:
            continue
        if name.startswith(prefixes):
            workloads.append(name)
        elif not device.master:
            # Azure's NICs stand on a second device, which has a master and no kind of a slave.
            match = _matched(case, node, expressions, name)
            if match:
                nics.append(name)
            elif match is None and name in _carriers(case, node, devices):
                unsure.append(name)
    return nics, workloads, unsure


def _matched(case: Case, node: str, expressions: tuple[str, ...], name: str) -> bool | None:
    """Whether one of Felix's two patterns matches a device; None where that cannot be told."""
    found = (matches(expressions, name) if expressions else None, _l3(case, node, name))
    return True if True in found else None if None in found else False


def _l3(case: Case, node: str, name: str) -> bool | None:
    """Whether a device has programs by bpfL3IfacePattern; None where that cannot be told.

    felix/dataplane/linux/bpf_ep_mgr.go, isL3Iface: such devices count beside those of the other
    pattern.
    """
    try:
        value = case.value(node, L3_PATTERN).value
    except Missing:
        return False  # The release has no such field.
    if value is None or value in ("", UNSET):
        return False
    return None if str(value).startswith(UNKNOWN) else matches((str(value),), name)


def _prefixes(case: Case, node: str) -> tuple[str, ...]:
    value = case.value(node, "interfacePrefix").value
    if str(value).startswith(UNKNOWN):
        raise Missing(f"interfacePrefix is not known: {value}")
    names = value if isinstance(value, list) else str(value or "").split(",")
    found = tuple(str(each).strip() for each in names if str(each).strip())
    return found if value != UNSET and found else ("cali",)


def _lacking(counts: NodeCounts, name: str) -> list[str] | None:
    """The hooks without a program of Calico's; None where the kernel does not tell."""
    hooks = counts.programs.get(name)
    if hooks is None:
        return None
    return [hook for hook in HOOKS if not any(map(of_calico, hooks.get(hook, ())))]


def _nic(case: Case, node: str, counts: NodeCounts, name: str) -> Outcome | None:
    lacking = _lacking(counts, name)
    shown = _shown_programs(case, node, counts)
    if lacking is None:
        return unknown(f"The kernel does not say which programs are on {name}.", shown,
                       subject=name)  # fmt: skip
    if not lacking:
        return None
    return Outcome(
        Verdict.FAIL,
        f"NIC {name} has no program of Calico's on {' and '.join(lacking)}: node ports and pods' "
        "traffic between nodes fail there.",
        (_shown_programs(case, node, counts, [name]),),
        subject=name,
        remedy=f"Look in calico-node's log for {name}; restart calico-node on the node.",
    )


def _workloads(
    case: Case, node: str, counts: NodeCounts, devices: dict[str, Device], names: list[str]
) -> Iterator[Outcome]:
    shown = _shown_programs(case, node, counts)
    bare: dict[str, str] = {}
    hidden = []
    for name in names:
        lacking = _lacking(counts, name)
        if lacking is None or (lacking and devices[name].kind == _NETKIT):
            hidden.append(name)
        elif lacking:
            bare[name] = " and ".join(lacking)
    remedy = (
        "Look in calico-node's log for the device's name (A7); delete the pod so that it is made "
        "anew."
    )
    for name, lacking_words in list(bare.items())[:_NAMED]:
        yield Outcome(
            Verdict.FAIL,
            f"Workload device {name} has no program of Calico's on {lacking_words}: its pod has no "
            "network, or no policy.",
            (_shown_programs(case, node, counts, [name]),),
            subject=name,
            remedy=remedy,
        )
    if len(bare) > _NAMED:
        what = f"{len(bare) - _NAMED} more workload devices lack programs of Calico's."
        yield Outcome(
            Verdict.FAIL,
            what,
            (_shown_programs(case, node, counts, list(bare)[_NAMED:]),),
            remedy=remedy,
        )
    if hidden:
        named = ", ".join(hidden[:_NAMED]) + (" …" if len(hidden) > _NAMED else "")
        why = f"The programs of {len(hidden)} workload devices cannot be seen: {named}."
        yield unknown(why, shown)


def _leftovers(case: Case, node: str) -> Outcome:
    """What of eBPF mode is left where nobody asks for it."""
    counts, maps = case.programs(node), _pinned_maps(case, node)
    devices = counts.calico_devices
    if not devices and not maps:
        return not_applicable(
            "eBPF mode is not asked for there, and nothing of it is left.",
            _shown_programs(case, node, counts),
        )
    left = [f"programs on {', '.join(devices[:_NAMED])}"] if devices else []
    left += [f"{len(maps)} pinned maps"] if maps else []
    command = "calico-node -bpf cleanup removes them; so does a boot."
    return Outcome(
        Verdict.WARN,
        f"eBPF mode is not asked for there, but {' and '.join(left)} of Calico's are left.",
        (_shown_programs(case, node, counts), *_shown_maps(case, node, maps)),
        remedy=command if case.minor >= _CLEANUP_FROM else "Boot the node: nothing of it stays.",
    )


def _pinned_maps(case: Case, node: str) -> list[str]:
    """Names of Calico's pinned maps, from ``ls -1R``; none where that was not gathered."""
    try:
        blocks = case.text("pins", node).split("\n\n")
    except Missing:
        return []
    own = [block.splitlines() for block in blocks if block.startswith(f"{DIRECTORY}:")]
    return [name for lines in own for name in lines[1:] if name.startswith("cali")]


def _shown_maps(case: Case, node: str, maps: list[str]) -> tuple[Shown, ...]:
    return (case.show("pins", node, maps),) if maps else ()


def _shown_programs(case: Case, node: str, counts: NodeCounts, first: Iterable[str] = ()) -> Shown:
    """The programs of every device that has some, after those devices that it is about."""
    about = [f"{name}: {_hooks(counts.programs.get(name) or {}) or 'no program'}" for name in first]
    lines = about + [
        f"{name}: " + ("not told" if hooks is None else _hooks(hooks))
        for name, hooks in counts.programs.items()
        if (hooks is None or hooks) and name not in first
    ]
    later = case.evidence.item("counts/later", node)
    source = "counts/later" if later is not None and not later.error else "counts"
    return case.show(source, node, lines or "no program on any device")


def _hooks(hooks: Mapping[str, tuple[str, ...]]) -> str:
    return ", ".join(f"{hook} {' '.join(names)}" for hook, names in hooks.items())


# ------------------------------------------------------------------------------------ NICs

_ADDRESS = "the node's address"


def _carriers(case: Case, node: str, devices: dict[str, Device]) -> dict[str, str]:
    """Device → what it carries: the node's InternalIP, the default route, or both."""
    found: dict[str, list[str]] = {}
    missing: Missing | None = None
    try:
        own = internal_ips(case.node_object(node))
        if not own:
            raise Missing("the node has no InternalIP")
        for device in devices.values():
            # A node's own address may be one that routers announce, on the loopback device.
            if device.loopback or device.kind == "dummy":
                continue
            words = [f"{_ADDRESS} {address}" for address in own if address in device.addresses]
            if words:
                found[device.name] = words[:1]
    except Missing as error:
        missing = error
    try:
        for name in case.default_devices(node):
            if name in devices and name not in CALICO_DEVICES:
                found.setdefault(name, []).append("the default route")
    except Missing as error:
        missing = missing or error
    if not found:
        raise missing or Missing(
            "no device carries the node's InternalIP or a default route", case.show("links", node)
        )
    return {name: " and ".join(words) for name, words in found.items()}


def _kind(device: Device, stands_on: list[str]) -> str:
    if not stands_on:
        return ""
    return f" (a {device.kind or 'device'} on {', '.join(stands_on[:_NAMED])})"


def _remedy(case: Case, name: str, expressions: tuple[str, ...], decides: Effective) -> str:
    own = f"Set {PATTERN} {values.place(decides)} so that it matches {name} as well"
    if len(expressions) == 1:
        own += f" as {written(expressions[0])}"
    else:
        own += f", such as ^({name}|eth.*|en[opsx].*)$"
    tunnels = (
        "" if case.minor >= _TUNNELS_KNOWN_FROM
        else "; it must go on to match tunl0, vxlan.calico and wireguard.cali"
    )  # fmt: skip
    return f"{own}{tunnels}."
