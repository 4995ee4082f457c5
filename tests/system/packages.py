"""Puts in place what a system test needs from Debian's packages, or says why the test cannot run."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

POLICY = Path("/usr/sbin/policy-rc.d")
COMMANDS = {
    "unshare": "util-linux",
    "ip": "iproute2",
    "hostname": "hostname",
    "ssh": "openssh-client",
    "sshd": "openssh-server",
    "pdsh": "pdsh",
    "munged": "munge",
    "slurmctld": "slurm-wlm",
}
"""What the tests on several machines call, with the Debian packages that bring it."""


def need_packages() -> None:
    """Installs what is missing of COMMANDS, and skips the test where that is not possible."""
    missing = sorted({package for command, package in COMMANDS.items() if not shutil.which(command)})
    if not missing:
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        pytest.skip(f"needs {' '.join(missing)}: install them, or run as root on Debian")
    with no_services():
        for words in (["update"], ["install", "-y", "--no-install-recommends", *missing]):
            done = subprocess.run(
                ["apt-get", "-qq", *words],
                env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
                text=True,
                capture_output=True,
                check=False,
            )
            if done.returncode:
                pytest.skip(f"needs {' '.join(missing)}, and apt-get {words[0]} failed: {done.stderr}")


def need_namespaces() -> None:
    """Skips the test where this user may not make namespaces of the kernel."""
    probe = ["unshare", "--net", "--pid", "--mount", "--uts", "--fork", "--mount-proc"]
    tried = subprocess.run(
        [*probe, "ip", "link", "add", "name", "bridge0", "type", "bridge"],
        text=True,
        capture_output=True,
        check=False,
    )
    if tried.returncode:
        pytest.skip(f"needs namespaces with a bridge, which root may make: {tried.stderr.strip()}")


@contextmanager
def no_services() -> Iterator[None]:
    """Keeps Debian from starting the daemons of what is installed meanwhile."""
    if POLICY.exists():  # somebody has decided already
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()
