"""Keys and certificates: one authority and one server certificate, and one key per node."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from emsfl.deploy.flower import ServerTls, check_installed
from emsfl.errors import UserError
from emsfl.files import atomic_path

AUTHORITY, CERTIFICATE, SERVER_KEY = "authority.pem", "server.pem", "server.key"
VALID_DAYS = 3650


def make_server_keys(folder: Path, hosts: Sequence[str]) -> None:
    """Make an authority and a server certificate for `hosts` (and this machine) in `folder`.

    The authority's own key is not kept: a new certificate means a new authority.

    Raises:
        UserError: there are keys already.
    """
    check_installed()
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    _refuse_existing(folder / CERTIFICATE)
    authority_key = ec.generate_private_key(ec.SECP384R1())
    server_key = ec.generate_private_key(ec.SECP384R1())
    now = datetime.now(UTC)

    def certificate(name: str, issuer: str, public_key: Any) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=VALID_DAYS))
        )

    authority_name = "emsfl authority"
    unused = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    usage = dict.fromkeys((*unused, "encipher_only", "decipher_only"), False)
    identifier = x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key())
    authority = (
        certificate(authority_name, authority_name, authority_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(
            x509.KeyUsage(digital_signature=True, key_cert_sign=True, crl_sign=True, **usage),
            critical=True,
        )
        .sign(authority_key, hashes.SHA384())
    )
    names = [_general_name(host) for host in dict.fromkeys([*hosts, "localhost", "127.0.0.1"])]
    server = (
        certificate("emsfl server", authority_name, server_key.public_key())
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier),
            critical=False,
        )
        .sign(authority_key, hashes.SHA384())
    )
    _write_secret(
        folder / SERVER_KEY,
        server_key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
    _write(folder / AUTHORITY, authority.public_bytes(serialization.Encoding.PEM))
    _write(folder / CERTIFICATE, server.public_bytes(serialization.Encoding.PEM))


def make_node_key(folder: Path, name: str) -> None:
    """Make the key pair of cluster `name`: `NAME.key`, which stays there, and `NAME.pub`.

    Raises:
        UserError: there is one already.
    """
    check_installed()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    path = folder / f"{name}.key"
    _refuse_existing(path)
    key = ec.generate_private_key(ec.SECP384R1())
    _write_secret(
        path,
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        ),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    _write(path.with_suffix(".pub"), public + f" {name}\n".encode())


def server_tls(folder: Path) -> ServerTls:
    """Return the server's certificates in `folder`.

    Raises:
        UserError: one is missing.
    """
    tls = ServerTls(
        certificate=folder / CERTIFICATE, key=folder / SERVER_KEY, authority=folder / AUTHORITY
    )
    for path in (tls.certificate, tls.key, tls.authority):
        if not path.is_file():
            raise UserError(f"{path} is missing; make it with 'emsfl keys server {folder}'")
    return tls


def public_key(folder: Path, name: str) -> bytes:
    """Return the registered public key of cluster `name`, as Flower takes it.

    Raises:
        UserError: it is missing or no key.
    """
    check_installed()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_ssh_public_key
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes

    path = folder / f"{name}.pub"
    if not path.is_file():
        raise UserError(
            f"{path} is missing: no key is registered for {name}; make one on its machine with "
            f"'emsfl keys node {name}' and copy its .pub file here"
        )
    try:
        key = load_ssh_public_key(path.read_bytes())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UserError(f"{path} is no public key in OpenSSH's format: {error}") from None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise UserError(f"{path} is no elliptic-curve key; make it with 'emsfl keys node {name}'")
    return public_key_to_bytes(key)


def private_key(folder: Path, name: str) -> Any:
    """Return the private key of cluster `name`.

    Raises:
        UserError: it is missing, no key, or readable by others.
    """
    check_installed()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key

    path = folder / f"{name}.key"
    if not path.is_file():
        raise UserError(f"{path} is missing; make it with 'emsfl keys node {name} {folder}'")
    if path.stat().st_mode & 0o077:
        raise UserError(f"{path} can be read by others; run: chmod 600 {path}")
    try:
        return load_ssh_private_key(path.read_bytes(), password=None)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UserError(f"{path} is no private key in OpenSSH's format: {error}") from None


def open_key(name: str) -> Any:
    """Return the key of cluster `name` where nothing is secured: anyone can make it."""
    check_installed()
    from cryptography.hazmat.primitives.asymmetric import ec

    number = int.from_bytes(hashlib.sha256(f"emsfl insecure {name}".encode()).digest(), "big")
    return ec.derive_private_key(number, ec.SECP384R1())


def open_public_key(name: str) -> bytes:
    """Return the public half of `open_key`, as Flower takes it."""
    check_installed()
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes

    return public_key_to_bytes(open_key(name).public_key())


def _general_name(host: str) -> Any:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise UserError(f"{path} exists; keys are never overwritten: choose another folder")


def _write(path: Path, content: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def _write_secret(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(content)
