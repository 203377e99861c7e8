// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * What other programs see of this dataplane's maps, by Calico release.
 *
 * Written for this lab from a description of Calico's formats; not Calico's code. RELEASE is 316 for
 * v3.16. Addresses are in network byte order, ports in host order, all else is little endian. Which
 * fields a release has: ebpfperf/calico/maps.py.
 */
#ifndef LAYOUTS_H
#define LAYOUTS_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <stdbool.h>
#include <stddef.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#ifndef RELEASE
#error "RELEASE is needed"
#endif

#define LEGS_COUNT (RELEASE >= 324)  /* conntrack legs carry bytes and packets */
#define RST_TIME (RELEASE >= 330)    /* the first word is the time of a reset, not of creation */
#define HAS_COUNTERS (RELEASE >= 324)
#define HAS_REDIRECT_COUNTERS (RELEASE >= 331)
#define HAS_PEER (RELEASE >= 329)
#define FLOW_BASED_VXLAN (RELEASE >= 331)

/* Conntrack. A is the end whose address, read as a little endian number, is smaller. */
struct ct_key {
	__u32 proto;
	__u32 addr_a, addr_b;
	__u16 port_a, port_b;
};

enum ct_type { CT_NORMAL, CT_NAT_FWD, CT_NAT_REV };

enum ct_flag {
	CT_NAT_OUT = 0x1,
	CT_DSR_FWD = 0x2,
	CT_NP_FWD = 0x4,
	CT_B_OPENED = 0x100, /* since v3.24 */
	CT_NP_REMOTE = 0x1000, /* since v3.25 */
};

enum leg_bit {
	LEG_SYN = 0x1,
	LEG_ACK = 0x2,
	LEG_FIN = 0x4,
	LEG_RST = 0x8,
	LEG_APPROVED = 0x10,
	LEG_OPENER = 0x20,
	LEG_WORKLOAD = 0x40, /* since v3.30 */
};

struct ct_leg {
#if LEGS_COUNT
	__u64 bytes;
	__u32 packets;
#endif
	__u32 seqno; /* as in the TCP header */
	__u32 bits;
	__u32 ifindex;
};

struct ct_value {
	__u64 created_or_reset_ns;
	__u64 last_seen_ns;
	__u8 type;
	__u8 flags;
	__u8 pad[5];
	__u8 flags_high; /* bits 8 to 15, used since v3.24 */
	union {
		struct {
			struct ct_leg a_to_b, b_to_a;
#if LEGS_COUNT
			__u32 tun_ip, orig_ip;
			__u16 orig_port, orig_sport;
			__u32 orig_sip;
#else
			__u32 orig_ip;
			__u16 orig_port, orig_sport;
			__u32 tun_ip;
			__u32 tail;
#endif
		};
		struct ct_key reverse; /* of CT_NAT_FWD */
	};
};

_Static_assert(sizeof(struct ct_key) == 16, "conntrack key");
_Static_assert(sizeof(struct ct_value) == (LEGS_COUNT ? 88 : 64), "conntrack value");

/* NAT. */
struct nat_key {
	__u32 prefix_len;
	__u32 addr;
	__u16 port;
	__u8 proto;
	__u8 source[5]; /* address of the source and a pad, not aligned */
};

struct nat_value {
	__u32 id, count, local, affinity_s;
#if RELEASE >= 322
	__u32 flags;
#endif
};

#define NAT_EXTERNAL_LOCAL 1
#define NAT_INTERNAL_LOCAL 2
#define NAT_NO_SOURCE 56 /* bits of the key before the source's address */

struct nat_backend_key {
	__u32 id, ordinal;
};

struct nat_backend {
	__u32 addr;
	__u16 port, pad;
};

struct affinity_key {
	__u32 addr;
	__u16 port;
	__u8 proto, pad;
	__u32 client, pad2;
};

struct affinity {
	struct nat_backend backend;
	__u64 since_ns;
};

/* Routes. */
struct route_key {
	__u32 prefix_len;
	__u32 addr;
};

struct route {
	__u32 flags;
	union {
		__u32 next_hop;
		__u32 ifindex;
	};
};

enum route_flag {
	ROUTE_IN_POOL = 0x1,
	ROUTE_NAT_OUT = 0x2,
	ROUTE_WORKLOAD = 0x4,
	ROUTE_LOCAL = 0x8,
	ROUTE_HOST = 0x10,
	ROUTE_SAME_SUBNET = 0x20,
	ROUTE_TUNNELED = 0x40, /* since v3.23 */
	ROUTE_VXLAN = 0x400, /* since v3.31 */
};

struct counters_key {
	__u32 ifindex, hook;
};

/* The lab's own: a deny list. Not Calico's, which compiles policy to programs. */
struct deny_key {
	__u32 prefix_len;
	__u32 ifindex;
	__u8 direction, proto;
	__u16 port; /* 0: every port */
	__u32 addr;
};

#endif
