"""The detector node in a process of its own, as on the vehicle, but out of reach of all other nodes.

Its namespace is unique, and the topics that every node shares (/clock, /tf) lie in it too. So another detector in the
same domain, one that a killed replay left or one of a second replay, neither hears our bag nor answers for our bundle.
"""

import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml
from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import GetState
from rclpy.client import Client
from rclpy.node import Node
from std_srvs.srv import Trigger

from bevdistill_ros.core.files import write_whole
from bevdistill_ros.interface.fast_dds import transport_environment
from bevdistill_ros.interface.topics import DETECTIONS_TOPIC, NODE
from training.parallel.child import module_command
from training.replay.play import ReplayError, Wait

NODE_MODULE = "bevdistill_ros.node.detector_node"
_SHARED_TOPICS = ("/clock", "/tf", "/tf_static", "/diagnostics")  # the same for every node, whatever its namespace
_STOP_TIMEOUT_S = 10.0
_CALL_TIMEOUT_S = 5.0
_POLL_S = 0.05
_DISCOVERY_S = 5.0  # nodes that run already are known by then
_LOG_LINES = 12
_REFUSALS = ("[ERROR]", "[FATAL]")  # severities in the node's log


class NodeProcess:
    """Runs the detector node while the context is open.

    Args:
        parameters: Parameters of the node, nested by the dots of their names.
        folder: Where `node.param.yaml` and `node.log` go.
        namespace: Namespace of the node, such as /replay; that of a node which is there already is refused.
        environment: Variables to set besides those of this process.
    """

    def __init__(
        self,
        parameters: Mapping[str, Any],
        folder: Path,
        namespace: str,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._parameters = dict(parameters)
        self._namespace = namespace.rstrip("/")
        self._folder = folder
        self._environment = {**os.environ, **transport_environment(), **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        """Name of the node, with its namespace."""
        return self._namespace + NODE

    @property
    def log_path(self) -> Path:
        """The output of the node."""
        return self._folder / "node.log"

    def __enter__(self) -> "NodeProcess":
        self._folder.mkdir(parents=True, exist_ok=True)
        parameter_file = self._folder / "node.param.yaml"
        content = {self.name: {"ros__parameters": self._parameters}}
        write_whole(parameter_file, yaml.safe_dump(content, sort_keys=False))
        rules = [f"__ns:={self._namespace or '/'}", *(f"{topic}:={self._namespace}{topic}" for topic in _SHARED_TOPICS)]
        remaps = [part for rule in rules for part in ("--remap", rule)]
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                module_command(NODE_MODULE, "--ros-args", "--params-file", str(parameter_file), *remaps),
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,  # an interrupt at the terminal reaches us, and we end the node in order
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def check(self) -> None:
        """Raise ReplayError, with the end of the log, if the node has ended or refused to start."""
        assert self._process is not None
        code = self._process.poll()
        if code is not None:
            raise ReplayError(f"the node ended with code {code}; the end of {self.log_path}:\n{self.log_tail()}")

    def wait_until_active(self, node: Node, wait: Wait, timeout_s: float) -> None:
        """Wait until the node has loaded its bundle and runs.

        Raises:
            ReplayError: It ends, refuses, takes too long, or is not the only one of its name.
        """
        client = node.create_client(GetState, f"{self.name}/get_state")
        deadline = time.perf_counter() + timeout_s
        while self._state(client, wait) != State.PRIMARY_STATE_ACTIVE:
            self.check()
            refused = any(mark in self.log_path.read_text(errors="replace") for mark in _REFUSALS)
            if refused or time.perf_counter() > deadline:
                raise ReplayError(
                    f"the node {'refused to start' if refused else f'is not active after {timeout_s:g} s'}; "
                    f"the end of {self.log_path}:\n{self.log_tail()}"
                )
        node.destroy_client(client)
        self.check_alone(node)

    def check_free(self, node: Node, wait: Wait) -> None:
        """Raise ReplayError where the name of a node that is still to start is taken."""
        wait(_DISCOVERY_S)
        self._check_others(node, 0)

    def check_alone(self, node: Node) -> None:
        """Raise ReplayError where another process answers under the node's name too."""
        self._check_others(node, 1)

    def _check_others(self, node: Node, own: int) -> None:
        names = [f"{space.rstrip('/')}/{name}" for name, space in node.get_node_names_and_namespaces()]
        publishers = len(node.get_publishers_info_by_topic(self._namespace + DETECTIONS_TOPIC))
        if names.count(self.name) > own or publishers > own:
            raise ReplayError(
                f"another node answers as {self.name} in ROS_DOMAIN_ID {os.environ.get('ROS_DOMAIN_ID', '0')}: "
                f"{names.count(self.name) - own} nodes of that name, {publishers - own} publishers of detections "
                "besides ours; end it, or give the replay another namespace"
            )

    def _state(self, client: Client, wait: Wait) -> int:
        """The node's lifecycle state, PRIMARY_STATE_UNKNOWN where it does not answer."""
        if not client.service_is_ready():
            wait(_POLL_S)
            return State.PRIMARY_STATE_UNKNOWN
        answer = _call(client, GetState.Request(), wait)
        return answer.current_state.id if answer is not None else State.PRIMARY_STATE_UNKNOWN

    def reset_memory(self, node: Node, wait: Wait) -> None:
        """Make the node forget what it saw, before it sees another scene.

        Raises:
            ReplayError: It does not.
        """
        client = node.create_client(Trigger, f"{self.name}/reset")
        deadline = time.perf_counter() + _CALL_TIMEOUT_S
        while not client.service_is_ready() and time.perf_counter() < deadline:
            wait(_POLL_S)
        answer = _call(client, Trigger.Request(), wait) if client.service_is_ready() else None
        node.destroy_client(client)
        if answer is None or not answer.success:
            self.check()
            raise ReplayError(f"the node did not reset its memory: {answer.message if answer else 'no answer'}")

    def log_tail(self) -> str:
        """The last lines of the output of the node."""
        lines = self.log_path.read_text(errors="replace").splitlines()
        return "\n".join(lines[-_LOG_LINES:])


def _call(client: Client, request: Any, wait: Wait) -> Any:
    """Answer of a service, None where none comes in time."""
    future = client.call_async(request)
    deadline = time.perf_counter() + _CALL_TIMEOUT_S
    while not future.done() and time.perf_counter() < deadline:
        wait(_POLL_S)
    return future.result() if future.done() else None
