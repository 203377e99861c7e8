"""What ``calico-bpf`` (``calico-node -bpf``) prints of its maps, as the same frames.

The tool prints less than the maps hold; what it leaves out is missing in the frame. Sources:
felix/cmd/calico-bpf/commands/{nat,routes,ipsets,arp,counters,ifstate}.go, v3.16 to v3.32.
Connections are in ``tool_conntrack``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any

import pandas as pd

from ebpfperf.calico.counters import CAPTIONS, HOOKS
from ebpfperf.calico.releases import minor
from ebpfperf.errors import InputError
from ebpfperf.mapdump import nat, routes, tool_conntrack
from ebpfperf.mapdump.addresses import respelled
from ebpfperf.mapdump.conntrack_layout import RESET_TIME_SINCE
from ebpfperf.mapdump.entries import Decoded, Words, spell

Row = dict[str, Any]
# Rows by purpose, how many lines were none, and what is to be said.
Read = tuple[dict[str, list[Row]], int, list[str]]
_FAILED = re.compile(
    r"^(?:Error: |time=.*level=(?:error|fatal)|ERRO\[|FATA\[|.*Failed to )", re.M | re.I
)
_FRONTEND = re.compile(
    r"(?P<addr>\S+) port (?P<port>\d+) proto (?P<proto>\d+) id (?P<id>\d+) "
    r"count (?P<count>-?\d+) local (?P<local>\d+)(?P<rest>.*)"
)
_BACKEND = re.compile(
    r"\s+(?P<id>\d+):(?P<ordinal>\d+)\s+(?:(?P<missing>is missing)|(?P<to>\S+):(?P<port>\d+))"
)
_ROUTE = re.compile(r"\s*(?P<dest>[0-9a-f.:]+/\d+): (?P<words>.+)")
_UNKNOWN_ROUTE = re.compile(r"unknown type \((\d+)\)")
_SET = re.compile(r"IP set (?P<id>0x[0-9a-f]+)")
_MEMBER = re.compile(r"\s+(?:(?P<net>\S+/\d+)|(?P<to>\S+):(?P<port>\d+) \(proto (?P<proto>\d+)\))")
_ARP = re.compile(
    r"dev\s+(?P<dev>\d+):\s+(?P<addr>\S+) : (?P<src>[0-9a-f:]+) -> (?P<dst>[0-9a-f:]+)"
)
_INTERFACE = re.compile(
    r"\s*(?P<index>\d+) : \{flags: (?P<flags>\S*),? (?P<rest>.*)name: (?P<name>\S*)\}"
)
_DUMPED = re.compile(r"dumped (\S+) counters\.")
_PROGRAM_NAMES = {
    "XDPPolicyV4": "xdp_v4", "IngressPolicyV4": "ingress_v4", "EgressPolicyV4": "egress_v4",
    "XDPPolicyV6": "xdp_v6", "IngressPolicyV6": "ingress_v6", "EgressPolicyV6": "egress_v6",
    "XDPPolicy": "xdp_v4", "IngressPolicy": "ingress_v4", "EgressPolicy": "egress_v4",
    "IngressFilter": "ingress_filter", "EgressFilter": "egress_filter",
}  # fmt: skip


def decode(kind: str, text: str, *, release: str | None = None) -> tuple[Decoded, ...]:
    """Frames of what the tool printed: one, or frontends and backends.

    ``release``: Calico's, where it is known: decides what is missing and what is nothing.

    Raises
    ------
    InputError
        No line is one that the tool prints of that kind.
    """
    readers: Mapping[str, Callable[[str], Read]] = {
        "conntrack": tool_conntrack.rows,
        "nat": _nat,
        "nat-frontend": _nat,
        "nat-backend": _nat,
        "routes": _routes,
        "ipsets": _ip_sets,
        "arp": _arp,
        "counters": _counters,
        "ifstate": _interfaces,
    }
    if kind not in readers:
        raise InputError(f"The tool's text of {kind} is not read.", "Dump the map with bpftool.")
    found, unread, remarks = readers[kind](text)
    failed = _FAILED.search(text)
    if not any(found.values()) and "No IP sets found" not in text:
        said = text[failed.start() :].splitlines()[0] if failed else ""
        raise InputError(
            f"The tool failed: {said}." if said else f"No line is one of calico-bpf {kind} dump.",
            "Name the kind of map that it is a dump of, and see what the tool wrote to stderr.",
        )
    if unread:
        remarks.append(f"{unread} lines are none that the tool prints of {kind}.")
    at = minor(release) if release else None
    return tuple(
        Decoded(purpose, _as_of(purpose, _frame(rows), at), None, tuple(remarks), bool(unread))
        for purpose, rows in found.items()
        if kind in ("nat", *_ONE) or purpose == kind
    )


def _as_of(purpose: str, frame: pd.DataFrame, at: tuple[int, int] | None) -> pd.DataFrame:
    """The frame with the columns of that release; None: of what the text itself shows."""
    if purpose == "conntrack" and not frame["created_ns"].notna().any():
        raw = bool(frame["last_seen_ns"].notna().any())
        if raw if at is None else at >= RESET_TIME_SINCE:
            return frame.rename(columns={"created_ns": "rst_seen_ns"})
    if purpose == "nat-frontend" and at is not None and at < nat.FLAGS_SINCE:
        none = pd.Series(pd.NA, index=frame.index, dtype="object")
        return frame.assign(flags=none, flag_names=none)
    return frame


_ONE = ("conntrack", "routes", "ipsets", "arp", "counters", "ifstate")


def _frame(rows: list[Row]) -> pd.DataFrame:
    return pd.DataFrame(rows).convert_dtypes()


def _lines(text: str) -> Iterator[str]:
    """Lines that are not empty, nor what grep puts between them."""
    return (line.rstrip() for line in text.splitlines() if line.strip() not in ("", "--"))


def flags_of(names: list[str], words: Words) -> int:
    """The bits that have these names; names that are none count for nothing."""
    bits = {name: bit for bit, name in words.items()}
    return sum(bits.get(name, 0) for name in dict.fromkeys(names))


def _each(text: str, parse: Callable[[str], Row | None]) -> tuple[list[Row], int]:
    """The rows of lines, empty ones left out, and how many lines are none.

    ``parse`` gives None, or raises ValueError, where a line is none.
    """
    rows: list[Row] = []
    unread = 0
    for line in _lines(text):
        try:
            row = parse(line)
        except ValueError:
            row = None
        if row is None:
            unread += 1
        elif row:
            rows.append(row)
    return rows, unread


def _nat(text: str) -> Read:
    backends: dict[tuple[int, int], Row] = {}
    missing: set[tuple[int, int]] = set()

    def parse(line: str) -> Row | None:
        if at := _FRONTEND.fullmatch(line):
            return _frontend(at)
        at = _BACKEND.fullmatch(line)
        if at is None:
            return None
        place = int(at["id"]), int(at["ordinal"])
        if at["missing"]:
            missing.add(place)
        else:
            # A service's backends are printed again under each of its addresses.
            address = respelled(at["to"].strip("[]"))
            backends[place] = {"id": place[0], "ordinal": place[1], "addr": address,
                               "port": int(at["port"])}  # fmt: skip
        return {}

    frontends, unread = _each(text, parse)
    remarks = [f"{len(missing)} backends are missing."] if missing else []
    return {"nat-frontend": frontends, "nat-backend": list(backends.values())}, unread, remarks


def _frontend(at: re.Match[str]) -> Row:
    flags, _, source = at["rest"].partition(" src ")
    names = re.findall(r"[a-z]+-[a-z]+|maglev", flags)
    count = int(at["count"]) & 0xFFFFFFFF
    address = respelled(at["addr"])
    everywhere = "::/0" if ":" in address else "0.0.0.0/0"
    return {
        "proto": int(at["proto"]),
        "addr": address,
        "port": int(at["port"]),
        "src_cidr": respelled(source.strip()) if source.strip() else everywhere,
        "id": int(at["id"]),
        "count": count,
        "local": int(at["local"]),
        "affinity_timeout_s": None,
        "flags": flags_of(names, nat.WORDS),
        "flag_names": " ".join(names),
        "blackhole": count == nat.BLACKHOLE,
    }


def _routes(text: str) -> Read:
    def parse(line: str) -> Row | None:
        at = _ROUTE.fullmatch(line)
        if at is None:
            return None
        words = at["words"].split()
        after = dict(pairwise(words))
        names = [word for word in words if word in routes.WORDS.values()]
        unknown = _UNKNOWN_ROUTE.fullmatch(at["words"])
        flags = int(unknown[1]) if unknown else flags_of(names, routes.WORDS)
        return {
            "dest": respelled(at["dest"]),
            "flags": flags,
            "flag_names": spell(flags, routes.WORDS),
            "ifindex": int(after["idx"]) if "idx" in after else None,
            "next_hop": respelled(after["nh"]) if "nh" in after else None,
        }

    found, unread = _each(text, parse)
    return {"routes": found}, unread, []


def _ip_sets(text: str) -> Read:
    current = ""

    def parse(line: str) -> Row | None:
        nonlocal current
        if line == "No IP sets found.":
            return {}
        if at := _SET.fullmatch(line):
            current = at["id"]
            return {}
        at = _MEMBER.fullmatch(line)
        if at is None or not current:
            return None
        if at["net"]:
            return {"set_id": current, "member": respelled(at["net"]), "port": None, "proto": None}
        address = respelled(at["to"])
        return {
            "set_id": current,
            "member": f"{address}/{128 if ':' in address else 32}",
            "port": int(at["port"]),
            "proto": int(at["proto"]),
        }

    found, unread = _each(text, parse)
    return {"ip-sets": found}, unread, []


def _arp(text: str) -> Read:
    def parse(line: str) -> Row | None:
        at = _ARP.fullmatch(line)
        if at is None:
            return None
        return {"addr": respelled(at["addr"]), "ifindex": int(at["dev"]), "src_mac": at["src"],
                "dst_mac": at["dst"]}  # fmt: skip

    found, unread = _each(text, parse)
    return {"arp": found}, unread, []


def _interfaces(text: str) -> Read:
    def parse(line: str) -> Row | None:
        at = _INTERFACE.fullmatch(line)
        if at is None:
            return None
        names = [name for name in at["flags"].split(",") if name]
        words = routes.OLD_INTERFACE_WORDS if "ready" in names else routes.INTERFACE_WORDS
        flags = flags_of(names, words)
        programs = dict.fromkeys(routes.EVERY_PROGRAM, None) | {
            _PROGRAM_NAMES[name]: None if number == "-1" else int(number)
            for name, number in re.findall(r"(\w+): (-?\d+)", at["rest"])
            if name in _PROGRAM_NAMES
        }
        return {
            "ifindex": int(at["index"]),
            "name": at["name"],
            "flags": flags,
            "flag_names": spell(flags, words),
            **programs,
        }

    found, unread = _each(text, parse)
    return {"ifstate": found}, unread, []


def _counters(text: str) -> Read:
    """Tables, one per interface; the tool reads only 32 bits of each processor's number."""
    numbers = {words: at for at, words in enumerate(CAPTIONS)}
    found: list[Row] = []
    table: list[list[str]] = []
    unread = 0

    def finish(interface: str | None) -> None:
        nonlocal unread
        for category, caption, *values in table:
            counter = numbers.get((category, caption))
            if counter is None:
                unread += 1
                continue
            found.extend(
                {
                    "interface": interface,
                    "ifindex": None,
                    "hook": hook,
                    "counter": counter,
                    "category": category,
                    "caption": caption,
                    "packets": int(value),
                }
                for hook, value in zip(HOOKS, values, strict=False)
                if value.isdigit()
            )
        table.clear()

    for line in _lines(text):
        if line.startswith("|"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if cells[0] == "CATEGORY":
                finish(None)
            elif len(cells) < 4:
                unread += 1
            elif table and not cells[0] and not any(cells[2:]):
                table[-1][1] += f" {cells[1]}"
            else:
                table.append([cells[0] or (table[-1][0] if table else ""), *cells[1:]])
        elif at := _DUMPED.fullmatch(line):
            finish(at[1])
        elif not line.startswith("+"):
            unread += 1
    finish(None)
    remark = "calico-bpf prints 32 bits of each processor's counters: they may have begun anew."
    return {"counters": found}, unread, [remark] if found else []
