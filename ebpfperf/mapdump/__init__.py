"""Calico's BPF maps as frames: every layout of every release, from every form of a dump. Pure.

``reading.decode`` is the way in: bytes of a dump → ``Decoded`` (a frame whose columns
docs/maps.md lists, and what is to be said of it). ``objects.of`` makes JSON objects of a frame.

Byte order: Calico runs on little-endian machines alone (felix/bpf/bpf.go refuses others), so that
numbers are little-endian whatever machine this runs on; addresses, and TCP's sequence numbers, are
in network byte order.
"""
