"""What a session does last: an edited layer restarts, and `docker compose down` leaves nothing."""

from __future__ import annotations

import subprocess

import pytest

from tests.compose.conftest import LAYERS, run, wait_until


def test_an_edit_restarts_its_layer_alone(up):
    files = ("-f", "compose.yaml", "-f", "deploy/watch.yaml")

    def started(name: str) -> str:
        return up.inspect(name)["State"]["StartedAt"]

    watching = subprocess.Popen(
        up.command(*files, "watch"), cwd=up.directory, env=up.environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        while "Watch enabled" not in (line := watching.stdout.readline()):
            assert line, "watch ended"
        before = {name: started(name) for name in LAYERS}
        core = up.directory / "services" / "ip" / "__init__.py"
        core.write_text(core.read_text() + "\nprint('edited', flush=True)\n")
        for name in ("h1-ip", "h2-ip"):
            wait_until(lambda name=name: "edited" in up.logs(name), f"{name} with the edit")
        changed = {name for name in LAYERS if started(name) != before[name]}
        assert changed == {"h1-ip", "h2-ip"}
    finally:
        watching.terminate()
        watching.communicate(timeout=60)


def test_down_leaves_nothing(up):
    networks = run("docker", "network", "ls", "-q", "--filter", f"name={up.name}")
    assert networks, "there was something to leave"
    root = run("docker", "info", "-f", "{{.DockerRootDir}}").strip()
    assert f"{root}/volumes/{up.name}_" in run("cat", "/proc/mounts")
    up.compose("down", "-t", "5")
    assert up.left(volumes=False) == ""
    assert f"{root}/volumes/{up.name}_" not in run("cat", "/proc/mounts"), "memory is given back"
    up.compose("--profile", "*", "down", "-v")
    assert up.left(volumes=True) == ""


@pytest.mark.parametrize("profile", ["three", "tap", "cli", "metrics"])
def test_every_profile_can_be_read(project, profile):
    project.compose("--profile", profile, "config", "--quiet")
