// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* What becomes of a packet, by what is known of its connection. */
#ifndef JUDGE_H
#define JUDGE_H

#include "forward.h"
#include "icmp.h"
#include "nat.h"

#if RELEASE < 330
#define POLICY "normal policy"
#else
#define POLICY "policy"
#endif

/* A workload must send from its own address. */
static __always_inline bool spoofed(struct __sk_buff *skb, const struct packet *p)
{
	struct route *from = route_of(p->saddr);

	if (!from) {
		INFO("Workload RPF fail: missing route.");
		return true;
	}
	if (!route_has(from, ROUTE_LOCAL | ROUTE_WORKLOAD)) {
		INFO("Workload RPF fail: not a local workload.");
		return true;
	}
	if (from->ifindex != p->ifindex) {
		INFO("Workload RPF fail skb iface (%d) != route iface (%d)", p->ifindex,
		     from->ifindex);
		return true;
	}
	return false;
}

static __always_inline bool policy_denies(const struct packet *p, __u32 peer, __u8 proto, __u16 port)
{
#if RELEASE < 324
	DEBUG("About to jump to policy program; lack of further logs means policy dropped the "
	      "packet...");
#endif
	if (denied(p->ifindex, peer, proto, port))
		return true;
	count(p->ifindex, C_POLICY_OK);
	DEBUG("Allowed by " POLICY ": ACCEPT");
	return false;
}

static __always_inline int deny(const struct packet *p)
{
#if RELEASE < 324
	return TC_ACT_SHOT;
#else
	DEBUG("DENY due to policy");
	return drop(p, R_POLICY);
#endif
}

/* The first packet of a connection. */
static __always_inline int begin(struct __sk_buff *skb, struct packet *p)
{
	struct destination to = {};
	struct route *route;
	bool wrapped = false;
	__u32 mark = MARK_SEEN;

	if (TO_HOST)
		resolve(p, &to);
	if (to.no_backend)
		return allow(p, answer(skb, p, ICMP_PORT_UNREACH, 0));
	if (FROM_WORKLOAD && spoofed(skb, p))
		return drop(p, R_ROUTE);
	if (FROM_WORKLOAD &&
	    policy_denies(p, to.found ? to.addr : p->daddr, p->proto, to.found ? to.port : p->dport))
		return deny(p);
	if (TO_WORKLOAD && policy_denies(p, p->saddr, p->proto, p->dport))
		return deny(p);
	route = route_of(to.found ? to.addr : p->daddr);
	if (to.found && p->tun_src) {
		to.tun_ip = p->tun_src;
	} else if (to.found && FROM_NIC && route && !(route->flags & ROUTE_LOCAL)) {
		to.tun_ip = route->next_hop;
		to.flags = CT_NP_FWD | (OPTION(OPT_DSR) ? CT_DSR_FWD : 0);
		wrapped = true;
		if (p->dont_fragment && too_long_to_wrap(skb, p))
			return allow(p,
				     answer(skb, p, ICMP_FRAG_NEEDED, config.tunnel_mtu));
	}
	if (FROM_WORKLOAD && route_has(route_of(p->saddr), ROUTE_NAT_OUT) &&
	    !route_has(route, ROUTE_IN_POOL) && !route_has(route, ROUTE_HOST)) {
		to.flags |= CT_NAT_OUT;
		mark = MARK_NAT_OUT;
	}
	DEBUG_CT(p->proto, "result: NEW.");
	if (create(skb, p, &to))
		return drop(p, R_CONNTRACK);
	if (!TO_HOST)
		return allow(p, TC_ACT_UNSPEC);
	if (wrapped) {
		if (wrap(skb, p, to.tun_ip))
			return drop(p, R_ENCAP);
		return allow(p, forward(skb, p, MARK_BYPASS, true, false));
	}
	if (to.found) {
		DEBUG_CT(p->proto, "DNAT to " ADDR ":%d", ADDR_OF(to.addr), to.port);
		if (rewrite(skb, p, to.addr, to.port, false))
			return drop(p, R_CHECKSUM);
	}
	/* From a NIC, the host's stack looks at the first packet: it checks the way back. */
	return allow(p,
		     forward(skb, p, mark, FROM_WORKLOAD && mark != MARK_NAT_OUT, false));
}

/* A packet of a connection to a service, on its way to the backend. */
static __always_inline int to_backend(struct __sk_buff *skb, struct packet *p,
				      const struct connection *c)
{
	__u32 addr = c->addr, tun_ip = c->tun_ip;

	if (FROM_NIC && tun_ip && !p->tun_src) {
		if (p->dont_fragment && too_long_to_wrap(skb, p))
			return allow(p,
				     answer(skb, p, ICMP_FRAG_NEEDED, config.tunnel_mtu));
		if (wrap(skb, p, tun_ip))
			return drop(p, R_ENCAP);
		return allow(p, forward(skb, p, MARK_BYPASS, true, false));
	}
	DEBUG_CT(p->proto, "DNAT to " ADDR ":%d", ADDR_OF(addr), c->port);
	if (rewrite(skb, p, addr, c->port, false))
		return drop(p, R_CHECKSUM);
	return allow(p, forward(skb, p, MARK_SEEN, true, false));
}

/* An answer of a backend: its source becomes the service, where the client is reached from here. */
static __always_inline int from_backend(struct __sk_buff *skb, struct packet *p,
					const struct connection *c)
{
	bool client_is_here = route_has(route_of(p->daddr), ROUTE_LOCAL | ROUTE_WORKLOAD);
	__u32 addr = c->addr, tun_ip = c->tun_ip;
	bool tunnel;

	if (TO_HOST && client_is_here)
		return allow(p, forward(skb, p, MARK_SEEN, true, false));
	if (!TO_HOST && !TO_WORKLOAD)
		return allow(p, TC_ACT_UNSPEC);
	tunnel = TO_HOST && tun_ip && !OPTION(OPT_DSR);
	/* While the packet is still as its sender made it: the answer must quote that. */
	if (tunnel && p->dont_fragment && too_long_to_wrap(skb, p))
		return allow(p, answer(skb, p, ICMP_FRAG_NEEDED, config.tunnel_mtu));
	DEBUG_CT(p->proto, "SNAT from " ADDR ":%d", ADDR_OF(addr), c->port);
	if (rewrite(skb, p, addr, c->port, true))
		return drop(p, R_CHECKSUM);
	if (TO_WORKLOAD)
		return allow(p, TC_ACT_UNSPEC);
	if (tunnel && wrap(skb, p, tun_ip))
		return drop(p, R_ENCAP);
	return allow(p, forward(skb, p, MARK_BYPASS, true, false));
}

static __always_inline int go_on(struct __sk_buff *skb, struct packet *p,
				 const struct connection *c)
{
	bool settled = c->bypass && !(p->tcp_bits & LEG_SYN);
	__u32 mark = c->bypass || c->returning ? MARK_BYPASS : MARK_SEEN;

	if (TO_WORKLOAD && !c->approved) {
		if (policy_denies(p, p->saddr, p->proto, p->dport))
			return deny(p);
	}
	if (!c->approved)
		approve(p);
	if (!TO_HOST)
		return allow(p, TC_ACT_UNSPEC);
	if (c->flags & CT_NAT_OUT && FROM_WORKLOAD)
		return allow(p, forward(skb, p, MARK_NAT_OUT, false, false));
	return allow(p, forward(skb, p, mark, true, settled));
}

static __always_inline int judge(struct __sk_buff *skb, struct packet *p)
{
	struct connection c = {};

	look_up(skb, p, &c);
	switch (c.known) {
	case UNKNOWN:
		return begin(skb, p);
	case TO_BACKEND:
		if (TO_HOST)
			return to_backend(skb, p, &c);
		return allow(p, TC_ACT_UNSPEC);
	case FROM_BACKEND:
		return from_backend(skb, p, &c);
	default:
		return go_on(skb, p, &c);
	}
}

#endif
