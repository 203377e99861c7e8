"""How long a flow's TCP connections took: from the first SYN to the answer, where they are made.

One event a connection, whatever the window: connections are made before it opens.
"""

from counting import ENDS
from ground import Probe as Base

EVENT = "sock:inet_sock_set_state"
NEEDED = ("skaddr", "oldstate", "newstate", "sport", "dport", "protocol", "saddr", "daddr")

SOURCE = r"""
struct tcp_connect_start { u64 at, place; };
BPF_HASH(tcp_connect_begun, u64, struct tcp_connect_start, 4096);

/* BCC declares an event's structure for each function that names it in its head: once is enough. */
int tcp_connect_state(void *ctx)
{
    struct tracepoint__sock__inet_sock_set_state *args = ctx;
    u64 now = bpf_ktime_get_ns(), socket = (u64)args->skaddr;
    int state = args->newstate;
    if (state == 2) {
        /* The kernel has chosen both addresses, but not always its own port yet. */
        u32 local = *(volatile u32 *)&args->saddr[0], remote = *(volatile u32 *)&args->daddr[0];
        u16 remote_port = args->dport, protocol = args->protocol;
        int place = end_of(local, remote, 0, remote_port);
        if (protocol != 6 || place < 0)
            return 0;
        struct tcp_connect_start start = { now, place };
        if (tcp_connect_begun.update(&socket, &start))
            tally(TCP_CONNECT_ROW + ENDS + place, 1);
        return 0;
    }
    if (state != 1 && state != 7)
        return 0;
    struct tcp_connect_start *start = tcp_connect_begun.lookup(&socket);
    if (!start)
        return 0;
    u32 row = TCP_CONNECT_ROW + start->place;
    if (state == 1)
        observe(row, now - start->at);
    else
        tally(row, 1);
    tcp_connect_begun.delete(&socket);
    return 0;
}
"""


class Probe(Base):
    """The ``tcp_connect`` probe."""

    name = "tcp_connect"
    source = SOURCE
    hooks = (("tracepoint", EVENT, "tcp_connect_state"),)
    rows = 2 * ENDS

    def __init__(self, ground, options):
        ground.fields(EVENT, NEEDED)
        self.ends = []

    def facts(self):
        """What it hooks in to."""
        return {"variant": "tracepoint " + EVENT}

    def arm(self, maps, ends):
        """Look for the connections of the ends that connect."""
        self.ends = ends
        maps["tcp_connect_begun"].clear()

    def read(self, maps, rows):
        """Per connecting end: connections and bins, those that failed, wait still, or are missed.

        ``missed`` are connections for whose beginning there was no room.
        """
        waiting = [start.place for start in maps["tcp_connect_begun"].values()]
        found = {}
        for place, end in enumerate(self.ends):
            if end["server"]:
                continue
            row, missed = rows[place], rows[ENDS + place]
            found[end["end"]] = {
                "events": row.events if row else 0,
                "bins": row.bins if row else [],
                "failed": row.tally if row else 0,
                "waiting": waiting.count(place),
                "missed": missed.tally if missed else 0,
            }
        return {"ends": found}
