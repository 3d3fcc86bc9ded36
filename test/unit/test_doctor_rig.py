"""The doctor on rigs: directions in words, rigs that cannot be right, and the contact sheet."""

import math
import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from bevdistill_ros.core.rig import CameraRig
from bevdistill_ros.doctor.checks.rig import BODY_FROM_OPTICAL, CameraView, check_views, describe, views_of
from bevdistill_ros.doctor.checks.training_rig import check_against_training
from bevdistill_ros.doctor.finding import Finding, Verdict
from bevdistill_ros.doctor.rig_picture import CELL_WIDTH, RING_COLOUR, draw_rig, images_in, save_picture
from bevdistill_ros.inference.frame import ImageTarget

SIZE = (90, 160)
TARGET = ImageTarget(height=90, width=160)
MATRIX = np.array([[80.0, 0.0, 79.5], [0.0, 80.0, 44.5], [0.0, 0.0, 1.0]])


def view(yaw: float = 0.0, *, up: float = 0.0, roll: float = 0.0, height: float = 1.5, name: str = "CAM") -> CameraView:
    """A camera that is turned to the left, up, and about its axis [degrees]."""
    a, b, c = (math.radians(angle) for angle in (yaw, up, roll))
    turn = np.array([[math.cos(a), -math.sin(a), 0], [math.sin(a), math.cos(a), 0], [0, 0, 1]])
    tilt = np.array([[1, 0, 0], [0, math.cos(b), -math.sin(b)], [0, math.sin(b), math.cos(b)]])
    spin = np.array([[math.cos(c), -math.sin(c), 0], [math.sin(c), math.cos(c), 0], [0, 0, 1]])
    pose = np.eye(4)
    pose[:3, :3] = turn @ BODY_FROM_OPTICAL @ tilt @ spin
    pose[:3, 3] = [1.0, 0.2, height]
    return CameraView(name=name, matrix=MATRIX, size=SIZE, ego_from_camera=pose)


def with_pose(pose: np.ndarray) -> CameraView:
    return replace(view(), ego_from_camera=pose)


class TestWords:
    @pytest.mark.parametrize(
        ("yaw", "words"),
        [
            (0.3, "0.3 deg left of forward"),
            (-20.0, "20.0 deg right of forward"),
            (55.0, "55.0 deg to the left"),
            (-110.0, "110.0 deg to the right"),
            (175.0, "5.0 deg left of backward"),
            (-179.0, "1.0 deg right of backward"),
        ],
    )
    def test_direction(self, yaw: float, words: str) -> None:
        assert f"looks {words}, 0.0 deg down, 1.50 m above ground, 90 deg wide" == describe(view(yaw))

    def test_numbers(self) -> None:
        camera = view(30.0, up=-4.0, roll=7.0)
        assert camera.yaw == pytest.approx(30.0)
        assert camera.elevation == pytest.approx(-4.0)
        assert camera.roll == pytest.approx(7.0)
        assert camera.field_of_view == pytest.approx(90.0)
        assert "4.0 deg down" in describe(camera)
        assert view(roll=90.0).roll == pytest.approx(90.0)

    def test_field_of_view_with_the_axis_off_the_middle(self) -> None:
        matrix = MATRIX.copy()
        matrix[0, 2] = -0.5  # the axis goes through the left edge
        assert replace(view(), matrix=matrix).field_of_view == pytest.approx(math.degrees(math.atan(2)))

    def test_straight_down_has_no_direction(self) -> None:
        assert describe(view(up=-90.0)).startswith("looks 90.0 deg down, 1.50 m")
        assert check_views([view(up=-90.0)])[0].verdict is Verdict.OK


class TestFaults:
    def only(self, camera: CameraView) -> tuple[Verdict, str, str]:
        (finding,) = check_views([camera])
        return finding.verdict, finding.message, finding.remedy

    def test_good_camera(self) -> None:
        assert self.only(view(55.0, up=-3.0))[0] is Verdict.OK

    def test_below_ground(self) -> None:
        verdict, message, _ = self.only(view(height=-0.5))
        assert verdict is Verdict.FAIL
        assert "0.50 m below ground" in message

    def test_higher_than_a_vehicle(self) -> None:
        assert self.only(view(height=1500.0))[0] is Verdict.FAIL  # millimetres

    @pytest.mark.parametrize(("up", "verdict"), [(19.0, Verdict.OK), (21.0, Verdict.FAIL), (-40.0, Verdict.OK)])
    def test_looking_up(self, up: float, verdict: Verdict) -> None:
        assert self.only(view(up=up))[0] is verdict

    @pytest.mark.parametrize("roll", [90.0, 180.0, -90.0])
    def test_turned_image(self, roll: float) -> None:
        verdict, message, _ = self.only(view(roll=roll))
        assert verdict is Verdict.FAIL
        assert "its image is turned by" in message

    @pytest.mark.parametrize("yaw", [0.0, 60.0, 180.0, -110.0])
    def test_body_frame_taken_for_an_optical_one(self, yaw: float) -> None:
        pose = view(yaw).ego_from_camera.copy()
        pose[:3, :3] = pose[:3, :3] @ BODY_FROM_OPTICAL.T
        verdict, _, remedy = self.only(with_pose(pose))
        assert verdict is Verdict.FAIL
        assert "body frame" in remedy

    @pytest.mark.parametrize("yaw", [0.0, 60.0, 180.0, -110.0])
    def test_inverse(self, yaw: float) -> None:
        verdict, _, remedy = self.only(with_pose(np.linalg.inv(view(yaw, up=-2.0).ego_from_camera)))
        assert verdict is Verdict.FAIL
        assert "camera_from_ego" in remedy

    def test_rotation_that_is_none(self) -> None:
        pose = view().ego_from_camera.copy()
        pose[0, 0] += 0.05
        assert "not orthonormal, off by 0.05" in self.only(with_pose(pose))[1]

    def test_left_handed(self) -> None:
        pose = view().ego_from_camera.copy()
        pose[:3, 0] *= -1
        verdict, message, _ = self.only(with_pose(pose))
        assert verdict is Verdict.FAIL
        assert "left-handed" in message

    def test_transposed(self) -> None:
        verdict, message, _ = self.only(with_pose(view().ego_from_camera.T))
        assert verdict is Verdict.FAIL
        assert "1.00 0.20 1.50 1.00; was it transposed?" in message

    def test_matrix_of_another_image_size(self) -> None:
        matrix = MATRIX.copy()
        matrix[0, 2] *= 2
        verdict, message, _ = self.only(replace(view(), matrix=matrix))
        assert verdict is Verdict.WARN
        assert "principal point (159, 44) is far from the middle of 160x90" in message

    def test_pixels_that_are_not_square(self) -> None:
        matrix = MATRIX.copy()
        matrix[1, 1] *= 1.2
        assert "not square" in self.only(replace(view(), matrix=matrix))[1]

    def test_two_cameras_in_one_place(self) -> None:
        findings = check_views([view(name="A"), view(60.0, name="B"), view(name="C")])
        assert [finding.verdict for finding in findings] == [Verdict.OK, Verdict.OK, Verdict.OK, Verdict.WARN]
        assert (findings[3].subject, findings[3].message) == ("C", "sits where A sits and looks where it looks")


def rig_of(*views: CameraView) -> CameraRig:
    return CameraRig(
        names=tuple(camera.name for camera in views),
        intrinsics=torch.from_numpy(np.stack([camera.matrix for camera in views])),
        ego_from_camera=torch.from_numpy(np.stack([camera.ego_from_camera for camera in views])),
        image_size=SIZE,
    )


def compared(views: list[CameraView], training: CameraRig) -> list[Finding]:
    """Findings about the training rig only."""
    findings = check_against_training(views, training, TARGET, focal_tolerance=0.15)
    return [finding for finding in findings if finding.subject == "training rig"]


class TestTrainingRig:
    def test_views_of_a_rig(self) -> None:
        again = views_of(rig_of(view(10.0, name="A"), view(-50.0, name="B")))
        assert [camera.name for camera in again] == ["A", "B"]
        assert [round(camera.yaw) for camera in again] == [10, -50]

    def test_same_rig_in_another_order(self) -> None:
        training = rig_of(view(10.0, name="A"), view(-50.0, name="B"))
        findings = check_against_training(views_of(training)[::-1], training, TARGET, focal_tolerance=0.15)
        assert [finding.verdict for finding in findings] == [Verdict.OK] * 2

    def test_foreign_names_take_the_places_in_order(self) -> None:
        training = rig_of(view(10.0, name="A"), view(-50.0, name="B"))
        swapped = [view(-50.0, name="x"), view(10.0, name="y")]
        findings = compared(swapped, training)
        assert [finding.verdict for finding in findings] == [Verdict.WARN] * 2
        assert "looks 60 degrees away from its direction in training" in findings[0].message

    def test_another_field_of_view_at_another_size(self) -> None:
        training = rig_of(view(name="A"))
        twice = replace(view(name="A"), size=(180, 320), matrix=np.diag([160.0, 160.0, 1.0]))
        assert compared([twice], training)[0].verdict is Verdict.OK
        tele = replace(view(name="A"), matrix=np.diag([200.0, 200.0, 1.0]))
        (finding,) = compared([tele], training)
        assert "A sees 44 degrees, the model was trained on 90" in finding.message

    def test_another_number_of_cameras(self) -> None:
        (finding,) = check_against_training(
            [view(name="x")], rig_of(view(name="A"), view(name="B")), TARGET, focal_tolerance=1
        )
        assert finding.verdict is Verdict.FAIL


class TestNetworksView:
    """Cameras of which the network sees too little, with figures."""

    TALL = replace(
        view(name="A"), size=(200, 160), matrix=np.array([[120.0, 0.0, 79.5], [0.0, 120.0, 99.5], [0.0, 0.0, 1.0]])
    )

    def finding(self, camera: CameraView, target: ImageTarget) -> Finding:
        training = rig_of(view(name="A"))
        return check_against_training([camera], training, target, focal_tolerance=10.0)[0]

    def test_a_tall_image_is_fitted_by_the_horizon(self) -> None:
        found = self.finding(self.TALL, ImageTarget(height=64, width=160))
        assert found.verdict is Verdict.OK
        assert "A: 160x200 scaled to 160x200, rows" in found.message

    def test_weights_that_cut_the_top_miss_the_road(self) -> None:
        found = self.finding(self.TALL, ImageTarget(height=64, width=160, policy="top"))
        assert found.verdict is Verdict.FAIL
        assert re.search(
            r"sees \d+% of the objects 3 to 50 m away that A shows .*horizon at row -36 of 64", found.message
        )
        assert found.remedy == "retrain with --student.image_fit horizon"

    def test_an_image_shown_whole_is_small(self) -> None:
        found = self.finding(replace(self.TALL, ego_from_camera=view(roll=90.0).ego_from_camera), TARGET)
        assert found.verdict is Verdict.WARN
        assert "A fills 72 of the network's 160 columns" in found.message
        assert "one pixel for 2.2 of its own" in found.message

    def test_a_camera_that_shows_no_road(self) -> None:
        found = self.finding(replace(self.TALL, ego_from_camera=view(up=75.0).ego_from_camera), TARGET)
        assert found.verdict is Verdict.WARN
        assert "A shows no objects 3 to 50 m away" in found.message


def is_ring(picture: np.ndarray) -> np.ndarray:
    """Pixels (h, w) bool in the colour of the rings."""
    return np.abs(picture.astype(int) - RING_COLOUR).max(axis=2) < 8


class TestPicture:
    def test_ring_is_where_the_pinhole_puts_it(self) -> None:
        """A point 10 m ahead of the origin on the ground, seen from (1, 0, 1.5): 80 * 1.5 / 9 rows below the centre."""
        camera = view()
        camera.ego_from_camera[1, 3] = 0.0
        cell = draw_rig([camera], {})[: 4 * SIZE[0], : 4 * SIZE[1]]
        row = 4 * (44.5 + 80 * 1.5 / 9 + 0.5) - 0.5
        column = 4 * SIZE[1] // 2 - 30  # beside the axis that is drawn over it
        rows = np.flatnonzero(is_ring(cell)[:, column])
        assert rows[np.abs(rows - row).argmin()] == pytest.approx(row, abs=2.0)
        assert not is_ring(cell)[: 2 * SIZE[0]].any()  # nothing on the ground is above the horizon

    def test_no_ring_is_told(self) -> None:
        seeing, blind = (draw_rig([camera], {}) for camera in (view(), view(up=85.0)))
        assert is_ring(seeing[:360, :640]).any()
        assert not is_ring(blind[:360, :640]).any()
        warning = np.array((80, 80, 255))
        assert (np.abs(blind[:60, :640].astype(int) - warning).max(axis=2) < 8).any()

    def test_live_image_is_drawn_on(self) -> None:
        image = np.full((*SIZE, 3), (10, 200, 30), dtype=np.uint8)
        cell = draw_rig([view()], {"CAM": image})[:360, :640]
        assert tuple(cell[100, 300]) == (30, 200, 10)  # BGR

    def test_images_of_any_scale(self) -> None:
        small = np.zeros((45, 80, 3), dtype=np.uint8)
        assert draw_rig([view()], {"CAM": small}).shape == draw_rig([view()], {}).shape

    def test_as_many_cameras_as_there_are(self) -> None:
        for number in (1, 3, 4, 7):
            picture = draw_rig([view(10.0 * place, name=f"C{place}") for place in range(number)], {})
            assert picture.shape[1] == min(number, 3) * CELL_WIDTH + CELL_WIDTH
            assert picture.shape[0] == max(-(-number // 3) * 360, CELL_WIDTH)

    def test_images_in_a_folder(self, tmp_path: Path) -> None:
        (tmp_path / "B").mkdir()
        cv2.imwrite(str(tmp_path / "A.png"), np.full((4, 6, 3), (255, 0, 0), dtype=np.uint8))
        cv2.imwrite(str(tmp_path / "B" / "0001.jpg"), np.zeros((4, 6, 3), dtype=np.uint8))
        (tmp_path / "B" / "0000.txt").touch()
        images = images_in(tmp_path, ["A", "B", "C"])
        assert sorted(images) == ["A", "B"]
        assert tuple(images["A"][0, 0]) == (0, 0, 255)  # RGB
        for folder in (tmp_path / "nowhere", tmp_path / "B"):
            with pytest.raises(ValueError, match="folder"):
                images_in(folder, ["A"])

    def test_it_is_written(self, tmp_path: Path) -> None:
        path = save_picture(tmp_path / "new" / "sheet", [view()], {})
        assert path == tmp_path / "new" / "sheet.png"
        assert cv2.imread(str(path)).shape == (640, 1280, 3)
        (tmp_path / "file").touch()
        with pytest.raises(ValueError, match="cannot be written"):
            save_picture(tmp_path / "file" / "sheet.png", [view()], {})
        with pytest.raises(ValueError, match=r"cannot be written as .txt; choose .png or .jpg"):
            save_picture(tmp_path / "sheet.txt", [view()], {})

    @pytest.mark.usefixtures("small_files")
    def test_a_full_disk_leaves_no_half_picture(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"sheet.png' cannot be written: .*File too large"):
            save_picture(tmp_path / "sheet.png", [view()], {})
        assert not list(tmp_path.iterdir())
