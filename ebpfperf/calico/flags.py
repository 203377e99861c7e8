"""What Felix's flags change in the eBPF dataplane, release by release, and what follows of it.

The table is read off projectcalico/calico at the tags it names. A short-cut here is the lookup of
the route by the BPF program itself (``bpf_fib_lookup``, ``bpf_redirect``), past the host's IP
stack, its iptables and its connection tracking.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ebpfperf.calico.encapsulation import enabled
from ebpfperf.calico.releases import minor
from ebpfperf.model import FelixValue

Minor = tuple[int, int]

FIRST_EBPF = (3, 13)

_CONFIG = "felix/config/config_params.go"
_FIB = "felix/dataplane/linux/int_dataplane.go"
_DERIVED = "derived: on if an IP pool asks for it"


@dataclass(frozen=True, slots=True)
class Rule:
    """What a flag does in a range of releases when Felix forwards by eBPF.

    Attributes
    ----------
    since, until
        First and last minor release; ``until`` None is all that came later.
    changes
        Half a sentence: what the flag changes.
    ends_shortcut
        Whether *true* switches the FIB short-cut off.
    unset
        What it means that the field is absent.
    source
        Where Calico says so.
    """

    flag: str
    since: Minor
    until: Minor | None
    changes: str
    ends_shortcut: bool
    unset: str
    source: str

    @property
    def releases(self) -> str:
        """``v3.18 to v3.31``, ``v3.17``, or ``v3.32 and later``."""
        first = f"v{self.since[0]}.{self.since[1]}"
        if self.until == self.since:
            return first
        if self.until is None:
            return f"{first} and later"
        return f"{first} to v{self.until[0]}.{self.until[1]}"


# Before v3.17 pods' MTU is what a ConfigMap says, see ``releases.AUTO_MTU_FROM``.
_DEVICE_AND_FIB = "the tunnel device; true switches the FIB short-cut off"
_TUNNEL = "the tunnel device, and the MTU of new pods"
_TUNNEL_AND_FIB = f"{_TUNNEL}; true switches the FIB short-cut off"

RULES: tuple[Rule, ...] = (
    Rule("ipipEnabled", (3, 13), (3, 16), _DEVICE_AND_FIB, True, "false",
         f"{_FIB} at v3.13.0 and v3.16.1"),
    Rule("ipipEnabled", (3, 17), (3, 17), _TUNNEL_AND_FIB, True, "false", f"{_FIB} at v3.17.4"),
    Rule("ipipEnabled", (3, 18), (3, 22), _TUNNEL_AND_FIB, True, "false",
         f"{_FIB} at v3.18.0 and v3.22.0"),
    Rule("ipipEnabled", (3, 23), (3, 31), _TUNNEL_AND_FIB, True, _DERIVED,
         f"{_FIB} at v3.23.0, v3.26.0 and v3.31.0; commit 435eee2002"),
    Rule("ipipEnabled", (3, 32), None, _TUNNEL, False, _DERIVED,
         "felix/bpf-gpl/bpf.h at v3.32.0; calico#11230, commit d993149f60"),
    Rule("vxlanEnabled", (3, 13), (3, 16), _DEVICE_AND_FIB, True, "false",
         f"{_FIB} at v3.13.0 and v3.16.1"),
    Rule("vxlanEnabled", (3, 17), (3, 17), _TUNNEL_AND_FIB, True, "false", f"{_FIB} at v3.17.4"),
    Rule("vxlanEnabled", (3, 18), (3, 22), _TUNNEL, False, "false",
         "felix#2669, commit 254e080b3"),
    Rule("vxlanEnabled", (3, 23), None, _TUNNEL, False, _DERIVED,
         "felix#2669, commit 254e080b3; commit 435eee2002"),
    Rule("bpfLogLevel", FIRST_EBPF, None,
         "which programs are loaded: Info and Debug write a trace line for packets", False,
         "Off", f"{_CONFIG}, from v3.13.0"),
    Rule("bpfExternalServiceMode", FIRST_EBPF, None,
         "the way back of answers from a backend on another node: by the node that was asked "
         "(Tunnel) or at once (DSR)", False, "Tunnel", f"{_CONFIG}, from v3.13.0"),
    Rule("bpfEnabled", FIRST_EBPF, None, "who forwards", False, "false",
         f"{_CONFIG}, from v3.13.0"),
)  # fmt: skip

# Flag → its levels as Calico spells them; Felix reads the words in any case.
LEVELS: Mapping[str, tuple[bool | str, ...]] = {
    "ipipEnabled": (True, False),
    "vxlanEnabled": (True, False),
    "bpfEnabled": (True, False),
    "bpfLogLevel": ("Off", "Info", "Debug"),
    "bpfExternalServiceMode": ("Tunnel", "DSR"),
}


def level(flag: str, value: FelixValue) -> FelixValue:
    """A value of a flag as Calico spells it; other fields' values and None (unset) as they are.

    Raises
    ------
    ValueError
        The flag has no such level; the text ends in those that it has.
    """
    known = LEVELS.get(flag)
    if known is None or value is None:
        return value
    for one in known:
        if one is value or (
            isinstance(one, str) and isinstance(value, str) and one.lower() == value.lower()
        ):
            return one
    words = [one if isinstance(one, str) else str(one).lower() for one in known]
    raise ValueError(f"{', '.join(words[:-1])} or {words[-1]}")


def rule(flag: str, version: str) -> Rule | None:
    """The table's row for a flag in a release; None where the release has no such field there."""
    release = minor(version)
    for row in RULES:
        if (
            row.flag == flag
            and row.since <= release
            and (row.until is None or release <= row.until)
        ):
            return row
    return None


def fib_shortcut(spec: Mapping[str, Any], pools: Sequence[Mapping[str, Any]], version: str) -> bool:
    """Whether eBPF programs look up the route themselves and redirect, past the host's IP stack.

    It answers for the eBPF dataplane, which alone has such a short-cut. ``spec`` is the effective
    FelixConfiguration ``spec``, ``pools`` the IPPool ``spec`` of every pool.

    Raises
    ------
    ValueError
        ``version`` is no version.
    """
    tunnels = enabled(spec, pools, version)
    return not any(
        on and (row := rule(flag, version)) is not None and row.ends_shortcut
        for flag, on in (("ipipEnabled", tunnels.ipip), ("vxlanEnabled", tunnels.vxlan))
    )
