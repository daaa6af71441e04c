"""Signatures: what was signed runs, anything else is refused by its name; the package's own check agrees."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from cvtune_edge import cli, signature
from cvtune_edge.errors import BundleError, CvtuneError
from cvtune_edge.latency import Decoded, Latency, Machine, Row, Startup, Times
from cvtune_edge.runtime import Bundle
from cvtune_edge.signature import SIGNATURE_FILE, is_signed, new_key, sign

from cvtune.bundle.enclose import enclose, note_latency
from tests.export.bundles import seal, write_bundle

package = pytest.importorskip("model_signing", reason="needs the extra cvtune[sign]")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    private: Path = tmp_path_factory.mktemp("keys") / "line.pem"
    return private, new_key(private)


@pytest.fixture(scope="module")
def signed_once(tmp_path_factory: pytest.TempPathFactory, keys: tuple[Path, Path]) -> Path:
    folder: Path = write_bundle(tmp_path_factory.mktemp("signed") / "bundle")
    sign(folder, keys[0])
    return folder


@pytest.fixture
def signed(signed_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(signed_once, tmp_path / "bundle"))


def refused(folder: Path, key: Path) -> str:
    with pytest.raises(BundleError) as caught:
        Bundle(folder, key=key, verify=False)
    assert len(str(caught.value)) < 600
    return caught.value.message.removeprefix(f"{folder.as_posix()}: ")


def _new(kind: Any) -> Any:
    """Its constructors have no types."""
    return kind()


def test_a_signed_bundle_runs(signed: Path, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert Bundle(signed, key=keys[1]).verify().frames == 24
    assert cli.main(["verify", str(signed), "--key", str(keys[1])]) == 0
    assert capsys.readouterr().out.splitlines()[1] == f"signed with the key of {keys[1].as_posix()}"
    assert cli.main(["verify", str(signed)]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "model.sig was not looked at: --key PUBLIC.pem does"


def test_the_package_itself_agrees(signed: Path, keys: tuple[Path, Path]) -> None:
    """`model_signing verify key` of the OpenSSF reads the same signature."""
    from model_signing import hashing, verifying

    def check() -> None:
        config = _new(verifying.Config).use_elliptic_key_verifier(public_key=keys[1])
        config.set_hashing_config(_new(hashing.Config).set_ignored_paths(paths=[], ignore_git_paths=False))
        config.verify(signed, signed / SIGNATURE_FILE)

    check()
    (signed / "golden/00.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"Hash mismatch for .{0,3}golden/00\.bin"):
        check()


def test_a_signature_by_the_package_itself_is_read(signed: Path, keys: tuple[Path, Path]) -> None:
    from model_signing import hashing, signing

    config = _new(signing.Config).use_elliptic_key_signer(private_key=keys[0])
    config.set_hashing_config(_new(hashing.Config).set_ignored_paths(paths=[SIGNATURE_FILE], ignore_git_paths=False))
    config.sign(signed, signed / SIGNATURE_FILE)
    Bundle(signed, key=keys[1], verify=False)
    (signed / ".gitignore").write_bytes(b"")
    assert refused(signed, keys[1]) == ".gitignore: was not signed"


def _link(folder: Path) -> None:
    (folder / SIGNATURE_FILE).rename(folder.parent / "s")
    (folder / SIGNATURE_FILE).symlink_to("../s")


def _pipe(folder: Path) -> None:
    (folder / SIGNATURE_FILE).unlink()
    os.mkfifo(folder / SIGNATURE_FILE)


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a bit of the model": (lambda folder: (folder / "model.onnx").write_bytes(b"x"), "model.onnx: changed after"),
    "a model that the manifest knows": (
        lambda folder: seal_without_signature(folder, lambda: _changed(folder / "golden/01.bin")),
        "2 problems\n  golden/01.bin: changed after it was signed\n  manifest.json: changed after it was signed",
    ),
    "another name in the manifest": (
        lambda folder: _manifest(folder, name="parts-2"),
        "manifest.json: changed after it was signed",
    ),
    "a file less": (lambda folder: (folder / "golden/02.bin").unlink(), "1 problem\n  golden/02.bin: missing"),
    "a file less, and the manifest knows": (
        lambda folder: seal_without_signature(folder, (folder / "golden/02.bin").unlink),
        "2 problems\n  golden/02.bin: missing, it was signed\n  manifest.json: changed after it was signed",
    ),
    "a file more": (lambda folder: (folder / "extra.txt").write_text("x"), "extra.txt: was not signed"),
    "a hidden file more": (lambda folder: (folder / ".x").write_text("x"), ".x: was not signed"),
    "a link more": (
        lambda folder: (folder / "l").symlink_to("model.onnx"),
        "'l': a link, which may lead out of the bundle",
    ),
    "a pipe more": (lambda folder: os.mkfifo(folder / "golden/p"), "'golden/p': a named pipe"),
    "a name for a terminal": (
        lambda folder: (folder / "\x1b[2J").write_text("x"),
        "'\\x1b[2J': a name that may lead out",
    ),
    "no signature": (lambda folder: (folder / SIGNATURE_FILE).unlink(), "is not signed, it has no model.sig"),
    "an empty signature": (lambda folder: (folder / SIGNATURE_FILE).write_bytes(b""), "model.sig: no signature"),
    "a pickle as signature": (lambda folder: (folder / SIGNATURE_FILE).write_bytes(b"cos\nsystem\n."), "model.sig: no"),
    "lists as signature": (
        lambda folder: (folder / SIGNATURE_FILE).write_text("[" * 10_000),
        "model.sig: no signature",
    ),
    "an object as signature": (lambda folder: (folder / SIGNATURE_FILE).write_text("{}"), "model.sig: no signature"),
    "a link as signature": (
        _link,
        "model.sig: a link, which may lead out of the bundle",
    ),
    "a pipe as signature": (
        _pipe,
        "model.sig: a named pipe",
    ),
    "a signature without its key": (lambda folder: _signature(folder, _no_hint), "model.sig: no signature of a bundle"),
    "a signature without its numbers": (lambda folder: _signature(folder, _no_number), "model.sig: no"),
    "a signature of other words": (lambda folder: _signature(folder, _other_words), "model.sig: not made with the key"),
    "a signature of another kind": (
        lambda folder: _signature(folder, lambda tree: tree.update(mediaType="x")),
        "model.sig: no signature of a bundle",
    ),
}


def seal_without_signature(folder: Path, change: Callable[[], object]) -> None:
    """The manifest says that all is right, and the signature lies there as before."""
    change()
    kept = (folder / SIGNATURE_FILE).read_bytes()
    (folder / SIGNATURE_FILE).unlink()
    seal(folder)
    (folder / SIGNATURE_FILE).write_bytes(kept)


def _changed(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def _manifest(folder: Path, **changes: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def _signature(folder: Path, change: Callable[[Any], object]) -> None:
    path = folder / SIGNATURE_FILE
    tree = json.loads(path.read_text(encoding="utf-8"))
    change(tree)
    path.write_text(json.dumps(tree), encoding="utf-8")


def _no_hint(tree: Any) -> None:
    del tree["verificationMaterial"]["publicKey"]["hint"]


def _no_number(tree: Any) -> None:
    tree["dsseEnvelope"]["signatures"] = []


def _other_words(tree: Any) -> None:
    text = tree["dsseEnvelope"]["payload"]
    tree["dsseEnvelope"]["payload"] = text[:40] + ("A" if text[40] != "A" else "B") + text[41:]


@pytest.mark.skipif(sys.platform == "win32", reason="links and named pipes")
@pytest.mark.parametrize("what", CHANGES)
def test_what_was_changed_is_named(what: str, signed: Path, keys: tuple[Path, Path]) -> None:
    change, says = CHANGES[what]
    change(signed)
    message = refused(signed, keys[1])
    assert message.startswith(says), message


def test_another_key(signed: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    other = new_key(tmp_path / "other.pem")
    assert refused(signed, other) == f"model.sig: not made with the key {other.as_posix()}"
    tree = json.loads((signed / SIGNATURE_FILE).read_text(encoding="utf-8"))
    sign(signed, tmp_path / "other.pem")
    hint = json.loads((signed / SIGNATURE_FILE).read_text(encoding="utf-8"))["verificationMaterial"]
    (signed / SIGNATURE_FILE).write_text(json.dumps({**tree, "verificationMaterial": hint}), encoding="utf-8")
    assert refused(signed, other) == f"model.sig: not made with the key {other.as_posix()}"


@pytest.mark.parametrize("curve", ["prime256v1", "secp384r1", "secp521r1"])
def test_keys_made_by_openssl(curve: str, signed: Path, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl")
    private, public = tmp_path / "k.pem", tmp_path / "k.pub"
    commands: list[list[str | Path]] = [
        ["openssl", "ecparam", "-name", curve, "-genkey", "-noout", "-out", private],
        ["openssl", "ec", "-in", private, "-pubout", "-out", public],
    ]
    for command in commands:
        subprocess.run(command, check=True, capture_output=True)
    before = private.read_bytes()
    sign(signed, private)
    Bundle(signed, key=public, verify=False)
    assert private.read_bytes() == before


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "cannot be read"),
        (b"", "no {which} key on the curve"),
        (b"secret of the house", "no {which} key on the curve"),
        ("the other of the pair", "no {which} key on the curve"),
        ("RSA", "no {which} key on the curve"),
        ("secp256k1", "no {which} key on the curve"),
    ],
)
@pytest.mark.parametrize("which", ["private", "public"])
def test_files_that_are_no_key(
    text: Any, says: str, which: str, signed: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    path = tmp_path / "key.pem"
    if text == "the other of the pair":
        text = keys[which == "private"].read_bytes()
    if isinstance(text, str):
        text = _other_kind(text, private=which == "private")
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(CvtuneError) as caught:
        sign(signed, path) if which == "private" else Bundle(signed, key=path)
    assert caught.value.message.startswith(f"{path.as_posix()}: {says.format(which=which)}")
    assert caught.value.hint
    assert not any(line in str(caught.value) for line in (text or b"-").decode().splitlines() if len(line) > 3)


def _other_kind(kind: str, *, private: bool) -> bytes:
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    key: Any = rsa.generate_private_key(65537, 2048) if kind == "RSA" else ec.generate_private_key(ec.SECP256K1())
    text: bytes = (
        key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
        if private
        else key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    )
    return text


def test_a_key_with_a_password(signed: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization as form

    key = form.load_pem_private_key(keys[0].read_bytes(), None)
    locked = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.BestAvailableEncryption(b"x"))
    (tmp_path / "locked.pem").write_bytes(locked)
    with pytest.raises(CvtuneError, match="a key with a password"):
        sign(signed, tmp_path / "locked.pem")


def test_a_new_pair_of_keys(tmp_path: Path) -> None:
    private = tmp_path / "line.pem"
    public = new_key(private)
    assert public == tmp_path / "line.pub.pem"
    if os.name == "posix":
        assert stat.S_IMODE(private.stat().st_mode) == 0o600
    texts = private.read_bytes(), public.read_bytes()
    for again in (private, tmp_path / "line.pub.pem"):
        with pytest.raises(CvtuneError, match="is there already"):
            new_key(again if again == private else private)
    private.unlink()
    with pytest.raises(CvtuneError, match=r"line\.pub\.pem: is there already"):
        new_key(private)
    assert not private.exists()
    assert public.read_bytes() == texts[1]
    with pytest.raises(CvtuneError, match="cannot be written"):
        new_key(tmp_path / "gone" / "line.pem")


def test_what_was_changed_is_not_signed(signed: Path, keys: tuple[Path, Path]) -> None:
    before = (signed / SIGNATURE_FILE).read_bytes()
    _changed(signed / "golden/00.bin")
    with pytest.raises(BundleError, match=r"it is not signed: golden/00\.bin: changed after the export"):
        sign(signed, keys[0])
    assert (signed / SIGNATURE_FILE).read_bytes() == before


def test_signing_changes_no_other_file(signed: Path, keys: tuple[Path, Path]) -> None:
    def states() -> dict[Path, tuple[int, bytes]]:
        files = (path for path in signed.rglob("*") if path.is_file() and path.name != SIGNATURE_FILE)
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}

    before = states()
    (signed / ".model.sig.new").write_bytes(b"left by a process that was killed")
    assert sign(signed, keys[0]) == signed / SIGNATURE_FILE
    assert states() == before
    Bundle(signed, key=keys[1], verify=False)


def _measured() -> Latency:
    times = Times(1, 1.0, 1.0, 1.0, 1.0)
    machine = Machine("x", (), 1, 1, "Linux", {}, "cpu", spin=False)
    row = Row("float32", 1, 1, times, {})
    return Latency("2025-01-31", machine, "noise", (4, 4), (row,), (Decoded("x", times),), Startup(1, 1, 1, 1), ())


@pytest.mark.parametrize("change", ["a file", "latency"])
def test_what_changes_a_bundle_takes_its_signature_away(change: str, signed: Path, keys: tuple[Path, Path]) -> None:
    assert is_signed(signed)
    enclose(signed, "MODEL_CARD.md", b"x") if change == "a file" else note_latency(signed, _measured())
    assert not is_signed(signed)
    Bundle(signed, verify=False)
    assert refused(signed, keys[1]) == "is not signed, it has no model.sig"
    sign(signed, keys[0])
    Bundle(signed, key=keys[1], verify=False)


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right there")
def test_a_bundle_with_a_link_in_it_is_not_copied(signed: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (signed / "more").symlink_to("../secret")
    with pytest.raises(BundleError, match="'more': a link, which may lead out of the bundle"):
        enclose(signed, "MODEL_CARD.md", b"x")
    assert not (signed / "MODEL_CARD.md").exists()
    assert is_signed(signed)


def test_a_command_says_that_it_took_a_signature_away(
    signed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from cvtune import cli as lab

    app = typer.Typer()

    @app.command()
    def change(ctx: typer.Context, bundle: Path, how: str) -> None:
        lab._tell_of_signature(ctx, bundle)
        if how == "changed":
            enclose(bundle, "MODEL_CARD.md", b"x")

    for how, said in (("kept", ""), ("changed", "note: the bundle was changed, and its signature"), ("changed", "")):
        app(args=[str(signed), how], standalone_mode=False)
        told = capsys.readouterr()
        assert told.out == ""
        assert told.err.startswith(said)
        assert bool(told.err) is bool(said)


def test_without_the_extra(signed: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)
    monkeypatch.setitem(sys.modules, "model_signing.signing", None)
    for act in (lambda: sign(signed, keys[0]), lambda: Bundle(signed, key=keys[1]), lambda: new_key(signed / "x.pem")):
        with pytest.raises(CvtuneError, match="signatures need the package model-signing") as caught:
            act()
        assert '"cvtune-edge[sign]"' in caught.value.hint
    Bundle(signed, verify=False)
    assert not (signed / "x.pem").exists()


def test_nobody_is_asked_and_nothing_is_left(signed: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    """In a process of its own, with an empty home: nothing is sent, no file written but the signature.

    urllib3, which sigstore imports, asks at once whether this machine has IPv6: it binds a socket to ::1 and closes it.
    """
    home = tmp_path / "home"
    home.mkdir()
    code = """
import sys
seen = []
def hook(event, args):
    own = event == "socket.__new__" or (event == "socket.bind" and args[1][0] == "::1")
    if event.startswith(("socket.", "subprocess.", "os.system", "pickle.")) and not own:
        seen.append(event)
    if event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+"):
        seen.append(f"{event} {args[0]}")
sys.addaudithook(hook)
from pathlib import Path
from cvtune_edge.runtime import Bundle
from cvtune_edge.signature import sign
sign(Path(sys.argv[1]), Path(sys.argv[2]))
Bundle(sys.argv[1], key=sys.argv[3], verify=False)
print(seen)
"""
    command = [sys.executable, "-B", "-c", code, str(signed), *map(str, keys)]
    environment = {"PATH": os.environ["PATH"], "HOME": str(home)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"['open {signed}/.model.sig.new']\n"
    assert done.stderr == ""
    assert not list(home.rglob("*"))


class TestCommands:
    def test_sign_and_verify(self, signed_once: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        from cvtune import cli as lab

        folder = Path(shutil.copytree(signed_once, tmp_path / "run" / "bundle"))
        (folder / SIGNATURE_FILE).unlink()
        key = tmp_path / "line.pem"
        assert lab._run(["sign", str(folder.parent), "--new-key", str(key)]) == 0
        out = capsys.readouterr().out.splitlines()
        assert [line.split(": ")[0] for line in out] == [str(key), str(tmp_path / "line.pub.pem"), "signed"]
        assert not any(line in "\n".join(out) for line in key.read_text(encoding="ascii").splitlines()[1:-1])
        assert lab._run(["verify", str(folder.parent), "--key", str(tmp_path / "line.pub.pem")]) == 0
        (folder / "more.txt").write_text("x", encoding="utf-8")
        for command in (["verify", str(folder)], ["predict", str(folder), str(folder)]):
            assert lab._run([*command, "--key", str(tmp_path / "line.pub.pem")]) == 2
            assert capsys.readouterr().err.startswith(f"error: {folder.as_posix()}: more.txt: was not signed\nhint: ")
        assert lab._run(["sign", str(folder), "--key", str(key)]) == 0
        assert lab._run(["verify", str(folder), "--key", str(tmp_path / "line.pub.pem")]) == 0

    @pytest.mark.parametrize("args", [[], ["x"], ["x", "--key", "a", "--new-key", "b"], ["--key", "a"]])
    def test_wrong_usage(self, args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        from cvtune import cli as lab

        assert lab._run(["sign", *args]) == 2
        assert "hint: cvtune sign RUN --key line.pem" in capsys.readouterr().err

    def test_the_help_needs_none_of_it(self) -> None:
        code = "import sys; from cvtune_edge import cli, signature; print('model_signing' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout == "False\n"
        assert signature.SIGNATURE_FILE == "model.sig"
