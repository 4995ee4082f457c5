"""Doors between the machines of tests/system/machines.py: an ssh server on each, with keys made for the
occasion."""

import subprocess
from pathlib import Path

from tests.system.machines import Machine, Machines, wait_until

PORT = 2222
SERVER = f"""
Port {PORT}
HostKey /etc/ssh/host_key
AuthorizedKeysFile /etc/ssh/user_key.pub
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
PidFile /run/sshd/pid
"""
# A client notices within ten seconds that a machine is gone.
CLIENT = """
IdentityFile /etc/ssh/user_key
GlobalKnownHostsFile /etc/ssh/known_hosts
UserKnownHostsFile /dev/null
StrictHostKeyChecking yes
BatchMode yes
ServerAliveInterval 5
ServerAliveCountMax 2
"""


def start_servers(machines: Machines) -> None:
    """Lets every machine log into every node. `/etc/ssh` of all machines is one folder of the test's."""
    folder = machines.folder / "ssh"
    for name in ("host_key", "user_key"):
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(words, check=True)
    host_key = " ".join((folder / "host_key.pub").read_text().split()[:2])
    known = [f"[{name}]:{PORT} {host_key}\n" for node in machines.nodes for name in (node.name, node.address)]
    (folder / "known_hosts").write_text("".join(known))
    (folder / "ssh_config").write_text(CLIENT)
    (folder / "sshd_config").write_text(SERVER)
    for node in machines.nodes:
        node.run("mkdir", "/run/sshd")
        node.start("/usr/sbin/sshd", "-D", "-e")
        wait_until(lambda node=node: listens(node), node.said)


def listens(node: Machine) -> bool:
    """Whether the node's server has begun."""
    return Path(f"/proc/{node.pid}/root/run/sshd/pid").exists()
