"""The iptables rules of kube-proxy for what a node serves, and the text that makes them so. Pure.

Source: kube-proxy's iptables mode (pkg/proxy/iptables, Kubernetes 1.32): its chains, their names,
its mark and its order. Rules are in the syntax of ``iptables-restore``.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ebpfperf.lab.services import Backend, ServicePort

_MARK = "0x4000"
_OURS = "KUBE-"
_PORTALS = '-m comment --comment "kubernetes service portals"'
_EXTERNAL = '-m comment --comment "kubernetes externally-visible service portals"'
_NEW = "-m conntrack --ctstate NEW"
_LOCAL = "-m addrtype --dst-type LOCAL"
# Table → rules of the kernel's own chains, each before those that are there.
_JUMPS = {
    "filter": (
        'FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD',
        f"FORWARD {_NEW} {_PORTALS} -j KUBE-SERVICES",
        f"FORWARD {_NEW} {_EXTERNAL} -j KUBE-EXTERNAL-SERVICES",
        f"INPUT {_NEW} {_EXTERNAL} -j KUBE-EXTERNAL-SERVICES",
        f"OUTPUT {_NEW} {_PORTALS} -j KUBE-SERVICES",
    ),
    "nat": (
        f"OUTPUT {_PORTALS} -j KUBE-SERVICES",
        f"PREROUTING {_PORTALS} -j KUBE-SERVICES",
        'POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING',
    ),
}
_FORWARD = (
    "KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP",
    f"KUBE-FORWARD -m mark --mark {_MARK}/{_MARK} -j ACCEPT",
    "KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
)
_MASQUERADING = (
    f"KUBE-MARK-MASQ -j MARK --or-mark {_MARK}",
    f"KUBE-POSTROUTING -m mark ! --mark {_MARK}/{_MARK} -j RETURN",
    f"KUBE-POSTROUTING -j MARK --xor-mark {_MARK}",
    "KUBE-POSTROUTING -j MASQUERADE --random-fully",
)
_FIXED = {
    "filter": ("KUBE-EXTERNAL-SERVICES", "KUBE-FORWARD", "KUBE-SERVICES"),
    "nat": ("KUBE-MARK-MASQ", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-SERVICES"),
}


@dataclass(frozen=True, slots=True)
class Table:
    """One table's part: chains of its own, jumps to them (``-I``), rules in them (``-A``)."""

    chains: tuple[str, ...] = ()
    jumps: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()


def chain_name(prefix: str, *parts: str) -> str:
    """``KUBE-SVC-`` and 16 characters of the base32 of the SHA-256, as kube-proxy names it."""
    digest = hashlib.sha256("".join(parts).encode()).digest()
    return prefix + base64.b32encode(digest).decode()[:16]


def rules_of(ports: Sequence[ServicePort], node: str, *, cluster_cidr: str) -> dict[str, Table]:
    """Table → what kube-proxy on ``node`` keeps in it.

    Parameters
    ----------
    cluster_cidr
        Where the pods are: what comes to a ClusterIP from elsewhere is masqueraded.
    """
    chains = list(_FIXED["nat"])
    nat: list[str] = [*_MASQUERADING]
    refusals: list[str] = []
    for port in ports:
        served = _Served(port, node, cluster_cidr)
        refusals += served.refusals()
        chains += served.chains()
        nat += served.rules()
    # The last one: what is left goes to an address of the node's own.
    nat.append(f"KUBE-SERVICES {_LOCAL} -j KUBE-NODEPORTS")
    return {
        "filter": Table(_FIXED["filter"], _JUMPS["filter"], (*_FORWARD, *refusals)),
        "nat": Table(tuple(chains), _JUMPS["nat"], tuple(nat)),
    }


def restore_text(wanted: Mapping[str, Table], saved: str) -> str:
    """The input of ``iptables-restore --noflush`` that leads from ``saved`` to ``wanted``.

    Of what ``iptables-save`` printed only kube-proxy's own is touched; of that, what is not wanted
    goes. Empty where there is nothing to do.
    """
    texts = []
    for name in ("filter", "nat"):
        table = wanted.get(name, Table())
        chains, jumps = _found(name, saved)
        stale = sorted(chains - set(table.chains))
        lines = [f":{chain} - [0:0]" for chain in (*table.chains, *stale)]
        lines += [f"-D {jump}" for jump in jumps]
        # Each goes to the front, so the first comes last.
        lines += [f"-I {jump}" for jump in reversed(table.jumps)]
        lines += [f"-A {rule}" for rule in table.rules]
        lines += [f"-X {chain}" for chain in stale]
        if lines:
            texts.append("\n".join((f"*{name}", *lines, "COMMIT\n")))
    return "".join(texts)


def _found(table: str, saved: str) -> tuple[set[str], list[str]]:
    """kube-proxy's chains in the table, and the rules elsewhere that jump to them."""
    match = re.search(rf"^\*{table}$(.*?)^COMMIT$", saved, re.M | re.S)
    if match is None:
        return set(), []
    chains = set(re.findall(rf"^:({_OURS}\S+) ", match[1], re.M))
    jumps = re.findall(rf"^-A ((?!{_OURS})\S+ .*-[jg] {_OURS}\S+)$", match[1], re.M)
    return chains, jumps


class _Served:
    """One service port on one node."""

    def __init__(self, port: ServicePort, node: str, cluster_cidr: str) -> None:
        self._port = port
        self._cidr = cluster_cidr
        self._protocol = port.protocol.lower()
        self._local = tuple(backend for backend in port.backends if backend.node == node)
        self._cluster_chain = self._chain("KUBE-SVC-")
        self._local_chain = self._chain("KUBE-SVL-")
        self._external_chain = self._chain("KUBE-EXT-")

    def refusals(self) -> Iterator[str]:
        """Rules of the filter table, for what has nobody behind it."""
        port = self._port
        nobody, here = self._comment("has no endpoints"), self._comment("has no local endpoints")
        cluster = f"-d {port.cluster_ip}/32 {self._to(port.port)}"
        if not port.backends:
            yield f"KUBE-SERVICES {nobody} {cluster} -j REJECT"
        elif port.internal_local and not self._local:
            yield f"KUBE-SERVICES {here} {cluster} -j DROP"
        if port.node_port is None:
            return
        outside = f"{_LOCAL} {self._to(port.node_port)}"
        if not port.backends:
            yield f"KUBE-EXTERNAL-SERVICES {nobody} {outside} -j REJECT"
        elif port.external_local and not self._local:
            yield f"KUBE-EXTERNAL-SERVICES {here} {outside} -j DROP"

    def chains(self) -> Iterator[str]:
        """Chains of the nat table that are this port's alone."""
        if self._uses_cluster():
            yield self._cluster_chain
        if self._uses_local():
            yield self._local_chain
        if self._port.backends and self._port.node_port is not None:
            yield self._external_chain
        for backend in self._reached():
            yield self._backend_chain(backend)

    def rules(self) -> Iterator[str]:
        """Rules of the nat table."""
        port = self._port
        if not port.backends:
            return
        internal = self._local_chain if port.internal_local else self._cluster_chain
        cluster = f"-d {port.cluster_ip}/32 {self._to(port.port)}"
        if self._local or not port.internal_local:
            yield f"KUBE-SERVICES {self._comment('cluster IP')} {cluster} -j {internal}"
            yield f"{internal} ! -s {self._cidr} {cluster} -j KUBE-MARK-MASQ"
        if port.node_port is not None:
            to = self._to(port.node_port)
            yield f"KUBE-NODEPORTS {self._comment()} {to} -j {self._external_chain}"
            yield from self._external()
        if self._uses_cluster():
            yield from self._choice(self._cluster_chain, port.backends)
        if self._uses_local():
            yield from self._choice(self._local_chain, self._local)
        for backend in self._reached():
            yield from self._to_backend(backend)

    def _external(self) -> Iterator[str]:
        external, cluster = self._external_chain, self._cluster_chain
        if not self._port.external_local:
            yield f"{external} -j KUBE-MARK-MASQ"
            yield f"{external} -j {cluster}"
            return
        # Local is a promise to those outside only.
        yield f"{external} -s {self._cidr} -j {cluster}"
        yield f"{external} -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ"
        yield f"{external} -m addrtype --src-type LOCAL -j {cluster}"
        if self._local:
            yield f"{external} -j {self._local_chain}"

    def _choice(self, chain: str, backends: Sequence[Backend]) -> Iterator[str]:
        if self._port.affinity_s:
            for backend in backends:
                to = self._backend_chain(backend)
                known = f"-m recent --name {to} --rcheck --seconds {self._port.affinity_s} --reap"
                yield f"{chain} {known} -j {to}"
        for index, backend in enumerate(backends):
            left = len(backends) - index
            chance = f" -m statistic --mode random --probability {1 / left:.10f}" * (left > 1)
            yield f"{chain}{chance} -j {self._backend_chain(backend)}"

    def _to_backend(self, backend: Backend) -> Iterator[str]:
        chain = self._backend_chain(backend)
        noted = f" -m recent --name {chain} --set" * bool(self._port.affinity_s)
        # A pod that reaches itself must not see its own address come in.
        yield f"{chain} -s {backend.address}/32 -j KUBE-MARK-MASQ"
        protocol = f"-p {self._protocol} -m {self._protocol}"
        yield f"{chain}{noted} {protocol} -j DNAT --to-destination {backend.address}:{backend.port}"

    def _uses_cluster(self) -> bool:
        port = self._port
        return bool(port.backends) and (not port.internal_local or port.node_port is not None)

    def _uses_local(self) -> bool:
        port = self._port
        outside = port.external_local and port.node_port is not None
        return bool(self._local) and (port.internal_local or outside)

    def _reached(self) -> tuple[Backend, ...]:
        return self._port.backends if self._uses_cluster() else self._local

    def _chain(self, prefix: str) -> str:
        return chain_name(prefix, self._port.name, self._protocol)

    def _backend_chain(self, backend: Backend) -> str:
        endpoint = f"{backend.address}:{backend.port}"
        return chain_name("KUBE-SEP-", self._port.name, self._protocol, endpoint)

    def _comment(self, what: str = "") -> str:
        return f'-m comment --comment "{f"{self._port.name} {what}".strip()}"'

    def _to(self, number: int) -> str:
        return f"-p {self._protocol} -m {self._protocol} --dport {number}"
