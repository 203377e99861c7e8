"""The C of ``hops``: where a walk begins, goes on and ends; see hops.py for the places' numbers."""

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
