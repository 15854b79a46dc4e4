"""Real image tools for tests: docker-registry on loopback, images made by umoci, pushed by skopeo; and a bad proxy."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.server
import io
import json
import os
import shutil
import socket
import ssl
import subprocess
import tarfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests import support

OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class Process(NamedTuple):
    """A registry that runs: its address, and the folder of its blobs."""

    host: str
    root: Path


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def serve(folder: Path, extra: str = "") -> Iterator[Process]:
    """Run a docker-registry; `extra` follows the http section of its configuration, or goes on with it."""
    support.need("docker-registry")
    root = folder / "registry"
    root.mkdir(parents=True, exist_ok=True)
    host = f"127.0.0.1:{free_port()}"
    config = folder / "registry.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n"
        f"storage: {{filesystem: {{rootdirectory: {root}}}}}\nhttp:\n  addr: {host}\n{extra}"
    )
    with open(folder / "registry.log", "wb") as log:
        worker = subprocess.Popen(
            ["docker-registry", "serve", config], stdout=log, stderr=log, env=support.environment()
        )
    try:
        _wait_for(host, worker)
        yield Process(host, root)
    finally:
        worker.terminate()
        worker.wait(20)


def _wait_for(host: str, worker: subprocess.Popen[bytes]) -> None:
    address, _, port = host.rpartition(":")
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        assert worker.poll() is None, "docker-registry ended"
        with contextlib.suppress(OSError), socket.create_connection((address, int(port)), 1):
            return
        time.sleep(0.05)
    raise AssertionError("docker-registry does not listen")


def tar_of(files: dict[str, bytes]) -> bytes:
    """Return a tar that holds these files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o644
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def digest(data: bytes) -> str:
    """Return the sha256 digest of some bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def umoci_layout(folder: Path, layers: list[bytes], tag: str = "v1") -> Path:
    """Make an OCI layout with umoci from plain tars."""
    support.need("umoci")
    layout = folder / "layout"
    env = support.environment()
    subprocess.run(["umoci", "init", "--layout", layout], check=True, env=env)
    subprocess.run(["umoci", "new", "--image", f"{layout}:{tag}"], check=True, env=env)
    for number, data in enumerate(layers):
        path = folder / f"layer{number}.tar"
        path.write_bytes(data)
        subprocess.run(["umoci", "raw", "add-layer", "--image", f"{layout}:{tag}", path], check=True, env=env)
    return layout


def skopeo(*words: str | os.PathLike[str]) -> bytes:
    """Run skopeo, which must succeed."""
    support.need("skopeo")
    done = subprocess.run(["skopeo", *map(os.fspath, words)], capture_output=True, env=support.environment())
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def push(layout: Path, tag: str, name: str, *options: str) -> None:
    """Push an image of a layout to a registry that speaks plain HTTP."""
    skopeo("copy", "--quiet", "--dest-tls-verify=false", *options, f"oci:{layout}:{tag}", f"docker://{name}")


class Image:
    """An OCI layout written byte by byte, for what no honest tool makes."""

    def __init__(self, folder: Path, algorithm: str = "sha256") -> None:
        self.folder = folder
        self.algorithm = algorithm
        (folder / "blobs" / algorithm).mkdir(parents=True)
        (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    def blob(self, data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
        """Write a blob, and return its descriptor."""
        name = hashlib.new(self.algorithm, data).hexdigest()
        (self.folder / "blobs" / self.algorithm / name).write_bytes(data)
        return {"mediaType": media_type, "digest": f"{self.algorithm}:{name}", "size": len(data), **more}

    def document(self, value: Any, media_type: str, **more: Any) -> dict[str, Any]:
        """Write a JSON document, and return its descriptor."""
        return self.blob(json.dumps(value).encode(), media_type, **more)

    def manifest(
        self,
        layers: list[dict[str, Any]],
        diff_ids: list[str],
        *,
        config_type: str = OCI_CONFIG,
        **config: Any,
    ) -> dict[str, Any]:
        """Write a manifest and its configuration, and return its descriptor."""
        fields = {"architecture": "amd64", "os": "linux", "config": {}, **config}
        described = self.document({**fields, "rootfs": {"type": "layers", "diff_ids": diff_ids}}, config_type)
        return self.document({"schemaVersion": 2, "config": described, "layers": layers}, OCI_MANIFEST)

    def index(self, *entries: dict[str, Any]) -> Path:
        """Write the index.json, and return the layout's folder."""
        (self.folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": list(entries)}))
        return self.folder

    def of_layer(self, blob: bytes, diff_id: str, suffix: str = "+gzip") -> Path:
        """Write an image of one layer, and return the layout's folder."""
        return self.index(self.manifest([self.blob(blob, OCI_LAYER + suffix)], [diff_id]))


def gzip_of(data: bytes) -> bytes:
    """Return data as one gzip member."""
    return gzip.compress(data, 6, mtime=0)


Handler = Callable[["Proxy"], bool]


class Proxy(http.server.BaseHTTPRequestHandler):
    """Passes requests on to a registry; `meddle` may answer one itself, and then returns True."""

    protocol_version = "HTTP/1.1"
    upstream = ""
    meddle: Handler = staticmethod(lambda _request: False)
    seen: list[tuple[str, dict[str, str]]]

    def do_GET(self) -> None:
        self.seen.append((self.path, {key.lower(): value for key, value in self.headers.items()}))
        if type(self).meddle(self):
            return
        status, headers, body = self.fetch()
        self.answer(status, headers, body)

    do_POST = do_GET

    def fetch(self) -> tuple[int, dict[str, str], bytes]:
        """Return what the registry answers."""
        wanted = {key: self.headers[key] for key in ("Accept", "Range", "Authorization") if key in self.headers}
        request = urllib.request.Request(f"http://{self.upstream}{self.path}", headers=wanted)
        try:
            with urllib.request.urlopen(request) as response:
                return response.status, dict(response.headers.items()), response.read()
        except urllib.error.HTTPError as error:
            return error.code, dict(error.headers.items()), error.read()

    def answer(self, status: int, headers: dict[str, str], body: bytes, *, length: int | None = None) -> None:
        """Send an answer; `length` may lie."""
        self.send_response(status)
        for key, value in headers.items():
            if key.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                self.send_header(key, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        if length is not None:
            self.close_connection = True
            self.send_header("Connection", "close")
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)

    def raw(self, *pieces: bytes, pause: float = 0.0) -> None:
        """Send bytes as they are, with pauses between them, and close the connection."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            for piece in pieces:
                self.wfile.write(piece)
                self.wfile.flush()
                time.sleep(pause)

    def log_message(self, *_: object) -> None:
        pass

    @property
    def is_blob(self) -> bool:
        """Whether this asks for a blob that is not tiny: a layer."""
        return "/blobs/" in self.path


class Faulty(NamedTuple):
    """A proxy that runs: its address, and all requests that it saw."""

    host: str
    seen: list[tuple[str, dict[str, str]]]


@contextlib.contextmanager
def faulty(
    upstream: str, meddle: Handler, tls: ssl.SSLContext | None = None, address: str = "127.0.0.1", port: int = 0
) -> Iterator[Faulty]:
    """Run a proxy before a registry that meddles with some requests."""
    seen: list[tuple[str, dict[str, str]]] = []
    kind = type("Meddler", (Proxy,), {"upstream": upstream, "meddle": staticmethod(meddle), "seen": seen})
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    server = type("Server", (http.server.ThreadingHTTPServer,), {"address_family": family})((address, port), kind)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield Faulty(f"[{address}]:{server.server_port}" if ":" in address else f"{address}:{server.server_port}", seen)
    finally:
        server.shutdown()
        server.server_close()


def nothing(_request: Proxy) -> bool:
    """Meddle with nothing."""
    return False


def static(answers: dict[str, tuple[str, bytes]]) -> Handler:
    """Return a handler that is a registry by itself: what it has by path, each with its media type; ranges work."""

    def answer(request: Proxy) -> bool:
        path = request.path.partition("?")[0]
        if path not in answers:
            request.answer(404, {"Docker-Distribution-Api-Version": "registry/2.0"}, b"{}")
            return True
        media_type, data = answers[path]
        start = int(request.headers.get("Range", "bytes=0-")[6:].rstrip("-"))
        headers = {"Content-Type": media_type}
        names = [key.rpartition("/")[2] for key, (_, other) in answers.items() if other is data and ":" in key]
        if names:
            headers["Docker-Content-Digest"] = names[0]
        if start >= len(data) > 0:
            request.answer(416, {"Content-Range": f"bytes */{len(data)}"}, b"")
            return True
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        request.answer(206 if start else 200, headers, data[start:])
        return True

    return answer


def of_layout(layout: Path, repository: str, tag: str = "v1") -> dict[str, tuple[str, bytes]]:
    """Return the answers of a registry that has the one image of a layout, for `static`."""
    entry = json.loads((layout / "index.json").read_text())["manifests"][0]
    answers = {}
    for path in (layout / "blobs").glob("*/*"):
        data, name = path.read_bytes(), f"{path.parent.name}:{path.name}"
        kind = json.loads(data).get("mediaType", OCI_MANIFEST) if data.startswith(b"{") else "application/octet-stream"
        answers[f"/v2/{repository}/blobs/{name}"] = ("application/octet-stream", data)
        answers[f"/v2/{repository}/manifests/{name}"] = (kind, data)
    found = answers[f"/v2/{repository}/manifests/{entry['digest']}"][1]
    answers[f"/v2/{repository}/manifests/{tag}"] = (entry["mediaType"], found)
    return answers


class Authority:
    """A certificate authority of our own; `file` is what clients are to trust."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        support.need("openssl")
        self.folder = folder
        self.file, self.key = folder / f"{name}.crt", folder / f"{name}.key"
        self._openssl("req", "-x509", *self._new(self.key), "-days", "2", "-subj", f"/CN={name}", "-out", self.file)

    def _openssl(self, *words: str | Path) -> None:
        subprocess.run(["openssl", *words], check=True, capture_output=True, env=support.environment())

    def _new(self, key: Path) -> list[str]:
        return ["-newkey", "rsa:2048", "-nodes", "-keyout", str(key)]

    def issue(self, name: str, names: str = "IP:127.0.0.1,IP:::1,DNS:localhost") -> tuple[Path, Path]:
        """Return a certificate, for servers and clients, and its key."""
        crt, key, request = (self.folder / f"{name}.{ending}" for ending in ("crt", "key", "csr"))
        extensions = self.folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={names}\nextendedKeyUsage=serverAuth,clientAuth\n")
        self._openssl("req", *self._new(key), "-subj", f"/CN={name}", "-out", request)
        signer: list[str | Path] = ["-CA", self.file, "-CAkey", self.key, "-CAcreateserial"]
        self._openssl("x509", "-req", "-in", request, *signer, "-days", "2", "-extfile", extensions, "-out", crt)
        return crt, key


def htpasswd(folder: Path) -> Path:
    """Write the password file of docker-registry: the user `alice`, whose password is `secret`."""
    path = folder / "htpasswd"
    path.write_text(
        "alice:$2y$05$xGFUK2QM8XV09goj/sVtmOUdEpC1JM2/boonuef0B42NFcVcYv3li\n"
    )  # bcrypt, the only kind that docker-registry reads
    return path


def remove_cache(home: Path) -> None:
    """Forget everything that was fetched."""
    shutil.rmtree(home / "cache", ignore_errors=True)
