"""Measurements that a sceptic would trust: contenders interleaved in one run, repeated, quoted as medians."""
