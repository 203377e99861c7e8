"""Maps of the embedded cluster as bpftool dumped them, of every release that it presents.

A pod at 198.19.0.64 on this node had made five connections through a service and two straight to a
pod at 198.19.0.0 on the other, one to a port nobody listened on, one to an address without a pod
(whose node then sent an ICMP error), and a datagram. The service had one backend; another had none.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ebpfperf import map_checks, map_wanted
from ebpfperf.calico.maps import version_for
from ebpfperf.errors import InputError
from ebpfperf.mapdump import formats, objects, reading, summaries

RECORDED = Path(__file__).parent / "maps"
RELEASES = ("v3.16", "v3.26", "v3.30", "v3.32")
CLIENT, SERVER = "198.19.0.64", "198.19.0.0"
each_release = pytest.mark.parametrize("release", RELEASES)


def dump(release: str, purpose: str) -> bytes:
    version = version_for(purpose, release)
    assert version is not None
    return (RECORDED / f"lab__{release}__{version.name}.json").read_bytes()


def frame(release: str, kind: str, purpose: str) -> pd.DataFrame:
    (found,) = reading.decode(kind, dump(release, purpose), release=release)
    assert (found.purpose, found.partial, found.remarks) == (purpose, False, ())
    return found.frame


def entries(release: str, kind: str, purpose: str) -> list[dict[str, Any]]:
    (found,) = reading.decode(kind, dump(release, purpose), release=release)
    return list(objects.of(found))


@each_release
def test_connections(release: str) -> None:
    found = entries(release, "conntrack", "conntrack")
    by_type = {kind: [one for one in found if one["type"] == kind] for kind in
               ("normal", "nat-forward", "nat-reverse")}  # fmt: skip
    assert [len(some) for some in by_type.values()] == [6, 5, 5]
    key = ("proto", "addr_a", "port_a", "addr_b", "port_b")
    behind = {tuple(one[name] for name in key): one for one in by_type["nat-reverse"]}
    (service,) = {one["orig_ip"] for one in behind.values()}
    for one in by_type["nat-forward"]:
        other = behind.pop(tuple(one["rev_key"][name] for name in key))
        assert one["initiator"]["src"] == other["initiator"]["src"] == CLIENT
        assert one["initiator"]["sport"] == other["initiator"]["sport"]
        assert (one["initiator"]["dst"], one["initiator"]["dport"]) == (service, 80)
        assert (other["initiator"]["dst"], other["initiator"]["dport"]) == (SERVER, 8080)
        assert other["tcp_state"] == "CLOSED"
    assert behind == {}
    straight = {(one["proto"], one["initiator"]["dport"]): one for one in by_type["normal"]}
    assert straight[6, 8080]["tcp_state"] == "CLOSED"
    assert straight[6, 9999]["tcp_state"] == "RESET"
    assert straight[6, 80]["tcp_state"] == "SYN-SENT"
    assert straight[17, 5353]["tcp_state"] is None
    unanswered = straight[6, 80]["a_to_b"], straight[6, 80]["b_to_a"]
    assert sorted((leg["syn_seen"], leg["opener"]) for leg in unanswered) == [
        (False, False), (True, True),
    ]  # fmt: skip
    if release in ("v3.30", "v3.32"):
        assert straight[6, 8080]["rst_seen_ns"] == 0
        reset = straight[6, 9999]
        assert reset["b_to_a"]["workload"]
        assert 0 < reset["rst_seen_ns"] <= reset["last_seen_ns"]
    else:
        assert all(0 < one["created_ns"] <= one["last_seen_ns"] for one in found)


@each_release
def test_what_is_summed_up(release: str) -> None:
    table = frame(release, "conntrack", "conntrack")
    assert summaries.syn_sent_pct(table) == pytest.approx(100 / 9)
    (service,) = summaries.top_services(table).to_dict("records")
    assert (service["connections"], service["syn_sent"]) == (5, 0)
    # Five times 1000 bytes there and 500 back, and their headers; v3.16 does not count.
    assert pd.isna(service["bytes"]) if release == "v3.16" else service["bytes"] > 5 * 1500


@each_release
def test_services_lead_where_the_api_said(release: str) -> None:
    frontends = frame(release, "nat", "nat-frontend")
    backends = frame(release, "nat", "nat-backend")
    assert len(frontends) == 4
    assert backends[["addr", "port"]].astype(object).to_numpy().tolist() == [[SERVER, 8080]]
    empty = frontends[frontends["count"] == 0]
    (address,) = empty["addr"]
    (web,) = {str(row.addr) for row in frontends.itertuples() if row.port == 80}
    api = map_wanted.Api(
        (
            map_wanted.Service("default/nobody", (str(address), 81, 6), frozenset()),
            map_wanted.Service("default/web", (web, 80, 6), frozenset({(SERVER, 8080)})),
        ),
        {"node-1": ("198.18.0.11",), "node-2": ("198.18.0.12",)},
        (("default/cli", "node-1", CLIENT), ("default/web", "node-2", SERVER)),
    )
    (problem,) = map_checks.services(api, frontends, backends)
    assert (problem.check, problem.severity) == ("service-empty", "WARN")
    assert map_checks.routes(api, "node-1", frame(release, "routes", "routes")) == ()
    wrong = map_checks.routes(api, "node-2", frame(release, "routes", "routes"))
    assert {each.subject for each in wrong} == {"node-1", "node-2", "default/cli", "default/web"}
    connections = frame(release, "conntrack", "conntrack")
    assert map_checks.connections(connections, backends) == ()
    (stale,) = map_checks.connections(connections, backends[:0])
    assert stale.what.startswith("5 connections")


@pytest.mark.parametrize("release", RELEASES[1:])
def test_counters_and_interfaces(release: str) -> None:
    found = entries(release, "counters", "counters")
    places = [(one["ifindex"], one["hook"]) for one in found]
    assert len(set(places)) == len(places) == 4
    for one in found:
        assert one["counters"]["Total packets"] > 20
        assert one["dropped_packets"] == 0
    names = {one["ifindex"]: one["name"] for one in entries(release, "ifstate", "ifstate")}
    assert {ifindex for ifindex, _ in places} == set(names)
    assert any(name.startswith("cali") for name in names.values())


@each_release
def test_the_quick_way_reads_what_the_slow_way_reads(
    release: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entries written all alike are read as a table; the way for all others gives the same."""
    text = dump(release, "conntrack")
    quick = formats.bpftool_json(text)
    monkeypatch.setattr(formats, "_regular", lambda text: None)
    slow = formats.bpftool_json(text)
    assert (quick.keys == slow.keys).all()
    assert (quick.values == slow.values).all()
    assert quick.remarks == slow.remarks == ()


def test_damaged_dumps_are_read_or_refused_in_a_sentence() -> None:
    """Whatever of a recorded dump is cut off or overwritten, of whatever kind it is said to be."""
    chance = random.Random(11)
    texts = [file.read_bytes() for file in sorted(RECORDED.iterdir()) if file.suffix != ".md"]
    releases = [None, *RELEASES]
    refused: list[InputError] = []
    read = 0
    for _ in range(700):
        text = bytearray(chance.choice(texts)[: chance.choice([200, 1000])])
        for _ in range(chance.randrange(3)):
            text[chance.randrange(len(text))] = chance.choice([chance.randrange(256), *b'0"}. '])
        if chance.random() < 0.3:
            del text[chance.randrange(len(text)) :]
        kind, release = chance.choice(list(reading.KINDS)), chance.choice(releases)
        try:
            for found in reading.decode(kind, bytes(text), release=release, cpus=2):
                list(objects.of(found))
                summaries.of(found, max_entries=9)
            read += 1
        except InputError as error:
            refused.append(error)
    assert min(read, len(refused)) > 50
    assert all(error.what.endswith(".") and error.remedy.endswith(".") for error in refused)
