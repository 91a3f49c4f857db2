"""Who made a bundle: an Ed25519 signature (RFC 8032) of its manifest, which holds the hash of every other file."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from targets.errors import InvalidInput, MissingDependency
from toolkit.bundle.layout import MANIFEST, SIGNATURE

__all__ = ["Signed", "check_signature", "load_private_key", "sign"]

_SCHEMA = "toolkit.signature/1"
_PRIVATE_HINT = "make one: openssl genpkey -algorithm ed25519 -out key.pem"
_PUBLIC_HINT = "write it from the private one: openssl pkey -in key.pem -pubout -out public.pem"


@dataclass(frozen=True)
class Signed:
    """A signature that fits. `expected` where its key is the one that the user named."""

    key: str
    expected: bool


def load_private_key(file: Path) -> Any:
    """The Ed25519 key in a PEM file without a password.

    Raises:
        InvalidInput: it cannot be read, or is of another kind.
        MissingDependency: `cryptography` is not installed.
    """
    _need_library()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    return _load(file, lambda text: load_pem_private_key(text, None), Ed25519PrivateKey, "private", _PRIVATE_HINT)


def sign(folder: Path, key: Any) -> None:
    """Write the signature of the manifest in `folder`; equal manifests have equal ones."""
    made = key.sign((folder / MANIFEST).read_bytes())
    said = {
        "schema": _SCHEMA,
        "algorithm": "ed25519",
        "public_key": _text(_raw(key.public_key())),
        "signature": _text(made),
    }
    (folder / SIGNATURE).write_text(json.dumps(said, indent=1) + "\n", "utf-8")


def check_signature(folder: Path, expected: Path | None = None) -> Signed | None:
    """Whose signature the manifest in `folder` carries; None where it carries none and none is `expected`.

    Args:
        expected: A PEM file with the public key that must have signed.

    Raises:
        InvalidInput: the manifest is not the one that was signed, not signed at all, or by another key.
        MissingDependency: `cryptography` is not installed.
    """
    file = folder / SIGNATURE
    if not file.exists():
        if expected is None:
            return None
        raise InvalidInput(f"{folder} is not signed", hint="ask for a signed bundle: toolkit compile --sign key.pem")
    _need_library()
    public = _signer(folder, file)
    wanted = _raw(_public_key(expected)) if expected else None
    if wanted not in (None, public):
        raise InvalidInput(
            f"{folder} was signed with the key {_fingerprint(public)}, not with {expected}: {_fingerprint(wanted)}",
            hint="do not use this bundle, or name the key of the one who made it",
        )
    return Signed(_fingerprint(public), wanted is not None)


def _signer(folder: Path, file: Path) -> bytes:
    """The public key of a signature that fits the manifest."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        said = json.loads(file.read_text("utf-8"))
        if said["schema"] != _SCHEMA:
            raise ValueError("it is of another version")
        public, made = (base64.b64decode(said[name], validate=True) for name in ("public_key", "signature"))
        Ed25519PublicKey.from_public_bytes(public).verify(made, (folder / MANIFEST).read_bytes())
    except InvalidSignature as error:
        raise InvalidInput(
            f"{folder / MANIFEST} is not the one that was signed",
            hint="do not use this bundle; copy or compile it again",
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"{file} is damaged: {error}", hint="copy the bundle again") from error
    return public


def _public_key(file: Path) -> Any:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    return _load(file, load_pem_public_key, Ed25519PublicKey, "public", _PUBLIC_HINT)


def _load(file: Path, read: Any, kind: type, half: str, hint: str) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        key = read(file.read_bytes())
    except OSError as error:
        raise InvalidInput(f"cannot read the key {file}: {error.strerror}", hint=hint) from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: it has a password
        raise InvalidInput(f"{file} holds no {half} key, or one with a password", hint=hint) from error
    if not isinstance(key, kind):
        raise InvalidInput(f"{file} holds a key of another kind, not Ed25519", hint=hint)
    return key


def _raw(public: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    content: bytes = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
    return content


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _fingerprint(public: bytes) -> str:
    """The first half of its SHA-256."""
    return f"ed25519:{hashlib.sha256(public).hexdigest()[:32]}"


def _need_library() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise MissingDependency(
            "signatures are made and checked with cryptography, which is not installed",
            hint="pip install 'edge-toolkit[sign]'",
        ) from error
