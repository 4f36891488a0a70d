"""A store over HTTP: the verbs of the library for other processes and languages.

From the outside in: `supervisor` and `run` make processes and sockets, `protocol` bounds what a
connection may do, `app` takes one call from bytes to bytes, `scope` decides which objects the
caller is handed, and `handlers` call the library's verbs on them.
"""
