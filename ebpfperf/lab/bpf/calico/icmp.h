// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Answers that a router must give: too long to forward, nobody there. RFC 792, RFC 1191. */
#ifndef ICMP_H
#define ICMP_H

#include <linux/icmp.h>
#include "log.h"
#include "packet.h"

struct icmp_answer {
	struct iphdr ip;
	struct icmphdr icmp;
	struct iphdr quoted;
	__u8 start[20];
};

#define ADDED ((int)(sizeof(struct iphdr) + sizeof(struct icmphdr)))

static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* Turn the packet into the answer to it, on its way back by the device it came from. */
static __noinline int answer(struct __sk_buff *skb, struct packet *p, __u8 code, __u16 mtu)
{
	struct icmp_answer reply = {};
	__u8 macs[12], swapped[12];
	/* A TCP checksum that is still to be filled in must not be cut off. */
	__u32 quoted = sizeof(struct iphdr) + (p->proto == IPPROTO_TCP ? 20 : 8);

	if (bpf_skb_load_bytes(skb, p->l3, &reply.quoted, quoted))
		return TC_ACT_SHOT;
	reply.ip.version = 4;
	reply.ip.ihl = 5;
	reply.ip.tot_len = bpf_htons(ADDED + quoted);
	reply.ip.ttl = 64;
	reply.ip.protocol = IPPROTO_ICMP;
	reply.ip.saddr = config.host_ip;
	reply.ip.daddr = p->saddr;
	reply.ip.check = ip_checksum(&reply.ip);
	reply.icmp.type = ICMP_DEST_UNREACH;
	reply.icmp.code = code;
	reply.icmp.un.frag.mtu = bpf_htons(mtu);
	reply.icmp.checksum = fold(bpf_csum_diff(NULL, 0, (__be32 *)&reply.icmp,
						 sizeof(reply.icmp) + quoted, 0));
	if (bpf_skb_change_tail(skb, p->l3 + quoted, 0))
		return TC_ACT_SHOT;
	if (bpf_skb_adjust_room(skb, ADDED, BPF_ADJ_ROOM_MAC, 0))
		return TC_ACT_SHOT;
	if (bpf_skb_store_bytes(skb, p->l3, &reply, ADDED + quoted, BPF_F_INVALIDATE_HASH))
		return TC_ACT_SHOT;
	if (p->l3) {
		if (bpf_skb_load_bytes(skb, 0, macs, sizeof(macs)))
			return TC_ACT_SHOT;
		__builtin_memcpy(swapped, macs + 6, 6);
		__builtin_memcpy(swapped + 6, macs, 6);
		if (bpf_skb_store_bytes(skb, 0, swapped, sizeof(swapped), 0))
			return TC_ACT_SHOT;
	}
	skb->mark = MARK_BYPASS;
	return bpf_redirect(p->ifindex, 0);
}

#endif
