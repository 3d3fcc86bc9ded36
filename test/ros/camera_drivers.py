"""Camera drivers for tests, a program of their own: images in bursts, camera_info and odometry, until it is ended."""

import argparse
import sys
import time

import cv2
import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from nav_msgs.msg import Odometry
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

SIZE = (90, 160)  # height, width [px]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cameras", nargs="+", default=["LEFT", "FRONT", "RIGHT"])
    parser.add_argument("--topic", default="/{camera}/image_rect_compressed")
    parser.add_argument("--info-topic", default="/{camera}/camera_info")
    parser.add_argument("--raw", action="store_true", help="Image instead of CompressedImage")
    parser.add_argument("--rate", type=float, default=12.0)
    parser.add_argument("--bytes", type=int, default=0, help="size that images are filled up to")
    parser.add_argument("--keep-back", type=float, default=0.0, help="part of the images that is not sent")
    parser.add_argument("--late", type=float, default=0.0, help="age of the stamps [s]")
    parser.add_argument("--apart", type=float, default=0.0, help="time between the stamps of two cameras [s]")
    parser.add_argument("--dead", nargs="*", default=[], help="cameras that are announced and send nothing")
    parser.add_argument("--nan", nargs="*", default=[], help="cameras with a calibration that is not finite")
    parser.add_argument("--no-odometry", action="store_true")
    parser.add_argument("--clock", action="store_true", help="publish the stamps as simulated time")
    arguments = parser.parse_args()
    try:
        drive(arguments)
    except KeyboardInterrupt:
        pass
    except Exception:
        if rclpy.ok():  # else a signal came during a publish
            raise


def drive(arguments: argparse.Namespace) -> None:
    rclpy.init()
    node = rclpy.create_node("camera_drivers")
    best_effort = QoSProfile(depth=10, reliability=QoSReliabilityPolicy.BEST_EFFORT)
    kind = Image if arguments.raw else CompressedImage
    images = {
        name: node.create_publisher(kind, arguments.topic.format(camera=name), best_effort)
        for name in arguments.cameras
    }
    infos = {
        name: node.create_publisher(CameraInfo, arguments.info_topic.format(camera=name), 10)
        for name in arguments.cameras
    }
    odometry = None if arguments.no_odometry else node.create_publisher(Odometry, "/odom", 10)
    clock = node.create_publisher(Clock, "/clock", 10) if arguments.clock else None
    random = np.random.default_rng(0)
    content = picture(arguments)
    due = time.time()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while rclpy.ok():
        due += 1 / arguments.rate
        time.sleep(max(due - time.time(), 0.0))
        now = round((due - arguments.late) * 1e9)
        for place, name in enumerate(arguments.cameras):
            header = header_from(now + round(place * arguments.apart * 1e9), f"{name}_optical")
            infos[name].publish(calibration(header, is_finite=name not in arguments.nan))
            if name not in arguments.dead and random.random() >= arguments.keep_back:
                content.header = header
                images[name].publish(content)
        if clock is not None:
            clock.publish(Clock(clock=header_from(now, "").stamp))
        if odometry is not None:
            message = Odometry(header=header_from(now, "odom"), child_frame_id="base_link")
            message.pose.pose.orientation.w = 1.0
            odometry.publish(message)


def header_from(stamp_ns: int, frame_id: str) -> Header:
    """Not that of bevdistill_ros.node.convert, with which this program would take seconds to start."""
    seconds, nanoseconds = divmod(stamp_ns, 1_000_000_000)
    return Header(stamp=Time(sec=seconds, nanosec=nanoseconds), frame_id=frame_id)


def picture(arguments: argparse.Namespace) -> Image | CompressedImage:
    pixels = np.full((*SIZE, 3), 90, dtype=np.uint8)
    if arguments.raw:
        return Image(height=SIZE[0], width=SIZE[1], encoding="rgb8", step=3 * SIZE[1], data=pixels.tobytes())
    jpeg = cv2.imencode(".jpg", pixels)[1].tobytes()
    filler = max(arguments.bytes - len(jpeg), 0)
    # Before the end mark, where a decoder passes over it.
    return CompressedImage(format="jpeg", data=jpeg[:-2] + bytes(filler) + jpeg[-2:])


def calibration(header: Header, *, is_finite: bool) -> CameraInfo:
    focal = 100.0 if is_finite else float("nan")
    matrix = [focal, 0.0, 79.5, 0.0, focal, 44.5, 0.0, 0.0, 1.0]
    return CameraInfo(header=header, height=SIZE[0], width=SIZE[1], k=matrix, distortion_model="plumb_bob")


if __name__ == "__main__":
    main()
