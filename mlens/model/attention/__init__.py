"""Attention over packed rows on a CPU and on a GPU, the layouts that it reads, and the cache of a shared prefix."""
