"""Calico's BPF maps: what each is called, its type and sizes, by release. IPv4.

Sources: felix/bpf/{conntrack,nat,routes,ipsets,arp,counters,ifstate,state,failsafes}/map.go and
bpf-gpl/, v3.16.1 to v3.32.1. The layouts of keys and values are in the sections that read them.
"""

from __future__ import annotations

from dataclasses import dataclass

from ebpfperf.calico.releases import minor

DIRECTORY = "/sys/fs/bpf/tc/globals"
NO_PREALLOC = 1


@dataclass(frozen=True, slots=True)
class MapSpec:
    """One map of one release.

    Attributes
    ----------
    purpose
        ``conntrack``, ``nat-frontend``, …: what it is for, whatever it is called.
    name
        The kernel's name and the pin's, version included.
    kind
        bpftool's word for the type.
    flags
        1: not preallocated.
    size_field
        The FelixConfiguration field that overrides ``max_entries``; empty where none does.
    """

    purpose: str
    name: str
    kind: str
    key_bytes: int
    value_bytes: int
    max_entries: int
    flags: int = 0
    size_field: str = ""

    @property
    def pin(self) -> str:
        """Where the node has it pinned."""
        return f"{DIRECTORY}/{self.name}"


def counters_of(version: str) -> int:
    """How many counters an entry of ``cali_counters`` has; 0 where the release has none."""
    found = minor(version)
    steps = (((3, 32), 27), ((3, 31), 25), ((3, 30), 17), ((3, 24), 14))
    return next((count for since, count in steps if found >= since), 0)


def maps_of(version: str) -> tuple[MapSpec, ...]:
    """The maps that a node of that release has pinned.

    Releases v3.16, v3.26, v3.30 and v3.32 are exact; one in between gets the maps of the newest of
    these that is not newer. ValueError for text that is no version.
    """
    found = minor(version)
    specs = list(_V316 if found < (3, 26) else _V326)
    if found >= (3, 30):
        specs = _replaced(specs, _V330)
    if found >= (3, 32):
        specs = _replaced(specs, _V332)
    return tuple(specs)


def map_for(purpose: str, version: str) -> MapSpec:
    """The map of that purpose; KeyError where the release has none."""
    return {spec.purpose: spec for spec in maps_of(version)}[purpose]


def _replaced(specs: list[MapSpec], newer: tuple[MapSpec, ...]) -> list[MapSpec]:
    by_purpose = {spec.purpose: spec for spec in specs}
    return list((by_purpose | {spec.purpose: spec for spec in newer}).values())


_V316 = (
    MapSpec("conntrack", "cali_v4_ct2", "hash", 16, 64, 512000, NO_PREALLOC),
    MapSpec("nat-frontend", "cali_v4_nat_fe2", "lpm_trie", 16, 16, 511000, NO_PREALLOC),
    MapSpec("nat-backend", "cali_v4_nat_be", "hash", 8, 8, 510000, NO_PREALLOC),
    MapSpec("nat-affinity", "cali_v4_nat_aff", "lru_hash", 16, 16, 510000),
    MapSpec("routes", "cali_v4_routes", "lpm_trie", 8, 8, 1048576, NO_PREALLOC),
    MapSpec("ip-sets", "cali_v4_ip_sets", "lpm_trie", 20, 4, 1048576, NO_PREALLOC),
    MapSpec("sendrecv", "cali_v4_srmsg", "lru_hash", 16, 8, 510000),
    MapSpec("state", "cali_v4_state", "percpu_array", 4, 64, 1),
)
_V326 = (
    MapSpec("conntrack", "cali_v4_ct3", "hash", 16, 88, 512000, NO_PREALLOC, "bpfMapSizeConntrack"),
    MapSpec(
        *("nat-frontend", "cali_v4_nat_fe3", "lpm_trie", 16, 20, 65536),
        *(NO_PREALLOC, "bpfMapSizeNATFrontend"),
    ),
    MapSpec(
        *("nat-backend", "cali_v4_nat_be", "hash", 8, 8, 262144),
        *(NO_PREALLOC, "bpfMapSizeNATBackend"),
    ),
    MapSpec(
        *("nat-affinity", "cali_v4_nat_aff", "lru_hash", 16, 16, 65536),
        *(0, "bpfMapSizeNATAffinity"),
    ),
    MapSpec("routes", "cali_v4_routes", "lpm_trie", 8, 8, 262144, NO_PREALLOC, "bpfMapSizeRoute"),
    MapSpec(
        *("ip-sets", "cali_v4_ip_sets", "lpm_trie", 20, 4, 1048576),
        *(NO_PREALLOC, "bpfMapSizeIPSets"),
    ),
    MapSpec("sendrecv", "cali_v4_srmsg", "lru_hash", 16, 8, 510000),
    MapSpec("conntrack-nats", "cali_v4_ct_nats", "lru_hash", 24, 8, 10000),
    MapSpec("state", "cali_state2", "percpu_array", 4, 512, 2),
    MapSpec("arp", "cali_v4_arp2", "lru_hash", 8, 12, 10000),
    MapSpec("failsafes", "cali_v4_fsafes2", "lpm_trie", 12, 4, 65536, NO_PREALLOC),
    MapSpec("counters", "cali_counters2", "percpu_hash", 8, 14 * 8, 20000),
    MapSpec("rule-counters", "cali_rule_ctrs2", "percpu_hash", 8, 8, 10000),
    MapSpec("ifstate", "cali_iface2", "hash", 4, 20, 1000, NO_PREALLOC, "bpfMapSizeIfState"),
)
_V330 = (
    MapSpec("state", "cali_state4", "percpu_array", 4, 512, 2),
    MapSpec("counters", "cali_counters3", "percpu_hash", 8, 17 * 8, 20000),
    MapSpec("ifstate", "cali_iface4", "hash", 4, 52, 1000, NO_PREALLOC, "bpfMapSizeIfState"),
    MapSpec("profiling", "cali_profiling2", "percpu_hash", 8, 16, 20000),
    MapSpec("cleanup-queue", "cali_v4_ccq1", "hash", 16, 32, 100000, NO_PREALLOC),
)
_V332 = (
    MapSpec("conntrack", "cali_v4_ct4", "lru_hash", 16, 88, 512000, 0, "bpfMapSizeConntrack"),
    MapSpec("state", "cali_state6", "percpu_array", 4, 512, 2),
    MapSpec("counters", "cali_counters6", "percpu_hash", 8, 27 * 8, 20000),
    MapSpec("cleanup-queue", "cali_v4_ccq2", "hash", 16, 32, 100000, NO_PREALLOC),
    MapSpec("maglev", "cali_v4_mglv2", "hash", 8, 8, 1009, NO_PREALLOC),
)
