"""When the steady window of a flow's traffic opens."""

import ctypes
import time

POLL_S = 0.01
# What the window opens with -> counters of a network namespace that show it, and how many more of
# them do: a connection alone takes some segments.
SHOWN = {
    "connection": ({"Tcp": ("ActiveOpens", "PassiveOpens")}, 1),
    "data": ({"Tcp": ("InSegs",)}, 20),
    "traffic": ({"Udp": ("InDatagrams", "OutDatagrams")}, 1),
}


def clock_ns():
    """Now, on the clock of bpf_ktime_get_ns."""
    return int(time.clock_gettime(time.CLOCK_MONOTONIC) * 1e9)


class Opening:
    """When the window opens: with a connection, received data, sent datagrams, or at once.

    Without BPF programs here the counters of the ends' network namespaces show it.
    """

    def __init__(self, programs, window, ends, since_ns):
        self.moments = programs.bpf["moments"] if programs else None
        self.opens = window["opens"]
        self.ends = ends
        self.since_ns = since_ns
        self.counters, self.more = SHOWN.get(self.opens, ({}, 0))
        self.before = self.counted()

    def wait(self, ending):
        """The moment it opened (ns), or 0 where the end was called for before."""
        while not ending.is_set():
            opened = self.opened()
            if opened:
                return opened
            ending.wait(POLL_S)
        return 0

    def opened(self):
        """The moment it opened (ns), or 0 when it did not yet."""
        if self.moments is None:
            if self.opens == "now":
                return self.since_ns
            return clock_ns() if self.shown() else 0
        fields = self.moments[ctypes.c_int(0)]
        if not fields.opened and self.opens == "traffic" and self.shown():
            fields.opened = clock_ns()
            self.moments[ctypes.c_int(0)] = fields
        return fields.opened

    def shown(self):
        """Whether the counters show that the traffic began."""
        return self.counted() >= self.before + self.more

    def counted(self):
        """What the counters of the ends' network namespaces add up to."""
        total = 0
        for end in self.ends:
            with open("/proc/%d/net/snmp" % (end["netns_pid"] or end["node_pid"])) as stream:
                lines = [line.split() for line in stream]
            for protocol, wanted in self.counters.items():
                names, numbers = (words for words in lines if words[0] == protocol + ":")
                total += sum(int(numbers[names.index(name)]) for name in wanted)
        return total
