"""What the number in ``Final result=…`` means, in every release.

Sources: felix bpf-gpl ``reasons.h`` and ``counters.h`` of v3.13 to v3.32, and the kernel's
``pkt_cls.h`` for tc's actions. The number after ALLOW is what the program returned to tc, except
where a packet was let through unseen ("Bypass mark", "Accepted by XDP"): there it is a reason. The
number after DENY is a reason: hexadecimal without 0x up to v3.29, decimal from v3.30 on.
"""

from __future__ import annotations

from ebpfperf.units import UNKNOWN

POLICY = "policy"
BYPASS = "bypass"
XDP = "accepted by XDP"
REDIRECT = 7

TC_ACTIONS = {
    -1: "UNSPEC",
    0: "OK",
    1: "RECLASSIFY",
    2: "SHOT",
    3: "PIPE",
    4: "STOLEN",
    5: "QUEUED",
    6: "REPEAT",
    7: "REDIRECT",
    8: "TRAP",
}

# v3.13 to v3.23.
BEFORE_COUNTERS = {
    0x00: "unknown",
    0x01: "too short",
    0x06: "IPv6 from workload",
    0x1C: "ICMP don't fragment",
    0xBB: BYPASS,
    0xBE: POLICY,
    0xC0: "conntrack",
    0xC1: "conntrack NAT",
    0xCF: "checksum",
    0xD0: "do not track",
    0xD1: "pre-DNAT",
    0xD9: XDP,
    0xDF: "decapsulation",
    0xEA: "not IP",
    0xEB: "IP options",
    0xEC: "malformed IP",
    0xED: "unknown source",
    0xEF: "encapsulation",
    0xFA: "failsafe",
    0xDEAD: "unknown route",
}

# From v3.24 on reasons are the numbers of the counters, and after the release's last counter come
# three more.
COUNTERS = {
    0: "unknown",
    1: "failsafe",
    2: "accepted by policy",
    3: BYPASS,
    4: POLICY,
    5: "too short",
    6: "checksum",
    7: "IP options",
    8: "malformed IP",
    9: "encapsulation",
    10: "decapsulation",
    11: "unknown source",
    12: "unknown route",
    13: "blackhole route",
    14: "NAT source collision",
    15: "NAT source collision not resolved",
    16: "conntrack entry not made",
    17: "redirect",
    18: "redirect to neighbour",
    19: "redirect to peer",
    20: "fragment of an incomplete packet",
    21: "fragment out of order",
    22: "fragments not supported",
    23: "QoS limit",
    24: "reserved",
    25: "Maglev without backends",
    26: "VXLAN without host IP",
}
_AFTER = (XDP, "workload not ready", "NAT interface")
# First minor release of 3 → number of the first reason after its counters.
_FIRST_AFTER = {24: 13, 29: 14, 30: 17, 31: 25, 32: 27}
# What only one reading of a number explains in a line that says DENY, where no release is given:
# the others are no drops. Hexadecimal up to v3.29, decimal after it.
_HEX_ALONE = {14: _AFTER[1], 15: f"{_AFTER[2]} (v3.26-v3.28) or {_AFTER[1]} (v3.29)", 16: _AFTER[2]}
_DECIMAL_ALONE = {
    18: _AFTER[1],
    19: _AFTER[2],
    26: f"{_AFTER[1]} (v3.31) or {COUNTERS[26]} (v3.32)",
    27: _AFTER[2],
    28: _AFTER[1],
    29: _AFTER[2],
}
DECIMAL_FROM = (3, 30)
COUNTERS_FROM = (3, 24)


def deny(
    digits: str,
    *,
    wide: bool,
    release: tuple[int, int] | None = None,
    decimal: bool | None = None,
) -> tuple[int | None, str]:
    """(number, its name) of what stands in ``DENY (…)``.

    Where the line could be of several releases that disagree the name begins with UNKNOWN; the
    number is None where even that differs, which only ``10`` can.

    Parameters
    ----------
    digits
        Lower-case hexadecimal digits, as printed.
    wide
        Whether the tag has 15 characters for the interface (v3.25 and later).
    release
        (3, 26), where it is known.
    decimal
        What other lines of the same log say of the notation; None: nothing.
    """
    if release is not None:
        decimal, old = release >= DECIMAL_FROM, release < COUNTERS_FROM
    else:
        # Names of 8 characters end with v3.24, whose numbers are small.
        old = not wide and not 2 <= int(digits, 16) <= 14
    if not wide or old:
        decimal = False if release is None else decimal
    elif decimal is None and digits != "10":
        # Up to v3.29 the greatest is 0x10, so that no other two digits are hexadecimal.
        decimal = digits.isdigit()
    if not digits.isdigit():
        decimal = False
    if decimal is None:
        either = f"{COUNTERS[10]} (v3.30 and later) or {_AFTER[2]} (v3.29)"
        return None, f"{UNKNOWN}: {either}"
    number = int(digits, 10 if decimal else 16)
    return number, _name(number, old=old, wide=wide, release=release, decimal=decimal)


def _name(
    number: int, *, old: bool, wide: bool, release: tuple[int, int] | None, decimal: bool
) -> str:
    if old:
        return BEFORE_COUNTERS.get(number, f"{UNKNOWN}: no reason of v3.13-v3.23")
    if release is not None:
        first = max((a, b) for a, b in _FIRST_AFTER.items() if a <= release[1])[1]
        if first <= number < first + len(_AFTER):
            return _AFTER[number - first]
        return COUNTERS.get(number, f"{UNKNOWN}: no reason of v{release[0]}.{release[1]}")
    if not wide and number == 6:
        return f"{UNKNOWN}: {BEFORE_COUNTERS[6]} (v3.18-v3.23) or {COUNTERS[6]} (v3.24)"
    alone = (_DECIMAL_ALONE if decimal else _HEX_ALONE).get(number)
    if alone is not None:
        return f"{UNKNOWN}: {alone}" if " or " in alone else alone
    return COUNTERS.get(number, f"{UNKNOWN}: no reason of any release")


def allow(number: int, rest: str) -> str:
    """The name of what stands in ``ALLOW (…)`` or ``ALLOW rc …``, by what the line goes on with."""
    if rest.startswith("Bypass mark"):
        return BYPASS
    if rest.startswith("Accepted by"):
        return XDP
    return TC_ACTIONS.get(number, f"{UNKNOWN}: no action of tc")
