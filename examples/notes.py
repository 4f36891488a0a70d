"""Notes for several users: each has a tenant, and sees own notes and those shared with them.

python examples/notes.py notes.vecstore, then open http://127.0.0.1:8000/?user=ann
Words are hashed to vectors, so that it runs without a model; put yours into `embed`.
"""

import hashlib
import html
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import numpy as np

import vecstore

DIM = 256
PAGE = """<!doctype html><title>Notes</title><h1>Notes of {user}</h1>
<form><input type=hidden name=user value="{user}"><input name=q value="{q}" autofocus>
<button>Find</button></form><form method=post><textarea name=text required></textarea>
<button>Keep</button></form><form method=post>Share note <input name=share size=20> with
<input name=to size=8> <button>Share</button></form><ol>{notes}</ol>"""


def embed(text: str) -> np.ndarray:
    vector = np.full(DIM, 1e-3, np.float32)
    for word in text.lower().split():
        vector[int(hashlib.md5(word.strip(".,!?").encode()).hexdigest(), 16) % DIM] += 1
    return vector


class Notes(BaseHTTPRequestHandler):
    store: vecstore.Store

    def do_GET(self) -> None:
        asked = {key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()}
        user, q = asked.get("user", "ann"), asked.get("q", "")
        hits = self.tenant(user).query(embed(q), k=20, include=("document",))
        notes = "".join(
            f"<li>{html.escape(hit.document)} <small>{hit.id}, {html.escape(hit.tenant)}</small>"
            for hit in hits
        )
        body = PAGE.format(user=html.escape(user), q=html.escape(q), notes=notes).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        user = parse_qs(urlsplit(self.path).query).get("user", ["ann"])[0]
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        if "text" in form:
            self.tenant(user).upsert(
                f"{time.time_ns():x}", embed(form["text"][0]), documents=form["text"][0]
            )
        else:
            self.tenant(user).grant(form["share"][0], to=form["to"][0])
        self.send_response(303)
        self.send_header("Location", self.path)
        self.end_headers()

    def tenant(self, user: str) -> vecstore.Tenant:
        return self.store.collection("notes", DIM, "cosine", tenants=True).tenant(user)


if __name__ == "__main__":
    with vecstore.open(sys.argv[1]) as Notes.store:
        ThreadingHTTPServer(("127.0.0.1", int((*sys.argv, 8000)[2])), Notes).serve_forever()
