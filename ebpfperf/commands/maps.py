"""Commands about Calico's BPF maps: of live nodes, or of a file. They change nothing."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ebpfperf import printing
from ebpfperf.commands.map_entries import Wanted, show
from ebpfperf.commands.options import Context, Json, Kubeconfig, SshConfig
from ebpfperf.errors import EbpfperfError, InputError, NodeError

if TYPE_CHECKING:
    import pandas as pd

    from ebpfperf.kube import Kube
    from ebpfperf.map_answers import NodeMaps

app = typer.Typer(help="Read Calico's BPF maps, live or from a dump.", no_args_is_help=True)

PARTIAL = 1
_SHOWN = 50

Release = Annotated[
    str | None, typer.Option(help="Calico's release, such as v3.26; else what the API says.")
]
Node = Annotated[list[str] | None, typer.Option(help="Node to read; else all. Repeatable.")]
Address = Annotated[
    str | None, typer.Option(help="Entries with this address, or one of this network.")
]
Port = Annotated[int | None, typer.Option(help="Entries with this port.")]
Proto = Annotated[str | None, typer.Option(help="Entries of this protocol: tcp, udp, icmp, 132.")]
State = Annotated[str | None, typer.Option(help="TCP state: SYN-SENT, ESTABLISHED, RESET, CLOSED.")]
Interface = Annotated[str | None, typer.Option(help="Entries of this interface, or its number.")]
Limit = Annotated[int, typer.Option(help="Entries in the table; 0: the summary alone.")]
Raw = Annotated[Path | None, typer.Option(help="Also write the raw dumps into this directory.")]


@app.callback()
def _maps() -> None:
    """Read Calico's BPF maps, live or from a dump."""


@app.command()
def decode(
    kind: Annotated[
        str,
        typer.Argument(
            help="conntrack, nat (or nat-frontend, nat-backend, nat-affinity), routes, counters, "
            "ipsets, arp, ifstate.",
            metavar="KIND",
        ),
    ],
    file: Annotated[str, typer.Argument(help="The dump; - for stdin.", metavar="FILE")],
    release: Annotated[
        str | None, typer.Option(help="Calico's release that the dump is of, such as v3.26.")
    ] = None,
    map_name: Annotated[
        str | None, typer.Option("--map", help="The map's name, such as cali_v4_ct3.")
    ] = None,
    cpus: Annotated[
        int, typer.Option(help="Raw bytes of counters: processors that there are.", min=0)
    ] = 0,
    address: Address = None,
    port: Port = None,
    proto: Proto = None,
    state: State = None,
    interface: Interface = None,
    limit: Limit = _SHOWN,
    json: Json = False,
) -> None:
    """Decode a dump: bpftool's JSON or text, raw keys and values, or what calico-bpf printed.

    The exit status is 1 where some of the dump could not be read, 2 where nothing could.
    """
    from ebpfperf.mapdump import reading

    data = _content(file)
    found = reading.decode(kind, data, release=release, map_name=map_name, cpus=cpus)
    wanted = Wanted(address, port, proto, state, interface)
    show([(each, None) for each in found], wanted=wanted, limit=limit, json=json)
    if any(each.partial for each in found):
        raise typer.Exit(PARTIAL)


def _live(kind: str) -> Any:
    def command(
        kubeconfig: Kubeconfig = None,
        context: Context = None,
        ssh_config: SshConfig = None,
        node: Node = None,
        release: Release = None,
        address: Address = None,
        port: Port = None,
        proto: Proto = None,
        state: State = None,
        interface: Interface = None,
        limit: Limit = _SHOWN,
        raw: Raw = None,
        json: Json = False,
    ) -> None:
        wanted = Wanted(address, port, proto, state, interface)
        where = _Where(kubeconfig, context, ssh_config, node)
        found, failed = _read(where, [kind], release)
        partial = bool(failed)
        for maps in found:
            if raw is not None:
                _write(raw, maps)
            if not json:
                printing.sentence(f"Node {maps.node}")
            for sentence in maps.missing:
                printing.remark(f"{maps.node}: {sentence}")
            partial = partial or any(each.decoded.partial for each in maps.maps)
            show(
                [(each.decoded, each.max_entries) for each in maps.maps],
                wanted=wanted,
                limit=limit,
                json=json,
                node=maps.node,
            )
        for error in failed:
            printing.error(error)
        if not any(maps.maps for maps in found):
            raise InputError(
                "No map could be read.", "Is the cluster in eBPF mode? See the sentences above."
            )
        if partial:
            raise typer.Exit(PARTIAL)

    command.__doc__ = _HELP[kind]
    return command


_HELP = {
    "conntrack": "Show connections: states, top services, share of SYN-SENT, ages.",
    "nat": "Show services and their backends as the nodes' maps have them.",
    "routes": "Show the routes map.",
    "counters": "Show what Calico's programs counted, and dropped, by interface and reason.",
    "ipsets": "Show the members of IP sets.",
    "arp": "Show the MAC addresses of next hops.",
    "ifstate": "Show the interfaces that Calico's programs know.",
}
for _kind in _HELP:
    app.command(name=_kind)(_live(_kind))


@app.command()
def check(
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    ssh_config: SshConfig = None,
    node: Node = None,
    release: Release = None,
    json: Json = False,
) -> None:
    """Compare the maps with the API: services, backends and routes that are missing or stale.

    The exit status is 1 where something is wrong, or could not be compared.
    """
    from dataclasses import asdict

    from ebpfperf import map_checks, map_wanted

    where = _Where(kubeconfig, context, ssh_config, node)
    found, failed = _read(where, ["conntrack", "nat-frontend", "nat-backend", "routes"], release)
    kube = where.kube()
    try:
        api = map_wanted.api(
            kube.everywhere("Service"),
            kube.everywhere("EndpointSlice"),
            kube.nodes(),
            kube.everywhere("Pod"),
            kube.ippools(),
        )
    finally:
        kube.close()
    rows = [
        {"node": maps.node, **asdict(problem)}
        for maps in found
        for problem in (*_problems(api, maps), *_unread(maps.missing))
    ]
    rows += [
        {"node": str(error.fields.get("node", "")), **asdict(problem)}
        for error in failed
        for problem in _unread([str(error)])
    ]
    if json:
        printing.as_json(rows)
    else:
        columns = ["node", "severity", "check", "what"]
        printing.table(
            columns,
            [[row[name] for name in columns] for row in rows],
            empty="The maps hold what the API asks for.",
        )
    if any(row["severity"] in (map_checks.FAIL, map_checks.UNKNOWN) for row in rows):
        raise typer.Exit(1)


def _unread(sentences: Sequence[str]) -> list[Any]:
    """What could not be compared."""
    from ebpfperf.map_checks import UNKNOWN, Problem

    return [Problem("not-read", UNKNOWN, "", sentence) for sentence in sentences]


def _problems(api: Any, maps: NodeMaps) -> list[Any]:
    from ebpfperf import map_checks

    frames: dict[str, list[pd.DataFrame]] = {}
    for each in maps.maps:
        frames.setdefault(each.decoded.purpose, []).append(each.decoded.frame)
    joined = {purpose: _stacked(found) for purpose, found in frames.items()}
    backends = joined.get("nat-backend")
    result: list[Any] = []
    if "nat-frontend" in joined and backends is not None:
        read = _families(maps, "nat-frontend")
        result += map_checks.services(api, joined["nat-frontend"], backends, families=read)
    if "routes" in joined:
        read = _families(maps, "routes")
        result += map_checks.routes(api, maps.node, joined["routes"], families=read)
    for each in maps.of("conntrack"):
        result += map_checks.connections(each.decoded.frame, backends, max_entries=each.max_entries)
    return result


def _families(maps: NodeMaps, purpose: str) -> set[int]:
    versions = (each.decoded.version for each in maps.of(purpose))
    return {version.family for version in versions if version is not None}


def _stacked(frames: list[pd.DataFrame]) -> pd.DataFrame:
    import pandas as pd

    filled = [frame for frame in frames if not frame.empty] or frames[:1]
    return pd.concat(filled, ignore_index=True)


# ------------------------------------------------------------------------------------- reading


class _Where:
    """Which cluster and which of its nodes."""

    def __init__(
        self,
        kubeconfig: str | None,
        context: str | None,
        ssh_config: str | None,
        nodes: list[str] | None,
    ) -> None:
        self._kubeconfig, self._context = kubeconfig, context
        self.ssh_config = Path(ssh_config).expanduser() if ssh_config else None
        self.nodes = nodes

    def kube(self) -> Kube:
        from ebpfperf.kube import Kube

        return Kube.connect(self._kubeconfig, self._context)


def _read(
    where: _Where, kinds: list[str], release: str | None
) -> tuple[list[NodeMaps], list[EbpfperfError]]:
    """The maps of every node, all at once; errors of nodes that could not say."""
    from concurrent.futures import ThreadPoolExecutor

    from ebpfperf import map_reading
    from ebpfperf.mapdump.reading import check_release
    from ebpfperf.remote import SSHNode

    kube = where.kube()
    try:
        known = [str(node["metadata"]["name"]) for node in kube.nodes()]
        if not known:
            raise InputError("The cluster has no nodes.", "Is this its kubeconfig and context?")
        release = release or kube.release()
    finally:
        kube.close()
    if release:
        # Of a newer release than any known, the maps' names tell the version.
        check_release(release, named=True)
    unknown = [name for name in where.nodes or () if name not in known]
    if unknown:
        raise InputError(
            f"The cluster has no node {unknown[0]}.", f"Its nodes are: {', '.join(known)}."
        )

    def of(name: str) -> NodeMaps | EbpfperfError:
        try:
            node = SSHNode.connect(name, ssh_config=where.ssh_config)
            try:
                return map_reading.read(node, kinds, release=release)
            finally:
                node.close()
        except NodeError as error:
            return error

    with ThreadPoolExecutor(max_workers=8) as pool:
        answers = list(pool.map(of, where.nodes or known))
    found = [answer for answer in answers if not isinstance(answer, EbpfperfError)]
    failed = [answer for answer in answers if isinstance(answer, EbpfperfError)]
    return found, failed


def _content(file: str) -> bytes:
    if file == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise InputError(
            f"{file} cannot be read: {error.strerror}.", "Name a dump, or - for stdin.", file=file
        ) from error


def _write(directory: Path, maps: NodeMaps) -> None:
    """Raw dumps as files, and how each is read."""
    from ebpfperf.mapdump.reading import KINDS

    directory.mkdir(parents=True, exist_ok=True)
    for each in maps.maps:
        path = directory / f"{maps.node}__{each.name}.raw"
        path.write_bytes(each.content())
        cpus = f" --cpus {each.cpus}" if each.cpus else ""
        kind = next(kind for kind, of in KINDS.items() if of == (each.decoded.purpose,))
        printing.remark(f"ebpfperf maps decode {kind} --map {each.name}{cpus} {path}")
