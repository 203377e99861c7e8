"""A node's answer to ``conditions`` as facts. Pure.

A fact's name says what it is of: ``offloads:nic``, ``mtu:pod``, ``sysctl:net.ipv4.tcp_rmem``. A
device is named by its role on the path, never by its own name, so that two trials whose pods were
made anew can be compared: ``nic`` and what it stands on (``nic/eth0``), ``pod`` (the end in the
pod), ``pod-host`` (its other end on the node), ``vxlan``, ``ipip``, ``wireguard``, ``bpfin``,
``bpfout``. Values are sorted words.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

from ebpfperf.model import Fact
from ebpfperf.units import UNKNOWN

NAME = "conditions"
"""The fact that says whether a node's conditions were read: ``read``, or UNKNOWN and why."""

NIC = "nic"
CPU = "/sys/devices/system/cpu"
# A file → the fact it is, and what it means that it is not there.
FILES: Mapping[str, tuple[str, str]] = {
    "/proc/sys/kernel/osrelease": ("kernel", ""),
    "/proc/sys/kernel/version": ("kernel_build", ""),
    "/proc/cmdline": ("kernel_cmdline", ""),
    "/sys/kernel/mm/transparent_hugepage/enabled": ("transparent_hugepage", "not in this kernel"),
    "/sys/kernel/debug/sched/preempt": ("preemption", ""),
    f"{CPU}/online": ("cpu_online", ""),
    f"{CPU}/isolated": ("cpu_isolated", ""),
    f"{CPU}/smt/active": ("smt_active", ""),
    f"{CPU}/cpu0/microcode/version": ("microcode", ""),
    f"{CPU}/cpuidle/current_driver": ("idle_driver", "none"),
    f"{CPU}/cpuidle/current_governor": ("idle_governor", "none"),
    f"{CPU}/intel_pstate/no_turbo": ("turbo_off", ""),
    f"{CPU}/cpufreq/boost": ("boost", ""),
}
# A file of a frequency policy → the fact it is.
POLICY: Mapping[str, str] = {
    "scaling_driver": "frequency_driver",
    "scaling_governor": "frequency_governor",
    "scaling_min_freq": "frequency_least_khz",
    "scaling_max_freq": "frequency_most_khz",
    "energy_performance_preference": "frequency_preference",
}
_LEVEL = re.compile(r"_(no_log|info|debug)(?=[._]|$)")
_VERSION = re.compile(r"iperf (\S+)")
_NO_LINK = ("-1", "unknown", "4294967295")
# libbpf names a filter after its program and the program's id, which is new each time it is loaded.
_PROGRAM_ID = re.compile(r":\[\d+\]$")


def unread(node: str, reason: str) -> tuple[Fact, ...]:
    """The one fact of a node whose conditions could not be read."""
    return (Fact(node, NAME, f"{UNKNOWN}: {reason}"),)


def parse(node: str, answer: Mapping[str, Any]) -> tuple[Fact, ...]:
    """The facts of a node's answer, by name.

    Raises
    ------
    KeyError, TypeError, ValueError, AttributeError
        It is no such answer.
    """
    found = {NAME: "read"}
    found |= _files(answer["files"])
    found |= _processors(answer)
    for role, values in answer["sysctls"].items():
        kind = f"{role}_sysctl" if role else "sysctl"
        found |= {f"{kind}:{name}": value for name, value in values.items()}
    devices: Mapping[str, Mapping[str, Any]] = answer["devices"]
    found["devices"] = " ".join(sorted(devices)) or "none"
    if NIC not in devices:
        found["mtu:nic"] = f"{UNKNOWN}: no device carries the node's address"
    for role, device in devices.items():
        found |= {f"{name}:{role}": value for name, value in _device(role, device).items()}
    found |= _log_level(devices.values())
    for name, said in answer["tools"].items():
        found[f"{name}_version"] = _version(name, said)
    for name, held in answer["binaries"].items():
        found[f"{name}_binary"] = _binary(name, held)
    return tuple(Fact(node, name, value) for name, value in sorted(found.items()))


def _files(files: Mapping[str, str | None]) -> dict[str, str]:
    found = {}
    for path, (name, missing) in FILES.items():
        text = files.get(path)
        found[name] = text or ("none" if text == "" else missing or f"{UNKNOWN}: {path}: not there")
    return found


def _processors(answer: Mapping[str, Any]) -> dict[str, str]:
    policies: Mapping[str, Mapping[str, str]] = answer["policies"]
    reason = f"{UNKNOWN}: the kernel sets no frequency here"
    found = {
        name: _by_number({policy: held.get(file) for policy, held in policies.items()}) or reason
        for file, name in POLICY.items()
    }
    states = [
        name + (f" (off on {off} of {count})" if off else "")
        for name, (count, off) in sorted(answer["idle"].items())
    ]
    weak = sorted(answer["vulnerabilities"].items())
    return found | {
        "idle_states": ", ".join(states) or "none",
        "irqbalance": "runs" if answer["irqbalance"] else "does not run",
        "mitigations": "; ".join(f"{name}: {text}" for name, text in weak)
        or f"{UNKNOWN}: not in this kernel",
    }


def _device(role: str, device: Mapping[str, Any]) -> dict[str, str]:
    """What is asked of every device, and of a NIC what only hardware has."""
    if "error" in device:
        return {"mtu": f"{UNKNOWN}: {device['error']}"}
    hardware = role.split("/")[0] == NIC
    numbers = dict(device["numbers"])
    found = {
        "kind": device["kind"] or "physical",
        "mtu": str(numbers.pop("mtu")),
        "txqueuelen": str(numbers.pop("txqueuelen", 0)),
        "queues": _words(numbers),
        "qdisc": _qdiscs(device["qdiscs"]),
        "offloads": _or_unknown(device["features"], "the driver has none to show"),
        "programs": _programs(device["programs"]),
    }
    if driver := device["driver"]:
        found["driver"] = " ".join(filter(None, driver)) or "not named"
    for group in ("channels", "rings", "coalesce"):
        if group in device:
            found[group] = _words(device[group])
        elif hardware:
            found[group] = "not offered by the driver"
    if "rps" in device:
        masks = {queue: " ".join(filter(None, held)) for queue, held in device["rps"].items()}
        found["rps"] = _by_number(masks) or f"{UNKNOWN}: no queue is shown in /sys/class/net"
        found["xps"] = _by_number(device["xps"]) or "none"
    if hardware:
        told = {name: text for name, text in device["link"].items() if text not in _NO_LINK}
        found["link"] = _words(told) or f"{UNKNOWN}: the driver tells no speed"
        found["numa_node"] = device["numa_node"] or "none"
        actions = sorted(device["irqs"].items(), key=lambda item: _natural(item[0]))
        found["irq_affinity"] = ", ".join(f"{name} {cpus}" for name, cpus in actions) or "none"
    return found


def _qdiscs(shown: Iterable[tuple[bool, str]]) -> str:
    roots = [kind for root, kind in shown if root]
    under = Counter(kind for root, kind in shown if not root)
    parts = [f"{kind} ×{count}" for kind, count in sorted(under.items())]
    return ": ".join(filter(None, (" ".join(roots) or "none", " ".join(parts))))


def _programs(hooks: Mapping[str, Iterable[str]] | None) -> str:
    if hooks is None:
        return f"{UNKNOWN}: the kernel does not let them be listed"
    said = (
        f"{hook} {' '.join(_PROGRAM_ID.sub('', name) for name in names)}"
        for hook, names in sorted(hooks.items())
    )
    return "; ".join(said) or "none"


def _log_level(devices: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """``bpf_log_level``, where Calico's programs are: their names tell it up to v3.20.

    Such a filter's name is the object's file: ``from_hep_fib_no_log.o:[calico_from_host_ep]``
    (felix/bpf/tc/attach.go).
    """
    hooks = [device.get("programs") or {} for device in devices]
    names = [name for each in hooks for shown in each.values() for name in shown]
    names = [name for name in names if "cali" in name]
    if not names:
        return {}
    levels = sorted({match[1] for name in names if (match := _LEVEL.search(name))})
    words = [{"no_log": "Off"}.get(level, level.capitalize()) for level in levels]
    reason = f"{UNKNOWN}: since Calico v3.21 a program's name does not tell it"
    return {"bpf_log_level": ", ".join(words) or reason}


def _version(name: str, said: str | None) -> str:
    if said is None:
        return f"{UNKNOWN}: {name} is not installed"
    match = _VERSION.search(said)
    return match[1] if match else f"{UNKNOWN}: {' '.join(said.split())[:80]!r}"


def _binary(name: str, held: tuple[str, int, int] | None) -> str:
    if held is None:
        return f"{UNKNOWN}: {name} is not installed"
    path, size, changed = held
    when = datetime.fromtimestamp(changed, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return f"{path}, {size} bytes of {when}"


def _by_number(values: Mapping[str, str | None]) -> str:
    """One value where all are alike, else each with the numbers it is of; empty of none."""
    known = {name: value for name, value in values.items() if value is not None}
    distinct = sorted(set(known.values()))
    if len(distinct) <= 1:
        return "".join(distinct)
    return "; ".join(
        f"{value or 'none'} on {_ranges(_number(n) for n, held in known.items() if held == value)}"
        for value in distinct
    )


def _ranges(numbers: Iterable[int]) -> str:
    """``0-3,8`` of 0, 1, 2, 3, 8."""
    runs = []
    for _, run in groupby(enumerate(sorted(numbers)), key=lambda pair: pair[1] - pair[0]):
        held = [number for _, number in run]
        runs.append(str(held[0]) if len(held) == 1 else f"{held[0]}-{held[-1]}")
    return ",".join(runs)


def _number(name: str) -> int:
    return int(re.sub(r"\D", "", name) or 0)


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _words(values: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in sorted(values.items()))


def _or_unknown(words: Iterable[str] | None, reason: str) -> str:
    return f"{UNKNOWN}: {reason}" if words is None else " ".join(sorted(words)) or "none"
