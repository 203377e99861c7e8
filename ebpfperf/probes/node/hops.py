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
from hops_programs import BY_NAME, CLASSIC_EVENT, RAW, RAW_EVENT, SOURCE

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
