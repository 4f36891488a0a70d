"""Benchmarks: one entry point (``python -m bench``), workloads as data, raw results, a report.

This module imports nothing: ``bench.worker`` samples its memory before any library is loaded.
"""
