"""What is so on a node before a trial: settings, devices of the path, processors, tools.

No probe: one process that reads and ends. ``ebpfperf/conditions.py`` sends it, with ``attached``
and ``bpf_call``, and says what is asked. Devices are asked by ioctl and rtnetlink, so that neither
``ethtool`` nor ``tc`` must be there, and no process is started for each.
Sources: include/uapi/linux/{ethtool,sockios,if_link,rtnetlink,pkt_sched}.h.
"""

import ctypes
import fcntl
import os
import socket
import struct

import attached
import bpf_call

SIOCETHTOOL, CLONE_NEWNET = 0x8946, 0x40000000
DRIVER, COALESCE, RINGS, STRINGS, SETS, FEATURES, CHANNELS = 0x3, 0xE, 0x10, 0x1B, 0x37, 0x3A, 0x3C
FEATURE_NAMES, NAME_BYTES = 4, 32
GETADDR, GETQDISC, INGRESS_PARENT, ROOT_PARENT = 22, 38, 0xFFFFFFF1, 0xFFFFFFFF
IFA_LOCAL, IFLA_MTU, IFLA_TXQLEN, IFLA_LINKINFO, INFO_KIND = 2, 4, 13, 18, 1
IFLA_TX_QUEUES, IFLA_RX_QUEUES, IFLA_GSO, IFLA_GRO = 31, 32, 41, 58
FILTER_NAME = 7
ACTIVE, FIXED = "active", "fixed"
# Devices that are never the node's NIC.
VIRTUAL = ("vxlan", "ipip", "tun", "wireguard", "bridge", "dummy", "geneve", "gre")
CPU = "/sys/devices/system/cpu"
GROUPS = {
    "rings": (RINGS, ("", "", "", "", "", "rx", "rx_mini", "rx_jumbo", "tx")),
    "channels": (CHANNELS, ("", "", "", "", "", "rx", "tx", "other", "combined")),
    "coalesce": (
        COALESCE,
        ("", "rx_usecs", "rx_frames", "rx_usecs_irq", "rx_frames_irq", "tx_usecs", "tx_frames",
         "tx_usecs_irq", "tx_frames_irq", "stats_usecs", "adaptive_rx", "adaptive_tx")
        + ("",) * 11,
    ),
}  # fmt: skip


def read(asked):
    """All of it, as JSON can hold it; what cannot be read is left out, or None."""
    tools = {name: start(argv) for name, argv in asked["tools"].items()}
    found = {
        "files": {path: line(path) for path in asked["files"]},
        "sysctls": {"": sysctls(asked["sysctls"])},
        "vulnerabilities": directory(CPU + "/vulnerabilities"),
        "policies": {
            name: directory(CPU + "/cpufreq/" + name, asked["policy"])
            for name in listed(CPU + "/cpufreq")
            if name.startswith("policy")
        },
        "idle": idle(),
        "irqbalance": running("irqbalance"),
        "binaries": {name: binary(name) for name in asked["binaries"]},
    }
    sight = Sight()
    nic = sight.nic(asked["nic"], asked["address"])
    roles = {"nic": nic} if nic else {}
    for name in below(nic) if nic else ():
        roles["nic/" + name] = name
    roles.update({role: name for role, name in asked["devices"].items() if name in sight.links})
    found["devices"] = {role: sight.device(name) for role, name in roles.items()}
    for role, name in roles.items():
        found["devices"][role].update(layout(name))
    for role in [role for role in roles if role.startswith("nic")]:
        found["devices"][role]["irqs"] = irqs(roles[role])
    sight.close()
    for role, place in asked["pods"].items():
        try:
            enter(place["pid"])
        except OSError as error:
            found["devices"][role] = {"error": str(error)}
            continue
        inside = Sight()
        found["devices"][role] = inside.device(place["device"])
        inside.close()
        found["sysctls"][role] = sysctls(asked["pod_sysctls"])
    found["tools"] = {name: finish(*held) for name, held in tools.items()}
    return found


class Sight:
    """The devices of this thread's network namespace."""

    def __init__(self):
        """Links, addresses and queueing disciplines; OSError."""
        self.wire = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self.wire.settimeout(5.0)
        self.plain = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.links, self.queues = {}, {}
        link = struct.pack("=BxHiII", 0, 0, 0, 0, 0)
        for body in attached.dump(self.wire, attached.GETLINK, link):
            (ifindex,) = struct.unpack_from("=i", body, 4)
            parts = attached.attributes(body, 16)
            self.links[attached.text(parts[attached.IFLA_IFNAME])] = ifindex, parts
        for body in attached.dump(self.wire, GETQDISC, struct.pack("=BxxxiIII", 0, 0, 0, 0, 0)):
            ifindex, _, parent = struct.unpack_from("=iII", body, 4)
            kind = attached.text(attached.attributes(body, 20).get(attached.TCA_KIND, b""))
            if parent != INGRESS_PARENT:
                self.queues.setdefault(ifindex, []).append([parent == ROOT_PARENT, kind])

    def close(self):
        """Close its sockets."""
        self.wire.close()
        self.plain.close()

    def nic(self, named, address):
        """The device named, that carries the address, or the first likely one; None."""
        if named:
            return named if named in self.links else None
        names = {ifindex: name for name, (ifindex, _) in self.links.items()}
        for body in attached.dump(self.wire, GETADDR, struct.pack("=BBBBI", 2, 0, 0, 0, 0)):
            (scope, ifindex) = struct.unpack_from("=xxxBI", body)
            local = attached.attributes(body, 8).get(IFA_LOCAL)
            name = names.get(ifindex)
            if address and local and socket.inet_ntoa(local) == address:
                return name
            if not address and scope == 0 and name and self.kind(name) not in VIRTUAL:
                return name
        return None

    def kind(self, name):
        """``veth``, ``vxlan`` …; empty for hardware."""
        information = attached.attributes(self.links[name][1].get(IFLA_LINKINFO, b""), 0)
        return attached.text(information.get(INFO_KIND, b""))

    def device(self, name):
        """What a device of that name is."""
        if name not in self.links:
            return {"error": "there is no " + name}
        ifindex, parts = self.links[name]
        numbers = {
            word: attached.number(parts[kind])
            for word, kind in (
                ("mtu", IFLA_MTU), ("txqueuelen", IFLA_TXQLEN), ("tx_queues", IFLA_TX_QUEUES),
                ("rx_queues", IFLA_RX_QUEUES), ("gso_max", IFLA_GSO), ("gro_max", IFLA_GRO),
            )
            if kind in parts
        }  # fmt: skip
        found = {
            "name": name,
            "kind": self.kind(name),
            "numbers": numbers,
            "qdiscs": self.queues.get(ifindex, []),
            "programs": self.programs(ifindex),
            "features": self.features(name),
            "fixed": self.features(name, FIXED),
            "driver": self.driver(name),
        }
        for group, (command, words) in GROUPS.items():
            answer = self.ethtool(name, struct.pack("=I", command) + bytes(4 * len(words) - 4))
            if answer is not None:
                values = struct.unpack("=%dI" % len(words), answer)
                found[group] = {word: values[at] for at, word in enumerate(words) if word}
        return found

    def ethtool(self, name, data):
        """What the kernel makes of a question; None where the device has no answer."""
        block = ctypes.create_string_buffer(data, len(data))
        place = struct.pack("16sP16x", name.encode(), ctypes.addressof(block))
        try:
            fcntl.ioctl(self.plain, SIOCETHTOOL, place)
        except OSError:
            return None
        return block.raw

    def driver(self, name):
        """Driver, its version and its firmware's; None."""
        answer = self.ethtool(name, struct.pack("=I", DRIVER) + bytes(192))
        if answer is None:
            return None
        return [attached.text(answer[4 + 32 * at : 36 + 32 * at]) for at in range(3)]

    def features(self, name, which=ACTIVE):
        """Names of the offloads that are on, by the kernel's names; None.

        ``FIXED``: those that are off and that the driver does not let be switched on.
        """
        answer = self.ethtool(name, struct.pack("=IIQI", SETS, 0, 1 << FEATURE_NAMES, 0))
        if answer is None:
            return None
        (count,) = struct.unpack_from("=I", answer, 16)
        asked = struct.pack("=III", STRINGS, FEATURE_NAMES, count) + bytes(NAME_BYTES * count)
        named = self.ethtool(name, asked)
        blocks = (count + 31) // 32
        states = self.ethtool(name, struct.pack("=II", FEATURES, blocks) + bytes(16 * blocks))
        if named is None or states is None:
            return None
        found = []
        for at in range(count):
            # struct ethtool_get_features_block: available, requested, active, never changed.
            may, _, active, never = struct.unpack_from("=IIII", states, 8 + 16 * (at // 32))
            bits = active if which == ACTIVE else ~active & (~may | never)
            word = attached.text(named[12 + NAME_BYTES * at : 12 + NAME_BYTES * (at + 1)])
            if word and bits >> (at % 32) & 1:
                found.append(word)
        return found

    def programs(self, ifindex):
        """Hook -> names of its BPF programs, in order; None where the kernel refuses."""
        found = {}
        try:
            for direction, (parent, kind) in attached.DIRECTIONS.items():
                found[direction] = self.filters(ifindex, parent)
                for number in bpf_call.on_device(ifindex, kind):
                    found[direction].append("tcx:" + program(number))
        except OSError:
            return None
        return {direction: names for direction, names in found.items() if names}

    def filters(self, ifindex, parent):
        """Names of the BPF filters of one side of a device, as ``tc`` shows them."""
        found = []
        asked = struct.pack("=BxxxiIII", 0, ifindex, 0, parent, 0)
        for body in attached.dump(self.wire, attached.GETFILTER, asked):
            parts = attached.attributes(body, 20)
            if attached.text(parts.get(attached.TCA_KIND, b"")) != "bpf":
                continue
            options = attached.attributes(parts.get(attached.TCA_OPTIONS, b""), 0)
            if attached.BPF_ID in options:
                name = attached.text(options.get(FILTER_NAME, b""))
                found.append(name or program(attached.number(options[attached.BPF_ID])))
        return found


def program(number):
    """The name of the BPF program of that id."""
    known = bpf_call.statistics(number)
    return known[0] if known else ""


def enter(pid):
    """Make the network namespace of a process this thread's; OSError."""
    with open("/proc/%d/ns/net" % pid) as namespace:
        if bpf_call.libc.setns(namespace.fileno(), CLONE_NEWNET):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))


def start(argv):
    """(pid, descriptor of what it prints) of a command."""
    here, there = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(there, 1)
            os.dup2(there, 2)
            os.execvp(argv[0], argv)
        except OSError:
            os._exit(127)
    os.close(there)
    return pid, here


def finish(pid, here):
    """What a command printed; None where it is not installed."""
    with os.fdopen(here, "rb") as pipe:
        said = pipe.read(4096)
    _, status = os.waitpid(pid, 0)
    return None if status >> 8 == 127 else said.decode("utf-8", "replace")


def binary(name):
    """[path, bytes, time of change in seconds] of what a command is; None where there is none."""
    for place in os.environ.get("PATH", "/usr/bin:/bin").split(":"):
        try:
            known = os.stat(place + "/" + name)
        except OSError:
            continue
        return [os.path.realpath(place + "/" + name), known.st_size, int(known.st_mtime)]
    return None


def line(path):
    """What a small file holds, on one line; None where it cannot be read."""
    try:
        with open(path) as file:
            return " ".join(file.read(65536).split())
    except (OSError, ValueError):
        return None


def listed(path):
    """Names in a directory, sorted; none where there is none."""
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []


def directory(path, names=None):
    """Name -> what it holds, of the readable files of a directory."""
    wanted = listed(path) if names is None else names
    found = {name: line(path + "/" + name) for name in wanted}
    return {name: text for name, text in found.items() if text is not None}


def sysctls(names):
    """Name -> value of the settings that this kernel has in this network namespace."""
    found = {name: line("/proc/sys/" + name.replace(".", "/")) for name in names}
    return {name: text for name, text in found.items() if text is not None}


def idle():
    """State's name -> how many processors have it, and how many have it switched off."""
    found = {}
    for cpu in listed(CPU):
        if not cpu[3:].isdigit():
            continue
        for state in listed(CPU + "/" + cpu + "/cpuidle"):
            place = CPU + "/" + cpu + "/cpuidle/" + state
            counts = found.setdefault(line(place + "/name") or state, [0, 0])
            counts[0] += 1
            counts[1] += line(place + "/disable") not in (None, "0")
    return found


def running(name):
    """Whether a process of that name runs."""
    return any(pid.isdigit() and line("/proc/" + pid + "/comm") == name for pid in listed("/proc"))


def below(name):
    """Names of the devices that a bond, bridge or VLAN stands on, deepest last."""
    found = []
    for entry in listed("/sys/class/net/" + name):
        if entry.startswith("lower_"):
            found += [entry[6:], *below(entry[6:])]
    return found


def layout(name):
    """Masks of receive and transmit steering by queue, speed and NUMA node, as sysfs has them."""
    place = "/sys/class/net/" + name
    found = {"rps": {}, "xps": {}, "link": directory(place, ("speed", "duplex"))}
    found["numa_node"] = line(place + "/device/numa_node")
    for queue in listed(place + "/queues"):
        here = place + "/queues/" + queue
        if queue.startswith("rx-"):
            found["rps"][queue] = [line(here + "/rps_cpus"), line(here + "/rps_flow_cnt")]
        else:
            found["xps"][queue] = line(here + "/xps_cpus")
    return found


def irqs(name):
    """Action -> processors that its interrupt may come to, of a device's interrupts."""
    device = os.path.realpath("/sys/class/net/" + name + "/device")
    # A virtio device's interrupts are its PCI device's, one directory up.
    numbers = listed(device + "/msi_irqs") or listed(os.path.dirname(device) + "/msi_irqs")
    known = bool(numbers)
    found = {}
    for number in numbers or listed("/proc/irq"):
        place = "/proc/irq/" + number
        actions = [entry for entry in listed(place) if os.path.isdir(place + "/" + entry)]
        for action in actions:
            if known or name in action:
                found[action] = line(place + "/smp_affinity_list")
    return found
