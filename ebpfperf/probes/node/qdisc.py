"""How long packets wait in the queueing disciplines of the path's devices: enqueue to dequeue."""

import os
import socket
import struct

from ground import Probe as Base
from ground import Unavailable, inside

EVENTS = ("qdisc_enqueue", "qdisc_dequeue")
DEVICES = 32
BURST = 16
MEMBERS = (
    ("DEV", "netdev_queue.dev"),
    ("IFINDEX", "net_device.ifindex"),
    ("NET", "net_device.nd_net"),
    ("INUM", "net.ns.inum"),
    ("NEXT", "sk_buff.next"),
)

RTM_GETQDISC, NLM_F_REQUEST, NLM_F_DUMP, NLMSG_ERROR, NLMSG_DONE = 38, 1, 0x300, 2, 3
TC_H_ROOT, TCA_KIND = 0xFFFFFFFF, 1

SOURCE = r"""
struct qdisc_device { u32 netns, ifindex; };
/* Without padding, which verifiers before Linux 6.3 do not let into a map. */
struct qdisc_packet { u64 since, place; struct qdisc_device device; };
BPF_HASH(qdisc_devices, struct qdisc_device, u32, QDISC_DEVICES);
/* Packets that a discipline dropped never leave: the oldest make room. */
BPF_TABLE("lru_hash", u64, struct qdisc_packet, qdisc_packets, 16384);

#ifdef QDISC_RAW
static __always_inline u64 qdisc_word(u64 address)
{
    u64 word = 0;
    bpf_probe_read_kernel(&word, sizeof(word), (void *)address);
    return word;
}
#define QDISC_ARGUMENTS(event) struct bpf_raw_tracepoint_args *args
#define QDISC_DEVICE(device) ({                                                 \
    u64 dev = qdisc_word(args->args[1] + QDISC_DEV);                            \
    device.ifindex = (u32)qdisc_word(dev + QDISC_IFINDEX);                      \
    device.netns = (u32)qdisc_word(qdisc_word(dev + QDISC_NET) + QDISC_INUM);   \
})
#define QDISC_ENQUEUED (args->args[2])
#define QDISC_DEQUEUED (args->args[3])
#define QDISC_FOLLOWING(packet) qdisc_word(packet + QDISC_NEXT)
#else
#define QDISC_ARGUMENTS(event) struct tracepoint__qdisc__##event *args
#define QDISC_DEVICE(device) (device.ifindex = args->ifindex)
#define QDISC_ENQUEUED ((u64)args->skbaddr)
#define QDISC_DEQUEUED ((u64)args->skbaddr)
#define QDISC_FOLLOWING(packet) 0
#endif

int qdisc_enqueue(QDISC_ARGUMENTS(qdisc_enqueue))
{
    struct qdisc_device device = {};
    QDISC_DEVICE(device);
    u32 *place = qdisc_devices.lookup(&device);
    u64 packet = QDISC_ENQUEUED;
    if (!place)
        return 0;
    struct qdisc_packet entry = { .since = bpf_ktime_get_ns(), .device = device, .place = *place };
    qdisc_packets.update(&packet, &entry);
    return 0;
}

int qdisc_dequeue(QDISC_ARGUMENTS(qdisc_dequeue))
{
    struct qdisc_device device = {};
    u64 now = bpf_ktime_get_ns(), packet = QDISC_DEQUEUED;
    QDISC_DEVICE(device);
    /* A driver may take several at once: they hang on the first. */
    for (int number = 0; number < QDISC_BURST && packet; number++) {
        struct qdisc_packet *entry = qdisc_packets.lookup(&packet);
        if (entry && entry->device.ifindex == device.ifindex
            && entry->device.netns == device.netns && entry->place < QDISC_DEVICES) {
            u32 row = QDISC_ROW + entry->place;
            if (in_slice(now)) {
                if (entry->since >= slice_began())
                    observe(row, now - entry->since);
                else
                    tally(row, 1);
            }
            qdisc_packets.delete(&packet);
        }
        packet = QDISC_FOLLOWING(packet);
    }
    return 0;
}
"""


class Probe(Base):
    """The ``qdisc`` probe."""

    name = "qdisc"
    source = SOURCE
    rows = DEVICES
    hot = True

    def __init__(self, ground, options):
        ground.fields("qdisc:qdisc_enqueue", ("skbaddr", "ifindex"))
        ground.fields("qdisc:qdisc_dequeue", ("skbaddr", "ifindex"))
        self.flags = ["-DQDISC_DEVICES=%d" % DEVICES, "-DQDISC_BURST=%d" % BURST]
        self.raw = options.get("raw", True)
        if self.raw:
            try:
                offsets = [(name, ground.offsets(member)[0]) for name, member in MEMBERS]
                self.flags += ["-DQDISC_RAW"] + ["-DQDISC_%s=%d" % pair for pair in offsets]
            except Unavailable:
                self.raw = False
        self.hooks = tuple(
            ("raw", event, event) if self.raw else ("tracepoint", "qdisc:" + event, event)
            for event in EVENTS
        )
        self.watched = []

    def facts(self):
        """Which tracepoints it reads: the raw ones tell equal device numbers apart."""
        kind = "raw tracepoints, by BTF" if self.raw else "classic tracepoints"
        return {"variant": "%s: qdisc:qdisc_enqueue, qdisc_dequeue" % kind}

    def arm(self, maps, ends):
        """Look which devices of the ends' nodes and pods have a queue, and watch those."""
        maps["qdisc_devices"].clear()
        maps["qdisc_packets"].clear()
        self.watched = queues(ends)[:DEVICES]
        table = maps["qdisc_devices"]
        for place, queue in enumerate(self.watched):
            netns = queue["netns"] if self.raw else 0
            table[table.Key(netns, queue["ifindex"])] = table.Leaf(place)

    def read(self, maps, rows):
        """Per device with a queue: its name, whose it is, its discipline, bins of the waits."""
        found = []
        for place, queue in enumerate(self.watched):
            row = rows[place]
            found.append(
                {
                    "device": queue["device"],
                    "ends": queue["ends"],
                    "discipline": queue["discipline"],
                    "bins": row.bins if row else [],
                    "unseen": row.tally if row else 0,
                }
            )
        return {"devices": found}


def queues(ends):
    """Devices with a queue in the namespaces of the ends' nodes and pods, the nodes' first."""
    found = {}
    for key, prefix in (("node_pid", ""), ("netns_pid", "pod:")):
        for end in ends:
            pid = end[key]
            if not pid:
                continue
            netns = os.stat("/proc/%d/ns/net" % pid).st_ino
            for name, ifindex, discipline in inside(pid, disciplines):
                if name == "lo" or discipline == "noqueue":
                    continue
                queue = {
                    "netns": netns,
                    "ifindex": ifindex,
                    "device": prefix + name,
                    "discipline": discipline,
                    "ends": [],
                }
                queue = found.setdefault((netns, ifindex), queue)
                if end["end"] not in queue["ends"]:
                    queue["ends"].append(end["end"])
    return list(found.values())


def disciplines():
    """Name, ifindex and root discipline of the devices of this thread's network namespace."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as link:
        link.bind((0, 0))
        request = struct.pack("=BxxxiIII", socket.AF_UNSPEC, 0, 0, 0, 0)
        flags = NLM_F_REQUEST | NLM_F_DUMP
        header = struct.pack("=IHHII", 16 + len(request), RTM_GETQDISC, flags, 1, 0)
        link.send(header + request)
        names = dict(socket.if_nameindex())
        found = []
        while True:
            for kind, body in messages(link.recv(1 << 16)):
                if kind == NLMSG_DONE:
                    return found
                if kind == NLMSG_ERROR:
                    number = -struct.unpack_from("=i", body)[0]
                    raise OSError(number, os.strerror(number))
                ifindex, _, parent = struct.unpack_from("=iII", body, 4)
                if parent == TC_H_ROOT and ifindex in names:
                    found.append((names[ifindex], ifindex, kind_of(body)))


def messages(data):
    """Type and body of every netlink message in ``data``."""
    place = 0
    while place + 16 <= len(data):
        length, kind = struct.unpack_from("=IH", data, place)
        yield kind, data[place + 16 : place + length]
        place += (length + 3) & ~3


def kind_of(body):
    """The discipline's name in a message on one, after its struct tcmsg of 20 bytes."""
    place = 20
    while place + 4 <= len(body):
        length, kind = struct.unpack_from("=HH", body, place)
        if kind == TCA_KIND:
            return body[place + 4 : place + length].rstrip(b"\0").decode()
        place += (length + 3) & ~3
    return ""
