// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* New conntrack entries. */
#ifndef CREATE_H
#define CREATE_H

#include "conntrack.h"

struct destination {
	__u32 addr;
	__u16 port;
	__u16 flags;
	__u32 tun_ip; /* the node that the backend is on, or that the packet came through */
	bool found, no_backend;
};

/*
 * The entry of a new connection; with a service two of them: from the client to the service, which
 * only points to the other, and between the client and the backend, which holds everything.
 */
static __noinline int create(struct __sk_buff *skb, const struct packet *p,
			     const struct destination *to)
{
	struct ct_value value = {};
	struct ct_key key = {}, forward_key = {};
	struct ct_leg *leg, *back;
	__u16 flags = to->flags;
	bool forth;
	int err;

	forth = key_of(&key, p, to->found ? to->addr : p->daddr, to->found ? to->port : p->dport);
	leg = forth ? &value.a_to_b : &value.b_to_a;
	back = forth ? &value.b_to_a : &value.a_to_b;
	value.last_seen_ns = bpf_ktime_get_ns();
#if !RST_TIME
	value.created_or_reset_ns = value.last_seen_ns;
#endif
	leg->bits = p->tcp_bits | LEG_OPENER | LEG_APPROVED;
	leg->seqno = p->seqno;
	/* From the host itself there is no interface to name. */
	leg->ifindex = TO_HOST ? p->ifindex : 0;
#if RST_TIME
	if (FROM_WORKLOAD)
		leg->bits |= LEG_WORKLOAD;
#endif
#if LEGS_COUNT
	leg->bytes = skb->len;
	leg->packets = 1;
	if (!forth)
		flags |= CT_B_OPENED;
#endif
	/* Policy has just allowed it; or what goes to another node's backend may also come back. */
	if (!TO_HOST || flags & CT_NP_FWD)
		back->bits = LEG_APPROVED;
	value.flags = flags;
	value.flags_high = flags >> 8;
	if (to->found) {
		value.type = CT_NAT_REV;
		value.orig_ip = p->daddr;
		value.orig_port = p->dport;
		value.tun_ip = to->tun_ip;
	}
	err = bpf_map_update_elem(&ct, &key, &value, BPF_ANY);
	if (err || !to->found)
		return err;
	__builtin_memset(&value, 0, sizeof(value));
	value.last_seen_ns = bpf_ktime_get_ns();
#if !RST_TIME
	value.created_or_reset_ns = value.last_seen_ns;
#endif
	value.type = CT_NAT_FWD;
	value.reverse = key;
	key_of(&forward_key, p, p->daddr, p->dport);
	return bpf_map_update_elem(&ct, &forward_key, &value, BPF_ANY);
}

#endif
