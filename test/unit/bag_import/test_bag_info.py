"""What `bag info` says of a bag, and which bags it finds."""

import json
import shutil
from pathlib import Path

import pytest
from foreign_bags import rewritten

from training.bag.find_bags import find_bags, names_of
from training.bag.read_bag import BagError
from training.bag_import.config import BagImportConfig
from training.bag_import.info import info_of
from training.cli.commands import main

CONFIG = BagImportConfig(bags=(), root=Path("unused"))


def verdicts(path: Path) -> dict[str, tuple[bool, str]]:
    return {entry.use: (entry.serves, entry.words) for entry in info_of(CONFIG, path).verdicts}


def test_a_bag_of_ours_serves_for_all(bags: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bag", "info", f"--bags=[{bags}]", "--needs=[replay, import, scoring, training]"]) == 0
    text = capsys.readouterr().out
    assert "CAM_FRONT: /CAM_FRONT/image_rect_compressed, CompressedImage, 5 at 4.0 Hz" in text
    assert "LIDAR_TOP: /LIDAR_TOP, PointCloud2, 15 at 10.0 Hz" in text
    assert "import       yes: 3 key frames" in text
    assert "2 bags serve for replay and import and scoring and training" in text


def test_what_is_lacking_is_named(bags: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = ("/nuscenes/sample", "/annotations", "/markers/annotations")
    still = rewritten(bags / "synth-0000", tmp_path / "still", drop=(*ours, "/odom", "/tf"))
    found = verdicts(still)
    serves, words = found["replay"]
    assert serves
    assert words.startswith("but a temporal model runs as if the vehicle stood still, as it does not say how")
    assert "import it with motion: standing" in found["import"][1]
    assert found["scoring"] == (False, "it cannot be imported; no annotations; annotation_topic names them")
    blind = rewritten(bags / "synth-0000", tmp_path / "blind", drop=(*ours, "/CAM_BACK/camera_info"))
    assert "no calibration of CAM_BACK: /CAM_BACK/camera_info is missing" in verdicts(blind)["import"][1]
    plain = rewritten(bags / "synth-0000", tmp_path / "plain", drop=ours)
    assert verdicts(plain)["training"] == (False, "no annotations; import and label it")
    assert verdicts(plain)["import"] == (True, "3 key frames")
    (tmp_path / "cut.mcap").write_bytes(b"\x89MCAP0\r\nxx")
    assert verdicts(tmp_path / "cut.mcap")["replay"] == (False, "it cannot be read")
    assert main(["bag", "info", f"--bags=[{tmp_path}]", "--json"]) == 1
    output = capsys.readouterr()
    assert len(json.loads(output.out)) == 4
    assert "3 of 4 bags do not serve for replay and import" in output.err


def test_bags_are_found_in_folders_and_lists(bags: Path, tmp_path: Path) -> None:
    file = next((bags / "synth-0000").glob("*.mcap"))
    for name in ("split/drive_0.mcap", "split/drive_1.mcap", "loose/a.mcap", "loose/b.mcap", "deep/x/y/a.mcap"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, tmp_path / name)
    found = find_bags([tmp_path, bags])
    assert [path.relative_to(tmp_path).as_posix() for path in found[:4]] == [
        "deep/x/y/a.mcap", "loose/a.mcap", "loose/b.mcap", "split",
    ]  # fmt: skip
    assert found[4:] == (bags / "synth-0000", bags / "synth-0001")
    (tmp_path / "list.txt").write_text("# two\nloose/a.mcap\n\nsplit  # of two files\n")
    assert find_bags([tmp_path / "list.txt"]) == (tmp_path / "loose/a.mcap", tmp_path / "split")
    names = names_of(found[:4])
    assert names == {found[0]: "y-a", found[1]: "loose-a", found[2]: "b", found[3]: "split"}
    with pytest.raises(BagError, match="does not exist"):
        find_bags([tmp_path / "none"])
