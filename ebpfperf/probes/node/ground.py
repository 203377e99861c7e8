"""What the probes on a node stand on: its tracing file system, headers, BTF, and what it allows.

Nothing on the node is changed: mounts are made in a mount namespace of this process alone.
"""

import ctypes
import glob
import json
import os
import platform
import re
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

CLONE_NEWNS, CLONE_NEWNET, MS_REC, MS_PRIVATE = 0x20000, 0x40000000, 0x4000, 1 << 18
_TRACING = ("/sys/kernel/debug/tracing", "/sys/kernel/tracing")


class Unavailable(Exception):
    """Why a probe cannot run on this node: a short reason and a sentence."""

    def __init__(self, reason, message):
        super().__init__(message)
        self.reason = reason
        self.message = message


def say(**fields):
    """Write one JSON object as a line, at once."""
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


class Probe:
    """What every probe has; a node script's own class is called ``Probe`` too.

    Beside these it has ``read(maps, rows)``: what was seen since ``arm``, for JSON; ``rows`` are
    its own, None where untouched.

    Attributes
    ----------
    source, flags
        C for BCC after that of counting.py, and what the compiler is told; empty: no BPF program.
    hooks
        (kind, event, function): ``tracepoint``, ``raw``, ``kprobe`` or ``kretprobe``; ``fentry`` or
        ``fexit``, whose event has the number of the function's type: ``ip_rcv:88271``.
    rows
        Rows of the shared histogram that it owns.
    hot
        Whether its hooks run for about every packet, so that it takes turns.
    """

    name = ""
    source = ""
    flags = ()
    hooks = ()
    rows = 0
    hot = False

    def facts(self):
        """What was found when it was made, as name -> words."""
        return {}

    def arm(self, maps, ends):
        """Forget what was seen and get ready; ``maps`` is the BPF object, None without source."""

    def begin(self):
        """Called after its hooks are attached."""

    def end(self):
        """Called before its hooks are detached."""


class Mounts:
    """Mounts that only this process sees: the first one gives it a mount namespace of its own."""

    def __init__(self):
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.private = False

    def mount(self, kind, target):
        """Mount a file system of ``kind`` on ``target``."""
        if not self.private:
            self.call("unshare", self.libc.unshare(CLONE_NEWNS))
            self.call("mount", self.libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))
            self.private = True
        done = self.libc.mount(kind.encode(), target.encode(), kind.encode(), 0, None)
        self.call("mount " + kind, done)

    @staticmethod
    def call(name, status):
        """Raise Unavailable when a libc call failed."""
        if status != 0:
            text = os.strerror(ctypes.get_errno())
            raise Unavailable("no_permission", "%s is refused: %s." % (name, text))


class Ground:
    """The node's kernel, as far as probes need it. Raises Unavailable where none can run.

    Attributes
    ----------
    tracing
        Directory of the tracing file system.
    headers
        Words on the headers that BCC compiles with.
    """

    def __init__(self):
        if os.geteuid() != 0:
            raise Unavailable("no_permission", "Loading BPF programs needs root.")
        mounts = Mounts()
        self.tracing = trace_directory(mounts)
        self.headers = kernel_headers(mounts)
        self._btf = None

    def layout(self, event):
        """What the kernel says of tracepoint ``event`` (its ``format``); Unavailable without it."""
        place = os.path.join(self.tracing, "events", *event.split(":"), "format")
        try:
            with open(place) as stream:
                return stream.read()
        except OSError:
            message = "This kernel has no tracepoint %s." % event
            raise Unavailable("no_tracepoint", message) from None

    def fields(self, event, needed=()):
        """Field name -> (declaration, offset, bytes) of tracepoint ``event`` (``net:netif_rx``).

        Raises Unavailable where this kernel has no such tracepoint, or one without ``needed``.
        """
        text = self.layout(event)
        pattern = r"field:([^;]+?)(\w+)(\[[^\]]*\])?;\s*offset:(\d+);\s*size:(\d+)"
        found = {
            name: (kind.strip() + " " + name + (size or ""), int(offset), int(length))
            for kind, name, size, offset, length in re.findall(pattern, text)
        }
        lacking = [name for name in needed if name not in found]
        if lacking:
            message = "Tracepoint %s has no field %s." % (event, ", ".join(lacking))
            raise Unavailable("no_tracepoint", message)
        return found

    def symbols(self, event, field):
        """Number -> name of what the kernel prints for ``field`` of ``event``; may be empty."""
        try:
            text = self.layout(event)
        except Unavailable:
            return {}
        found = re.search(r"__print_symbolic\(REC->%s, (.*?)\)(?:,|$)" % field, text, re.M)
        pairs = re.findall(r'\{ (\d+), "(\w+)" \}', found.group(1)) if found else []
        return {int(number): name for number, name in pairs}

    def offsets(self, *paths):
        """Byte offsets of members (``sk_buff.dev``) in the running kernel, by its BTF."""
        types = self.types()
        try:
            return [types.offset(path) for path in paths]
        except KeyError as error:
            raise Unavailable("no_btf", "BTF does not know %s." % error.args[0]) from None

    def types(self):
        """The running kernel's types, without those of its modules; Unavailable without BTF."""
        from btf import Btf

        if self._btf is None:
            try:
                with open("/sys/kernel/btf/vmlinux", "rb") as stream:
                    self._btf = Btf(stream.read())
            except OSError:
                message = "This kernel does not describe its types (/sys/kernel/btf/vmlinux)."
                raise Unavailable("no_btf", message) from None
        return self._btf

    def facts(self):
        """What was probed, as name -> words."""
        return {
            "headers": self.headers,
            "kernel": platform.release(),
            "python": platform.python_version(),
            "btf": "yes" if os.path.exists("/sys/kernel/btf/vmlinux") else "no",
            "kprobes": "yes" if self.kprobes() else "no",
            "lockdown": lockdown(),
        }

    def kprobes(self):
        """Whether this kernel was built with kprobes."""
        return os.path.exists(os.path.join(self.tracing, "kprobe_events"))


def inside(pid, look):
    """What ``look`` gives in the network namespace of process ``pid``; OSError when it is gone.

    A thread enters it, so that this process stays where it is.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def enter():
        with open("/proc/%d/ns/net" % pid) as handle:
            if libc.setns(handle.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return look()

    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(enter).result()


def devices(pid):
    """Device name -> ifindex in the network namespace of process ``pid``; OSError when gone."""
    return inside(pid, lambda: {name: number for number, name in socket.if_nameindex()})


def trace_directory(mounts):
    """Directory of the tracing file system, mounted for this process where it is not."""
    for place in _TRACING:
        if os.path.isdir(os.path.join(place, "events")):
            return place
    place = _TRACING[1]
    if os.path.isdir(place):
        mounts.mount("tracefs", place)
        if os.path.isdir(os.path.join(place, "events")):
            return place
    raise Unavailable("no_tracefs", "The tracing file system cannot be found or mounted.")


def lockdown():
    """The kernel's lockdown mode: ``none``, ``integrity`` or ``confidentiality``."""
    try:
        with open("/sys/kernel/security/lockdown") as stream:
            chosen = re.search(r"\[(\w+)\]", stream.read())
    except OSError:
        return "UNKNOWN: /sys/kernel/security/lockdown cannot be read"
    return chosen.group(1) if chosen else "UNKNOWN: no mode is marked"


def release_of(directory):
    """Kernel release that a tree of headers was made for, or an empty string."""
    for name in ("include/generated/utsrelease.h", "include/config/kernel.release"):
        try:
            with open(os.path.join(directory, name)) as stream:
                text = stream.read().strip()
        except OSError:
            continue
        quoted = re.search(r'"([^"]+)"', text)
        return quoted.group(1) if quoted else text
    return ""


def kernel_headers(mounts):
    """Words on the headers that BCC will compile with; found, never installed.

    Headers of another kernel do: the programs read tracepoint arguments, whose layout BCC takes
    from the running kernel, and structures by the offsets of the running kernel's BTF alone.
    """
    release = platform.release()
    modules = "/lib/modules/" + release
    built = os.path.join(modules, "build")
    if os.path.isdir(built):
        made_for = release_of(built)
        if made_for in ("", release):
            return "of this kernel"
        return "%s, found as %s" % (made_for, built)
    packed = "/sys/kernel/kheaders.tar.xz"  # BCC finds and unpacks it by itself
    if os.path.exists(packed):
        return "of this kernel, from " + packed
    trees = sorted(glob.glob("/usr/src/linux-headers-*") + glob.glob("/usr/src/kernels/*"))
    for tree in reversed(trees):
        made_for = release_of(tree)
        if not made_for:
            continue
        # Debian splits what is common to all flavours from what is this architecture's.
        split = "/usr/src/linux-headers-%s-common" % made_for.rsplit("-", 1)[0]
        source = split if os.path.isdir(split) else tree
        mounts.mount("tmpfs", "/lib/modules")
        os.mkdir(modules)
        os.symlink(tree, built)
        os.symlink(source, os.path.join(modules, "source"))
        return "%s, from %s" % (made_for, tree)
    raise Unavailable(
        "no_headers",
        "BCC needs kernel headers and finds none for %s nor any other under /usr/src." % release,
    )
