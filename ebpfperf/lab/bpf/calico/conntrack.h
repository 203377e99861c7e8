// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Conntrack: what is known of a connection, and what a packet adds to it. */
#ifndef CONNTRACK_H
#define CONNTRACK_H

#include "log.h"
#include "packet.h"

enum known { UNKNOWN, ESTABLISHED, TO_BACKEND, FROM_BACKEND };

/* What the lookup of a packet found. */
struct connection {
	enum known known;
	bool approved;   /* by policy at this hook, where it is the one that decides */
	bool bypass;     /* both sides' policies have allowed it: the next hook need not look */
	bool returning;  /* towards who opened it, through the node that a NodePort was reached by */
	__u32 addr;      /* what to rewrite to: the backend, or the service */
	__u16 port;
	__u16 flags;
	__u32 tun_ip;    /* the node behind the tunnel, 0: none */
};

/* The key, and whether the packet goes from A to B. */
static __always_inline bool key_of(struct ct_key *key, const struct packet *p, __u32 daddr,
				   __u16 dport)
{
	bool forth = p->saddr < daddr || (p->saddr == daddr && p->sport < dport);

	key->proto = p->proto;
	key->addr_a = forth ? p->saddr : daddr;
	key->addr_b = forth ? daddr : p->saddr;
	key->port_a = forth ? p->sport : dport;
	key->port_b = forth ? dport : p->sport;
	return forth;
}

static __always_inline __u16 flags_of(const struct ct_value *value)
{
	return value->flags | (__u16)value->flags_high << 8;
}

/* Note what this packet shows of the connection. Packets count where the node first sees them. */
static __always_inline void note(struct __sk_buff *skb, const struct packet *p,
				 struct ct_value *value, bool forth)
{
	struct ct_leg *leg = forth ? &value->a_to_b : &value->b_to_a;
	__u32 bits = leg->bits | p->tcp_bits;
	__u64 now = bpf_ktime_get_ns();

	value->last_seen_ns = now;
	if (p->tcp_bits & LEG_SYN)
		leg->seqno = p->seqno;
#if RST_TIME
	if ((p->tcp_bits & LEG_RST) && !value->created_or_reset_ns)
		value->created_or_reset_ns = now;
	if (IS(KIND_WORKLOAD) && TO_HOST)
		bits |= LEG_WORKLOAD;
#endif
	if (bits != leg->bits)
		leg->bits = bits;
	if (TO_HOST && !leg->ifindex)
		leg->ifindex = p->ifindex;
#if LEGS_COUNT
	if (TO_HOST || !(skb->mark & MARK_SEEN)) {
		__sync_fetch_and_add(&leg->bytes, skb->len);
		__sync_fetch_and_add(&leg->packets, 1);
	}
#endif
}

/* Where a connection leaves the node, policy is asked for once. */
static __always_inline bool approved_here(const struct ct_value *value, bool forth)
{
	const struct ct_leg *back = forth ? &value->b_to_a : &value->a_to_b;
	const struct ct_leg *leg = forth ? &value->a_to_b : &value->b_to_a;

	if (TO_HOST)
		return true;
	return (back->bits & LEG_APPROVED) || (back->bits & LEG_OPENER) || !(leg->bits & LEG_OPENER);
}

static __always_inline void approve(const struct packet *p)
{
	struct ct_value *value;
	struct ct_key key = {};
	bool forth = key_of(&key, p, p->daddr, p->dport);

	value = bpf_map_lookup_elem(&ct, &key);
	if (!value || value->type == CT_NAT_FWD)
		return;
	if (forth)
		value->b_to_a.bits |= LEG_APPROVED;
	else
		value->a_to_b.bits |= LEG_APPROVED;
}

/* A new connection on the ports of one that has ended. */
static __always_inline bool begins_anew(const struct packet *p, const struct ct_value *value)
{
	return (p->tcp_bits & (LEG_SYN | LEG_ACK)) == LEG_SYN && TO_HOST &&
	       ((value->a_to_b.bits | value->b_to_a.bits) & (LEG_FIN | LEG_RST));
}

/* A packet that meets the entry of a service's address: its real entry is another one. */
static __always_inline void follow(struct __sk_buff *skb, const struct packet *p,
				   struct ct_value *forward, struct connection *c, bool to_service)
{
	struct ct_key reverse = forward->reverse;
	__u32 client = to_service ? p->saddr : p->daddr;
	__u16 client_port = to_service ? p->sport : p->dport;
	bool client_is_a = reverse.addr_a == client && reverse.port_a == client_port;
	struct ct_value *value = bpf_map_lookup_elem(&ct, &reverse);

	DEBUG_CT(p->proto, "Hit! NAT FWD entry, doing secondary lookup.");
	forward->last_seen_ns = bpf_ktime_get_ns();
	if (!value || value->type != CT_NAT_REV || begins_anew(p, value))
		return;
	c->flags = flags_of(value);
	c->tun_ip = value->tun_ip;
	c->approved = true;
	c->addr = client_is_a ? reverse.addr_b : reverse.addr_a;
	c->port = client_is_a ? reverse.port_b : reverse.port_a;
	c->known = to_service ? TO_BACKEND : ESTABLISHED;
	/* What has been translated already, or comes back translated from another node. */
	c->returning = !to_service && p->tun_src;
	if (to_service || p->tun_src)
		note(skb, p, value, client_is_a == to_service);
}

static __noinline void look_up(struct __sk_buff *skb, const struct packet *p, struct connection *c)
{
	struct ct_value *value;
	struct ct_key key = {};
	bool forth = key_of(&key, p, p->daddr, p->dport);

	DEBUG_CT(p->proto, "lookup from " ADDR ":%d", ADDR_OF(p->saddr), p->sport);
	DEBUG_CT(p->proto, "lookup to   " ADDR ":%d", ADDR_OF(p->daddr), p->dport);
	value = bpf_map_lookup_elem(&ct, &key);
	if (!value) {
		DEBUG_CT(p->proto, "Miss.");
		return;
	}
	if (value->type == CT_NAT_FWD) {
		struct ct_key *reverse = &value->reverse;
		bool from_client = (reverse->addr_a == p->saddr && reverse->port_a == p->sport) ||
				   (reverse->addr_b == p->saddr && reverse->port_b == p->sport);

		follow(skb, p, value, c, from_client);
		return;
	}
	if (begins_anew(p, value))
		return;
	note(skb, p, value, forth);
	c->known = ESTABLISHED;
	c->approved = approved_here(value, forth);
	c->flags = flags_of(value);
	if (value->type == CT_NORMAL) {
		DEBUG_CT(p->proto, "Hit! NORMAL entry.");
		c->bypass = value->a_to_b.bits & value->b_to_a.bits & LEG_APPROVED;
		return;
	}
	c->tun_ip = value->tun_ip;
	if ((forth ? value->a_to_b.bits : value->b_to_a.bits) & LEG_OPENER)
		return;
	c->known = FROM_BACKEND;
	c->addr = value->orig_ip;
	c->port = value->orig_port;
}

#endif
