"""Numba kernels: plain arrays and addresses in and out, no Python objects, no GIL.

Every kernel is compiled lazily and cached on disk.  Numba's own cache notices a change only in
the file of the outermost function; kernels here call one another across files, so the cache
folder is named by the hash of all kernel sources.
"""
