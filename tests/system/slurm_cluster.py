"""A real SLURM on the machines of tests/system/machines.py: its controller on the head, a daemon a node."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.system.machines import Machines, training_environment, wait_until

CONFIGURATION = """
ClusterName=test
SlurmctldHost=head
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
MpiDefault=none
StateSaveLocation=/run/slurm/state
SlurmdSpoolDir=/run/slurm/spool
SlurmctldPidFile=/run/slurm/slurmctld.pid
SlurmdPidFile=/run/slurm/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=10
BatchStartTimeout=60
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=2,sched_min_interval=0,batch_sched_delay=0,default_queue_depth=20
AuthInfo=cred_expire=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillOnBadExit=1
"""
PARTITIONS = """
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 MaxTime=60 State=UP PreemptMode=REQUEUE GraceTime=90
PartitionName=high Nodes=ALL PriorityTier=9 MaxTime=60 State=UP PreemptMode=OFF
"""


class SlurmCluster:
    """SLURM, and what the tests ask of it."""

    def __init__(self, folder: Path, machines: Machines) -> None:
        self.folder, self.machines, self.head = folder, machines, machines.head
        nodes = [f"NodeName={node.name} CPUs=2 RealMemory=4000 State=UNKNOWN" for node in machines.nodes]
        configuration = folder / "slurm.conf"
        configuration.write_text(CONFIGURATION + "\n".join(nodes) + PARTITIONS)
        self.environment = training_environment() | {"SLURM_CONF": str(configuration)}
        key = folder / "munge.key"
        key.write_bytes(b"one key for all machines of a test" * 4)
        key.chmod(0o400)
        for machine in machines.all:
            machine.run("mkdir", "-p", "/run/slurm/state", "/run/slurm/spool", "/run/munge")
            machine.run("chmod", "711", "/run/munge")
            files = {"key": key, "pid": "/run/munge/pid", "log": "/run/munge/log", "seed": "/run/munge/seed"}
            words = [f"--{name}-file={path}" for name, path in files.items()]
            machine.run("munged", "--force", "--socket=/run/munge/munge.socket.2", *words)
        self.head.start("slurmctld", "-D", env=self.environment)
        for node in machines.nodes:
            node.start("slurmd", "-D", env=self.environment)
        wait_until(self._ready, self.said)

    def _ready(self) -> bool:
        states = subprocess.run(
            self.head.command("sinfo", "--noheader", "--partition=low", "--format=%T %D"),
            env=self.environment,
            text=True,
            capture_output=True,
            check=False,
        )
        return states.stdout.split() == ["idle", str(len(self.machines.nodes))]

    def ask(self, *words: str, **variables: str) -> str:
        """What a command of SLURM prints on the head."""
        return self.head.run(*words, env=self.environment | variables)

    def submit(self, *words: str, **variables: str) -> "Job":
        """sbatch with these words, under variables of the environment."""
        printed = self.ask("sbatch", "--parsable", f"--output={self.folder}/%A_%a.log", *words, **variables)
        return Job(self, printed.strip().splitlines()[-1])

    def said(self) -> str:
        return "\n".join(machine.said() for machine in self.machines.all)


class Job:
    """A submitted job, or an array of them."""

    def __init__(self, cluster: SlurmCluster, number: str) -> None:
        self.cluster, self.number = cluster, number

    def facts(self) -> dict[str, str]:
        """What `scontrol` knows of the (last) job: JobState, ExitCode, Restarts ..."""
        shown = self.cluster.ask("scontrol", "--oneliner", "show", "job", self.number)
        return dict(re.findall(r"(\S+?)=(\S*)", shown.splitlines()[-1]))

    def states(self) -> list[str]:
        """The state of every job of the array."""
        shown = self.cluster.ask("scontrol", "--oneliner", "show", "job", self.number)
        return re.findall(r"JobState=(\w+)", shown)

    def log(self) -> str:
        """What the job and its tasks wrote, over all its lives."""
        logs = sorted(self.cluster.folder.glob(f"{self.number}_*.log"))
        return "".join(log.read_text(errors="replace") for log in logs)

    def over(self) -> bool:
        """Whether nothing more will come of it."""
        ended = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY"}
        return set(self.states()) <= ended

    def wait(self, seconds: float = 400) -> dict[str, str]:
        """The job's facts once it is over for good."""
        wait_until(self.over, self.said, seconds, pause=0.5)
        return self.facts()

    def reach(self, condition: Callable[[], Any]) -> None:
        """Waits until the condition is true; fails where the job ends before."""
        wait_until(lambda: condition() or self.over(), self.said, seconds=300, pause=0.05)
        assert condition(), self.said()

    def said(self) -> str:
        return f"{self.states()}\n{self.log()[-6000:]}\n{self.cluster.said()[-3000:]}"
