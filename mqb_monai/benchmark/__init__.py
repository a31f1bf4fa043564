"""Benchmarks: what a bundle costs on this machine."""
