"""TCP segments that a flow's ends sent again in the steady window, by the state of the connection.

Counted as the kernel's own RetransSegs is: by segment, of which one buffer may hold several. What
this machine itself refused to send is not among them.
"""

from counting import ENDS
from ground import Probe as Base

EVENT, SYNACK = "tcp:tcp_retransmit_skb", "tcp:tcp_retransmit_synack"
NEEDED = ("sport", "dport", "saddr", "daddr")
# include/net/tcp_states.h
STATES = {
    1: "ESTABLISHED",
    2: "SYN_SENT",
    3: "SYN_RECV",
    4: "FIN_WAIT1",
    5: "FIN_WAIT2",
    6: "TIME_WAIT",
    7: "CLOSE",
    8: "CLOSE_WAIT",
    9: "LAST_ACK",
    10: "LISTEN",
    11: "CLOSING",
    12: "NEW_SYN_RECV",
}
PER_END = 16

SOURCE = r"""
static __always_inline void retransmits_count(int place, u32 state, u64 segments)
{
    if (place >= 0 && counting(bpf_ktime_get_ns()))
        tally(RETRANSMITS_ROW + place * 16 + (state & 15), segments);
}

int retransmits_segment(struct tracepoint__tcp__tcp_retransmit_skb *args)
{
    /* Kernels that say how it ended come by when nothing was sent, too. */
    if (RETRANSMITS_REFUSED)
        return 0;
    u32 local = *(volatile u32 *)&args->saddr[0], remote = *(volatile u32 *)&args->daddr[0];
    u16 local_port = args->sport, remote_port = args->dport, segments = 0;
    u64 buffer = (u64)args->skbaddr;
    bpf_probe_read(&segments, sizeof(segments), (void *)(buffer + RETRANSMITS_SEGMENTS));
    retransmits_count(end_of(local, remote, local_port, remote_port), args->state, segments);
    return 0;
}

/* It has no connection yet: SYN_RECV. */
int retransmits_synack(struct tracepoint__tcp__tcp_retransmit_synack *args)
{
    u32 local = *(volatile u32 *)&args->saddr[0], remote = *(volatile u32 *)&args->daddr[0];
    u16 local_port = args->sport, remote_port = args->dport;
    retransmits_count(end_of(local, remote, local_port, remote_port), 3, 1);
    return 0;
}
"""


class Probe(Base):
    """The ``retransmits`` probe."""

    name = "retransmits"
    source = SOURCE
    hooks = (
        ("tracepoint", EVENT, "retransmits_segment"),
        ("tracepoint", SYNACK, "retransmits_synack"),
    )
    rows = PER_END * ENDS

    def __init__(self, ground, options):
        fields = ground.fields(EVENT, (*NEEDED, "skbaddr", "state"))
        ground.fields(SYNACK, NEEDED)
        inside, segments = ground.offsets("sk_buff.cb", "tcp_skb_cb.tcp_gso_segs")
        self.flags = [
            "-DRETRANSMITS_SEGMENTS=%d" % (inside + segments),
            "-DRETRANSMITS_REFUSED=" + ("args->err" if "err" in fields else "0"),
        ]
        self.ends = []

    def facts(self):
        """What it hooks in to."""
        return {"variant": "tracepoints %s, %s" % (EVENT, SYNACK)}

    def arm(self, maps, ends):
        """Count at both ends."""
        self.ends = ends

    def read(self, maps, rows):
        """Per end: state -> segments sent again, states without any left out."""
        found = {}
        for place, end in enumerate(self.ends):
            own = {name: rows[place * PER_END + state] for state, name in STATES.items()}
            found[end["end"]] = {name: row.tally for name, row in own.items() if row}
        return {"ends": found}
