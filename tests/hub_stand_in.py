# SPDX-License-Identifier: Apache-2.0
"""A hub on loopback: the requests that `huggingface_hub` makes, answered from memory."""

import base64
import hashlib
import json
import re
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree)/([^/?]+))?(?:\?.*)?$")
FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/([^?]+)")
PUSH = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)/(preupload|commit)/([^/?]+)")


class Hub:
    """Repositories in memory: files by commit, and the commits that branches and tags name.

    Attributes:
      asked: every request, `METHOD path`, in order.
      broken: how many downloads of a file still end in its middle.
      gated: repositories whose files nobody may have.
    """

    def __init__(self):
        self.commits, self.refs = {}, {}
        self.asked, self.gated, self.broken = [], set(), 0
        self.endpoint = ""

    def commit(self, name, files, *, ref="main") -> str:
        """A new commit of a repository, whole; datasets are named `datasets/org/name`."""
        said = [(path, hashlib.sha1(content).hexdigest()) for path, content in files.items()]
        sha = hashlib.sha1(repr((name, sorted(said))).encode()).hexdigest()
        self.commits[name, sha] = dict(files)
        self.refs.setdefault(name, {})[ref] = sha
        return sha

    def commit_folder(self, name, folder: Path, *, ref="main") -> str:
        found = (file for file in sorted(folder.rglob("*")) if file.is_file())
        files = {str(file.relative_to(folder)): file.read_bytes() for file in found}
        return self.commit(name, files, ref=ref)

    def files(self, name, revision="main") -> dict | None:
        sha = self.refs[name].get(revision, revision)
        return self.commits.get((name, sha))

    def downloads(self) -> list[str]:
        return [
            one.rpartition("/")[2]
            for one in self.asked
            if one.startswith("GET") and FILE.search(one)
        ]


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.hub.asked.append(f"{self.command} {self.path}")
        if found := API.match(self.path):
            self.info(*found.groups())
        elif found := FILE.match(self.path):
            self.file(*found.groups())
        else:
            self.refuse("EntryNotFound")

    def do_POST(self):
        self.hub.asked.append(f"POST {self.path}")
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.hub.refs.setdefault(name, {})
            return self.answer({"url": f"{self.hub.endpoint}/{name}"})
        if self.path == "/api/validate-yaml":  # of a model card
            return self.answer({"errors": [], "warnings": []})
        _, name, action, _ = PUSH.match(self.path).groups()
        if action == "preupload":
            modes = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self.answer({"files": modes})
        lines = [json.loads(line) for line in body.splitlines()]
        files = {
            line["value"]["path"]: base64.b64decode(line["value"]["content"])
            for line in lines
            if line["key"] == "file"
        }
        sha = self.hub.commit(name, files)
        url = f"{self.hub.endpoint}/{name}/commit/{sha}"
        self.answer({"commitUrl": url, "commitOid": sha, "success": True})

    def info(self, kind, name, what, revision):
        name = f"datasets/{name}" if kind == "datasets" else name
        if name not in self.hub.refs:
            return self.refuse("RepoNotFound", code=401)
        files = self.hub.files(name, revision or "main")
        if files is None:
            return self.refuse("RevisionNotFound")
        if what == "tree":
            return self.answer([entry(path, content) for path, content in files.items()])
        sha = self.hub.refs[name].get(revision or "main", revision)
        siblings = [{"rfilename": path} for path in files]
        self.answer({"id": name.removeprefix("datasets/"), "sha": sha, "siblings": siblings})

    def file(self, prefix, name, revision, path):
        name = (prefix or "") + name
        if name in self.hub.gated:
            return self.refuse("GatedRepo", code=403)
        files = self.hub.files(name, revision)
        if files is None or path not in files:
            return self.refuse("EntryNotFound")
        content = files[path]
        start = int((re.match(r"bytes=(\d+)", self.headers.get("Range", "")) or [0, 0])[1])
        broken = self.command == "GET" and self.hub.broken > 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", entry(path, content)["oid"])
        self.send_header("X-Repo-Commit", self.hub.refs[name].get(revision, revision))
        self.end_headers()
        if broken:
            self.hub.broken -= 1
            self.wfile.write(content[start : start + (len(content) - start) // 2])
            self.close_connection = True
        elif self.command == "GET":
            self.wfile.write(content[start:])

    def refuse(self, error, *, code=404):
        self.send_response(code)
        self.send_header("X-Error-Code", error)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def answer(self, found):
        body = json.dumps(found).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def entry(path: str, content: bytes) -> dict:
    return {
        "type": "file",
        "path": path,
        "size": len(content),
        "oid": hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest(),
    }


@contextmanager
def serve(hub: Hub):
    """The hub at a free port of this machine; its address in `hub.endpoint`."""
    handler = type("Bound", (Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that `huggingface_hub` of this process asks, with an empty cache.

    It reads its environment variables when it is imported: what they set is set here.
    """
    from huggingface_hub import constants

    with serve(Hub()) as started:
        monkeypatch.setattr(constants, "ENDPOINT", started.endpoint)
        template = started.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield started
