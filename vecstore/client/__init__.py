"""The verbs of the library, carried out by a service.

>>> with vecstore.connect("http://127.0.0.1:7878", key="vs_...") as store:
...     docs = store.collection("docs")
...     hits = docs.query(vector, k=10)

`http.client` of the standard library is what talks: a client needs nothing beside the library, and
a call costs less than with a larger HTTP package.
"""

from vecstore.client.collection import RemoteCollection
from vecstore.client.rows import RemoteTenant, RemoteTenantUnion
from vecstore.client.store import RemoteStore, connect

__all__ = ["RemoteCollection", "RemoteStore", "RemoteTenant", "RemoteTenantUnion", "connect"]
