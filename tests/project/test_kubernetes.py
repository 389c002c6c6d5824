"""docs/kubernetes/*.yaml: Kubernetes has every field, and the authority can start with the settings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.cli.processes import tkdb
from tkdb.errors import ConfigurationError
from tkdb.server.limits import Limits
from tkdb.settings import SETTINGS, Settings
from tkdb_replication.bucket.settings import Bucket

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "kubernetes"
BUCKET: Final = {
    "BUCKET_NAME": "tkdb", "AWS_ENDPOINT_URL_S3": "https://t3.storage.dev", "AWS_ACCESS_KEY_ID": "id",
    "AWS_SECRET_ACCESS_KEY": "key", "AWS_REGION": "auto",
}  # fmt: skip

# The used fields, by object. Source: the API reference of Kubernetes v1.34.
_METADATA: Final = {"name", "labels", "annotations"}
_POD_SECURITY: Final = {"runAsNonRoot", "runAsUser", "runAsGroup", "fsGroup", "seccompProfile"}
_POD: Final = {
    "enableServiceLinks", "automountServiceAccountToken", "terminationGracePeriodSeconds", "securityContext",
    "containers", "volumes", "restartPolicy",
}  # fmt: skip
_CONTAINER: Final = {
    "name", "image", "args", "env", "envFrom", "ports", "readinessProbe", "livenessProbe", "resources",
    "securityContext", "volumeMounts",
}  # fmt: skip
_PROBE: Final = {"httpGet", "periodSeconds", "timeoutSeconds", "failureThreshold"}
KINDS: Final[dict[str, tuple[str, set[str]]]] = {
    "ConfigMap": ("v1", {"apiVersion", "kind", "metadata", "data"}),
    "Service": ("v1", {"apiVersion", "kind", "metadata", "spec"}),
    "PersistentVolumeClaim": ("v1", {"apiVersion", "kind", "metadata", "spec"}),
    "Pod": ("v1", {"apiVersion", "kind", "metadata", "spec"}),
    "Deployment": ("apps/v1", {"apiVersion", "kind", "metadata", "spec"}),
}
SPECS: Final = {
    "Service": {"type", "selector", "ports"},
    "PersistentVolumeClaim": {"storageClassName", "selector", "accessModes", "resources"},
    "Pod": _POD,
    "Deployment": {"replicas", "strategy", "selector", "template"},
}


def documents(name: str, region: str = "iad") -> dict[str, Any]:
    """Return the objects in a file, by kind."""
    text = (FOLDER / name).read_text().replace("xxx", region)
    return {each["kind"]: each for each in yaml.safe_load_all(text)}


@pytest.fixture(scope="module")
def shared() -> dict[str, Any]:
    return documents("tkdb.yaml")


@pytest.fixture(scope="module")
def region() -> dict[str, Any]:
    return documents("region.yaml")


def pods() -> list[dict[str, Any]]:
    """Return the specifications of all pods."""
    deployed = documents("region.yaml")["Deployment"]["spec"]["template"]["spec"]
    return [deployed, documents("init.yaml")["Pod"]["spec"]]


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.iterdir()))
def test_kubernetes_has_every_used_field(name: str) -> None:
    for kind, made in documents(name).items():
        version, fields = KINDS[kind]
        assert (made["apiVersion"], set(made)) == (version, fields)
        assert set(made["metadata"]) <= _METADATA
        assert set(made.get("spec", {})) <= SPECS.get(kind, set())
    for pod in pods():
        assert set(pod) <= _POD
        assert set(pod["securityContext"]) <= _POD_SECURITY
        [container] = pod["containers"]
        assert set(container) <= _CONTAINER
        for probe in ("readinessProbe", "livenessProbe"):
            assert set(container.get(probe, {})) <= _PROBE
        assert set(container["securityContext"]) == {"allowPrivilegeEscalation", "capabilities"}


def test_values_of_settings_and_annotations_are_strings(shared: dict[str, Any]) -> None:
    # Without quotes, "off" would be a boolean and 200 a number. Kubernetes refuses both here.
    for values in (shared["ConfigMap"]["data"], shared["Service"]["metadata"]["annotations"]):
        assert {type(value) for value in values.values()} == {str}


def test_the_settings_configure_an_authority(shared: dict[str, Any], region: dict[str, Any], tmp_path: Path) -> None:
    assert tkdb("keys", "generate", "--directory", str(tmp_path / "keys")).code == 0
    signer = re.search(r'key = "(.*)"', (tmp_path / "keys" / "signers.toml").read_text())
    assert signer is not None
    data = {name: value.replace("tkdbsignerpub_…", signer[1]) for name, value in shared["ConfigMap"]["data"].items()}
    [container] = region["Deployment"]["spec"]["template"]["spec"]["containers"]
    environment = data | {each["name"]: each["value"] for each in container["env"]}
    secrets = {"TKDB_AUTHORITY_KEY": "authority.key", "TKDB_SEAL_KEYS": "seal.key"}
    environment |= {name: (tmp_path / "keys" / file).read_text().strip() for name, file in secrets.items()}
    settings = Settings.parse(environment | BUCKET | {"FLY_MACHINE_ID": "3d8d9e5c", "FLY_REGION": "nrt"})
    assert (settings.region, settings.machine, settings.fly_src_required) == ("iad", "3d8d9e5c", True)
    assert Bucket.parse(BUCKET)
    assert str(settings.database).startswith(container["volumeMounts"][0]["mountPath"] + "/")
    page = (ROOT / "docs" / "deploy-kubernetes.md").read_text()
    assert all(f"`{name}`" in page for name in BUCKET)


def test_variables_of_service_links_would_be_refused_and_are_not_set() -> None:
    with pytest.raises(ConfigurationError, match="TKDB_SERVICE_HOST: there is no such setting"):
        Settings.parse({"TKDB_SERVICE_HOST": "10.0.0.1", "TKDB_PORT": "tcp://10.0.0.1:8080"})
    assert [pod["enableServiceLinks"] for pod in pods()] == [False, False]


def test_requests_and_probes_go_where_the_authority_listens(shared: dict[str, Any], region: dict[str, Any]) -> None:
    port = int(shared["ConfigMap"]["data"]["TKDB_BIND"].rsplit(":", 1)[1])
    [served] = shared["Service"]["spec"]["ports"]
    [container] = region["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert served["port"] == 8080  # http://tkdb.svc.<app>.flycast:8080
    assert f"service.fly.io/{served['name']}-handlers" in shared["Service"]["metadata"]["annotations"]
    probes = {name: container[name]["httpGet"] for name in ("readinessProbe", "livenessProbe")}
    assert {probe: get["path"] for probe, get in probes.items()} == {
        "readinessProbe": "/readyz", "livenessProbe": "/livez"
    }  # fmt: skip
    assert {port} == {
        served["targetPort"],
        container["ports"][0]["containerPort"],
        *(p["port"] for p in probes.values()),
    }


def test_the_service_selects_the_machines_of_every_region(shared: dict[str, Any]) -> None:
    assert shared["Service"]["spec"]["type"] == "ClusterIP"
    seen = set()
    for code in ("iad", "syd"):
        made = documents("region.yaml", code)
        spec, claim = made["Deployment"]["spec"], made["PersistentVolumeClaim"]
        labels = spec["template"]["metadata"]["labels"]
        assert spec["selector"]["matchLabels"] == labels == {"app": "tkdb", "region": code}
        assert shared["Service"]["spec"]["selector"].items() <= labels.items()
        assert spec["template"]["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert (spec["replicas"], spec["strategy"]["type"]) == (1, "Recreate")
        assert claim["spec"]["selector"]["matchLabels"]["region"] == code
        seen |= {made["Deployment"]["metadata"]["name"], claim["metadata"]["name"]}
    assert seen == {"tkdb-iad", "tkdb-syd"}


def test_the_authority_has_time_to_drain_and_the_proxy_sends_as_much_as_it_accepts(
    shared: dict[str, Any], region: dict[str, Any]
) -> None:
    defaults = {setting.variable: setting.default for setting in SETTINGS}
    grace_s = region["Deployment"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace_s * 1000 > 2 * int(defaults["TKDB_DRAIN_MS"] or 0)
    annotations = shared["Service"]["metadata"]["annotations"]
    for kind in ("hard", "soft"):
        assert int(annotations[f"service.fly.io/concurrency-limit-{kind}"]) > Limits().requests_max


def test_pods_run_as_the_images_user_without_privileges() -> None:
    user = re.findall(r"^USER (\d+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)[-1]
    for pod in pods():
        context = pod["securityContext"]
        assert (context["runAsNonRoot"], context["runAsUser"], context["runAsGroup"]) == (True, int(user), int(user))
        assert context.get("fsGroup", int(user)) == int(user)
        [container] = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}
        }  # fmt: skip
        assert container["image"] == pods()[0]["containers"][0]["image"]
        assert container["envFrom"] == [{"configMapRef": {"name": "tkdb"}}, {"secretRef": {"name": "tkdb"}}]
