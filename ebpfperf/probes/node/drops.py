"""Packets that the kernel dropped in the steady window, by reason, place and protocol.

Buffers that were delivered are freed at another tracepoint. What comes by here all the same and is
no loss is set apart: see ``NO_LOSS``.
"""

import bisect

from ground import Probe as Base
from ground import Unavailable

EVENT = "skb:kfree_skb"
NEEDED = ("skbaddr", "location", "protocol")
# CONSUMED: delivered. QUEUE_PURGE, SOCKET_CLOSE: what nobody read goes with its socket or device.
# UNIX_...: sockets of one machine, no packets.
NO_LOSS = ("CONSUMED", "QUEUE_PURGE", "SOCKET_CLOSE", "UNIX_DISCONNECT", "UNIX_SKIP_OOB")
# The kernel's word for a place that gives no reason. It is no loss where a socket or queue goes
# with what nobody read, nor without a network's protocol: netlink, Unix sockets, what was not sent.
UNSAID = "NOT_SPECIFIED"
GOING = (
    "inet_sock_destruct",
    "sk_stream_kill_queues",
    "skb_queue_purge",
    "skb_queue_purge_reason",
    "udp_destruct_common",
    "udp_destruct_sock",
)
PLACES = 1024

SOURCE = r"""
struct drops_key { u64 location; u32 reason; u16 protocol, flow; };
BPF_HASH(drops_seen, struct drops_key, u64, DROPS_PLACES);

#ifdef DROPS_HEAD
struct drops_ip {
    u8 words, tos;
    u16 length, id, fragment;
    u8 ttl, protocol;
    u16 sum;
    u32 from, to;
};

/* Whether the IPv4 packet there is the flow's; else what it may carry inside, or 0. */
static __always_inline int drops_packet(u64 at, u64 *inside)
{
    struct drops_ip ip = {};
    u16 ports[2] = {};
    *inside = 0;
    if (bpf_probe_read(&ip, sizeof(ip), (void *)at) || ip.words >> 4 != 4)
        return 0;
    at += (ip.words & 15) * 4;
    if (ip.protocol == 4)
        *inside = at;
    if (ip.protocol != 6 && ip.protocol != 17 || ip.fragment & bpf_htons(0x1fff))
        return 0;
    if (bpf_probe_read(ports, sizeof(ports), (void *)at))
        return 0;
    u16 source = bpf_ntohs(ports[0]), target = bpf_ntohs(ports[1]);
    if (end_of(ip.from, ip.to, source, target) >= 0 || end_of(ip.to, ip.from, target, source) >= 0)
        return 1;
    /* VXLAN, on whichever port: the headers of UDP, VXLAN and Ethernet. */
    if (ip.protocol == 17)
        *inside = at + 8 + 8 + 14;
    return 0;
}

static __always_inline int drops_flow(u64 buffer)
{
    u64 head = 0, inside = 0, none;
    u16 network = 0;
    bpf_probe_read(&head, sizeof(head), (void *)(buffer + DROPS_HEAD));
    bpf_probe_read(&network, sizeof(network), (void *)(buffer + DROPS_NETWORK));
    if (drops_packet(head + network, &inside))
        return 1;
    return inside && drops_packet(inside, &none);
}
#else
#define drops_flow(buffer) 0
#endif

int drops_freed(void *ctx)
{
    if (!counting(bpf_ktime_get_ns()))
        return 0;
    struct drops_key key = {};
    u64 buffer = *(u64 *)((char *)ctx + DROPS_BUFFER), one = 1;
    key.location = *(u64 *)((char *)ctx + DROPS_LOCATION);
    key.protocol = *(u16 *)((char *)ctx + DROPS_PROTOCOL);
#ifdef DROPS_REASON
    key.reason = *(u32 *)((char *)ctx + DROPS_REASON);
#endif
    key.flow = drops_flow(buffer);
    u64 *count = drops_seen.lookup(&key);
    if (!count) {
        if (!drops_seen.insert(&key, &one))
            return 0;
        count = drops_seen.lookup(&key);
    }
    if (count)
        __sync_fetch_and_add(count, 1);
    else
        tally(DROPS_ROW, 1);
    return 0;
}
"""


class Probe(Base):
    """The ``drops`` probe."""

    name = "drops"
    source = SOURCE
    hooks = (("tracepoint", EVENT, "drops_freed"),)
    rows = 1

    def __init__(self, ground, options):
        # By offset: the type of one of its fields is unknown to older headers.
        fields = ground.fields(EVENT, NEEDED)
        places = {
            "BUFFER": fields["skbaddr"][1],
            "LOCATION": fields["location"][1],
            "PROTOCOL": fields["protocol"][1],
            "PLACES": PLACES,
        }
        self.reasons = None
        if "reason" in fields:
            places["REASON"] = fields["reason"][1]
            self.reasons = ground.symbols(EVENT, "reason")
        self.symbols = {}
        self.flow = ""
        try:
            names = ("sk_buff.head", "sk_buff.network_header")
            places["HEAD"], places["NETWORK"] = ground.offsets(*names)
        except Unavailable as failure:
            self.flow = failure.message
        self.flags = ["-DDROPS_%s=%d" % place for place in sorted(places.items())]

    def facts(self):
        """Whether the kernel gives reasons, and whether packets are told to be the flow's."""
        reasons = "gives no reasons, so that buffers freed without a loss are counted too"
        if self.reasons is not None:
            reasons = "gives reasons"
        return {
            "variant": "tracepoint %s, which %s" % (EVENT, reasons),
            "of_flow": "UNKNOWN: " + self.flow if self.flow else "by addresses and ports",
        }

    def arm(self, maps, ends):
        """Forget what was dropped."""
        maps["drops_seen"].clear()
        self.symbols = {}

    def read(self, maps, rows):
        """Counts by reason, function and protocol, what is no loss apart, and those without room.

        ``reason`` is empty where the kernel gives none.
        """
        found = []
        seen = maps["drops_seen"].items()
        places = self.places({key.location for key, _ in seen})
        for key, count in seen:
            reason, place = self.reason(key.reason), places[key.location]
            gone = place in GOING or not key.protocol
            found.append(
                {
                    "reason": reason,
                    "place": place,
                    "protocol": key.protocol,
                    "flow": bool(key.flow),
                    "loss": not (reason in NO_LOSS or (reason == UNSAID and gone)),
                    "count": count.value,
                }
            )
        missed = rows[0].tally if rows[0] else 0
        return {"drops": found, "of_flow": not self.flow, "missed": missed}

    def reason(self, number):
        """Name of a reason; its number where the kernel does not print a name."""
        if self.reasons is None:
            return ""
        return self.reasons.get(number, "REASON_%#x" % number)

    def places(self, addresses):
        """Address -> function, those known since ``arm`` remembered: modules come and go."""
        new = addresses - set(self.symbols)
        if new:
            self.symbols.update(functions(new))
        return self.symbols


def functions(addresses):
    """Address -> kernel function there, or the address in hexadecimal where that is hidden.

    Format: /proc/kallsyms, proc(5).
    """
    names = {}
    with open("/proc/kallsyms") as stream:
        for line in stream:
            address, kind, name = line.split()[:3]
            if kind in "tTwW":
                names.setdefault(int(address, 16), name)
    names.pop(0, None)
    starts = sorted(names)
    found = {}
    for address in addresses:
        place = bisect.bisect_right(starts, address)
        found[address] = names[starts[place - 1]] if place else "%#x" % address
    return found
