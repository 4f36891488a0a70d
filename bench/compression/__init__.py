"""The compression study: post-hoc compressors of frozen tables, at equal and true bytes.

``python -m bench.compression run`` measures, ``report`` derives tables and plots.
"""
