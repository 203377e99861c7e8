"""Which BPF programs are on the devices of a network namespace, and in which of their hooks.

By rtnetlink and bpf(2), not by ``tc`` and ``ip``, which may be older than the hooks.
Sources: include/uapi/linux/{rtnetlink,if_link,pkt_sched,pkt_cls}.h.
"""

import os
import socket
import struct

import bpf_call

GETLINK, GETFILTER, ERROR, DONE = 18, 46, 2, 3
REQUEST, DUMP = 0x1, 0x300
DIRECTIONS = {"ingress": (0xFFFFFFF2, 46), "egress": (0xFFFFFFF3, 47)}  # clsact parent, TCX type
IFLA_IFNAME, IFLA_XDP, XDP_IDS = 3, 43, (4, 5, 6, 7)
TCA_KIND, TCA_OPTIONS, BPF_ID = 1, 2, 11
MESSAGE_AT, NESTED = 16, 0x3FFF


def hooks():
    """Hook (``cali1234 ingress tcx``) -> ids of its programs, in this thread's namespace; OSError.

    Kinds are ``tcx``, ``filter`` (of clsact) and ``xdp`` (direction ingress).
    """
    found = {}
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as wire:
        wire.settimeout(5.0)
        for device, ifindex, xdp in links(wire):
            places = [("ingress xdp", xdp)]
            for direction, (parent, kind) in DIRECTIONS.items():
                places.append((direction + " filter", filters(wire, ifindex, parent)))
                places.append((direction + " tcx", bpf_call.on_device(ifindex, kind)))
            found.update({device + " " + place: ids for place, ids in places if ids})
    return found


def links(wire):
    """(name, ifindex, ids of XDP programs) of every device."""
    found = []
    for body in dump(wire, GETLINK, struct.pack("=BxHiII", 0, 0, 0, 0, 0)):
        (ifindex,) = struct.unpack_from("=i", body, 4)
        parts = attributes(body, 16)
        xdp = attributes(parts.get(IFLA_XDP, b""), 0)
        ids = {number(xdp[kind]) for kind in XDP_IDS if kind in xdp}
        found.append((text(parts[IFLA_IFNAME]), ifindex, sorted(ids - {0})))
    return found


def filters(wire, ifindex, parent):
    """Ids of the BPF filters of one side of a device."""
    found = []
    for body in dump(wire, GETFILTER, struct.pack("=BxxxiIII", 0, ifindex, 0, parent, 0)):
        parts = attributes(body, 20)
        if text(parts.get(TCA_KIND, b"")) != "bpf":
            continue
        options = attributes(parts.get(TCA_OPTIONS, b""), 0)
        if BPF_ID in options:
            found.append(number(options[BPF_ID]))
    return found


def dump(wire, command, body):
    """The bodies of all messages that answer; OSError where the kernel refuses."""
    flags = REQUEST | DUMP
    wire.send(struct.pack("=IHHII", MESSAGE_AT + len(body), command, flags, 1, 0) + body)
    found = []
    while True:
        data = wire.recv(1 << 18)
        place = 0
        while place + MESSAGE_AT <= len(data):
            length, kind = struct.unpack_from("=IH", data, place)
            if kind == DONE:
                return found
            if kind == ERROR:
                (code,) = struct.unpack_from("=i", data, place + MESSAGE_AT)
                raise OSError(-code, os.strerror(-code))
            found.append(data[place + MESSAGE_AT : place + length])
            place += (length + 3) & ~3


def attributes(data, place):
    """Kind -> value of the attributes from ``place`` on."""
    found = {}
    while place + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, place)
        if length < 4:
            break
        found[kind & NESTED] = data[place + 4 : place + length]
        place += (length + 3) & ~3
    return found


def number(value):
    """An attribute's 32 bits as a number."""
    return struct.unpack_from("=I", value)[0]


def text(value):
    """An attribute that ends in a zero as text."""
    return value.split(b"\0")[0].decode("utf-8", "replace")
