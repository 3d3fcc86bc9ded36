"""The detector node: camera topics in, 3D detections out."""

import contextlib
import sys
import traceback
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import NameValidationException, ParameterException
from rclpy.executors import ExternalShutdownException
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.logging import get_logger
from std_srvs.srv import Trigger

from bevdistill_ros.core.files import read_text
from bevdistill_ros.interface.shared_memory import remove_leftovers
from bevdistill_ros.interface.topics import NODE_NAME
from bevdistill_ros.node import convert
from bevdistill_ros.node import parameters as parameter_rules
from bevdistill_ros.node.diagnostics import clock_item
from bevdistill_ros.node.records import Item, Level
from bevdistill_ros.node.rig.waiting import REAL_TIME
from bevdistill_ros.node.session import Session

MAX_PARAMETER_BYTES = 1_000_000
LOG_PERIOD_S = 10.0  # between two lines that repeat the diagnostics' errors
_SIGNAL_S = 1.0  # in which a signal has ended the context


class DetectorNode(LifecycleNode):
    """Detects objects around the vehicle in synchronised camera images.

    While configured it holds a `Session`; it creates one, runs it, and reports its state.

    Raises:
        ValueError: A parameter has a value that it may not have.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(NODE_NAME, **kwargs)
        parameter_rules.declare(self)
        self._session: Session | None = None
        self._failure = ""
        self.add_on_set_parameters_callback(
            lambda changes: parameter_rules.check_change(changes, is_running=self._session is not None)
        )
        self.create_service(Trigger, "~/reset", self._on_reset)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        period = self.get_parameter("diagnostics.period_s").value
        self._reporting = self.create_timer(period, self._report, clock=Clock(clock_type=ClockType.STEADY_TIME))
        for name, known in parameter_rules.misspelt(self):
            self.get_logger().warning(f"parameter {name} is not known and has no effect; did you mean {known}?")

    def start(self) -> None:
        """Configure and activate, where the parameter autostart says so."""
        if not self.get_parameter("autostart").value:
            return
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def close(self) -> None:
        """End the session, whatever state the node is in."""
        session, self._session = self._session, None
        if session is not None:
            session.stop()
            session.close()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the bundle and make the publishers."""

        def configure() -> None:
            parameters = parameter_rules.read(self)
            self._reporting.timer_period_ns = round(parameters.diagnostics.period_s * 1e9)
            self._session = Session(self, parameters)
            self.get_logger().info(f"configured: {self._session.description}")

        return self._attempt("configure", configure)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Listen and detect."""

        def activate() -> None:
            assert self._session is not None
            self._session.start()
            super(DetectorNode, self).on_activate(state)

        return self._attempt("activate", activate)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop listening; the model stays loaded."""

        def deactivate() -> None:
            assert self._session is not None
            self._session.stop()
            super(DetectorNode, self).on_deactivate(state)

        return self._attempt("deactivate", deactivate)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release the model, so that the node can be configured again."""
        return self._attempt("clean up", self.close)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """End for good."""
        return self._attempt("shut down", self.close)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Go back to unconfigured, from where configure can be tried again."""
        return self._attempt("clean up", self.close)

    def _attempt(self, what: str, action: Callable[[], None]) -> TransitionCallbackReturn:
        """Run a transition; rclpy would swallow what it raises."""
        try:
            action()
        except Exception as error:
            self._failure = f"cannot {what}: {_one_line(error)}"
            self.get_logger().error(self._failure)
            # A ValueError or OSError is the user's to mend and says all; anything else is ours.
            if not isinstance(error, (ValueError, OSError)):
                self.get_logger().error(traceback.format_exc())
            if what == "configure":
                self.close()
            return TransitionCallbackReturn.FAILURE
        self._failure = ""
        return TransitionCallbackReturn.SUCCESS

    def _on_reset(self, request: Any, response: Any) -> Any:
        session = self._session
        response.success = session is not None
        response.message = "temporal memory will be empty for the next set" if session else "the node is not configured"
        if session is not None:
            session.request_reset()
        return response

    def _report(self) -> None:
        now = self.get_clock().now().nanoseconds
        session = self._session
        label = self._state_machine.current_state[1]
        level = Level.ERROR if self._failure else Level.OK if label == "active" else Level.WARN
        simulated = bool(self.get_parameter("use_sim_time").value)
        items = [
            Item(name="lifecycle", level=level, message=self._failure or label),
            clock_item(simulated=simulated, now_ns=now),
        ]
        if session is not None:
            found = session.diagnostics(now)
            items += found
            # For those who watch the log alone.
            errors = [f"{item.name}: {item.message}" for item in found if item.level is Level.ERROR]
            if errors and label == "active":
                self.get_logger().error("; ".join(errors), throttle_duration_sec=LOG_PERIOD_S)
        hardware = session.model_name if session else ""
        self._diagnostics.publish(
            convert.diagnostics_message(
                items, now_ns=now, node=self.get_fully_qualified_name().lstrip("/"), hardware_id=hardware
            )
        )


def _check_parameter_files(args: Sequence[str]) -> None:
    """Refuse a parameter file that rcl would wait for or read without end.

    Raises:
        ValueError: It is not an ordinary text file.
    """
    for option, path in pairwise(args):
        if option == "--params-file":
            read_text(path, what="parameter file", max_bytes=MAX_PARAMETER_BYTES)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"


def main(args: Sequence[str] | None = None) -> None:
    """Run the node until it is interrupted.

    Raises:
        SystemExit: A parameter has a value that it may not have, or a parameter file or an argument is not readable.
    """
    log = get_logger(NODE_NAME)
    leftovers = remove_leftovers()
    if leftovers.count:
        log.info(f"removed {leftovers}")
    try:
        _check_parameter_files(sys.argv if args is None else args)
        rclpy.init(args=args)
        node = DetectorNode()
    except (ValueError, ParameterException, NameValidationException, RuntimeError) as error:  # rcl's are RuntimeErrors
        log.fatal(_one_line(error))
        rclpy.try_shutdown()
        raise SystemExit(1) from None
    try:
        node.start()
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except Exception:
        # A signal may interrupt the executor's work, which then fails in its own way; the context ends soon after.
        if not REAL_TIME.until(lambda: not rclpy.ok(), _SIGNAL_S):
            raise
    finally:
        # A second interrupt must not leave the worker running.
        with contextlib.suppress(KeyboardInterrupt):
            node.close()
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
