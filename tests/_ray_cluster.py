"""A Ray cluster over machines in miniature: the first has the head and no processors to give, the others work."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from _machines import Machine, until

SHORT = Path("/tmp/ray")  # paths of sockets have at most 107 bytes
OWN = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "TMPDIR": str(SHORT)}
# a busy machine takes long to start a node, and to say that it lives
OWN |= {f"RAY_{name}": "300" for name in ("raylet_start_wait_time_s", "gcs_server_request_timeout_seconds")}
OWN |= {"RAY_health_check_timeout_ms": "100000", "RAY_health_check_failure_threshold": "20"}


@contextmanager
def cluster(each: list[Machine], cpus: int = 1) -> Iterator[dict[str, str]]:
    """Ray on every machine until the end of the block; what it gives are the variables of a driver on the first."""
    SHORT.mkdir(exist_ok=True)
    address, nodes = f"{each[0].address}:6379", []
    for number, machine in enumerate(each):
        (machine.folder / "ray").mkdir()
        machine.say(f"mount --bind {machine.folder / 'ray'} {SHORT}")
        role = ["--address", address] if number else ["--head", "--port", "6379", "--include-dashboard", "false"]
        own = ["--node-ip-address", machine.address, "--num-cpus", str(cpus if number else 0), "--block"]
        memory = ["--object-store-memory", str(200 << 20), "--disable-usage-stats"]
        nodes.append(machine.python("-m", "ray.scripts.scripts", "start", *role, *own, *memory, **OWN))
        if not number:
            until(lambda: list((each[0].folder / "ray").glob("ray/session_*/gcs_server_port_*")), 300)
    count = "import ray; ray.init(logging_level='error'); print(sum(n['Alive'] for n in ray.nodes()))"
    variables = {"RAY_ADDRESS": address, **OWN}

    def joined() -> bool:
        for node in nodes:
            assert node.poll() is None, node.communicate()[0]
        asks = each[0].python("-c", count, **variables)
        try:
            return asks.communicate(timeout=60)[0].strip().endswith(str(len(each)))
        except subprocess.TimeoutExpired:
            asks.kill()
            return False

    until(joined, 400)
    try:
        yield variables
    finally:
        for node in nodes:
            node.kill()  # what it has started ends with its machine
