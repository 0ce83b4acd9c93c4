"""Real servers on loopback addresses, plain and with TLS."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PUBLIC, PRIVATE = "127.0.0.1", "127.0.0.2"


class Answers(BaseHTTPRequestHandler):
    """Answers with the status that the path names; others promise a wrong length, or lead to `leads_to`."""

    leads_to = ""
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        word = self.path.strip("/")
        self.asked.append(word)
        if word.startswith("go"):
            self.send_response(int(word[2:]))
            self.send_header("Location", self.leads_to)
            self.end_headers()
            return
        self.send_response(int(word) if word.isdecimal() else 200)
        self.send_header("Content-Length", {"cut": "1000", "odd": "many"}.get(word, "5"))
        self.end_headers()
        self.wfile.write(b"12345")

    def log_message(self, *words: Any) -> None:
        pass


@contextmanager
def serving(
    host: str = PUBLIC, tls: ssl.SSLContext | None = None, kind: type[BaseHTTPRequestHandler] = Answers
) -> Iterator[tuple[str, Any]]:
    """Serve on a free port of a loopback address; give the address, and the handler to set and ask."""
    handler = type("Own", (kind,), {"asked": []})
    with ThreadingHTTPServer((host, 0), handler) as running:
        if tls is not None:
            running.socket = tls.wrap_socket(running.socket, server_side=True)
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http{'s' if tls else ''}://{host}:{running.server_port}", handler
        running.shutdown()


def certified(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """Return a certificate for the loopback addresses, to be trusted, and what a server with it needs."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    alternatives = [x509.IPAddress(ipaddress.ip_address(host)) for host in (PUBLIC, PRIVATE)]
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    kinds = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "ca.pem").write_bytes(certificate.public_bytes(pem))
    (folder / "both.pem").write_bytes(certificate.public_bytes(pem) + key.private_bytes(pem, *kinds))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "both.pem")
    return folder / "ca.pem", context
