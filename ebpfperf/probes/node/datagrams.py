"""Sends a few VXLAN datagrams to other nodes, and listens for those of others and its own.

No probe: one process that ends after a second. ``ebpfperf/underlay_probe.py`` sends it and says to
whom. A datagram is IPv4, UDP without checksum (as VXLAN has it over IPv4), a VXLAN header (RFC
7348) of a network that nobody uses, and an Ethernet frame of 60 bytes between two made-up stations
of the type for local experiments (IEEE 802, 0x88b5), which no protocol takes. In the frame are a
mark, the run's token, which pair of nodes it is for, and its number.

It listens by a packet socket, which sees what arrives before BPF programs of tc and netfilter do,
and what leaves after them. Nothing is changed.
"""

import ctypes
import json
import select
import signal
import socket
import struct
import sys
import time

ETH_ALL = 3
SO_ATTACH_FILTER, SO_RCVBUFFORCE = 26, 33
OUTGOING = 4  # PACKET_OUTGOING, include/uapi/linux/if_packet.h
IP_BYTES, UDP_BYTES, VXLAN_BYTES, FRAME_BYTES = 20, 8, 8, 60
UDP, TTL = 17, 64
VXLAN_VALID = 0x08000000
EXPERIMENTAL = 0x88B5
STATIONS = bytes.fromhex("026562706602026562706601")
MARK = b"ebpfperf"
TOKEN_BYTES = 8
# Devices that are no way out of the node.
INSIDE = ("lo", "cali", "bpfin.cali", "bpfout.cali")
LIMIT_S, PAUSE_S, BUFFER_BYTES = 60, 0.01, 1 << 20
# sock_filter: code, jump if true, jump if false, value. IPv4, UDP, no later fragment, and behind
# the headers the VXLAN flags and the network. What it sees begins at the IP header.
LOAD_BYTE, LOAD_HALF, LOAD_HEADER = 0x30, 0x28, 0xB1
LOAD_WORD_AT, MASK, EQUAL, ANY_BIT, RETURN = 0x40, 0x54, 0x15, 0x45, 0x06


def main(asked):
    """Listens, says ``ready``, sends when told to, says ``sent``, and when told to what it saw."""
    signal.alarm(LIMIT_S)
    try:
        ear = listening(asked["vni"])
        mouth = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    except OSError as error:
        say({"event": "error", "message": str(error)})
        return
    heard = Heard(bytes.fromhex(asked["token"]))
    say({"event": "ready"})
    if not listen(ear, heard):
        return
    sent, errors = send(mouth, ear, heard, asked)
    say({"event": "sent"})
    listen(ear, heard)
    await_all(ear, heard, asked)
    say({"event": "heard", "sent": sent, "errors": errors,
         "left": heard.counts(heard.left), "arrived": heard.counts(heard.arrived)})  # fmt: skip


def say(what):
    """One line of JSON."""
    print(json.dumps(what), flush=True)


# ------------------------------------------------------------------------------- datagrams


def datagram(source, destination, port, source_port, vni, token, pair, number):
    """The bytes of an IPv4 packet, its checksum right; UDP's is zero: none."""
    frame = STATIONS + struct.pack("!H", EXPERIMENTAL) + MARK + token
    frame += struct.pack("!HH", pair, number)
    frame += bytes(FRAME_BYTES - len(frame))
    vxlan = struct.pack("!II", VXLAN_VALID, vni << 8)
    udp = struct.pack("!HHHH", source_port, port, UDP_BYTES + VXLAN_BYTES + FRAME_BYTES, 0)
    total = IP_BYTES + UDP_BYTES + VXLAN_BYTES + FRAME_BYTES
    ends = socket.inet_aton(source) + socket.inet_aton(destination)
    # The identification stays 0: the kernel then chooses it, and the checksum with it.
    head = struct.pack("!BBHHHBBH", 0x45, 0, total, 0, 0, TTL, UDP, 0) + ends
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    return head + udp + vxlan + frame


def checksum(head):
    """The internet checksum (RFC 1071) of an IP header."""
    total = sum(struct.unpack("!%dH" % (len(head) // 2), head))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def send(mouth, ear, heard, asked):
    """Pair → how many the kernel took, and pair → why it refused one."""
    token = bytes.fromhex(asked["token"])
    sent, errors = {}, {}
    for number in range(asked["count"]):
        for each in asked["sends"]:
            pair = each["pair"]
            packet = datagram(
                each["source"], each["to"], each["port"], each["source_port"], asked["vni"],
                token, pair, number,
            )  # fmt: skip
            sent.setdefault(pair, 0)
            try:
                mouth.sendto(packet, (each["to"], 0))
                sent[pair] += 1
            except OSError as error:
                errors[pair] = str(error)
        drain(ear, heard)
        time.sleep(PAUSE_S)
    return sent, errors


# ----------------------------------------------------------------------------------- ears


class Heard:
    """Which datagrams of a run were seen leaving and arriving: each once, and by which devices."""

    def __init__(self, token):
        self.mark = MARK + token
        self.left, self.arrived = {}, {}

    def take(self, packet, device, outgoing):
        """Take down a packet, which may be several that the kernel merged."""
        if outgoing and device.startswith(INSIDE):
            return
        at = packet.find(self.mark)
        while at >= 0:
            at += len(self.mark)
            if len(packet) < at + 4:
                return
            pair, number = struct.unpack("!HH", packet[at : at + 4])
            seen = self.left if outgoing else self.arrived
            numbers, devices = seen.setdefault(pair, (set(), set()))
            numbers.add(number)
            devices.add(device)
            at = packet.find(self.mark, at)

    def missing(self, pair, count):
        """How many of a pair's datagrams have not arrived."""
        return count - len(self.arrived.get(pair, ((), ()))[0])

    def counts(self, seen):
        """Pair → how many, and on which devices."""
        return {pair: [len(numbers), sorted(devices)] for pair, (numbers, devices) in seen.items()}


def rules(vni):
    """The filter of the packet socket: VXLAN of this network alone."""
    drop = 13
    return [
        (LOAD_BYTE, 0, 0, 0),
        (MASK, 0, 0, 0xF0),
        (EQUAL, 0, drop - 3, 0x40),
        (LOAD_BYTE, 0, 0, 9),
        (EQUAL, 0, drop - 5, UDP),
        (LOAD_HALF, 0, 0, 6),
        (ANY_BIT, drop - 7, 0, 0x1FFF),
        (LOAD_HEADER, 0, 0, 0),
        (LOAD_WORD_AT, 0, 0, UDP_BYTES),
        (EQUAL, 0, drop - 10, VXLAN_VALID),
        (LOAD_WORD_AT, 0, 0, UDP_BYTES + 4),
        (EQUAL, 0, drop - 12, vni << 8),
        (RETURN, 0, 0, 0x40000),
        (RETURN, 0, 0, 0),
    ]


def listening(vni):
    """A packet socket on all devices that sees these datagrams and nothing else."""
    program = b"".join(struct.pack("HBBI", *rule) for rule in rules(vni))
    kept = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("HL", len(program) // 8, ctypes.addressof(kept))
    # What comes before the filter is on has no mark.
    ear = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_ALL))
    ear.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, described)
    try:
        ear.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
    except OSError:
        pass  # The usual buffer holds some hundred as well.
    ear.setblocking(False)
    return ear


def listen(ear, heard):
    """Takes down what is heard until a line comes; whether one came."""
    while True:
        ready, _, _ = select.select([ear, sys.stdin], [], [])
        if ear in ready:
            drain(ear, heard)
        if sys.stdin in ready:
            line = sys.stdin.readline()
            drain(ear, heard)
            return bool(line)


def await_all(ear, heard, asked):
    """Listens on until all that was sent here has arrived, or that much time has passed."""
    deadline = time.monotonic() + asked["arrive_s"]
    while any(heard.missing(pair, asked["count"]) for pair in asked["expects"]):
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            return
        select.select([ear], [], [], left_s)
        drain(ear, heard)


def drain(ear, heard):
    """Takes down all that waits."""
    while True:
        try:
            packet, place = ear.recvfrom(1 << 16)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            return  # A device went down: what was heard stays heard.
        heard.take(packet, place[0], place[2] == OUTGOING)
