"""The smoothed TCP round-trip time of a flow, at every end that sends: one value an ACK.

Only segments without payload count where ``pure`` is set; see docs/probes.md.
"""

import struct

from counting import ENDS, put
from ground import Probe as Base

EVENT = "tcp:tcp_probe"
NEEDED = ("saddr", "daddr", "sport", "dport", "srtt")
LAYOUT = "=II"  # struct tcp_rtt_want

SOURCE = r"""
struct tcp_rtt_want { u32 wanted, pure; };
BPF_ARRAY(tcp_rtt_wants, struct tcp_rtt_want, ENDS);

/* BCC declares an event's structure for each function that names it in its head: once is enough,
   and opening_data has it. */
int tcp_rtt_segment(void *ctx)
{
    struct tracepoint__tcp__tcp_probe *args = ctx;
    u32 place = END_OF_SEGMENT(args);
    struct tcp_rtt_want *want = tcp_rtt_wants.lookup(&place);
    if (!want || !want->wanted)
        return 0;
    if (!in_slice(bpf_ktime_get_ns())) {
        tally(TCP_RTT_ROW + ENDS + place, 1);
        return 0;
    }
    if (TCP_RTT_PAYLOAD) {
        tally(TCP_RTT_ROW + place, 1);
        if (want->pure)
            return 0;
    }
    observe(TCP_RTT_ROW + place, (u64)args->srtt * 1000);
    return 0;
}
"""


class Probe(Base):
    """The ``tcp_rtt`` probe."""

    name = "tcp_rtt"
    source = SOURCE
    hooks = (("tracepoint", EVENT, "tcp_rtt_segment"),)
    rows = 2 * ENDS
    hot = True

    def __init__(self, ground, options):
        fields = ground.fields(EVENT, NEEDED)
        # Linux 6.2 renamed it.
        payload = next(("args->" + name for name in ("data_len", "length") if name in fields), "0")
        self.flags = ["-DTCP_RTT_PAYLOAD=" + payload]
        self.layout = "; ".join(fields[name][0] for name in NEEDED)
        self.ends = []

    def facts(self):
        """How this kernel lays the tracepoint out."""
        return {"variant": "tracepoint " + EVENT, "tracepoint": self.layout}

    def arm(self, maps, ends):
        """Count at the ends that send."""
        self.ends = ends
        for place in range(ENDS):
            put(maps["tcp_rtt_wants"], place, struct.pack(LAYOUT, 0, 0))
        for place, end in enumerate(ends):
            packed = struct.pack(LAYOUT, int(end["sends"]), int(end["pure"]))
            put(maps["tcp_rtt_wants"], place, packed)

    def read(self, maps, rows):
        """Per sending end: events and bins, segments with data, segments outside the window."""
        found = {}
        for place, end in enumerate(self.ends):
            if not end["sends"]:
                continue
            row, outside = rows[place], rows[ENDS + place]
            found[end["end"]] = {
                "events": row.events if row else 0,
                "bins": row.bins if row else [],
                "data": row.tally if row else 0,
                "outside": outside.tally if outside else 0,
            }
        return {"ends": found}
