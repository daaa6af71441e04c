"""Who made a bundle: a signature over all of its files, by an elliptic key, without asking any network.

The file model.sig in the bundle is a Sigstore bundle as the package model-signing writes it (OpenSSF Model Signing
1.0). The manifest's checksums show that nothing was changed by accident; whoever changes a file on purpose writes the
manifest anew, but has not the key. Only what is imported inside of functions needs the extra `sign`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from cvtune_edge.errors import BundleError, CvtuneError, first_line, listed
from cvtune_edge.inside import (
    MOST_FILES,
    RefusedError,
    hash_inside,
    problems_inside,
    read_inside,
    stays_inside,
    walk_inside,
)
from cvtune_edge.manifest import MANIFEST_FILE, Manifest, read_manifest
from cvtune_edge.strict_json import parse_json

if TYPE_CHECKING:
    from model_signing import manifest as signed

SIGNATURE_FILE: Final = "model.sig"
_MOST_SHOWN: Final = 100  # characters of what the package says, in an error
_MOST: Final = 1 << 24  # bytes of a signature: it names every file
_KEY_MODE: Final = 0o600
_HOW: Final = {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": [SIGNATURE_FILE]}
_SIGN_AGAIN: Final = "copy the whole folder again, or have it signed again: `cvtune sign RUN --key PRIVATE.pem`"
_CURVES: Final = "an elliptic key in PEM: `cvtune sign --new-key line.pem` makes a pair"


def sign(folder: Path, key: Path) -> Path:
    """Sign a bundle that is whole; a signature that it has is replaced.

    Args:
        folder: of the bundle.
        key: the private key, PEM, on the curve P-256, P-384 or P-521.

    Returns:
        The file of the signature.

    Raises:
        BundleError: not a bundle, one that was changed, or a file in it that cannot be signed.
        CvtuneError: no key, or the extra is not installed.
    """
    signing = _package().signing
    manifest, digest = read_manifest(folder)
    problems = problems_inside(folder, manifest.files)
    if problems:
        raise _refused(folder, "it is not signed: ", problems)
    try:
        config = signing.Config().use_elliptic_key_signer(private_key=key)
    except (OSError, TypeError, ValueError, AttributeError) as error:  # other keys have no curve
        raise _no_key(key, "private", error) from error
    target, beside = folder / SIGNATURE_FILE, folder / f".{SIGNATURE_FILE}.new"
    beside.unlink(missing_ok=True)  # of a process that was killed
    try:
        config.set_hashing_config(_known(folder, _all_files(folder, manifest, digest))).sign(folder, beside)
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)
    return target


def check_signature(folder: Path, key: Path, manifest: Manifest, digest: str) -> None:
    """Refuse a bundle that was not signed with a key, or has other files than were signed.

    The checksums that are compared are those of the manifest: that the files have them is checked when they are read.

    Args:
        folder: of the bundle.
        key: the public key, PEM.
        manifest: of the bundle.
        digest: SHA-256 of the manifest's own file.

    Raises:
        BundleError: no signature, one by another key, or files that are not those that were signed, each by its name.
        CvtuneError: no key, or the extra is not installed.
    """
    package = _package()
    _check_form(folder)
    try:
        config = package.verifying.Config().use_elliptic_key_verifier(public_key=key)
    except (OSError, TypeError, ValueError, AttributeError) as error:
        raise _no_key(key, "public", error) from error
    known = _known(folder, _all_files(folder, manifest, digest))
    try:
        config.set_hashing_config(known).verify(folder, folder / SIGNATURE_FILE)
    except package.InvalidSignature as error:
        raise _refused(folder, "", [f"{SIGNATURE_FILE}: not made with the key {key.as_posix()}"]) from error
    except Exception as error:  # whatever a file from other hands makes of the package's parsers
        other = "Key mismatch" in str(error)
        reason = (
            f"not made with the key {key.as_posix()}"
            if other
            else f"no signature of a bundle ({first_line(error, _MOST_SHOWN)})"
        )
        raise _refused(folder, "", known.problems or [f"{SIGNATURE_FILE}: {reason}"]) from error


def is_signed(folder: Path) -> bool:
    """Whether a bundle has a signature, by whomever."""
    return (folder / SIGNATURE_FILE).is_file()


def new_key(path: Path) -> Path:
    """Make a pair of keys on the curve P-256; nothing is overwritten.

    Args:
        path: of the private key, which only its owner may read: `line.pem`.

    Returns:
        The file of the public key, `line.pub.pem`.

    Raises:
        CvtuneError: one of the files is there already or cannot be written, or the extra is not installed.
    """
    _package()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    public = path.with_name(f"{path.stem}.pub.pem")
    key = ec.generate_private_key(ec.SECP256R1())
    private_text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public_text = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    if public.exists():
        raise CvtuneError(
            f"{public.as_posix()}: is there already", hint="keys are never overwritten: take another name"
        )
    _write_new(path, private_text, _KEY_MODE)
    _write_new(public, public_text, 0o644)
    return public


def _write_new(path: Path, text: bytes, mode: int) -> None:
    """Write a file that must not be there yet, from its first byte on with its final rights."""
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(text)
    except FileExistsError:
        hint = "keys are never overwritten: take another name"
        raise CvtuneError(f"{path.as_posix()}: is there already", hint=hint) from None
    except OSError as error:
        raise CvtuneError(f"{path.as_posix()}: cannot be written ({error.strerror})", hint="another folder") from error


def _package() -> Any:
    """What is used of the package model-signing, or how to install it."""
    try:
        from cryptography.exceptions import InvalidSignature
        from model_signing import signing, verifying
    except ImportError as error:
        raise CvtuneError(
            f"signatures need the package model-signing ({error})",
            hint='install the extra: "cvtune[sign]" here, "cvtune-edge[sign]" on the line PC',
        ) from error

    return SimpleNamespace(signing=signing, verifying=verifying, InvalidSignature=InvalidSignature)


def _known(folder: Path, files: Mapping[str, str]) -> Any:
    """A configuration of model-signing that takes checksums as they are known here, and opens no file by itself.

    Its `problems` say in our words what the comparison found.
    """
    from model_signing import hashing, manifest
    from model_signing._hashing.hashing import Digest

    how = manifest.SerializationType.from_args(_HOW)

    class Compared(manifest.Manifest):
        def __eq__(self, expected: object) -> bool:
            assert isinstance(expected, manifest.Manifest)
            known.problems = list(_differences(files, _named(expected)))
            return not known.problems

        __hash__ = None  # type: ignore[assignment]

    class Known(hashing.Config):
        problems: list[str]

        def hash(self, model_path: Any, *, files_to_hash: Any = None) -> manifest.Manifest:
            items = [how.new_item(name, Digest("sha256", bytes.fromhex(digest))) for name, digest in files.items()]
            return Compared(folder.resolve().name, items, how)

        def add_ignored_paths(self, *, model_path: Any, paths: Any) -> None:
            """Whatever a signature says of files to leave out: here every file counts, but for the signature."""

    known = Known()  # type: ignore[no-untyped-call]
    known.problems = []
    return known


def _named(expected: signed.Manifest) -> dict[str, str]:
    """Checksums by names, as they were signed."""
    return {one.identifier: one.digest.digest_hex for one in expected.resource_descriptors()}


def _differences(here: Mapping[str, str], expected: Mapping[str, str]) -> Iterator[str]:
    for name in sorted(expected):
        if name not in here:
            yield f"{name}: missing, it was signed"
        elif here[name] != expected[name]:
            yield f"{name}: changed after it was signed"
    yield from (f"{name}: was not signed" for name in sorted(set(here) - set(expected)))


def _all_files(folder: Path, manifest: Manifest, digest: str) -> dict[str, str]:
    """SHA-256 of every file by its name, without the signature: those of the manifest as it tells them.

    Raises:
        BundleError: something in the folder is no regular file.
    """
    found = {MANIFEST_FILE: digest, **manifest.files}
    try:
        for count, name in enumerate(walk_inside(folder)):
            if count > MOST_FILES:
                raise RefusedError(f"more than {MOST_FILES:,} files")
            if not stays_inside(name):
                raise RefusedError(f"{name!r}: a name that may lead out of the bundle")
            if name not in found and name != SIGNATURE_FILE:
                found[name] = hash_inside(folder, name)[0]
    except OSError as error:
        raise _refused(folder, "", [str(error.strerror)]) from error
    return found


def _check_form(folder: Path) -> None:
    """That there is a signature which tells its key; without, the package would print a line and go on."""
    try:
        tree = parse_json(read_inside(folder, SIGNATURE_FILE, most=_MOST))
        if not isinstance(tree["verificationMaterial"]["publicKey"]["hint"], str):
            raise ValueError("it does not tell its key")
    except FileNotFoundError:
        raise BundleError(f"{folder.as_posix()}: is not signed, it has no {SIGNATURE_FILE}", hint=_SIGN_AGAIN) from None
    except OSError as error:
        raise _refused(folder, "", [f"{SIGNATURE_FILE}: {error.strerror}"]) from error
    except (KeyError, TypeError, ValueError) as error:
        raise _refused(
            folder, "", [f"{SIGNATURE_FILE}: no signature of a bundle ({first_line(error, _MOST_SHOWN)})"]
        ) from error


def _refused(folder: Path, what: str, problems: list[str]) -> BundleError:
    told = problems[0] if len(problems) == 1 else listed(problems)
    return BundleError(f"{folder.as_posix()}: {what}{told}", hint=_SIGN_AGAIN)


def _no_key(key: Path, which: str, error: Exception) -> CvtuneError:
    """Nothing of what the file holds is told: it may be a secret."""
    if isinstance(error, OSError):
        return CvtuneError(f"{key.as_posix()}: cannot be read ({error.strerror})", hint=_CURVES)
    if isinstance(error, TypeError):
        hint = "take its password away in a safe place: `openssl pkey -in KEY.pem -out PLAIN.pem`"
        return CvtuneError(f"{key.as_posix()}: a key with a password", hint=hint)
    return CvtuneError(f"{key.as_posix()}: no {which} key on the curve P-256, P-384 or P-521", hint=_CURVES)
