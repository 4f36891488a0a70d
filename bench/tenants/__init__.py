"""Benchmarks of tenants: ``python -m bench.tenants``; see bench/README.md for the method.

This module imports nothing: its worker samples its memory before any library is loaded.
"""
