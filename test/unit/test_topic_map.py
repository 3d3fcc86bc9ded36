from pathlib import Path

import pytest

from bevdistill_ros.interface.topic_file import read_topic_map, templates, topic_map, with_topics, write_topic_map
from bevdistill_ros.interface.topics import COMPRESSED_IMAGE, LAYOUTS, RAW_IMAGE, CameraTopics, TopicMap

MINE = """
images_rectified: true
odometry: vehicle/odometry
base_frame: /base_footprint
cameras:
  FRONT: {image: front_wide/image_rect/compressed, camera_info: /front_wide/camera_info}
  REAR: /rear/jpeg
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "topics.yaml"
    path.write_text(text)
    return path


def test_file_names_each_camera(tmp_path: Path) -> None:
    topics = topic_map(str(written(tmp_path, MINE)))
    assert topics.image_topic("FRONT") == "/front_wide/image_rect/compressed"
    assert topics.camera_info_topic("REAR") == ""
    assert topics.routes(["REAR"], node="~") == {
        "/vehicle/odometry": "~/input/odometry",
        "/rear/jpeg": "~/input/REAR/image/compressed",
    }
    expected = {"transport": "compressed", "base_frame": "base_footprint", "images_rectified": True}
    assert topics.node_parameters() == expected
    assert topics.missing(["FRONT", "LEFT"]) == ["LEFT"]
    with pytest.raises(ValueError, match="has no camera 'LEFT'; it has FRONT, REAR"):
        topics.image_topic("LEFT")


def test_file_of_templates_with_other_names(tmp_path: Path) -> None:
    text = "image: /{camera}/image_raw\nnames: {CAM_FRONT: wide}\nodometry: null\ntf: /robot/tf\n"
    topics = read_topic_map(written(tmp_path, text))
    assert topics.image_type == RAW_IMAGE
    assert topics.image_topic("CAM_FRONT") == "/wide/image_raw"
    assert topics.camera_info_topic("CAM_BACK") == "/CAM_BACK/camera_info"
    assert topics.odometry == ""
    assert topics.transform_routes() == {"/tf_static": "/tf_static", "/robot/tf": "/tf"}


@pytest.mark.parametrize("topics", [*LAYOUTS.values(), TopicMap(image="", cameras={"A": CameraTopics(image="/a/jpg")})])
def test_what_is_written_is_read_back(topics: TopicMap, tmp_path: Path) -> None:
    path = tmp_path / "new" / "topics.yaml"
    write_topic_map(topics, path, notes=("found in\na bag",))
    found = read_topic_map(path)
    assert found.routes(["A"]) == topics.routes(["A"])
    assert found.node_parameters() == topics.node_parameters()
    assert found.names == topics.names
    assert "# found in a bag\n" in path.read_text()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("cameras: {FRONT: /a\n", "is not YAML: .* in line"),
        ("[1, 2]", "the file must be a mapping"),
        ("", "names no cameras"),
        ("camera: {FRONT: /a}", "unknown key 'camera'; did you mean 'cameras'?"),
        ("image: /front/image", r"image must hold \{camera\}"),
        ("cameras: {FRONT: {topic: /a}}", "cameras.FRONT has an unknown key 'topic'"),
        ("cameras: {FRONT: {camera_info: /a}}", "cameras.FRONT lacks image"),
        ("cameras: {FRONT: [a]}", "cameras.FRONT must be a mapping"),
        ("cameras: {1: /a}", "has the key 1, which is not text"),
        ("cameras: {2nd: /a}", "camera name '2nd' must be letters"),
        ("cameras: {A: /a b}", "'/a b' is not the name of a topic"),
        ("cameras: {A: /a, B: /b/compressed}", "some image topics are compressed and some raw"),
        ("cameras: {A: /a}\nimage_type: jpeg", "image_type must be compressed or raw, but is 'jpeg'"),
        ("cameras: {A: /a}\nimages_rectified: 1", "images_rectified must be true or false"),
        ("cameras: {A: /a}\nodometry: [1]", "odometry must be text"),
        ("cameras: {A: /a}\ntf: ''", "tf must be a topic"),
        ("cameras: {A: /a}\nbase_frame: a b", "base_frame must be the name of a frame"),
        ("cameras: {A: /a}\nnames: {A: b}", "names only serves the template"),
    ],
)
def test_a_bad_file_gets_one_line(text: str, fault: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=fault) as caught:
        read_topic_map(written(tmp_path, text))
    assert str(caught.value).startswith("topic map ")
    assert "\n" not in str(caught.value)


def test_a_template_says_its_type_and_its_calibration() -> None:
    topics = topic_map("/sensors/{camera}/image_rect_color/compressed")
    assert (topics.image_type, topics.images_rectified) == (COMPRESSED_IMAGE, True)
    assert topics.camera_info_topic("A") == "/sensors/A/camera_info"
    assert templates(image="{camera}/image_raw").image_topic("A") == "/A/image_raw"
    with pytest.raises(ValueError, match="neither a template"):
        topic_map("/sensors/front/image")
    with pytest.raises(ValueError, match="layout 'kitti' is not known; choose one of bevdistill"):
        topic_map("kitti")
    with pytest.raises(ValueError, match="cannot be read"):
        topic_map("missing.yaml")


def test_own_topics_in_place_of_some() -> None:
    topics = with_topics(LAYOUTS["nuscenes2bag"], image="/{camera}/image_rect/compressed", odometry="ego")
    assert topics.image_topic("CAM_FRONT") == "/cam_front/image_rect/compressed"
    assert topics.camera_info_topic("CAM_FRONT") == "/cam_front/camera_info"
    assert (topics.transport, topics.images_rectified, topics.odometry) == ("compressed", True, "/ego")
    assert with_topics(topics) == topics
    with pytest.raises(ValueError, match=r"camera_info must hold \{camera\}"):
        with_topics(topics, camera_info="/info")
