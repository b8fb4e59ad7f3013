"""An authority of the lab's own, made with the openssl command."""

import subprocess
from pathlib import Path
from typing import Final

_DAYS: Final = "2"
_ELLIPTIC: Final = ("ec", "-pkeyopt", "ec_paramgen_curve:P-256")
_RSA: Final = ("rsa:3072",)
_LONG_AGO: Final = "20200101000000Z"
_STILL_LONG_AGO: Final = "20200102000000Z"


class Authority:
    """Issues certificates for the names that our daemons use."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder: Final = folder
        self._openssl(
            "req", "-x509", "-newkey", *_ELLIPTIC, "-nodes",
            "-keyout", "ca.key", "-out", "ca.pem", "-days", _DAYS, "-subj", "/CN=lab authority",
            "-addext", "keyUsage=critical,keyCertSign,cRLSign",
        )  # fmt: skip
        (folder / "index").touch()
        (folder / "serial").write_text("01\n")
        (folder / "ca.conf").write_text(
            "[ca]\ndefault_ca = own\n"
            "[own]\ndatabase = index\nserial = serial\nnew_certs_dir = .\nunique_subject = no\n"
            "certificate = ca.pem\nprivate_key = ca.key\ndefault_md = sha256\npolicy = any\n"
            "[any]\ncommonName = supplied\n"
        )

    def issue(
        self, identity: str, *, expired: bool = False, large: bool = False
    ) -> dict[str, str]:
        """The files of somebody with this identity: own.pem, own.key and ca.pem. `large`: no
        message with the certificate in it fits into one packet."""
        kind = "email" if "@" in identity else "DNS"
        self._openssl(
            "req", "-new", "-newkey", *(_RSA if large else _ELLIPTIC), "-nodes",
            "-keyout", "own.key", "-out", "own.csr", "-subj", f"/CN={identity}",
        )  # fmt: skip
        (self._folder / "names").write_text(f"subjectAltName = {kind}:{identity}\n")
        validity = (
            ["-startdate", _LONG_AGO, "-enddate", _STILL_LONG_AGO]
            if expired
            else ["-days", _DAYS]
        )
        self._openssl(
            "ca", "-config", "ca.conf", "-batch", "-notext", "-in", "own.csr",
            "-out", "own.pem", "-extfile", "names", *validity,
        )  # fmt: skip
        return {
            name: (self._folder / name).read_text() for name in ("own.pem", "own.key", "ca.pem")
        }

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(
            ["openssl", *arguments], cwd=self._folder, check=True, capture_output=True
        )
