// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* What differs between the places a program is attached to, and the maps it reads. */
#ifndef CONFIG_H
#define CONFIG_H

#include "codes.h"

enum kind { KIND_WORKLOAD = 1, KIND_HOST = 2, KIND_TUNNEL = 4, KIND_L3 = 8, KIND_TO_HOST = 16 };

enum option { OPT_FIB = 1, OPT_DSR = 2, OPT_DENY = 4, OPT_PEER = 8 };

enum log_level { LOG_OFF, LOG_INFO, LOG_DEBUG };

/*
 * Written into the object before it is loaded (ebpfperf/lab/programs.py finds it by its first
 * sixteen bytes): the verifier knows the values and drops what they switch off.
 */
struct config {
	char magic[16];
	char tag[24]; /* of log lines: the interface's name, padded, and a letter */
	__u32 kind;
	__u32 options;
	__u32 log_level;
	__u32 host_ip;
	__u32 tunnel_mtu;   /* longest IP packet that still fits once wrapped for another node */
	__u32 vxlan_port;
	__u32 vxlan_vni;    /* of the overlay, not of the NodePort tunnel */
	__u32 vxlan_ifindex; /* 0: no overlay device */
	__u32 tunl_ifindex;
	__u32 pad[5];
};

const volatile struct config config = {
	.magic = "ebpfperf-config",
	.tag = "?",
};

#define IS(bit) ((config.kind & (bit)) != 0)
#define TO_HOST IS(KIND_TO_HOST)
#define FROM_WORKLOAD (config.kind == (KIND_WORKLOAD | KIND_TO_HOST))
#define TO_WORKLOAD (config.kind == KIND_WORKLOAD)
#define FROM_NIC (config.kind == (KIND_HOST | KIND_TO_HOST))
#define OPTION(bit) ((config.options & (bit)) != 0)

/* Types, flags and sizes of the real maps are decided by who makes them; these only name them. */
#define MAP(NAME, TYPE, KEY, VALUE, FLAGS)			\
	struct {						\
		__uint(type, TYPE);				\
		__uint(key_size, sizeof(KEY));			\
		__uint(value_size, VALUE);			\
		__uint(max_entries, 1);				\
		__uint(map_flags, FLAGS);			\
	} NAME SEC(".maps")

MAP(ct, BPF_MAP_TYPE_HASH, struct ct_key, sizeof(struct ct_value), BPF_F_NO_PREALLOC);
MAP(nat_fe, BPF_MAP_TYPE_LPM_TRIE, struct nat_key, sizeof(struct nat_value), BPF_F_NO_PREALLOC);
MAP(nat_be, BPF_MAP_TYPE_HASH, struct nat_backend_key, sizeof(struct nat_backend), 0);
MAP(nat_aff, BPF_MAP_TYPE_LRU_HASH, struct affinity_key, sizeof(struct affinity), 0);
MAP(routes, BPF_MAP_TYPE_LPM_TRIE, struct route_key, sizeof(struct route), BPF_F_NO_PREALLOC);
MAP(deny_list, BPF_MAP_TYPE_LPM_TRIE, struct deny_key, 4, BPF_F_NO_PREALLOC);
#if HAS_COUNTERS
MAP(counters, BPF_MAP_TYPE_PERCPU_HASH, struct counters_key, 8 * C_COUNT, 0);
#endif

static __always_inline struct route *route_of(__u32 addr)
{
	struct route_key key = { .prefix_len = 32, .addr = addr };

	return bpf_map_lookup_elem(&routes, &key);
}

static __always_inline bool route_has(const struct route *route, __u32 flags)
{
	return route && (route->flags & flags) == flags;
}

static __always_inline void count(__u32 ifindex, __u32 which)
{
#if HAS_COUNTERS
	struct counters_key key = { .ifindex = ifindex, .hook = TO_HOST ? 0 : 1 };
	__u64 *found = bpf_map_lookup_elem(&counters, &key);

	if (found && which < C_COUNT)
		found[which]++;
#endif
}

/* Whether the deny list of this interface has a rule for this peer. */
static __always_inline bool denied(__u32 ifindex, __u32 peer, __u8 proto, __u16 port)
{
	struct deny_key key = {
		.prefix_len = 8 * (sizeof(key) - sizeof(key.prefix_len)),
		.ifindex = ifindex,
		.direction = TO_HOST,
		.addr = peer,
	};

	if (!OPTION(OPT_DENY))
		return false;
	if (bpf_map_lookup_elem(&deny_list, &key))
		return true;
	key.proto = proto;
	if (bpf_map_lookup_elem(&deny_list, &key))
		return true;
	key.port = port;
	return bpf_map_lookup_elem(&deny_list, &key) != NULL;
}

#endif
