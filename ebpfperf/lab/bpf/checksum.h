// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#ifndef CHECKSUM_H
#define CHECKSUM_H

#include <linux/ip.h>
#include <bpf/bpf_helpers.h>

/* Checksum of an IPv4 header of five words. */
static __always_inline __u16 ip_checksum(const struct iphdr *header)
{
	const __u16 *word = (const __u16 *)header;
	__u32 sum = 0;
	int i;

#pragma unroll
	for (i = 0; i < 10; i++)
		sum += word[i];
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

#endif
