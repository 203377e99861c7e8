// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Which backend serves an address: two maps, as kube-proxy's replacement keeps them. */
#ifndef NAT_H
#define NAT_H

#include "create.h"

#define NO_AFFINITY_NS 1000000000ull
#define EVERY_HOST 0xffffffff /* the address under which NodePorts of every node are listed */

#if RELEASE < 330
#define NAT_PROTO " protocol=%d."
#define NAT_PROTO_OF(proto) proto
#else
#define NAT_PROTO " %s"
#define NAT_PROTO_OF(proto) ((proto) == IPPROTO_TCP ? "tcp" : (proto) == IPPROTO_UDP ? "udp" : "other")
#endif

static __always_inline struct nat_value *frontend(const struct packet *p, __u32 addr)
{
	struct nat_key key = {
		.prefix_len = NAT_NO_SOURCE + 32,
		.addr = addr,
		.port = p->dport,
		.proto = p->proto,
	};

	__builtin_memcpy(key.source, &p->saddr, sizeof(p->saddr));
	return bpf_map_lookup_elem(&nat_fe, &key);
}

static __always_inline struct nat_backend *remembered(const struct packet *p,
						      const struct nat_value *service,
						      struct affinity_key *key)
{
	struct affinity *found = bpf_map_lookup_elem(&nat_aff, key);

	if (!found || bpf_ktime_get_ns() - found->since_ns > service->affinity_s * NO_AFFINITY_NS)
		return NULL;
	DEBUG("NAT: affinity hit");
	return &found->backend;
}

static __always_inline struct nat_backend *choose(const struct packet *p,
						  const struct nat_value *service, __u32 among)
{
	struct nat_backend_key key = { .id = service->id };
	struct affinity_key affinity_key = {
		.addr = p->daddr,
		.port = p->dport,
		.proto = p->proto,
		.client = p->saddr,
	};
	struct affinity affinity = {};
	struct nat_backend *found;

	if (service->affinity_s) {
		found = remembered(p, service, &affinity_key);
		if (found)
			return found;
	}
	key.ordinal = bpf_get_prandom_u32() % among;
	DEBUG("NAT: 1st level hit; id=%d ordinal=%d", key.id, key.ordinal);
	found = bpf_map_lookup_elem(&nat_be, &key);
	if (found && found->addr == p->saddr && among > 1) {
		/* A pod that is its own backend would have to send to itself by way of the node. */
		key.ordinal = (key.ordinal + 1) % among;
		found = bpf_map_lookup_elem(&nat_be, &key);
	}
	if (!found) {
		DEBUG("NAT: backend miss");
		return NULL;
	}
	if (service->affinity_s) {
		affinity.backend = *found;
		affinity.since_ns = bpf_ktime_get_ns();
		bpf_map_update_elem(&nat_aff, &affinity_key, &affinity, BPF_ANY);
	}
	return found;
}

/* The backend of a new connection; ``to`` stays empty where its address is no service's. */
static __noinline void resolve(const struct packet *p, struct destination *to)
{
	struct nat_value *service;
	struct nat_backend *backend;
	__u32 among;

	DEBUG("NAT: 1st level lookup addr=" ADDR " port=%d" NAT_PROTO, ADDR_OF(p->daddr), p->dport,
	      NAT_PROTO_OF(p->proto));
	service = frontend(p, p->daddr);
	if (!service && route_has(route_of(p->daddr), ROUTE_HOST)) {
		service = frontend(p, EVERY_HOST);
		if (service)
			DEBUG("NAT: nodeport hit");
	}
	if (!service) {
		DEBUG("NAT: Miss.");
		return;
	}
	/* Who came through another node's tunnel was sent here for a backend of this one. */
	among = service->count;
#if RELEASE >= 322
	if (p->tun_src || (FROM_NIC && (service->flags & NAT_EXTERNAL_LOCAL)) ||
	    (FROM_WORKLOAD && p->daddr != config.host_ip && (service->flags & NAT_INTERNAL_LOCAL)))
		among = service->local;
#else
	if (p->tun_src)
		among = service->local;
#endif
	if (!among) {
		DEBUG("NAT: no backend");
		to->no_backend = true;
		return;
	}
	backend = choose(p, service, among);
	if (!backend) {
		to->no_backend = true;
		return;
	}
	DEBUG("NAT: backend selected " ADDR ":%d", ADDR_OF(backend->addr), backend->port);
	to->found = true;
	to->addr = backend->addr;
	to->port = backend->port;
}

#endif
