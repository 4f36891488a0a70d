"""What the service and its client say to each other: verbs, bodies, encodings, errors.

Both sides use these modules, so that a name, a field or a status is written down once.  Nothing
here needs a server, a store or a kernel.
"""
