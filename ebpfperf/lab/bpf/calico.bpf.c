// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * What a node does to a packet in eBPF mode: one program for every hook, told apart by its config.
 *
 *   from workload   ingress of cali…       to workload   egress of cali…
 *   from host       ingress of the NIC     to host       egress of the NIC
 *   from tunnel     ingress of tunl0, vxlan.calico       to tunnel   their egress
 *
 * An independent emulation, written for this lab from a description of what Calico's dataplane does
 * and shows. Not here: IPv6, fragments beyond passing them on, connect-time load balancing, host
 * endpoints' policy, real network policy (a deny list stands in for it), Maglev.
 * PROGRAM is the program's name; RELEASE is explained in layouts.h.
 */
#include "calico/judge.h"

char _license[] SEC("license") = "Dual BSD/GPL";

#ifndef PROGRAM
#error "PROGRAM is needed"
#endif

/* Since v3.18 what the next hook need not look at ends with a line of its own. */
static __always_inline int bypass(const struct packet *p)
{
	count(p->ifindex, C_BYPASS);
#if RELEASE < 318
	DEBUG("Packet pre-approved by another hook, allow.");
	return allow(p, TC_ACT_UNSPEC);
#else
	INFO("Final result=ALLOW (%d). Bypass mark " BYPASS_WORD "set.", R_BYPASS);
	return TC_ACT_UNSPEC;
#endif
}

/* A device that is told of each packet where it goes must be told by somebody. */
static __always_inline int to_tunnel(struct __sk_buff *skb, const struct packet *p)
{
	struct route *to = route_of(p->daddr);

	if (FLOW_BASED_VXLAN && p->ifindex == config.vxlan_ifindex && skb->mark != MARK_KEY_SET &&
	    to && set_tunnel_key(skb, to->next_hop))
		return TC_ACT_SHOT;
	return TC_ACT_UNSPEC;
}

static __always_inline int look_at(struct __sk_buff *skb, struct packet *p)
{
	switch (parse(skb, p)) {
	case TOO_SHORT:
		return drop(p, R_SHORT);
	case MALFORMED:
		return drop(p, R_MALFORMED);
	case OPTIONS:
		if (IS(KIND_WORKLOAD))
			return drop(p, R_OPTIONS);
		return allow(p, TC_ACT_UNSPEC);
	default:
		break;
	}
#if RELEASE < 318
	DEBUG("IP id=%d s=%x d=%x", p->ip_id, bpf_ntohl(p->saddr), bpf_ntohl(p->daddr));
#endif
	if (FROM_NIC) {
		switch (unwrap(skb, p)) {
		case UNWANTED:
			return drop(p, R_SOURCE);
		case UNWRAP_FAILED:
			return drop(p, R_DECAP);
		case UNWRAPPED:
			if (parse(skb, p) != PARSED)
				return drop(p, R_DECAP);
			break;
		default:
			break;
		}
	}
	if (p->fragment || (IS(KIND_HOST) && !p->tun_src && is_overlay(p)))
		return allow(p, TC_ACT_UNSPEC);
	return judge(skb, p);
}

SEC("tc")
int PROGRAM(struct __sk_buff *skb)
{
	struct packet p = { .start_ns = log_start(), .ifindex = skb->ifindex };
	int action;

	count(p.ifindex, C_TOTAL);
	if (!TO_HOST && skb->mark == MARK_BYPASS)
		return bypass(&p);
#if RELEASE >= 318
	DEBUG("New packet at ifindex=%d; mark=%x", p.ifindex, skb->mark);
#endif
	if (skb->protocol == bpf_htons(ETH_P_IPV6) && IS(KIND_WORKLOAD)) {
		DEBUG("IPv6 from workload: drop");
		return TC_ACT_SHOT;
	}
	if (skb->protocol != bpf_htons(ETH_P_IP))
		return allow(&p, TC_ACT_UNSPEC);
	action = look_at(skb, &p);
	if (IS(KIND_TUNNEL) && !TO_HOST && action == TC_ACT_UNSPEC)
		action = to_tunnel(skb, &p);
	return action;
}
