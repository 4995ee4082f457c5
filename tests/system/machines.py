"""Several machines on one: namespaces of the kernel with a network, a host name and processes of their own.

A head and its nodes hang on one bridge, which lies in the head's network. They share the file system but for
`/run`, `/etc/hosts` and `/etc/ssh`. All ends with the process that made it, killed or not: nothing is
left behind.
"""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

ADDRESS = "10.77.0."
NAMESPACES = ("--net", "--pid", "--mount", "--uts")
SETUP = """
set -e
hostname "$1"
mount -t tmpfs tmpfs /run
mount --bind "$2/hosts" /etc/hosts
[ ! -d /etc/ssh ] || mount --bind "$2/ssh" /etc/ssh
ip link set lo up
touch /run/ready
sleep infinity &
while :; do wait; done  # the first process of a machine buries orphans
"""


class Machine:
    """One of the machines."""

    def __init__(self, name: str, address: str, folder: Path) -> None:
        self.name, self.address, self.log = name, address, folder / f"{name}.log"
        # Dies with this process, and takes along whatever runs in it.
        life = ["setpriv", "--pdeathsig", "KILL", "unshare", *NAMESPACES, "--fork", "--kill-child"]
        with self.log.open("w") as log:
            self.life = psutil.Popen(
                [*life, "--mount-proc", "bash", "-c", SETUP, "machine", name, str(folder)],
                stdout=log,
                stderr=log,
            )
        wait_until(self.life.children, self.said)
        self.pid = self.life.children()[0].pid
        wait_until(Path(f"/proc/{self.pid}/root/run/ready").exists, self.said)

    def command(self, *words: str) -> list[str]:
        """`words` as a command that runs on this machine, in the checkout's folder."""
        return ["nsenter", f"--target={self.pid}", *NAMESPACES, "--wd", *words]

    def run(self, *words: str, **options: Any) -> str:
        """What the command printed, both streams. Raises AssertionError where it fails."""
        done = subprocess.run(
            self.command(*words),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            **options,
        )
        assert done.returncode == 0, f"{self.name}: {' '.join(words)}: {done.returncode}\n{done.stdout}"
        return done.stdout

    def start(self, *words: str, log: Path | None = None, **options: Any) -> subprocess.Popen[str]:
        """Starts a command, whose output goes to `log` (default: the machine's own)."""
        with (log or self.log).open("a") as file:
            return subprocess.Popen(
                self.command(*words), text=True, stdout=file, stderr=subprocess.STDOUT, **options
            )

    def processes(self, word: str) -> dict[int, dict[str, str]]:
        """What runs here with `word` in its command line: its number, as the test knows it, and its
        variables."""
        found = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):  # it may end meanwhile
                here = space_of(process.pid) == space_of(self.pid)
                if here and word in " ".join(process.cmdline()):
                    found[process.pid] = process.environ()
        return found

    def said(self) -> str:
        return f"{self.name}:\n{self.log.read_text(errors='replace')}"


class Machines:
    """A head and some nodes, joined by a bridge."""

    def __init__(self, folder: Path, nodes: tuple[str, ...] = ("node1", "node2")) -> None:
        addresses = {name: f"{ADDRESS}{number}" for number, name in enumerate(("head", *nodes), start=1)}
        lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in addresses.items())]
        (folder / "hosts").write_text("\n".join(lines) + "\n")
        (folder / "ssh").mkdir(mode=0o755)
        self.folder = folder
        self.all: list[Machine] = []
        try:
            self.all += [Machine(name, address, folder) for name, address in addresses.items()]
            self.head, *self.nodes = self.all
            self._connect()
        except BaseException:
            self.stop()
            raise

    def _connect(self) -> None:
        self.head.run("ip", "link", "add", "name", "lan", "type", "bridge")
        self.head.run("ip", "address", "add", f"{self.head.address}/24", "dev", "lan")
        self.head.run("ip", "link", "set", "lan", "up")
        for node in self.nodes:
            # The numbers of processes are those of the machine that all this runs on.
            cable = ["ip", "link", "add", "name", node.name, "type", "veth"]
            cable += ["peer", "name", "eth0", "netns", str(node.pid)]
            subprocess.run(["nsenter", f"--target={self.head.pid}", "--net", *cable], check=True)
            self.head.run("ip", "link", "set", node.name, "master", "lan", "up")
            node.run("ip", "address", "add", f"{node.address}/24", "dev", "eth0")
            node.run("ip", "link", "set", "eth0", "up")

    def cut(self, node: Machine) -> None:
        """Takes a node's cable out."""
        self.head.run("ip", "link", "set", node.name, "down")

    def mend(self, node: Machine) -> None:
        """Puts it back."""
        self.head.run("ip", "link", "set", node.name, "up")

    def stop(self) -> None:
        for machine in self.all:
            machine.life.kill()
        for machine in self.all:
            machine.life.wait(timeout=30)


def space_of(pid: int) -> Path:
    """The namespace of processes that a process belongs to."""
    return Path(f"/proc/{pid}/ns/pid").readlink()


def wait_until(
    condition: Callable[[], Any], said: Callable[[], str], seconds: float = 120, pause: float = 0.1
) -> Any:
    """The condition's first true value; fails with what `said` returns where it takes too long."""
    until = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < until, said()
        time.sleep(pause)
    return value


def training_environment() -> dict[str, str]:
    """For ranks on CPUs, which have one thread each wherever they run: else sums might differ in their last
    bits."""
    one_thread = {"OMP_NUM_THREADS": "1"}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    more = {"DS_ACCELERATOR": "cpu", "HF_HUB_OFFLINE": "1", "PATH": path, "MGH_DS_PYTHON": sys.executable}
    return os.environ | one_thread | more
