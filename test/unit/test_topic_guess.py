import pytest

from bevdistill_ros.core.nuscenes import NUSCENES_CAMERAS
from bevdistill_ros.interface.topic_guess import camera_streams, guess_topics, match_names
from bevdistill_ros.interface.topics import COMPRESSED_IMAGE, LAYOUTS, RAW_IMAGE

INFO, ODOMETRY = "sensor_msgs/msg/CameraInfo", "nav_msgs/msg/Odometry"


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_are_recognised(name: str) -> None:
    layout = LAYOUTS[name]
    types = {layout.image_topic(camera): layout.image_type for camera in NUSCENES_CAMERAS}
    types |= {"/depth/image": RAW_IMAGE, "/some/odom": ODOMETRY}
    guess = guess_topics(types)
    assert guess.source == f"names of the layout {name}"
    assert guess.doubts == ()
    assert guess.topics.odometry == "/some/odom"
    assert guess.topics.image_topic("CAM_BACK") == layout.image_topic("CAM_BACK")


def test_a_layout_with_the_other_type_of_images() -> None:
    types = {LAYOUTS["bevdistill"].image_topic(camera): RAW_IMAGE for camera in NUSCENES_CAMERAS}
    assert guess_topics(types).topics.transport == "raw"


def test_cameras_are_named_by_what_distinguishes_their_topics() -> None:
    types = {f"/sensors/camera/{name}/image_raw/compressed": COMPRESSED_IMAGE for name in ("wide", "rear-left", "2")}
    types |= {f"/sensors/camera/{name}/camera_info": INFO for name in ("wide", "rear-left", "2")}
    guess = guess_topics(types)
    assert set(guess.topics.cameras) == {"wide", "rear_left", "camera_2"}
    assert guess.topics.camera_info_topic("rear_left") == "/sensors/camera/rear-left/camera_info"
    assert (guess.topics.odometry, guess.topics.transport, guess.doubts) == ("", "compressed", ())


def test_the_models_names_find_topics_of_other_spelling() -> None:
    names = {"fl": "CAM_FRONT_LEFT", "frontRight": "CAM_FRONT_RIGHT", "front_center": "CAM_FRONT", "rear": "CAM_BACK"}
    types = {f"/car/{name}/image_rect": RAW_IMAGE for name in names}
    guess = guess_topics(types, tuple(names.values()))
    assert {camera: topics.image for camera, topics in guess.topics.cameras.items()} == {
        camera: f"/car/{name}/image_rect" for name, camera in names.items()
    }
    assert guess.topics.images_rectified
    assert guess.doubts == ()


def test_what_is_not_certain_is_not_chosen() -> None:
    types = {f"/cam{number}/image_raw": RAW_IMAGE for number in range(3)}
    guess = guess_topics(types, ("CAM_FRONT", "CAM_LEFT", "CAM_RIGHT"))
    assert guess.topics.cameras == {}
    assert "no topic is named like CAM_FRONT, CAM_LEFT, CAM_RIGHT" in guess.doubts[0]
    assert [stream.image for stream in guess.unnamed] == sorted(types)
    assert match_names(["FRONT"], ["front_wide", "front_tele"]) == {}
    assert match_names(["FRONT", "FRONT_TELE"], ["front_wide", "front"]) == {"FRONT": "front"}
    several = {"/a/odom": ODOMETRY, "/b/odom": ODOMETRY, "/cam/image": RAW_IMAGE}
    assert "several odometries: /a/odom, /b/odom" in guess_topics(several).doubts[0]
    assert guess_topics({**several, "/odom": ODOMETRY}).topics.odometry == "/odom"


def test_one_topic_of_each_camera() -> None:
    types = {
        "/left/image_raw": RAW_IMAGE,
        "/left/image_raw/compressed": COMPRESSED_IMAGE,
        "/left/image_rect/compressed": COMPRESSED_IMAGE,
        "/left/depth/image_rect": RAW_IMAGE,
        "/left/camera_info": INFO,
        "/right/img": COMPRESSED_IMAGE,
        "/right/infra1/image_rect_raw": RAW_IMAGE,
        "/bevdistill_detector/output/overlay/compressed": COMPRESSED_IMAGE,
    }
    left, right = camera_streams(types)
    assert (left.name, left.image, left.camera_info) == ("left", "/left/image_rect/compressed", "/left/camera_info")
    assert (right.name, right.image, right.camera_info) == ("right", "/right/img", "")


def test_a_single_camera_and_none() -> None:
    (only,) = camera_streams({"/image_raw": RAW_IMAGE, "/camera_info": INFO})
    assert (only.image, only.camera_info) == ("/image_raw", "/camera_info")
    assert guess_topics({"/odom": ODOMETRY}).doubts == ("there are no images",)


def test_raw_and_compressed_cameras_together_are_doubtful() -> None:
    guess = guess_topics({"/a/image": RAW_IMAGE, "/b/image/compressed": COMPRESSED_IMAGE})
    assert "the node takes one kind" in guess.doubts[0]
