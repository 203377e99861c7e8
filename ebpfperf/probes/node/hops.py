"""A packet followed by its buffer's address from device to device, in the kernel it passes through.

A packet of the flow is chosen at random at its first place, then recognised at every further one by
the address of its ``sk_buff``. The time from each place to the next that it was seen at is counted
in the row of that pair of places. Where both nodes share the kernel, the wire between them is one
more step; otherwise the sender's half ends where its NIC's driver takes the packet, and the
receiver's half begins where the driver hands it over.
"""

import os
import socket
import struct

from counting import put
from ground import Probe as Base
from ground import Unavailable, devices

PLACES = (
    "pod-queue",
    "veth-rx",
    "veth-receive",
    "tunnel-queue",
    "nic-queue",
    "nic-xmit",
    "nic-rx",
    "nic-receive",
    "tunnel-receive",
    "veth-queue",
    "pod-rx",
    "pod-receive",
    "socket-copy",
)
TALLIES = ("started", "finished", "unfinished", "stale", "foreign")
QUEUE, XMIT, RX, RECEIVE, COPY = range(5)
POD, VETH, TUNNEL, NIC = range(1, 5)
# Two pods' devices, or two nodes' tunnels, have one name where devices are told by name.
UNKNOWN = 2
# Events that every kernel must have, and those that some drivers pass by.
EVENTS = (
    ("net:net_dev_queue", QUEUE),
    ("net:net_dev_start_xmit", XMIT),
    ("net:netif_rx", RX),
    ("net:napi_gro_receive_entry", RX),
    ("net:netif_receive_skb", RECEIVE),
    ("skb:skb_copy_datagram_iovec", COPY),
)
MEMBERS = (
    "sk_buff.dev",
    "sk_buff.len",
    "sk_buff.head",
    "sk_buff.data",
    "sk_buff.network_header",
    "net_device.ifindex",
    "net_device.nd_net.net",
    "net.ns.inum",
)
TUNNELS = ("vxlan", "tunl", "wireguard", "ipip")
# Devices of a node that carry no packet between nodes by themselves.
ASIDE = ("lo", "cali", "bpf", "docker", "virbr", "dummy", "kube-ipvs", "nodelocaldns", "veth")
FLOW_LAYOUT = "=IIIHHIIII"
DEVICE_LAYOUT = "=II"
SAMPLE = 4

SOURCE = r"""
struct hops_flow {
    u32 on, from, to;           /* addresses in network byte order, 0: any */
    u16 first, last;            /* the server's ports, host byte order */
    u32 server_sends;
    u32 start_kind, start_role; /* where a walk begins */
    u32 final;                  /* the place where it ends */
};
struct hops_device { u32 role, end; };
struct hops_entry { u64 first, last, arrived; u32 len, payload; u16 place, chain, final, pad; };
#if HOPS_RAW
struct hops_key { u32 namespace, ifindex; };
#else
struct hops_key { char name[16]; };
#endif
BPF_ARRAY(hops_flows, struct hops_flow, 2);
BPF_TABLE("hash", struct hops_key, struct hops_device, hops_devices, 256);
BPF_TABLE("lru_hash", u64, struct hops_entry, hops_followed, 8192);
#define HOPS_UNKNOWN 2

/* Whether chance has it that a packet is followed. */
static __always_inline int hops_chosen(void)
{
    return !(bpf_get_prandom_u32() & (HOPS_SAMPLE - 1));
}

static __always_inline u32 hops_row(u32 chain, u32 from, u32 to)
{
    return HOPS_ROW + chain * 169 + from * 13 + to;
}

static __always_inline void hops_tally(u32 which)
{
    tally(HOPS_ROW + 338 + which, 1);
}

static __always_inline void hops_step(u32 row, u64 ns)
{
    observe(row, ns);
    tally(row, ns);
}

/* Whether a walk may begin: not in the last quarter of a slice, so that most end within it. */
static __always_inline int hops_may_start(u64 now)
{
    u32 zero = 0;
    struct moment *m = moments.lookup(&zero);
    return m && in_slice(now) && (!m->slice || now < m->until - ((m->until - m->slice) >> 2));
}

/* Whether the slice in which a walk began is over. */
static __always_inline int hops_over(u64 last, u64 now)
{
    u32 zero = 0;
    struct moment *m = moments.lookup(&zero);
    return !m || last < m->slice || now >= m->until || now - last > HOPS_LIMIT_NS;
}

/* Number of the place of an event, or -1: kind, the device's role, whether it is the sender's. */
static __always_inline int hops_place(u32 kind, u32 role, u32 sends)
{
    if (kind == 4)
        return 12;
    if (sends) {
        if (kind == 0)
            return role == 1 ? 0 : role == 3 ? 3 : role == 4 ? 4 : -1;
        if (kind == 1)
            return role == 4 ? 5 : -1;
        if (role == 2)
            return kind == 2 ? 1 : 2;
        return -1;
    }
    if (kind == 0)
        return role == 2 ? 9 : -1;
    if (kind == 2)
        return role == 4 ? 6 : role == 1 ? 10 : -1;
    if (kind == 3)
        return role == 4 ? 7 : role == 3 ? 8 : role == 1 ? 11 : -1;
    return -1;
}

/* Payload in bytes of the packet at ip (behind encapsulation, if any) where it is of the flow. */
static __always_inline u32 hops_payload(struct hops_flow *flow, u64 ip)
{
    u8 head[20];
    #pragma unroll
    for (int depth = 0; depth < 2; depth++) {
        if (bpf_probe_read(head, sizeof(head), (void *)ip) || head[0] >> 4 != 4)
            return 0;
        u64 next = ip + (head[0] & 15) * 4;
        u16 port = 0;
        if (depth == 0 && head[9] == 4) {
            ip = next;
            continue;
        }
        bpf_probe_read(&port, sizeof(port), (void *)next + 2);
        if (depth == 0 && head[9] == 17 && bpf_ntohs(port) == HOPS_VXLAN_PORT) {
            ip = next + 8 + 8 + 14;
            continue;
        }
        break;
    }
    if (head[9] != 6 && head[9] != 17)
        return 0;
    u32 from = *(u32 *)&head[12], to = *(u32 *)&head[16];
    if ((flow->from && flow->from != from) || (flow->to && flow->to != to))
        return 0;
    u8 next[14];
    u32 size = (head[0] & 15) * 4;
    bpf_probe_read(next, sizeof(next), (void *)ip + size);
    u16 port = bpf_ntohs(*(u16 *)&next[flow->server_sends ? 0 : 2]);
    if (port < flow->first || port > flow->last)
        return 0;
    size += head[9] == 6 ? (next[12] >> 4) * 4 : 8;
    u32 length = bpf_ntohs(*(u16 *)&head[2]);
    /* Longer than its field can say: a packet to be segmented later. */
    return length ? length - size : 65535;
}

/* Begin to follow a packet where its walk begins. ip: its header; 0: the device must do. */
static __always_inline void
hops_start(u64 skb, u32 kind, struct hops_device *device, u32 len, u64 now, u64 ip)
{
    #pragma unroll
    for (u32 chain = 0; chain < 2; chain++) {
        u32 key = chain;
        struct hops_flow *flow = hops_flows.lookup(&key);
        if (!flow || !flow->on || flow->start_role != device->role)
            continue;
        /* A driver may hand over without the first of the two events of arrival. */
        if (flow->start_kind != kind && !(flow->start_kind == 2 && kind == 3))
            continue;
        u32 sends = flow->start_kind == 0;
        if (device->end != HOPS_UNKNOWN && (device->end == chain) != sends)
            continue;
        /* What carries no data is read by nobody: its walk would have no end. */
        u32 payload = ip ? hops_payload(flow, ip) : ~0;
        if (!payload || !hops_may_start(now))
            continue;
        int place = hops_place(kind, device->role, sends);
        if (place < 0)
            continue;
        struct hops_entry entry = {};
        entry.first = now;
        entry.last = now;
        entry.arrived = sends ? 0 : now;
        entry.len = len;
        entry.payload = payload;
        entry.place = place;
        entry.final = flow->final;
        entry.chain = device->end == HOPS_UNKNOWN ? HOPS_UNKNOWN : chain;
        if (hops_followed.lookup(&skb))
            hops_tally(2);
        hops_followed.update(&skb, &entry);
        hops_tally(0);
        return;
    }
}

/* A followed packet is at one more place; 1 where it may be another packet in the same buffer. */
static __always_inline int
hops_next(u64 skb, u32 kind, struct hops_device *device, u32 len, u64 now, u64 ip,
          struct hops_entry *e)
{
    u32 chain = e->chain;
    if (chain == HOPS_UNKNOWN) {
        /* By names alone, the first device that is the pod's own says whose packet it is. */
        if (device->role != 2)
            return 0;
        u32 key = device->end;
        struct hops_flow *flow = hops_flows.lookup(&key);
        if (!flow || !flow->on || kind == 0) {
            hops_tally(4);
            hops_followed.delete(&skb);
            return 0;
        }
        chain = e->chain = device->end;
    }
    if (chain > 1)
        return 0;
    u32 sends = device->end == chain || (device->end == HOPS_UNKNOWN && kind < 2);
    int place = hops_place(kind, device->role, sends);
    if (place < 0)
        return 1;
    u32 from = e->place;
    if (from > 12)
        return 0;
    if (place <= from) {
        hops_tally(2);
        hops_followed.delete(&skb);
        return 1;
    }
    if (hops_over(e->last, now)) {
        hops_tally(3);
        hops_followed.delete(&skb);
        return 1;
    }
    /* Headers come and go on the way; payload does not. Merging on arrival makes it longer. */
    int other = len + 128 < e->len || (place < 6 && len > e->len + 128);
    if (kind == 4) {
        u32 key = chain;
        struct hops_flow *flow = hops_flows.lookup(&key);
        other = len > e->payload || !flow || (ip && !hops_payload(flow, ip));
    }
    if (kind != 4 && place >= 6 && len > e->len + 128)
        e->payload = ~0;
    if (other) {
        hops_tally(4);
        hops_followed.delete(&skb);
        return 1;
    }
    hops_step(hops_row(chain, from, place), now - e->last);
    if (place == 5)
        hops_step(hops_row(chain, 5, 5), now - e->first);
    if (place >= 6 && !e->arrived)
        e->arrived = now;
    if (place == e->final) {
        if (place > 5)
            hops_step(hops_row(chain, place, place), now - e->arrived);
        if (place > 5 && e->first != e->arrived)
            hops_step(hops_row(chain, 0, 0), now - e->first);
        hops_tally(1);
        hops_followed.delete(&skb);
        return 0;
    }
    e->last = now;
    e->place = place;
    return 0;
}

static __always_inline int
hops_seen(u64 skb, u32 kind, struct hops_device *device, u32 len, u64 ip, struct hops_entry *e)
{
    u64 now = bpf_ktime_get_ns();
    if (e && (!hops_next(skb, kind, device, len, now, ip, e) || !hops_chosen()))
        return 0;
    if (kind == 0 || kind == 2 || kind == 3)
        hops_start(skb, kind, device, len, now, ip);
    return 0;
}
"""

RAW = r"""
static __always_inline struct hops_device *hops_device_of(u64 skb)
{
    u64 device = 0, namespace = 0;
    struct hops_key key = {};
    bpf_probe_read(&device, sizeof(device), (void *)skb + HOPS_SK_BUFF_DEV);
    if (!device)
        return 0;
    bpf_probe_read(&key.ifindex, sizeof(u32), (void *)device + HOPS_NET_DEVICE_IFINDEX);
    bpf_probe_read(&namespace, sizeof(namespace), (void *)device + HOPS_NET_DEVICE_ND_NET_NET);
    bpf_probe_read(&key.namespace, sizeof(u32), (void *)namespace + HOPS_NET_NS_INUM);
    return hops_devices.lookup(&key);
}

static __always_inline int hops_raw(u64 skb, u32 kind, u32 copied)
{
    struct hops_entry *e = hops_followed.lookup(&skb);
    /* Most packets are passed over by here. */
    if (!e && (kind == 1 || kind == 4 || !hops_chosen()))
        return 0;
    struct hops_device anywhere = {}, *device = &anywhere;
    u64 head = 0;
    u32 len = copied;
    u16 header = 0;
    if (kind != 4) {
        device = hops_device_of(skb);
        if (!device)
            return 0;
        bpf_probe_read(&len, sizeof(len), (void *)skb + HOPS_SK_BUFF_LEN);
    }
    if (kind == 0 || kind == 4) {
        bpf_probe_read(&head, sizeof(head), (void *)skb + HOPS_SK_BUFF_HEAD);
        bpf_probe_read(&header, sizeof(header), (void *)skb + HOPS_SK_BUFF_NETWORK_HEADER);
    } else {
        bpf_probe_read(&head, sizeof(head), (void *)skb + HOPS_SK_BUFF_DATA);
    }
    return hops_seen(skb, kind, device, len, head + header, e);
}
"""

RAW_EVENT = r"""
int hops_%(name)s(struct bpf_raw_tracepoint_args *ctx)
{
    return hops_raw(ctx->args[0], %(kind)d, %(length)s);
}
"""

CLASSIC_EVENT = r"""
int hops_%(name)s(struct tracepoint__%(category)s__%(name)s *args)
{
    u64 skb = (u64)args->skbaddr;
    struct hops_entry *e = hops_followed.lookup(&skb);
    if (!e && (%(kind)d == 1 || %(kind)d == 4 || !hops_chosen()))
        return 0;
    struct hops_device anywhere = {}, *device = &anywhere;
%(device)s    return hops_seen(skb, %(kind)d, device, %(length)s, 0, e);
}
"""

BY_NAME = r"""
    struct hops_key key = {};
    bpf_probe_read_str(key.name, 16, (void *)args + (args->data_loc_name & 0xffff));
    device = hops_devices.lookup(&key);
    if (!device)
        return 0;
"""


class Probe(Base):
    """The ``hops`` probe."""

    name = "hops"
    rows = 2 * 169 + len(TALLIES)
    hot = True

    def __init__(self, ground, options):
        self.sample = int(options.get("sample", SAMPLE))
        self.raw = options.get("variant", "raw") == "raw"
        self.why = ""
        events = [event for event, _ in EVENTS]
        for event in events:
            ground.fields(event)
        offsets = []
        if self.raw:
            try:
                offsets = ground.offsets(*MEMBERS)
            except Unavailable as failure:
                self.raw, self.why = False, failure.message
        self.flags = ["-DHOPS_RAW=%d" % self.raw, "-DHOPS_VXLAN_PORT=4789"]
        self.flags.append("-DHOPS_SAMPLE=%d" % self.sample)
        self.flags += ["-DHOPS_LIMIT_NS=%d" % int(options.get("limit_ns", 10**9))]
        for member, offset in zip(MEMBERS, offsets):  # noqa: B905
            self.flags.append("-DHOPS_%s=%d" % (member.upper().replace(".", "_"), offset))
        parts = [SOURCE, RAW] if self.raw else [SOURCE]
        hooks = []
        for event, kind in EVENTS:
            category, _, name = event.partition(":")
            if not self.raw:
                ground.fields(event, ("skbaddr", "len"))
            template = RAW_EVENT if self.raw else CLASSIC_EVENT
            device = "" if kind == COPY else BY_NAME
            values = {"name": name, "category": category, "kind": kind, "device": device}
            if self.raw:
                values["length"] = "ctx->args[1]" if kind == COPY else "0"
            else:
                values["length"] = "args->len"
            parts.append(template % values)
            hooks.append(("raw", name, "hops_" + name) if self.raw
                         else ("tracepoint", event, "hops_" + name))  # fmt: skip
        self.source = "\n".join(parts)
        self.hooks = tuple(hooks)

    def facts(self):
        """Which variant, and how many packets are followed."""
        if self.raw:
            variant = "raw tracepoints, structures by BTF"
        else:
            variant = "tracepoints, devices by name"
            if self.why:
                variant += " (%s)" % self.why
        return {"variant": variant, "followed": "one packet of %d" % self.sample}

    def arm(self, maps, ends):
        """Follow what the ends send to each other, along the devices of their nodes."""
        maps["hops_followed"].clear()
        maps["hops_devices"].clear()
        for chain in (0, 1):
            put(maps["hops_flows"], chain, self.flow(chain, ends))
        found = {}
        for end in ends:
            for key, role in self.devices(end).items():
                found.setdefault(key, set()).add((role, code(end)))
        table = maps["hops_devices"]
        for key, places in found.items():
            roles = {role for role, _ in places}
            shared = roles == {POD} or (roles == {TUNNEL} and not self.raw)
            if len(places) > 1 and not shared:
                continue  # both ends' node has it: what they send each other does not pass it
            role, end = min(places)
            leaf = struct.pack(DEVICE_LAYOUT, role, end if len(places) == 1 else UNKNOWN)
            packed = table.Key.from_buffer_copy(key.ljust(16, b"\0") if not self.raw else key)
            table[packed] = table.Leaf.from_buffer_copy(leaf)

    def flow(self, chain, ends):
        """What goes into hops_flows of what the client (0) or the server (1) sends."""
        here = {code(end): end for end in ends}
        end = here.get(chain) or here.get(1 - chain)
        if end is None or not any(sends(end, chain) for end in ends):
            return struct.pack(FLOW_LAYOUT, *[0] * 9)
        local, remote = number(end["local"]), number(end["remote"])
        pair = (local, remote) if code(end) == chain else (remote, local)
        if code(end) == chain:
            start = (QUEUE, POD if end["netns_pid"] else NIC)
        else:
            start = (RX, NIC)
        # Of a datagram's reading no event tells on every kernel.
        arrival = "pod-receive" if end["netns_pid"] else "nic-receive"
        last = PLACES.index(arrival if end["udp"] else "socket-copy")
        if 1 - chain not in here:
            last = PLACES.index("nic-xmit")  # the receiver's half is in another kernel
        return struct.pack(
            FLOW_LAYOUT,
            1,
            pair[0],
            pair[1],
            end["first_port"],
            end["last_port"],
            chain,
            start[0],
            start[1],
            last,
        )

    def devices(self, end):
        """Key in hops_devices -> role, of the devices that an end's packets may pass."""
        found = {}
        node = end["node_pid"]
        for name, index in devices(node).items():
            role = role_of(name, end)
            if role:
                found[self.key(node, name, index)] = role
        if end["netns_pid"]:
            pod = end["netns_pid"]
            found[self.key(pod, end["device"], devices(pod)[end["device"]])] = POD
        return found

    def key(self, pid, name, index):
        """A device as the kernel's side tells it: by namespace and number, or by its name."""
        if self.raw:
            return struct.pack("=II", os.stat("/proc/%d/ns/net" % pid).st_ino, index)
        return name.encode()[:15]

    def read(self, maps, rows):
        """Steps and totals of each direction: count, sum and bins; and what became of the walks."""
        steps = {}
        for chain, sender in enumerate(("client", "server")):
            for place, row in enumerate(rows[chain * 169 : chain * 169 + 169]):
                if row is None or not row.bins:
                    continue
                first, last = divmod(place, 13)
                steps.setdefault(sender, []).append(
                    {
                        "from": PLACES[first],
                        "to": PLACES[last],
                        "events": row.events,
                        "sum_ns": row.tally,
                        "bins": row.bins,
                    }
                )
        tallies = (row.tally if row else 0 for row in rows[338:])
        return {"steps": steps, "walks": dict(zip(TALLIES, tallies))}  # noqa: B905


def code(end):
    """0 for the client's end, 1 for the server's."""
    return int(end["server"])


def sends(end, chain):
    """Whether an end knows that the client (0) or the server (1) sends what is to be followed."""
    if end["answers"]:
        return True
    return end["sends"] if code(end) == chain else end["peer_sends"]


def role_of(name, end):
    """What a device of an end's node is to its packets; None where they do not pass it."""
    if end["netns_pid"] and name == end["host_device"]:
        return VETH
    if name.startswith(TUNNELS):
        return TUNNEL
    if not end["netns_pid"] and name == end["device"]:
        return NIC
    return None if name.startswith(ASIDE) else NIC


def number(address):
    """An IPv4 address as it is compared in the kernel."""
    return struct.unpack("=I", socket.inet_pton(socket.AF_INET, address))[0]
