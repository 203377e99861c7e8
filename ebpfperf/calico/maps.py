"""Calico's BPF maps: what each is called, its type and sizes, by release.

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

    v3.16 to v3.23 and v3.26 to v3.32 are as their sources have them, but for a map whose size in a
    release was not read off, which is left out (``state`` from v3.17 to v3.24, ``failsafes`` of
    v3.18). v3.24 and v3.25 lack the counters, of which each device has its own, and the state of
    interfaces. An older release gets the maps of v3.16. ValueError for text that is no version.
    """
    found = max(minor(version), _SINCE[0][0])
    by_purpose: dict[str, MapSpec] = {}
    for since, specs in _SINCE:
        if since <= found:
            by_purpose |= {spec.purpose: spec for spec in specs}
    if _STATE_UNREAD[0] <= found < _STATE_UNREAD[1]:
        del by_purpose["state"]
    return tuple(by_purpose.values())


def map_for(purpose: str, version: str) -> MapSpec:
    """The map of that purpose; KeyError where the release has none."""
    return {spec.purpose: spec for spec in maps_of(version)}[purpose]


_STATE_UNREAD = ((3, 17), (3, 25))
# Since which release a map is as it is here, until a later line has one of the same purpose.
_SINCE: tuple[tuple[tuple[int, int], tuple[MapSpec, ...]], ...] = (
    (
        (3, 16),
        (
            MapSpec("conntrack", "cali_v4_ct2", "hash", 16, 64, 512000, NO_PREALLOC),
            MapSpec("nat-frontend", "cali_v4_nat_fe2", "lpm_trie", 16, 16, 511000, NO_PREALLOC),
            MapSpec("nat-backend", "cali_v4_nat_be", "hash", 8, 8, 510000, NO_PREALLOC),
            MapSpec("nat-affinity", "cali_v4_nat_aff", "lru_hash", 16, 16, 510000),
            MapSpec("routes", "cali_v4_routes", "lpm_trie", 8, 8, 1048576, NO_PREALLOC),
            MapSpec("ip-sets", "cali_v4_ip_sets", "lpm_trie", 20, 4, 1048576, NO_PREALLOC),
            MapSpec("sendrecv", "cali_v4_srmsg", "lru_hash", 16, 8, 510000),
            MapSpec("state", "cali_v4_state", "percpu_array", 4, 64, 1),
        ),
    ),
    (
        (3, 18),
        (
            MapSpec("conntrack-nats", "cali_v4_ct_nats", "lru_hash", 24, 8, 10000),
            MapSpec("arp", "cali_v4_arp2", "lru_hash", 8, 12, 10000),
        ),
    ),
    (
        (3, 19),
        (MapSpec("failsafes", "cali_v4_fsafes2", "lpm_trie", 12, 4, 65536, NO_PREALLOC),),
    ),
    (
        (3, 22),
        (MapSpec("nat-frontend", "cali_v4_nat_fe3", "lpm_trie", 16, 20, 511000, NO_PREALLOC),),
    ),
    (
        (3, 23),
        (
            MapSpec(
                *("conntrack", "cali_v4_ct2", "hash", 16, 64, 512000),
                *(NO_PREALLOC, "bpfMapSizeConntrack"),
            ),
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
            MapSpec(
                *("routes", "cali_v4_routes", "lpm_trie", 8, 8, 262144),
                *(NO_PREALLOC, "bpfMapSizeRoute"),
            ),
            MapSpec(
                *("ip-sets", "cali_v4_ip_sets", "lpm_trie", 20, 4, 1048576),
                *(NO_PREALLOC, "bpfMapSizeIPSets"),
            ),
        ),
    ),
    (
        (3, 24),
        (
            MapSpec(
                *("conntrack", "cali_v4_ct3", "hash", 16, 88, 512000),
                *(NO_PREALLOC, "bpfMapSizeConntrack"),
            ),
        ),
    ),
    (
        (3, 25),
        (
            MapSpec("state", "cali_state2", "percpu_array", 4, 512, 2),
            MapSpec("rule-counters", "cali_rule_ctrs2", "percpu_hash", 8, 8, 10000),
        ),
    ),
    (
        (3, 26),
        (
            MapSpec("counters", "cali_counters2", "percpu_hash", 8, 14 * 8, 20000),
            MapSpec(
                "ifstate", "cali_iface2", "hash", 4, 20, 1000, NO_PREALLOC, "bpfMapSizeIfState"
            ),
        ),
    ),
    (
        (3, 27),
        (
            MapSpec("state", "cali_state4", "percpu_array", 4, 512, 2),
            MapSpec(
                "ifstate", "cali_iface3", "hash", 4, 40, 1000, NO_PREALLOC, "bpfMapSizeIfState"
            ),
        ),
    ),
    (
        (3, 28),
        (MapSpec("ifstate", "cali_iface4", "hash", 4, 52, 1000, NO_PREALLOC, "bpfMapSizeIfState"),),
    ),
    (
        (3, 30),
        (
            MapSpec("counters", "cali_counters3", "percpu_hash", 8, 17 * 8, 20000),
            MapSpec("profiling", "cali_profiling2", "percpu_hash", 8, 16, 20000),
            MapSpec("cleanup-queue", "cali_v4_ccq1", "hash", 16, 32, 100000, NO_PREALLOC),
        ),
    ),
    (
        (3, 31),
        (
            MapSpec(
                "conntrack", "cali_v4_ct4", "lru_hash", 16, 88, 512000, 0, "bpfMapSizeConntrack"
            ),
            MapSpec("counters", "cali_counters5", "percpu_hash", 8, 25 * 8, 20000),
            MapSpec("cleanup-queue", "cali_v4_ccq2", "hash", 16, 32, 100000, NO_PREALLOC),
        ),
    ),
    (
        (3, 32),
        (
            MapSpec("state", "cali_state6", "percpu_array", 4, 512, 2),
            MapSpec("counters", "cali_counters6", "percpu_hash", 8, 27 * 8, 20000),
            MapSpec("maglev", "cali_v4_mglv2", "hash", 8, 8, 1009, NO_PREALLOC),
        ),
    ),
)


# -------------------------------------------------------------------------- every version there was


@dataclass(frozen=True, slots=True)
class MapVersion:
    """One version of a map: its name, the sizes of its entries, and the releases that use it.

    Attributes
    ----------
    purpose
        As in ``MapSpec``.
    family
        4 or 6; 0 for a map that serves both.
    value_bytes
        Of one CPU, where the map has a value for each.
    since, until
        The first release with it, and the first without it again; None where there is none yet.
    """

    purpose: str
    family: int
    name: str
    key_bytes: int
    value_bytes: int
    since: tuple[int, int]
    until: tuple[int, int] | None = None

    @property
    def releases(self) -> str:
        """``v3.24 to v3.30``, or ``v3.31 and later``."""
        first = f"v{self.since[0]}.{self.since[1]}"
        if self.until is None:
            return f"{first} and later"
        last = f"v{self.until[0]}.{self.until[1] - 1}"
        return first if first == last else f"{first} to {last}"

    def has(self, version: str) -> bool:
        """Whether that release uses it; ValueError for text that is no version."""
        return self.since <= minor(version) and (self.until is None or minor(version) < self.until)


def version_named(name: str, value_bytes: int | None = None) -> MapVersion | None:
    """The version of that name, and of that size of value where one name has had several."""
    named = [each for each in VERSIONS if each.name == name]
    fitting = [each for each in named if value_bytes in (None, each.value_bytes)]
    return next(iter(fitting or named), None)


def version_for(purpose: str, version: str, family: int = 4) -> MapVersion | None:
    """The version that a release uses for IPv4 or IPv6; None where it has none.

    Raises
    ------
    ValueError
        The text is no version.
    """
    return next(
        (
            each
            for each in VERSIONS
            if each.purpose == purpose and each.family in (0, family) and each.has(version)
        ),
        None,
    )


def versions_of(purpose: str) -> tuple[MapVersion, ...]:
    """Every version of the map of that purpose, newest first."""
    found = (each for each in VERSIONS if each.purpose == purpose)
    return tuple(sorted(found, key=lambda each: (each.since, -each.family), reverse=True))


# IPv6 came with v3.27 (felix/bpf/*/map6.go). The sizes of cali_iface2 are those of
# felix/bpf/ifstate as it was: flags alone, flags and a name, and the numbers of five programs.
VERSIONS: tuple[MapVersion, ...] = (
    MapVersion("conntrack", 4, "cali_v4_ct", 16, 56, (3, 13), (3, 14)),
    MapVersion("conntrack", 4, "cali_v4_ct2", 16, 64, (3, 14), (3, 24)),
    MapVersion("conntrack", 4, "cali_v4_ct3", 16, 88, (3, 24), (3, 31)),
    MapVersion("conntrack", 4, "cali_v4_ct4", 16, 88, (3, 31)),
    MapVersion("conntrack", 6, "cali_v6_ct3", 40, 128, (3, 27), (3, 31)),
    MapVersion("conntrack", 6, "cali_v6_ct4", 40, 128, (3, 31)),
    MapVersion("nat-frontend", 4, "cali_v4_nat_fe", 8, 16, (3, 13), (3, 15)),
    MapVersion("nat-frontend", 4, "cali_v4_nat_fe2", 16, 16, (3, 15), (3, 22)),
    MapVersion("nat-frontend", 4, "cali_v4_nat_fe3", 16, 20, (3, 22)),
    MapVersion("nat-frontend", 6, "cali_v6_nat_fe3", 40, 20, (3, 27)),
    MapVersion("nat-backend", 4, "cali_v4_nat_be", 8, 8, (3, 13)),
    MapVersion("nat-backend", 6, "cali_v6_nat_be", 8, 20, (3, 27)),
    MapVersion("nat-affinity", 4, "cali_v4_nat_aff", 16, 16, (3, 15)),
    MapVersion("nat-affinity", 6, "cali_v6_nat_aff", 40, 32, (3, 27)),
    MapVersion("routes", 4, "cali_v4_routes", 8, 8, (3, 13)),
    MapVersion("routes", 6, "cali_v6_routes", 20, 20, (3, 27)),
    MapVersion("ip-sets", 4, "cali_v4_ip_sets", 20, 4, (3, 13)),
    MapVersion("ip-sets", 6, "cali_v6_ip_sets", 32, 4, (3, 27)),
    MapVersion("arp", 4, "cali_v4_arp2", 8, 12, (3, 18)),
    MapVersion("arp", 6, "cali_v6_arp2", 20, 12, (3, 27)),
    MapVersion("counters", 0, "cali_counters", 4, 14 * 8, (3, 24), (3, 26)),
    MapVersion("counters", 0, "cali_counters2", 8, 14 * 8, (3, 26), (3, 30)),
    MapVersion("counters", 0, "cali_counters3", 8, 17 * 8, (3, 30), (3, 31)),
    MapVersion("counters", 0, "cali_counters5", 8, 25 * 8, (3, 31), (3, 32)),
    MapVersion("counters", 0, "cali_counters6", 8, 27 * 8, (3, 32)),
    MapVersion("ifstate", 0, "cali_iface2", 4, 20, (3, 24), (3, 27)),
    MapVersion("ifstate", 0, "cali_iface2", 4, 40, (3, 24), (3, 27)),
    MapVersion("ifstate", 0, "cali_iface2", 4, 4, (3, 22), (3, 24)),
    MapVersion("ifstate", 0, "cali_iface3", 4, 40, (3, 27), (3, 28)),
    MapVersion("ifstate", 0, "cali_iface4", 4, 52, (3, 28)),
)
OLDEST, NEWEST = (3, 13), (3, 34)
