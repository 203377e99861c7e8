"""Addresses of the lab: blocks, affinity, annotations, what comes back."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebpfperf.errors import LabError
from ebpfperf.lab.ipam import Ipam, affine_blocks, ipv4_pools, pools_of
from ebpfperf.lab.objects import ObjectStore
from ebpfperf.model import Overlay


def a_store(**pools: dict[str, Any]) -> ObjectStore:
    store = ObjectStore()
    for name, spec in (pools or {"first": {"cidr": "198.19.0.0/24"}}).items():
        store.create("ippools", {"metadata": {"name": name}, "spec": spec})
    return store


def test_an_address_is_its_handles_until_released() -> None:
    ipam = Ipam(a_store())
    one = ipam.assign("a", "node-1")
    assert ipam.assign("a", "node-1") == one
    assert ipam.assign("b", "node-1") != one
    ipam.release("a")
    assert ipam.assign("c", "node-1") == one
    ipam.release("never had one")


def test_each_node_has_blocks_of_its_own() -> None:
    store = a_store()
    ipam = Ipam(store)
    addresses = {
        node: {ipam.assign(f"{node}-{i}", node) for i in range(67)} for node in ("node-1", "node-2")
    }
    blocks = affine_blocks(store)
    assert [block.prefixlen for block, _ in blocks] == [26] * 4
    for node, found in addresses.items():
        own = [block for block, owner in blocks if owner == node]
        assert len(own) == 2
        assert all(any(address in block for block in own) for address in found)


def test_a_block_has_the_pools_size() -> None:
    store = a_store(first={"cidr": "198.19.0.0/24", "blockSize": 29})
    Ipam(store).assign("a", "node-1")
    assert [str(block) for block, _ in affine_blocks(store)] == ["198.19.0.0/29"]


def test_a_full_pool_is_said() -> None:
    ipam = Ipam(a_store(first={"cidr": "198.19.0.0/29", "blockSize": 30}))
    for i in range(8):
        ipam.assign(f"pod-{i}", "node-1")
    with pytest.raises(LabError, match="No address is left for one more on node-1"):
        ipam.assign("one more", "node-1")


def test_only_the_pools_asked_for_by_name_or_cidr_give_addresses() -> None:
    second = {"cidr": "198.18.128.0/24"}
    ipam = Ipam(a_store(first={"cidr": "198.19.0.0/24"}, second=second))
    network = ipaddress.IPv4Network(second["cidr"])
    assert ipam.assign("a", "node-1", ["second"]) in network
    assert ipam.assign("b", "node-1", [second["cidr"]]) in network
    assert ipam.assign("c", "node-1") not in network
    with pytest.raises(LabError, match="No enabled IP pool is named third"):
        ipam.assign("d", "node-1", ["third"])


def test_disabled_pools_and_other_families_give_none() -> None:
    store = a_store(
        off={"cidr": "198.18.128.0/24", "disabled": True},
        on={"cidr": "198.19.0.0/24"},
        v6={"cidr": "2001:db8::/64"},
    )
    assert str(Ipam(store).assign("a", "node-1")) == "198.19.0.0"
    assert [pool["metadata"]["name"] for pool in ipv4_pools(store)] == ["off", "on"]


def test_a_tunnels_address_is_from_a_pool_of_its_mode() -> None:
    store = a_store(
        plain={"cidr": "198.18.128.0/24"}, tunnel={"cidr": "198.19.0.0/24", "vxlanMode": "Always"}
    )
    ipam = Ipam(store)
    vtep = ipam.assign_tunnel(Overlay.VXLAN, "node-1")
    assert vtep == "198.19.0.0"
    assert ipam.assign_tunnel(Overlay.VXLAN, "node-1") == vtep
    assert ipam.assign_tunnel(Overlay.IPIP, "node-1") == "198.18.128.0"


def test_blocks_written_by_others_are_left_out() -> None:
    store = a_store()
    for name, spec in (
        ("virtual", {"cidr": "198.19.0.0/26", "affinity": "virtual:x"}),
        ("none", {}),
        ("bad", {"cidr": "198.19.0.1/26", "affinity": "host:node-1"}),
    ):
        store.create("ipamblocks", {"metadata": {"name": name}, "spec": spec})
    assert affine_blocks(store) == []


@pytest.mark.parametrize(
    ("text", "pools"), [(None, []), ("", []), ('["a"]', ["a"]), ('["a", "b"]', ["a", "b"])]
)
def test_the_annotation_is_a_json_list(text: str | None, pools: list[str]) -> None:
    annotations = {} if text is None else {"cni.projectcalico.org/ipv4pools": text}
    assert pools_of({"metadata": {"annotations": annotations}}) == pools


@pytest.mark.parametrize("text", ["a", "{}", "[1]", '"a"'])
def test_any_other_annotation_is_refused(text: str) -> None:
    with pytest.raises(LabError, match="no JSON list of names"):
        pools_of({"metadata": {"annotations": {"cni.projectcalico.org/ipv4pools": text}}})


@given(
    st.lists(
        st.tuples(st.sampled_from("+-"), st.integers(0, 11), st.sampled_from(["n1", "n2"])),
        max_size=60,
    )
)
def test_no_address_is_given_twice(steps: list[tuple[str, int, str]]) -> None:
    ipam = Ipam(a_store(first={"cidr": "198.19.0.0/28", "blockSize": 30}))
    held: dict[str, ipaddress.IPv4Address] = {}
    for action, number, node in steps:
        handle = f"{node}-{number}"
        if action == "+":
            try:
                held[handle] = ipam.assign(handle, node)
            except LabError:
                continue
        else:
            ipam.release(handle)
            held.pop(handle, None)
        assert len(set(held.values())) == len(held)
