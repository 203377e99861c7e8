"""The process that is a lab: API server, SSH doors, per node a kubelet, a Felix, a kube-proxy.

Started by ``ebpfperf lab up`` as ``python -m ebpfperf.lab.daemon --state DIR``, with the lab's
shape in ``DIR/lab.json``. Says on its standard output that it is ready, or why it is not, as one
line of JSON; then lives until TERM.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

from ebpfperf.calico.releases import full_version
from ebpfperf.errors import EbpfperfError, LabError
from ebpfperf.lab import ipip, processes, programs, underlay
from ebpfperf.lab.api import ApiServer
from ebpfperf.lab.endpoint_controller import EndpointController
from ebpfperf.lab.felix import Felix
from ebpfperf.lab.ipam import Ipam
from ebpfperf.lab.kubelet import Kubelet
from ebpfperf.lab.kubeproxy import KubeProxy
from ebpfperf.lab.nodes import LabNode, Site, start_node
from ebpfperf.lab.objects import ObjectStore
from ebpfperf.lab.running import write_machines
from ebpfperf.lab.seed import seed
from ebpfperf.lab.sshd import SshDoor, make_keys, reserve, write_client_files
from ebpfperf.lab.state import Shape, read_shape, write_shape

_log = logging.getLogger(__name__)


class Part(Protocol):
    """What runs in the daemon by a thread of its own."""

    def start(self) -> None:
        """Begin."""

    def stop(self) -> None:
        """End, and put away what it made."""


def main(arguments: list[str] | None = None) -> int:
    """Run a lab until TERM; exit status 1 when it cannot be brought up."""
    parser = argparse.ArgumentParser(prog="python -m ebpfperf.lab.daemon", description=__doc__)
    parser.add_argument("--state", type=Path, required=True, help="the lab's state directory")
    directory: Path = parser.parse_args(arguments).state
    recorded = read_shape(directory)
    if recorded is None:
        parser.error(f"{directory}/lab.json says no lab's shape")
    shape, _ = recorded
    ending = told_to_end()
    with ExitStack() as stack:
        try:
            logging.basicConfig(
                filename=directory / "daemon.log",
                level=logging.INFO,
                format="%(asctime)s %(levelname)s %(threadName)s %(message)s",
            )
            stack.enter_context(running(shape, directory))
            write_shape(directory, shape, daemon_pid=os.getpid())
        except EbpfperfError as error:
            _say({"error": error.what, "remedy": error.remedy})
            return 1
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            _say({"error": f"The lab cannot be made: {where}{error.strerror}."})
            return 1
        except subprocess.CalledProcessError as error:
            said = (error.stderr or b"").decode(errors="replace").strip()
            _say({"error": f"The lab cannot be made: {error.cmd[0]}: {said}."})
            return 1
        _log.info("lab %s is up", shape.name)
        _say({"ready": True})
        os.read(ending, 1)
        _log.info("lab %s goes down", shape.name)
    return 0


def told_to_end() -> int:
    """A descriptor that can be read from once TERM or INT has come, whichever thread got it.

    The interpreter writes there from within its own handler. One in Python would run in the main
    thread alone: not while that waits and another thread has got the signal, and in the middle of
    what it would have to change.
    """
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    return read


@contextlib.contextmanager
def running(shape: Shape, directory: Path) -> Iterator[None]:
    """A lab that is up inside the block; of its processes nothing is left after it."""
    with ExitStack() as stack:
        listeners = reserve(shape.nodes + 1)
        for listener in listeners:
            stack.callback(listener.close)
        sites = _sites(shape, directory, [listener.getsockname() for listener in listeners])
        for site in sites:
            site.dir.mkdir(mode=0o700)
        make_keys(directory, [site.dir for site in sites])
        *nodes, client = _start_machines(shape, sites, stack)
        ipip.prepare(nodes[0])
        _compile_programs(shape)
        write_client_files(directory, [*nodes, client])
        store = ObjectStore()
        seed(store, nodes, shape.release)
        ipam = Ipam(store)
        felixes = {
            node.name: Felix(node, nodes, store, ipam, release=shape.release) for node in nodes
        }
        parts: list[Part] = [EndpointController(store)]
        for node in nodes:
            felix = felixes[node.name]
            kubelet = Kubelet(shape.name, node, store, ipam, pod_mtu_bytes=felix.pod_mtu_bytes)
            parts += [felix, kubelet, _kube_proxy(node, store, felix)]
        for machine, listener in zip([*nodes, client], listeners, strict=True):
            parts.append(SshDoor(shape.name, machine, listener))
        for part in parts:
            part.start()
            stack.callback(part.stop)
        write_machines(directory, nodes, client)
        api = ApiServer(store, state_dir=directory, logs=lambda name: felixes[name].log_lines)
        api.start()
        stack.callback(api.stop)
        yield


def _compile_programs(shape: Shape) -> None:
    """Have the eBPF dataplane's programs compiled before somebody waits for them.

    A lab that is never told to forward by eBPF does without; one that is says then what is missing.
    """
    try:
        programs.prepare(full_version(shape.release))
    except LabError as error:
        _log.warning("no eBPF dataplane: %s", error)


def _sites(shape: Shape, directory: Path, doors: Sequence[tuple[str, int]]) -> list[Site]:
    """The nodes to be, and last the client outside the cluster."""
    places = [
        (f"node-{index}", index, f"ens{10 + index}", underlay.address(index, subnets=shape.subnets))
        for index in range(1, shape.nodes + 1)
    ]
    places.append(("client-1", 0, "ens9", underlay.CLIENT_ADDRESS))
    return [
        Site(name, index, nic, underlay_ip, ssh_address, ssh_port, directory / name)
        for (name, index, nic, underlay_ip), (ssh_address, ssh_port) in zip(
            places, doors, strict=True
        )
    ]


def _start_machines(shape: Shape, sites: list[Site], stack: ExitStack) -> list[LabNode]:
    """The machines of these sites, connected; they end with ``stack``."""

    def end(pid: int) -> None:
        space = processes.netns(pid)
        processes.end({pid} | (processes.inside({space}) if space else set()))

    switch = underlay.start_switch(shape.name)
    stack.callback(end, switch)
    machines = []
    for site in sites:
        peers = [peer for peer in sites if peer is not site]
        machines.append(start_node(shape.name, site, peers=peers))
        stack.callback(end, machines[-1].holder_pid)
    *nodes, client = machines
    underlay.link(switch, nodes, client, mtu_bytes=shape.mtu_bytes)
    return machines


def _kube_proxy(node: LabNode, store: ObjectStore, felix: Felix) -> KubeProxy:
    return KubeProxy(
        node,
        store,
        active=lambda: felix.kube_proxy_serves,
        cleanup=lambda: felix.removes_rules,
    )


def _say(document: dict[str, object]) -> None:
    # Whoever brought the lab up may be gone; the lab goes on without.
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(document), flush=True)


if __name__ == "__main__":
    sys.exit(main())
