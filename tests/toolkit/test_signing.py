"""Signatures of bundles, held against `openssl`, and the bill of materials, held against CycloneDX's own schema."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import toolkit
from toolkit.cli.main import main

pytestmark = pytest.mark.slow

Capture = pytest.CaptureFixture[str]


def openssl(*words: str) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """key.pem with public.pem, and another pair; a key of another kind; one with a password."""
    folder = tmp_path_factory.mktemp("keys")
    for private, public in (("key", "public"), ("other", "other-public")):
        openssl("genpkey", "-algorithm", "ed25519", "-out", f"{folder}/{private}.pem")
        openssl("pkey", "-in", f"{folder}/{private}.pem", "-pubout", "-out", f"{folder}/{public}.pem")
    openssl("genpkey", "-algorithm", "x25519", "-out", f"{folder}/exchange.pem")
    openssl("pkey", "-in", f"{folder}/key.pem", "-aes256", "-passout", "pass:secret", "-out", f"{folder}/locked.pem")
    (folder / "text.pem").write_text("no key\n")
    return folder


@pytest.fixture(scope="module")
def signed(keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("signed") / "bundle"
    toolkit.compile("digits", target="raspberry_pi_4", output=folder, sign=keys / "key.pem")
    return folder


@pytest.fixture
def copy(signed: Path, tmp_path: Path) -> Path:
    return shutil.copytree(signed, tmp_path / "copy")


def test_openssl_takes_the_signature(signed: Path, keys: Path, tmp_path: Path) -> None:
    said = json.loads((signed / "manifest.sig").read_text())
    (tmp_path / "raw.sig").write_bytes(base64.b64decode(said["signature"]))
    openssl("pkeyutl", "-verify", "-pubin", "-inkey", f"{keys}/public.pem", "-rawin", "-in", f"{signed}/manifest.json",
            "-sigfile", f"{tmp_path}/raw.sig")  # fmt: skip


def test_verify_tells_whose_signature_it_is(signed: Path, keys: Path, capsys: Capture) -> None:
    assert main(["verify", str(signed)]) == 0
    assert "signed with ed25519:" in capsys.readouterr().out
    assert main(["verify", str(signed), "--signed-by", f"{keys}/public.pem"]) == 0
    assert "the key you named" in capsys.readouterr().out
    assert main(["verify", str(signed), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["signed_with"].startswith("ed25519:")


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("other-public", "was signed with the key ed25519:"),
        ("key", "holds no public key"),
        ("text", "holds no public key"),
        ("gone", "cannot read the key"),
    ],
)
def test_another_key_is_refused(signed: Path, keys: Path, capsys: Capture, key: str, said: str) -> None:
    assert main(["verify", str(signed), "--signed-by", f"{keys}/{key}.pem"]) == 5
    assert said in capsys.readouterr().err


def test_a_manifest_that_was_changed_is_refused(copy: Path, capsys: Capture) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, "name": "another"}))
    assert main(["verify", str(copy)]) == 5
    assert "is not the one that was signed" in capsys.readouterr().err


def test_a_bundle_whose_signature_is_gone_is_refused_where_one_is_asked_for(
    copy: Path, keys: Path, capsys: Capture
) -> None:
    (copy / "manifest.sig").unlink()
    assert main(["verify", str(copy)]) == 0
    assert main(["verify", str(copy), "--signed-by", f"{keys}/public.pem"]) == 5
    assert "is not signed" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema": "toolkit.signature/1"}', '{"schema": 1}'])
def test_a_damaged_signature_is_refused(copy: Path, capsys: Capture, content: str) -> None:
    (copy / "manifest.sig").write_text(content)
    assert main(["verify", str(copy)]) == 5
    assert "manifest.sig is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["exchange", "locked", "text", "public", "gone"])
def test_what_cannot_sign_is_refused_before_any_pass(keys: Path, tmp_path: Path, capsys: Capture, key: str) -> None:
    said = ["compile", "digits", "-t", "desktop_cpu", "-o", f"{tmp_path}/b", "--sign", f"{keys}/{key}.pem"]
    assert main(said) == 5
    told = capsys.readouterr().err
    assert f"{key}.pem" in told
    assert "openssl genpkey" in told
    assert not (tmp_path / "b").exists()


def test_the_same_bundle_has_the_same_signature(signed: Path, keys: Path, tmp_path: Path) -> None:
    toolkit.compile("digits", target="raspberry_pi_4", output=tmp_path / "again", sign=keys / "key.pem")
    for name in ("manifest.json", "manifest.sig", "sbom.cdx.json"):
        assert (tmp_path / "again" / name).read_bytes() == (signed / name).read_bytes()


# ---- the bill of materials


@pytest.fixture
def bill(signed: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((signed / "sbom.cdx.json").read_text())
    return document


def test_the_bill_fits_the_schema(signed: Path) -> None:
    text = (signed / "sbom.cdx.json").read_text()
    from cyclonedx.schema import SchemaVersion  # takes a second to load, which each worker would spend
    from cyclonedx.validation.json import JsonStrictValidator

    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None


def test_it_names_the_model_its_files_and_what_made_them(signed: Path, bill: dict[str, Any]) -> None:
    manifest = json.loads((signed / "manifest.json").read_text())
    model = bill["metadata"]["component"]
    assert (model["type"], model["name"]) == ("machine-learning-model", "digits")
    assert model["hashes"][0]["content"] == manifest["sha256"]["model.tflite"]
    files = {part["name"]: part["hashes"][0]["content"] for part in bill["components"]}
    assert files == {name: sha for name, sha in manifest["sha256"].items() if name != "sbom.cdx.json"}
    tools = {tool["name"]: tool["version"] for tool in bill["metadata"]["tools"]["components"]}
    assert tools == manifest["versions"]
    assert all(tool["licenses"] for tool in bill["metadata"]["tools"]["components"])
