"""The lab's ``tunl0``: the kernel's ipip device, or a stand-in by tc-BPF where there is none.

Which of the two it is can be seen on the node: ``ip -d link show tunl0`` says ``ipip`` or ``tun``.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import socket
import struct
import subprocess
import threading
from pathlib import Path

from ebpfperf.errors import LabError
from ebpfperf.lab.nodes import LabNode, run

DEVICE = "tunl0"
_SOURCE = Path(__file__).parent / "bpf" / "ipip.bpf.c"
_CLONE_NEWNET = 0x40000000
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
                "filter", "replace", "dev", device, hook, "prio", "1", "handle", "1", "bpf",
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
    """The compiled object for those values, in ``directory``; taken from a cache where it can be.

    The cache is keyed by content. A place that can only be read is no cache, and that is all.

    Raises
    ------
    LabError
        clang or the headers are missing, or it refuses the program.
    OSError
        ``directory`` cannot be written.
    """
    flags = [f"-D{name}={value}u" for name, value in sorted(defines.items())]
    key = hashlib.sha256(_SOURCE.read_bytes() + " ".join(flags).encode()).hexdigest()[:24]
    cached = _cache() / f"ipip-{key}.o"
    try:
        program = cached.read_bytes()
    except OSError:
        program = _compile(flags)
        with contextlib.suppress(OSError):
            cached.parent.mkdir(parents=True, exist_ok=True)
            partial = cached.with_suffix(f".{os.getpid()}.{threading.get_ident()}")
            partial.write_bytes(program)
            partial.replace(cached)
    target = directory / "ipip.bpf.o"
    target.write_bytes(program)
    return target


def _compile(flags: list[str]) -> bytes:
    # To its output, not to a file: a full disk is then not clang's to tell.
    argv = ["clang", "-O2", "-g", "-Wall", "-target", "bpf", *flags]
    argv += [f"-I/usr/include/{os.uname().machine}-linux-gnu", "-c", str(_SOURCE), "-o", "-"]
    try:
        done = subprocess.run(argv, capture_output=True, timeout=60, check=False)
    except FileNotFoundError:
        raise LabError(
            "clang is missing: this kernel has no ipip device, so the lab compiles a stand-in.",
            "Install clang and libbpf-dev.",
        ) from None
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip()[-500:]
        raise LabError(
            f"clang refuses {_SOURCE.name}: {said}.",
            "Install libbpf-dev and the kernel's user headers (linux-libc-dev).",
        )
    return done.stdout


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ebpfperf"


def _open_tun(node: LabNode) -> int:
    """A file that keeps the node's TUN device ``tunl0`` in being, carrier included."""
    result: list[int | OSError] = []

    def create() -> None:
        try:
            with open(f"/proc/{node.holder_pid}/ns/net") as namespace:
                _setns(namespace.fileno())
            handle = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
            request = struct.pack("16sH", DEVICE.encode(), _IFF_TUN | _IFF_NO_PI)
            fcntl.ioctl(handle, _TUNSETIFF, request)
            result.append(handle)
        except OSError as error:
            result.append(error)

    # In a thread of its own: setns moves only the calling thread, which then ends.
    thread = threading.Thread(target=create, name="tun")
    thread.start()
    thread.join()
    (outcome,) = result
    if isinstance(outcome, OSError):
        raise LabError(
            f"No TUN device can be made on {node.name}: {outcome}.",
            "The kernel needs ipip, or TUN (/dev/net/tun).",
        )
    return outcome


def _setns(handle: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(handle, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
