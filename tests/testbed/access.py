"""Keys, certificates and kubeconfigs of one cluster. Starts nothing and asks nobody."""

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VALID = timedelta(days=30)


class Authority:
    """One authority for servers and clients alike; what it issues lies in `folder` as NAME.crt and NAME.key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._key = self.write_key("ca")
        self._name = _name("opd-testbed")
        self._issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        usage = x509.KeyUsage(*(index in (0, 5, 6) for index in range(9)))  # signatures, certificates, revocations
        builder = _builder(self._name, self._name, self._key).add_extension(usage, critical=True)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        identifier = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        builder = builder.add_extension(identifier, critical=False)
        self._certificate = self._sign("ca", builder)

    def issue(self, name: str, common_name: str, *, group: str = "", hosts: Sequence[str] = ()) -> None:
        """`hosts`: names and addresses a server is reached by."""
        builder = _builder(_name(common_name, group), self._name, self.write_key(name))
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        if hosts:
            builder = builder.add_extension(x509.SubjectAlternativeName(list(map(_host, hosts))), critical=False)
        self._sign(name, builder)

    def write_key(self, name: str) -> ec.EllipticCurvePrivateKey:
        """NAME.key and, for those who only verify, NAME.pub."""
        key = ec.generate_private_key(ec.SECP256R1())
        private = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (self.folder / f"{name}.key").write_bytes(private)
        (self.folder / f"{name}.pub").write_bytes(public)
        return key

    def path(self, file: str) -> Path:
        return self.folder / file

    def kubeconfig(self, path: Path, server: str, user: dict[str, Any], namespace: str = "default") -> Path:
        """`user` as a kubeconfig holds it."""
        named = "testbed"
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": named, "cluster": {"server": server, "certificate-authority": str(self.path("ca.crt"))}}
            ],
            "users": [{"name": named, "user": user}],
            "contexts": [{"name": named, "context": {"cluster": named, "user": named, "namespace": namespace}}],
            "current-context": named,
        }
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(document))
        return path

    def client(self, name: str) -> dict[str, str]:
        """The kubeconfig user of a certificate that was issued."""
        return {"client-certificate": str(self.path(f"{name}.crt")), "client-key": str(self.path(f"{name}.key"))}

    def _sign(self, name: str, builder: x509.CertificateBuilder) -> x509.Certificate:
        certificate = builder.add_extension(self._issuer, critical=False).sign(self._key, hashes.SHA256())
        (self.folder / f"{name}.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
        return certificate


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    begin = now - timedelta(minutes=5)  # clocks of one machine, but not of one source
    builder = x509.CertificateBuilder(subject_name=subject, issuer_name=issuer, public_key=key.public_key())
    return builder.serial_number(x509.random_serial_number()).not_valid_before(begin).not_valid_after(now + VALID)


def _name(common_name: str, group: str = "") -> x509.Name:
    parts = [(NameOID.ORGANIZATION_NAME, group), (NameOID.COMMON_NAME, common_name)]
    return x509.Name([x509.NameAttribute(kind, value) for kind, value in parts if value])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
