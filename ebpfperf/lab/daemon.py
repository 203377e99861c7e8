"""The process that is a lab: API server, SSH doors, and per node a kubelet and a Felix.

Started by ``ebpfperf lab up`` as
``python -m ebpfperf.lab.daemon STATE_DIR NAME NODES RELEASE MTU``. Says ``ready`` or the reason on
its standard output, then lives until TERM.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from ebpfperf.errors import EbpfperfError
from ebpfperf.lab.api import ApiServer
from ebpfperf.lab.felix import Felix
from ebpfperf.lab.files import write_private
from ebpfperf.lab.ipam import Ipam
from ebpfperf.lab.kubelet import Kubelet
from ebpfperf.lab.nodes import LabNode, link_nodes, start_node, start_switch
from ebpfperf.lab.objects import ObjectStore
from ebpfperf.lab.seed import seed
from ebpfperf.lab.sshd import SshDoor, make_keys, reserve, write_client_files
from ebpfperf.lab.state import Shape, write_shape

UNDERLAY = "198.18.0"


def main(arguments: list[str]) -> int:
    """Run a lab until TERM; exit status 1 when it cannot be brought up."""
    directory = Path(arguments[0])
    shape = Shape(arguments[1], int(arguments[2]), arguments[3], int(arguments[4]))
    logging.basicConfig(
        filename=directory / "daemon.log",
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(threadName)s %(message)s",
    )
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with ExitStack() as stack:
        try:
            stack.enter_context(running(shape, directory))
        except (EbpfperfError, OSError) as error:
            print(json.dumps({"error": str(error)}), flush=True)
            return 1
        write_shape(directory, shape, daemon_pid=os.getpid())
        print(json.dumps({"ready": True}), flush=True)
        stop.wait()
    return 0


@contextlib.contextmanager
def running(shape: Shape, directory: Path) -> Iterator[None]:
    """A lab that is up inside the block."""
    with ExitStack() as stack:
        listeners = reserve(shape.nodes)
        for listener in listeners:
            stack.callback(listener.close)
        dirs = [directory / f"node-{index}" for index in range(1, shape.nodes + 1)]
        for path in dirs:
            path.mkdir(mode=0o700)
        make_keys(directory, dirs)
        switch = start_switch(shape.name)
        nodes = []
        for index, (path, listener) in enumerate(zip(dirs, listeners, strict=True), start=1):
            nodes.append(
                start_node(
                    shape.name,
                    index,
                    directory=path,
                    ssh=listener.getsockname(),
                    underlay_ip=f"{UNDERLAY}.{10 + index}",
                )
            )
        link_nodes(switch, nodes, mtu_bytes=shape.mtu_bytes)
        write_client_files(directory, nodes)
        store = ObjectStore()
        seed(store, nodes, shape.release)
        ipam = Ipam(store)
        felixes = {
            node.name: Felix(node, nodes, store, ipam, release=shape.release) for node in nodes
        }
        api = ApiServer(store, state_dir=directory, logs=lambda name: felixes[name].log_lines)
        for node, listener in zip(nodes, listeners, strict=True):
            felix = felixes[node.name]
            kubelet = Kubelet(shape.name, node, store, ipam, pod_mtu_bytes=felix.pod_mtu_bytes)
            door = SshDoor(shape.name, node, listener)
            for part in (felix, kubelet, door):
                part.start()
                stack.callback(part.stop)
        api.start()
        stack.callback(api.stop)
        write_private(directory / "nodes.json", _describe(nodes))
        yield


def _describe(nodes: list[LabNode]) -> bytes:
    rows = [
        {
            "name": node.name,
            "ssh": f"{node.ssh_address}:{node.ssh_port}",
            "underlay_ip": node.underlay_ip,
            "nic": node.nic,
            "holder_pid": node.holder_pid,
        }
        for node in nodes
    ]
    return json.dumps(rows).encode()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
