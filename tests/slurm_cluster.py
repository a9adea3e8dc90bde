"""A real SLURM of one node on this machine, for tests.

munged, slurmctld and slurmd run on the loopback, with all state in one folder. Jobs in the
partition `urgent` preempt those in `main`, the default.
"""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol")
MUNGE = Path("/run/munge/munge.socket.2")  # where SLURM looks for it
SECONDS = 60  # to start
CONF = """
ClusterName=momos
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
JobRequeue=1
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=10
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=2000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES PriorityTier=1 MaxTime=INFINITE State=UP
PartitionName=urgent Nodes={host} PriorityTier=2 MaxTime=INFINITE State=UP
"""


def why_not() -> str | None:
    """What is missing here; None if SLURM can be tried."""
    missing = [program for program in PROGRAMS if not shutil.which(program)]
    if missing:
        return f"no {', '.join(missing)} here (Debian: apt-get install slurm-wlm munge)"
    return None if os.getuid() == 0 else "starting SLURM needs root"


def free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def munge() -> Iterator[None]:
    """A running munged: one that runs already is used and left running."""
    if (
        MUNGE.is_socket()
        and subprocess.run("munge -n | unmunge", shell=True, capture_output=True).returncode == 0
    ):
        yield
        return
    user = pwd.getpwnam("munge")
    for folder in (MUNGE.parent, Path("/var/log/munge"), Path("/var/lib/munge")):
        folder.mkdir(parents=True, exist_ok=True)
        os.chown(folder, user.pw_uid, user.pw_gid)
    MUNGE.parent.chmod(0o755)
    command = ["setpriv", "--reuid=munge", "--regid=munge", "--clear-groups"]
    command += ["munged", "--foreground"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(MUNGE.is_socket, "munged")
            yield
        finally:
            process.terminate()


def node() -> str:
    """The name of the only node."""
    return socket.gethostname().split(".")[0]


def wait_for(condition, what: str) -> None:
    """Wait for a condition. Raises RuntimeError after SECONDS."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} does not start within {SECONDS} s")
        time.sleep(0.5)


def idle() -> bool:
    done = subprocess.run(["sinfo", "--noheader", "--format=%t"], capture_output=True, text=True)
    return done.returncode == 0 and done.stdout.strip() == "idle"


@contextlib.contextmanager
def slurm(folder: Path) -> Iterator[None]:
    """A running SLURM, which SLURM_CONF in the environment names.

    Raises RuntimeError with the end of the logs if it does not start.
    """
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    host = node()
    (folder / "slurm.conf").write_text(CONF.format(host=host, ports=free_ports(2), folder=folder))
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    with contextlib.ExitStack() as stack:
        stack.callback(os.environ.pop, "SLURM_CONF")
        stack.enter_context(munge())
        for command in (["slurmctld", "-D"], ["slurmd", "-D", "-N", host]):
            process = stack.enter_context(
                subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            )
            stack.callback(process.terminate)
        try:
            wait_for(idle, "SLURM")
        except RuntimeError as error:
            logs = "\n".join(
                "\n".join(path.read_text().splitlines()[-10:]) for path in folder.glob("*.log")
            )
            raise RuntimeError(f"{error}:\n{logs}") from error
        yield
