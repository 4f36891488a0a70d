"""Churn: rows of some groups replaced by rows of others, round by round.

After SPFresh (SOSP 2023), section 5.2: what becomes of recall, work per query, latency and space.
"""
