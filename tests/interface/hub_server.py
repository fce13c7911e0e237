"""A stand-in of the Hugging Face hub on the loopback: the few of its endpoints that writing and reading a model need.

It follows what the client (huggingface_hub) asks for. It is not the hub: what the hub refuses, it may take.
"""

import base64
import contextlib
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote, urlsplit


class Repository:
    """The commits of one repository: by name of the commit, the files by name."""

    def __init__(self) -> None:
        self.empty()

    def empty(self) -> None:
        self.commits: dict[str, dict[str, bytes]] = {}
        self.newest = ""
        self.asked: list[str] = []

    def commit(self, files: dict[str, bytes]) -> str:
        name = hashlib.sha1(repr(sorted(files.items())).encode() + self.newest.encode()).hexdigest()
        self.commits[name], self.newest = files, name
        return name


class _Handler(http.server.BaseHTTPRequestHandler):
    repository: Repository

    def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002 - its name

    def _send(self, content: bytes, kind: str = "application/json", **headers: str) -> None:
        self.send_response(200)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, content: Any) -> None:
        self._send(json.dumps(content).encode())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        path, here = urlsplit(self.path).path, f"http://{self.headers['Host']}"
        self.repository.asked.append(f"POST {path}")
        if path == "/api/repos/create":
            self._json({"url": f"{here}/user/name", "id": "user/name", "name": "user/name"})
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif path.endswith("/preupload/main"):
            files = [file["path"] for file in json.loads(body)["files"]]
            self._json({"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in files]})
        elif path.endswith("/commit/main"):
            lines = [json.loads(line) for line in body.splitlines()]
            files = {
                line["value"]["path"]: base64.b64decode(line["value"]["content"])
                for line in lines
                if line["key"] == "file"
            }
            name = self.repository.commit(files)
            self._json({"success": True, "commitOid": name, "commitUrl": f"{here}/user/name/commit/{name}"})
        else:
            self.send_error(404)

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.repository.asked.append(f"{self.command} {path}")
        parts = path.strip("/").split("/")
        if parts[:4] == ["api", "models", "user", "name"]:
            self._about(parts[4:])
        elif parts[:3] == ["user", "name", "resolve"]:
            content = self.repository.commits.get(parts[3], {}).get("/".join(parts[4:]))
            if content is None:
                self.send_error(404)
            else:
                etag = f'"{hashlib.sha1(content).hexdigest()}"'
                self._send(content, "application/octet-stream", ETag=etag, X_Repo_Commit=parts[3])
        else:
            self.send_error(404)

    do_HEAD = do_GET  # noqa: N815

    def _about(self, rest: list[str]) -> None:
        revision = rest[1] if rest[:1] in (["revision"], ["tree"]) else "main"
        name = self.repository.newest if revision == "main" else revision
        files = self.repository.commits.get(name)
        if files is None and rest[:1] != ["tree"]:
            self.send_error(404)
            return
        listed = [(path, len(content)) for path, content in (files or {}).items()]
        if rest[:1] == ["tree"]:
            self._json([{"type": "file", "path": path, "size": size, "oid": "0" * 40} for path, size in listed])
        else:
            siblings = [{"rfilename": path, "size": size} for path, size in listed]
            self._json({"id": "user/name", "sha": name, "siblings": siblings, "tags": [], "downloads": 0})


@contextlib.contextmanager
def hub_server() -> Iterator[tuple[Repository, str]]:
    """The repository user/name of a hub that runs while the block does, and the hub's address."""
    repository = Repository()
    handler = type("Handler", (_Handler,), {"repository": repository})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield repository, f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
