"""Attention kernels: ways to compute the same softmax attention over packed rows."""
