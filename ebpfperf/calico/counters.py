"""What Calico's programs count: the numbers of an entry of ``cali_counters``, in order.

Captions are those of ``calico-bpf counters dump``. An older release's entries end earlier
(``maps.counters_of``). Source: felix/bpf/counters/counters.go, v3.24.0 to v3.32.0.
"""

from __future__ import annotations

CAPTIONS: tuple[tuple[str, str], ...] = (
    ("Total", "packets"),
    ("Accepted", "by failsafe"),
    ("Accepted", "by policy"),
    ("Accepted", "by another program"),
    ("Dropped", "by policy"),
    ("Dropped", "too short packets"),
    ("Dropped", "incorrect checksum"),
    ("Dropped", "packets with unsupported IP options"),
    ("Dropped", "malformed IP packets"),
    ("Dropped", "failed encapsulation"),
    ("Dropped", "failed decapsulation"),
    ("Dropped", "packets with unknown source"),
    ("Dropped", "packets with unknown route"),
    ("Dropped", "packets hitting blackhole route"),
    ("Other", "packets hitting NAT source collision"),
    ("Dropped", "NAT source collision resolution failed"),
    ("Dropped", "failed to create conntrack"),
    ("Redirect", "plain"),
    ("Redirect", "neigh"),
    ("Redirect", "peer"),
    ("Dropped", "fragment of yet incomplete packet"),
    ("Dropped", "fragment out of order within host"),
    ("Dropped", "fragments not supported"),
    ("Dropped", "QoS control limit"),
    ("Reserved", "reserved"),
    ("Dropped", "Maglev lookup found no backends for service IP"),
    ("Dropped", "VXLAN encap when host IP unknown"),
)
TOTAL = 0
# An endpoint that is not ready and denials between bpfin.cali and bpfout.cali are dropped and not
# counted.
DROPS = tuple(number for number, (kind, _) in enumerate(CAPTIONS) if kind == "Dropped")
HOOKS = ("ingress", "egress", "xdp")
"""Of the device: what comes from a pod is ingress of its ``cali…``, though egress to policy."""
# Of releases that have these: v3.24 and v3.25 have a map for each device and hook instead.
ONE_MAP_FROM, COUNTED_FROM = (3, 26), (3, 24)
PIN = "cali_counters"
