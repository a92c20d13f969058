"""The master key: taken only from where nobody else can read or replace it."""

import base64
import hmac
import os
import stat
from pathlib import Path

import pytest

from lethe.config.keys import create_key_file, derive, key_id, keyed_hashes, load_key, read_key_file
from lethe.config.sections import Stores
from lethe.core.errors import KeyInvalid

KEY = bytes(range(32))
TEXT = base64.urlsafe_b64encode(KEY).decode()


@pytest.fixture(autouse=True)
def no_key_in_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LETHE_KEY", raising=False)


def key_file(folder: Path, content: str = TEXT, mode: int = 0o600) -> Path:
    path = folder / "lethe.key"
    path.write_text(content)
    path.chmod(mode)
    return path


def test_created_file_is_the_owners_alone_and_holds_a_fresh_key(tmp_path: Path) -> None:
    one, other = tmp_path / "secrets" / "one.key", tmp_path / "secrets" / "other.key"
    create_key_file(one)
    create_key_file(other)
    assert stat.S_IMODE(one.stat().st_mode) == 0o600
    assert len(read_key_file(one)) == 32
    assert read_key_file(one) != read_key_file(other)


def test_existing_key_is_never_overwritten(tmp_path: Path) -> None:
    path = key_file(tmp_path)
    with pytest.raises(KeyInvalid, match="exists and is kept"):
        create_key_file(path)
    assert read_key_file(path) == KEY


def test_dangling_link_is_not_written_through(tmp_path: Path) -> None:
    path = tmp_path / "lethe.key"
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KeyInvalid):
        create_key_file(path)
    assert not (tmp_path / "elsewhere").exists()


def test_half_a_key_file_does_not_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        create_key_file(tmp_path / "lethe.key")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o610, 0o666])
def test_key_file_open_to_others_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    path = key_file(tmp_path, mode=mode)
    with pytest.raises(KeyInvalid, match=f"mode 0{mode:o}.*chmod 600") as refused:
        load_key(Stores(key_file=str(path)), Path())
    assert TEXT[:8] not in str(refused.value)


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_key_file_of_its_owner_alone_is_read(tmp_path: Path, mode: int) -> None:
    assert load_key(Stores(key_file=str(key_file(tmp_path, mode=mode))), Path()) == KEY


def test_missing_key_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(KeyInvalid, match="lethe key"):
        load_key(Stores(key_file="none.key"), tmp_path)


def test_link_folder_and_pipe_are_no_key_files(tmp_path: Path) -> None:
    link, pipe = tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(key_file(tmp_path))
    os.mkfifo(pipe, 0o600)
    with pytest.raises(KeyInvalid, match="symbolic link"):
        read_key_file(link)
    with pytest.raises(KeyInvalid, match="not a regular file"):
        read_key_file(tmp_path)
    with pytest.raises(KeyInvalid, match="not a regular file"):
        read_key_file(pipe)


def test_key_file_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = key_file(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    with pytest.raises(KeyInvalid, match="belongs to user"):
        read_key_file(path)


@pytest.mark.parametrize(
    "content",
    ["", "\n", "short", TEXT[:-4], TEXT + "AAAA", "not base64!" * 4, "ä" * 43, "\0" * 43],
)
def test_malformed_key_is_refused_without_quoting_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    path = key_file(tmp_path, content)
    with pytest.raises(KeyInvalid, match="32 bytes in base64url") as refused:
        read_key_file(path)
    assert not content.strip("\0\n") or content[:5] not in str(refused.value)
    if "\0" not in content:
        monkeypatch.setenv("LETHE_KEY", content)  # set but broken does not fall back to a file
        with pytest.raises(KeyInvalid, match=r"\$LETHE_KEY"):
            load_key(Stores(key_file=str(key_file(tmp_path))), Path())


@pytest.mark.parametrize("text", [TEXT, TEXT.rstrip("="), f" {TEXT}\n"])
def test_environment_comes_before_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    create_key_file(tmp_path / "lethe.key")
    monkeypatch.setenv("LETHE_KEY", text)
    assert load_key(Stores(key_file="lethe.key"), tmp_path) == KEY


def test_key_id_distinguishes_keys_and_is_no_part_of_them() -> None:
    other = bytes(32)
    assert key_id(KEY) == key_id(KEY) != key_id(other)
    assert len(key_id(KEY)) == 16
    assert bytes.fromhex(key_id(KEY)) not in KEY + derive(KEY, "vault/wrap")


def test_derived_keys_differ_by_purpose_and_by_key() -> None:
    derived = {derive(KEY, "a"), derive(KEY, "b"), derive(bytes(32), "a"), KEY}
    assert len(derived) == 4


def test_derivation_is_hkdf_sha256() -> None:
    # RFC 5869 written out: extract with a zero salt, then one block of expand.
    extracted = hmac.digest(bytes(32), KEY, "sha256")
    assert derive(KEY, "a") == hmac.digest(extracted, b"lethe/a\x01", "sha256")


def test_keyed_hashes_are_hmac_sha256() -> None:
    # RFC 4231, test case 2.
    assert keyed_hashes(b"Jefe", [b"what do ya want for nothing?"])[0].hex() == (
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    )
    values = [b"", b"1", b"x" * 200]
    assert keyed_hashes(KEY, values) == [hmac.digest(KEY, value, "sha256") for value in values]
