"""The lab's ``tunl0``: the kernel's ipip device, or a stand-in by tc-BPF where there is none.

Which of the two it is can be seen on the node: ``ip -d link show tunl0`` says ``ipip`` or ``tun``.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
from pathlib import Path

from ebpfperf.errors import LabError
from ebpfperf.lab.compiler import compiled
from ebpfperf.lab.netns import inside
from ebpfperf.lab.nodes import LabNode, run

DEVICE = "tunl0"
# After the dataplane's own programs, which pass on what they allow.
_PRIORITY = "2"
_TUNSETIFF = 0x400454CA
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000


class Tunnel:
    """One node's ``tunl0``."""

    def __init__(self, node: LabNode) -> None:
        self._node = node
        self._tun: int | None = None

    def up(self, *, mtu_bytes: int, address: str) -> None:
        """Create it if it is not there, with that MTU and /32 address; idempotent."""
        if not _exists(self._node):
            self._create()
        self._node.run(["ip", "link", "set", DEVICE, "mtu", str(mtu_bytes), "up"])
        self._node.run(["ip", "addr", "replace", f"{address}/32", "dev", DEVICE])

    def idle(self) -> None:
        """Take its address away; the device stays, as the kernel's own does."""
        if _exists(self._node):
            self._node.run(["ip", "addr", "flush", "dev", DEVICE])

    def close(self) -> None:
        """Let the device go with the namespace."""
        if self._tun is not None:
            os.close(self._tun)
            self._tun = None

    def _create(self) -> None:
        if _kernel_makes(self._node):
            return
        self.close()  # where somebody deleted the device, its file is still open
        self._tun = _open_tun(self._node)
        try:
            self._attach()
        except BaseException:
            # A device without its programs would swallow packets, and look as if it were ready.
            self.close()
            raise

    def _attach(self) -> None:
        # An IPIP device has no IPv6 of its own; a TUN would announce itself.
        self._node.run(["ip", "link", "set", DEVICE, "addrgenmode", "none"])
        program = compile_program(
            {
                "NODE_IP": struct.unpack("=I", socket.inet_aton(self._node.underlay_ip))[0],
                "NIC_IFINDEX": self._ifindex(self._node.nic),
                "TUNL_IFINDEX": self._ifindex(DEVICE),
            },
            self._node.dir,
        )
        for device, hook, section in (
            (DEVICE, "egress", "tc/encap"),
            (self._node.nic, "ingress", "tc/decap"),
        ):
            self._tc("qdisc", "replace", "dev", device, "clsact")
            self._tc(
                "filter", "replace", "dev", device, hook, "prio", _PRIORITY, "handle", "1", "bpf",
                "direct-action", "object-file", str(program), "section", section,
            )  # fmt: skip

    def _tc(self, *arguments: str) -> None:
        # On the node, mounts included: tc mounts a bpffs where it finds none, and the host's mounts
        # are not ours to add to.
        run(self._node.enter(["tc", *arguments]))

    def _ifindex(self, device: str) -> int:
        found = json.loads(self._node.run(["ip", "-j", "link", "show", device]))
        return int(found[0]["ifindex"])


def prepare(node: LabNode) -> None:
    """Nothing, where that node can have a ``tunl0`` when a pool asks for it.

    Raises
    ------
    LabError
        The kernel has no ipip, and the stand-in cannot be compiled here.
    """
    if not _kernel_makes(node):
        compile_program({"NODE_IP": 1, "NIC_IFINDEX": 1, "TUNL_IFINDEX": 1}, node.dir)


def _kernel_makes(node: LabNode) -> bool:
    """Whether the node has the kernel's own ``tunl0`` now.

    It is in every namespace as soon as the module is loaded, which asking for one does.
    """
    add = ["ip", "link", "add", DEVICE, "type", "ipip", "remote", "any", "local", "any"]
    node.run(add, check=False)
    return _exists(node)


def _exists(node: LabNode) -> bool:
    return bool(node.run(["ip", "-br", "link", "show", DEVICE], check=False).strip())


def compile_program(defines: dict[str, int], directory: Path) -> Path:
    """The compiled object for those values, in ``directory``.

    Raises
    ------
    LabError
        clang or the headers are missing, or it refuses the program.
    OSError
        ``directory`` cannot be written.
    """
    program = compiled("ipip.bpf.c", {name: f"{value}u" for name, value in defines.items()})
    target = directory / "ipip.bpf.o"
    target.write_bytes(program)
    return target


def _open_tun(node: LabNode) -> int:
    """A file that keeps the node's TUN device ``tunl0`` in being, carrier included."""

    def create() -> int:
        handle = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        request = struct.pack("16sH", DEVICE.encode(), _IFF_TUN | _IFF_NO_PI)
        fcntl.ioctl(handle, _TUNSETIFF, request)
        return handle

    try:
        return inside(node, create)
    except OSError as error:
        raise LabError(
            f"No TUN device can be made on {node.name}: {error}.",
            "The kernel needs ipip, or TUN (/dev/net/tun).",
        ) from error
