"""What is in the images, and the tour through containers of them: `make images-test`."""

import json
import os
import re
from pathlib import Path

import pytest
from images_testing import containers
from images_testing.containers import LOCKED_DOWN, USER, docker, image
from slipway_cli.session import DevelopmentSignIn

pytestmark = [
    pytest.mark.skipif(os.environ.get("SLIPWAY_TEST_IMAGES") != "1", reason="runs by `make images-test`"),
    pytest.mark.timeout(900),
]
SERVICES = ("gateway", "router", "orchestrator", "memory", "tools", "audit")
ALL = (*SERVICES, "router-litellm", "local-models", "cli")

PROBE = (Path(__file__).parent / "images_testing" / "probe.py").read_text()


@pytest.mark.parametrize("name", ALL)
def test_an_image_holds_no_compiler_no_installer_no_rights_beyond_its_user_and_no_key(name: str) -> None:
    found = docker("run", *LOCKED_DOWN, "--network", "none", "--entrypoint", "python3.11", image(name), "-c", PROBE)
    assert found.stdout.splitlines() == ["uid 10001"]


@pytest.mark.parametrize("name", ALL)
def test_an_image_says_what_it_is_and_its_history_holds_no_secret(name: str) -> None:
    (config,) = json.loads(docker("image", "inspect", image(name)).stdout)
    labels = config["Config"]["Labels"]
    assert labels["org.opencontainers.image.title"] == f"slipway/{name}"
    assert labels["org.opencontainers.image.version"] == containers.tag()
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert re.fullmatch("[0-9a-f]{40}", labels["org.opencontainers.image.revision"])
    assert config["Config"]["User"] == "10001:10001"
    assert config["Config"]["StopSignal"] == "SIGTERM"
    assert config["Config"]["Healthcheck"]["Test"][0] == ("NONE" if name == "cli" else "CMD")
    history = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", image(name)).stdout
    told = "\n".join([history, *config["Config"]["Env"]])
    assert not re.findall(r"(?i)((secret|token|password)\w*[=:]|index[-_]url|://[^/\s]+@)", told)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_without_settings_ends_with_a_sentence_that_names_them(name: str) -> None:
    ended = docker("run", *LOCKED_DOWN, "--network", "none", image(name), check=False)
    assert ended.returncode == 2
    assert f"SLIPWAY_{name.upper()}_DATABASE_URL is not set" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_health_check_fails_where_nothing_listens() -> None:
    (config,) = json.loads(docker("image", "inspect", image("audit")).stdout)
    check = config["Config"]["Healthcheck"]["Test"][1:]
    assert docker("run", *LOCKED_DOWN, "--network", "none", image("audit"), *check, check=False).returncode == 1


def test_litellm_is_there_in_an_environment_of_its_own() -> None:
    run = ("run", *LOCKED_DOWN, "--network", "none", "--tmpfs", "/tmp", "--entrypoint", "/opt/litellm/bin/python")
    version = "import importlib.metadata as m, litellm; print(m.version('litellm'))"
    assert docker(*run, image("router-litellm"), "-c", version).stdout.strip() == "1.106.2"


async def test_the_tour_runs_through_containers_that_may_do_nothing_else(tmp_path: Path) -> None:
    chosen = containers.options()
    async with containers.running(tmp_path / "data", chosen) as stack:
        ids = stack.ids()
        assert set(ids) == {*SERVICES, "local-models", "worker-1", "worker-2"}
        for name, container in ids.items():
            _is_healthy_and_has_no_rights(name, container)
        status, said = await stack.tour(chosen)
        assert status == 0, said
        assert "tour: ok" in said
        _use_the_command_line(stack)
        survivors = set(ids.values()) & set(stack.ids().values())
        assert len(survivors) == len(ids) - 1, "one worker, and nothing else, was killed by the tour"
    for name in (*SERVICES, "worker-1"):
        log = (stack.directory.logs / f"{name}.log").read_text()
        assert json.loads(log.splitlines()[-1])["event"] == "service.stopped", f"{name} was not stopped in order"


def _is_healthy_and_has_no_rights(name: str, container: str) -> None:
    (state,) = json.loads(docker("inspect", container).stdout)
    check = state["Config"]["Healthcheck"]["Test"][1:]
    assert docker("exec", container, *check, check=False).returncode == 0, f"{name} is not healthy"
    status = Path(f"/proc/{state['State']['Pid']}/status").read_text()
    assert re.search(rf"^Uid:\s+{USER}\s+{USER}\s+{USER}\s+{USER}$", status, re.MULTILINE), name
    assert re.search(r"^CapPrm:\s+0+$", status, re.MULTILINE), name


def _use_the_command_line(stack: containers.Containers) -> None:
    """The image of the command line asks the gateway, and verifies the tour's evidence without any network."""
    env = {"SLIPWAY_URL": stack.state.url, "SLIPWAY_TOKEN": DevelopmentSignIn(stack.state.issuer, "alice")()}
    asked = docker(
        *("run", *LOCKED_DOWN, "--network", "host", "--env", "SLIPWAY_URL", "--env", "SLIPWAY_TOKEN"),
        *(image("cli"), "whoami", "--json"),
        env=env,
    )
    assert json.loads(asked.stdout)["subject"]
    folder = stack.directory.path / "evidence"
    folder.chmod(0o755)
    (bundle,) = (one.name for one in folder.glob("*.evidence.json"))
    for file in folder.iterdir():
        file.chmod(0o644)
    verify = ("audit", "verify", f"/evidence/{bundle}", "--key", "/evidence/log.vkey")
    volume = ("--network", "none", "--volume", f"{folder}:/evidence:ro")
    docker("run", *LOCKED_DOWN, *volume, image("cli"), *verify)
    altered = folder / bundle
    altered.write_bytes(re.sub(rb"(amount\W+)249", rb"\g<1>149", altered.read_bytes(), count=1))
    assert docker("run", *LOCKED_DOWN, *volume, image("cli"), *verify, check=False).returncode != 0
