"""ebpfperf: measure and compare the networking modes of Calico clusters."""
