"""The process that is a lab: API server, SSH doors, and per node a kubelet and a Felix.

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
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from ebpfperf.errors import EbpfperfError
from ebpfperf.lab import ipip, processes, underlay
from ebpfperf.lab.api import ApiServer
from ebpfperf.lab.felix import Felix
from ebpfperf.lab.ipam import Ipam
from ebpfperf.lab.kubelet import Kubelet
from ebpfperf.lab.nodes import LabNode, Site, start_node
from ebpfperf.lab.objects import ObjectStore
from ebpfperf.lab.running import write_nodes
from ebpfperf.lab.seed import seed
from ebpfperf.lab.sshd import SshDoor, make_keys, reserve, write_client_files
from ebpfperf.lab.state import Shape, read_shape, write_shape

_log = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """Run a lab until TERM; exit status 1 when it cannot be brought up."""
    parser = argparse.ArgumentParser(prog="python -m ebpfperf.lab.daemon", description=__doc__)
    parser.add_argument("--state", type=Path, required=True, help="the lab's state directory")
    directory: Path = parser.parse_args(arguments).state
    recorded = read_shape(directory)
    if recorded is None:
        parser.error(f"{directory}/lab.json says no lab's shape")
    shape, _ = recorded
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
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
        stop.wait()
        _log.info("lab %s goes down", shape.name)
    return 0


@contextlib.contextmanager
def running(shape: Shape, directory: Path) -> Iterator[None]:
    """A lab that is up inside the block; of its processes nothing is left after it."""
    with ExitStack() as stack:
        listeners = reserve(shape.nodes)
        for listener in listeners:
            stack.callback(listener.close)
        sites = [
            Site(
                name=f"node-{index}",
                index=index,
                nic=f"ens{10 + index}",
                underlay_ip=underlay.address(index, subnets=shape.subnets),
                ssh_address=listener.getsockname()[0],
                ssh_port=listener.getsockname()[1],
                dir=directory / f"node-{index}",
            )
            for index, listener in enumerate(listeners, start=1)
        ]
        for site in sites:
            site.dir.mkdir(mode=0o700)
        make_keys(directory, [site.dir for site in sites])
        nodes = _start_nodes(shape, sites, stack)
        ipip.prepare(nodes[0])
        write_client_files(directory, nodes)
        store = ObjectStore()
        seed(store, nodes, shape.release)
        ipam = Ipam(store)
        felixes = {
            node.name: Felix(node, nodes, store, ipam, release=shape.release) for node in nodes
        }
        for node, listener in zip(nodes, listeners, strict=True):
            felix = felixes[node.name]
            kubelet = Kubelet(shape.name, node, store, ipam, pod_mtu_bytes=felix.pod_mtu_bytes)
            door = SshDoor(shape.name, node, listener)
            for part in (felix, kubelet, door):
                part.start()
                stack.callback(part.stop)
        write_nodes(directory, nodes)
        api = ApiServer(store, state_dir=directory, logs=lambda name: felixes[name].log_lines)
        api.start()
        stack.callback(api.stop)
        yield


def _start_nodes(shape: Shape, sites: list[Site], stack: ExitStack) -> list[LabNode]:
    """The nodes, connected; they end with ``stack``."""

    def end(pid: int) -> None:
        space = processes.netns(pid)
        processes.end({pid} | (processes.inside({space}) if space else set()))

    switch = underlay.start_switch(shape.name)
    stack.callback(end, switch)
    nodes = []
    for site in sites:
        peers = [peer for peer in sites if peer is not site]
        nodes.append(start_node(shape.name, site, peers=peers))
        stack.callback(end, nodes[-1].holder_pid)
    underlay.link_nodes(switch, nodes, mtu_bytes=shape.mtu_bytes)
    return nodes


def _say(document: dict[str, object]) -> None:
    # Whoever brought the lab up may be gone; the lab goes on without.
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(document), flush=True)


if __name__ == "__main__":
    sys.exit(main())
