"""An authority that issues certificates for the tests of TLS. Without cryptography they skip."""

import datetime

import pytest

x509 = pytest.importorskip(
    "cryptography.x509", reason="cryptography, which makes the certificates, is not here"
)
from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402  behind the skip
from cryptography.hazmat.primitives.asymmetric import ec  # noqa: E402

NOW, DAY = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)


class Authority:
    """Issues certificates; `.pem` is its own."""

    def __init__(self, name: str):
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        own = x509.BasicConstraints(ca=True, path_length=None)
        self.pem = self._signed(self._name, self._key, -9, 9, own).public_bytes(serialization.Encoding.PEM)

    def _signed(self, subject, key, begins: float, ends: float, extension):
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW + begins * DAY)
            .not_valid_after(NOW + ends * DAY)
            .add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        )
        return builder.sign(self._key, hashes.SHA256())

    def issued(self, name: str = "localhost", begins: float = -1, ends: float = 1) -> tuple[bytes, bytes]:
        """Key and certificate, PEM, valid from so many days from now to so many."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        certificate = self._signed(
            subject, key, begins, ends, x509.SubjectAlternativeName([x509.DNSName(name)])
        )
        as_pem = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        return (
            key.private_bytes(serialization.Encoding.PEM, *as_pem),
            certificate.public_bytes(serialization.Encoding.PEM),
        )
