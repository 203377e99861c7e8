// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Where an allowed packet goes: by the short-cut past the host's IP stack, or up into it. */
#ifndef FORWARD_H
#define FORWARD_H

#include "tunnel.h"

#define AF_INET 2

static __always_inline int redirected(const struct packet *p, __u32 counter, int action)
{
#if HAS_REDIRECT_COUNTERS
	if (action == TC_ACT_REDIRECT)
		count(p->ifindex, counter);
#endif
	return action;
}

static __always_inline int by_fib(struct __sk_buff *skb, const struct packet *p)
{
	struct bpf_fib_lookup fib = {};
	__u8 macs[12];
	long code;

	fib.family = AF_INET;
	fib.l4_protocol = p->proto;
	fib.sport = bpf_htons(p->sport);
	fib.dport = bpf_htons(p->dport);
	/* Of a packet that is still to be cut, the pieces count; the kernel looks at them itself. */
	fib.tot_len = skb->gso_size ? 0 : p->ip_bytes;
	fib.ifindex = p->ifindex;
	fib.ipv4_src = p->saddr;
	fib.ipv4_dst = p->daddr;
	fib.tos = p->tos & 0x1c;
	code = bpf_fib_lookup(skb, &fib, sizeof(fib), 0);
	if (code < 0) {
		DEBUG("FIB lookup failed (bad input): %d.", (int)code);
		return TC_ACT_UNSPEC;
	}
#if RELEASE >= 332
	/* A tunnel for IP alone has no neighbours: where it leads is all there is to know. */
	if (code == BPF_FIB_LKUP_RET_NO_NEIGH && fib.ifindex == config.tunl_ifindex) {
		if (lower_ttl(skb, p))
			return TC_ACT_SHOT;
		DEBUG("Redirect to dev %d without fib lookup", fib.ifindex);
		return redirected(p, C_REDIRECT, bpf_redirect(fib.ifindex, 0));
	}
#endif
#if HAS_REDIRECT_COUNTERS
	if (code == BPF_FIB_LKUP_RET_NO_NEIGH && !IS(KIND_L3)) {
		if (lower_ttl(skb, p))
			return TC_ACT_SHOT;
		return redirected(p, C_REDIRECT_NEIGH, bpf_redirect_neigh(fib.ifindex, NULL, 0, 0));
	}
#endif
	if (code) {
		DEBUG("FIB lookup failed (FIB problem): %d.", (int)code);
		return TC_ACT_UNSPEC;
	}
#if RELEASE < 330
	DEBUG("FIB lookup succeeded");
#else
	DEBUG("FIB lookup succeeded - gw %pI4", &fib.ipv4_dst);
#endif
	/* From a device without Ethernet the header must be made by the neighbour's side. */
	if (IS(KIND_L3)) {
		if (lower_ttl(skb, p) || bpf_skb_change_head(skb, ETH_HLEN, 0))
			return TC_ACT_SHOT;
		return redirected(p, C_REDIRECT_NEIGH, bpf_redirect_neigh(fib.ifindex, NULL, 0, 0));
	}
#if FLOW_BASED_VXLAN
	if (fib.ifindex == config.vxlan_ifindex) {
		struct route *to = route_of(p->daddr);

		if (!to || set_tunnel_key(skb, to->next_hop))
			return TC_ACT_SHOT;
		skb->mark = MARK_KEY_SET;
	}
#endif
	__builtin_memcpy(macs, fib.dmac, ETH_ALEN);
	__builtin_memcpy(macs + ETH_ALEN, fib.smac, ETH_ALEN);
	if (lower_ttl(skb, p) || bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), 0))
		return TC_ACT_SHOT;
	DEBUG("Got Linux FIB hit, redirecting to iface %d.", fib.ifindex);
	return redirected(p, C_REDIRECT, bpf_redirect(fib.ifindex, 0));
}

#if HAS_PEER
/* The way that needs no lookup: straight into a pod of this node. */
static __always_inline int to_peer(struct __sk_buff *skb, const struct packet *p)
{
	struct route *to = route_of(p->daddr);
	__u32 ifindex;

	if (!route_has(to, ROUTE_LOCAL | ROUTE_WORKLOAD))
		return TC_ACT_UNSPEC;
	ifindex = to->ifindex;
	if (lower_ttl(skb, p))
		return TC_ACT_SHOT;
	DEBUG("Redirect to peer interface (%d) succeeded.", ifindex);
	return redirected(p, C_REDIRECT_PEER, bpf_redirect_peer(ifindex, 0));
}
#endif

/* The action for a packet towards the host; ``mark`` tells the next hook what is known of it. */
static __always_inline int forward(struct __sk_buff *skb, const struct packet *p, __u32 mark,
				   bool short_cut, bool settled)
{
	int action = TC_ACT_UNSPEC;

	DEBUG("Traffic is towards host namespace, marking with " HEX ".", mark);
	skb->mark = mark;
	if (!short_cut || !OPTION(OPT_FIB) || p->ttl <= 1 || p->fragment)
		return TC_ACT_UNSPEC;
#if HAS_PEER
	if (OPTION(OPT_PEER) && settled && IS(KIND_HOST | KIND_TUNNEL) && !IS(KIND_L3))
		action = to_peer(skb, p);
#endif
	return action == TC_ACT_UNSPEC ? by_fib(skb, p) : action;
}

#endif
