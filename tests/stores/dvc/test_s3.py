"""Remotes in buckets: a real S3 API on this machine (moto's server), with and without versions."""

import socket
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyroaring import BitMap

from lethe.config import workspace
from lethe.core.errors import StoreUnavailable
from lethe.core.outcomes import Outcome
from lethe.stores.dvc.objects import open_remote
from lethe.stores.dvc.purge import purge_history
from lethe.stores.dvc.verify import verify_history
from tests.past_pipeline import ADA, BO, CLEO, EVE, dvc, forget_source, holders, out, tokens_in

boto3 = pytest.importorskip("boto3", reason="S3 needs dvc-s3 and moto")
moto_server = pytest.importorskip("moto.server", reason="S3 needs dvc-s3 and moto")

KEYS = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(endpoint: str) -> Iterator[Any]:
    client = boto3.client("s3", endpoint_url=endpoint, **KEYS)
    yield client
    client.close()
    urllib.request.urlopen(f"{endpoint}/moto-api/reset", data=b"").close()


@pytest.fixture
def bucket(s3: Any, endpoint: str, past: Path) -> str:
    """An empty bucket that the pipeline has as its remote `far`, beside its own."""
    s3.create_bucket(Bucket="far")
    with (past / ".dvc" / "config").open("a") as config:
        config.write(
            "['remote \"far\"']\n"
            "    url = s3://far/store/dvc\n"
            f"    endpointurl = {endpoint}\n"
            "    access_key_id = test\n    secret_access_key = test\n    region = us-east-1\n"
        )
    forget_source(past)
    return "far"


def push(root: Path) -> None:
    dvc(root, "push", "--remote", "far", "--run-cache", "--all-commits", "--quiet")


def every_version(s3: Any, bucket: str, folder: Path) -> Path:
    """Every version of every object as files, fetched with no code of the pipeline's."""
    folder.mkdir()
    listed = s3.list_object_versions(Bucket=bucket)
    for number, each in enumerate(listed.get("Versions", ())):
        body = s3.get_object(Bucket=bucket, Key=each["Key"], VersionId=each["VersionId"])["Body"]
        (folder / f"{number}").write_bytes(body.read())
    return folder


def of(outcomes: list[Outcome]) -> Outcome:
    return next(each for each in outcomes if each.store == "remote far")


def test_a_person_leaves_a_bucket_and_pull_works_from_it(
    past: Path, bucket: str, s3: Any, tmp_path: Path
) -> None:
    push(past)
    assert holders(every_version(s3, bucket, tmp_path / "before"), token=ADA)
    assert of(verify_history(past, BitMap([ADA]))).count > 0
    done = of(purge_history(past, BitMap([ADA])))
    assert done.result == "erased"
    assert any(place.startswith("runs/") for place in done.places)
    assert holders(every_version(s3, bucket, tmp_path / "after"), token=ADA) == []
    assert of(verify_history(past, BitMap([ADA]))).result == "absent"
    assert of(purge_history(past, BitMap([ADA]))).result == "absent"
    for path in (workspace.SHARDS, workspace.SUBJECTS):
        assert out(past, path)
    (past / workspace.SUBJECTS).unlink()
    cache = past / ".dvc" / "cache"
    cache.rename(past.parent / "old-cache")
    dvc(past, "pull", "--remote", "far")
    assert tokens_in(past / workspace.SUBJECTS) == BitMap([BO, CLEO, EVE])


@pytest.mark.parametrize("status", ["Enabled", "Suspended"])
def test_a_bucket_that_keeps_versions_keeps_none_of_the_person(
    past: Path,
    bucket: str,
    s3: Any,
    tmp_path: Path,
    status: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # moto's server cannot delete a marker of a suspended bucket: it misses this method.
    monkeypatch.setattr("moto.s3.models.FakeDeleteMarker.dispose", lambda _: None, raising=False)
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    push(past)
    # Deleted as `dvc gc --cloud` would: a marker hides the object, its bytes stay.
    md5 = out(past, workspace.SUBJECTS)
    s3.delete_object(Bucket=bucket, Key=f"store/dvc/files/md5/{md5[:2]}/{md5[2:]}")
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": status})
    assert md5 in of(verify_history(past, BitMap([ADA]))).places
    assert of(purge_history(past, BitMap([ADA]))).result == "erased"
    assert holders(every_version(s3, bucket, tmp_path / "after"), token=ADA) == []
    assert "DeleteMarkers" not in s3.list_object_versions(Bucket=bucket)
    assert of(verify_history(past, BitMap([ADA]))).result == "absent"


def test_an_old_version_left_behind_is_seen(past: Path, bucket: str, s3: Any) -> None:
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    md5 = out(past, workspace.SUBJECTS)
    content = (past / workspace.SUBJECTS).read_bytes()
    purge_history(past, BitMap([ADA]))
    key = f"store/dvc/files/md5/{md5[:2]}/{md5[2:]}"
    s3.put_object(Bucket=bucket, Key=key, Body=content)
    s3.delete_object(Bucket=bucket, Key=key)
    seen = of(verify_history(past, BitMap([ADA])))
    assert (seen.result, seen.count, seen.places) == ("present", 1, (md5,))


def test_an_absent_bucket_or_a_silent_server_is_named(past: Path, bucket: str, s3: Any) -> None:
    s3.delete_bucket(Bucket=bucket)
    gone = of(purge_history(past, BitMap([ADA])))
    assert gone.result == "unreachable"
    assert "NoSuchBucket" in str(gone.reason) or "does not answer" in str(gone.reason)
    assert "test" not in str(gone.reason)
    s3.create_bucket(Bucket=bucket)
    assert of(purge_history(past, BitMap([ADA]))).result == "absent"


def test_a_bucket_whose_server_takes_the_call_and_is_silent_is_given_up_soon(
    tmp_path: Path,
) -> None:
    (tmp_path / ".dvc").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:
        (tmp_path / ".dvc" / "config").write_text(
            "['remote \"far\"']\n"
            "    url = s3://far/store/dvc\n"
            f"    endpointurl = http://127.0.0.1:{server.getsockname()[1]}\n"
            "    access_key_id = test\n    secret_access_key = test\n    region = us-east-1\n"
            "    connect_timeout = 1\n    read_timeout = 1\n"
        )
        begun = time.monotonic()
        with pytest.raises(StoreUnavailable, match="remote far does not answer"):
            open_remote(tmp_path, "far").objects()
    assert time.monotonic() - begun < 30, "each answer is asked for twice"
