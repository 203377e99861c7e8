// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * IPv4 in IPv4 (protocol 4) without the kernel's ipip device, which some kernels lack.
 *
 * encap: egress of an L3 device named tunl0. The gateway of the packet's route is the other node;
 *        the route table stays the only truth, as with the real device.
 * decap: ingress of the NIC. What is protocol 4 and for this node continues on tunl0.
 *
 * Written for this lab from RFC 2003; not Calico's or the kernel's code. Needs Linux 5.10.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "checksum.h"

/* Given by the compiler's command line, for each node. NODE_IP is in network byte order. */
#ifndef NODE_IP
#error "NODE_IP, NIC_IFINDEX and TUNL_IFINDEX are needed"
#endif

#define AF_INET 2
#define DF bpf_htons(0x4000)

char _license[] SEC("license") = "Dual BSD/GPL";

/* The gateway of the inner packet's route, 0 if it does not leave by tunl0. */
static __always_inline __u32 gateway(struct __sk_buff *skb, const struct iphdr *inner)
{
	struct bpf_fib_lookup fib = {};
	long code;

	fib.family = AF_INET;
	fib.ifindex = TUNL_IFINDEX;
	fib.ipv4_src = inner->saddr;
	fib.ipv4_dst = inner->daddr;
	code = bpf_fib_lookup(skb, &fib, sizeof(fib), BPF_FIB_LOOKUP_OUTPUT);
	/* tunl0 has no neighbours: NO_NEIGH is the success here, the gateway is filled in by then. */
	if (code != BPF_FIB_LKUP_RET_SUCCESS && code != BPF_FIB_LKUP_RET_NO_NEIGH)
		return 0;
	return fib.ifindex == TUNL_IFINDEX ? fib.ipv4_dst : 0;
}

SEC("tc/encap")
int ipip_encap(struct __sk_buff *skb)
{
	struct iphdr inner, outer = {};
	__u32 via;

	if (skb->protocol != bpf_htons(ETH_P_IP))
		return TC_ACT_SHOT;
	if (bpf_skb_load_bytes(skb, 0, &inner, sizeof(inner)))
		return TC_ACT_SHOT;
	via = gateway(skb, &inner);
	if (!via)
		return TC_ACT_SHOT;

	outer.version = 4;
	outer.ihl = sizeof(outer) / 4;
	outer.tos = inner.tos;
	outer.tot_len = bpf_htons(bpf_ntohs(inner.tot_len) + sizeof(outer));
	outer.frag_off = inner.frag_off & DF;
	outer.ttl = inner.ttl; /* "ttl inherit", as Calico's tunl0 */
	outer.protocol = IPPROTO_IPIP;
	outer.saddr = NODE_IP;
	outer.daddr = via;
	outer.check = ip_checksum(&outer);

	if (bpf_skb_adjust_room(skb, sizeof(outer), BPF_ADJ_ROOM_MAC,
				BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4))
		return TC_ACT_SHOT;
	if (bpf_skb_store_bytes(skb, 0, &outer, sizeof(outer), 0))
		return TC_ACT_SHOT;
	/* bpf_redirect_neigh expects an Ethernet header to replace; an L3 device has none. */
	if (bpf_skb_change_head(skb, ETH_HLEN, 0))
		return TC_ACT_SHOT;
	return bpf_redirect_neigh(NIC_IFINDEX, 0, 0, 0);
}

SEC("tc/decap")
int ipip_decap(struct __sk_buff *skb)
{
	struct iphdr outer;

	if (skb->protocol != bpf_htons(ETH_P_IP))
		return TC_ACT_UNSPEC;
	if (bpf_skb_load_bytes(skb, ETH_HLEN, &outer, sizeof(outer)))
		return TC_ACT_UNSPEC;
	if (outer.protocol != IPPROTO_IPIP || outer.daddr != NODE_IP || outer.ihl != 5)
		return TC_ACT_UNSPEC;
	if (bpf_skb_adjust_room(skb, -(int)sizeof(outer), BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO))
		return TC_ACT_SHOT;
	return bpf_redirect(TUNL_IFINDEX, BPF_F_INGRESS);
}
