"""The doctor without a vehicle: packages, GPU, bundle, transport, report and command."""

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
import yaml
from tiny_student import tiny_config

from bevdistill_ros.core.rig import CameraRig
from bevdistill_ros.doctor.checks import dds
from bevdistill_ros.doctor.checks.bundle import check_bundle
from bevdistill_ros.doctor.checks.gpu import Gpu, check_gpu, describe_gpu
from bevdistill_ros.doctor.checks.packages import check_packages, check_version
from bevdistill_ros.doctor.checks.ros import compare_definitions, definition_folders
from bevdistill_ros.doctor.command import config_from, main
from bevdistill_ros.doctor.config import SECTIONS, DoctorConfig
from bevdistill_ros.doctor.examination import Examination
from bevdistill_ros.doctor.finding import Finding, Problem, Verdict, fail, judge, ok, share_of, warn
from bevdistill_ros.doctor.live.topics import find_topics, override
from bevdistill_ros.doctor.report import Section, has_failed, json_text, section_text, summary
from bevdistill_ros.inference.bundle import save_bundle
from bevdistill_ros.inference.engine_choice import EngineChoice
from bevdistill_ros.interface import fast_dds
from bevdistill_ros.model.bevformer import BevFormer
from training.cli.commands import main as bevdistill

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "config" / "dds" / "fastdds.xml"


def by_subject(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.subject: finding for finding in findings}


@pytest.fixture(scope="module")
def rig() -> CameraRig:
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = torch.tensor([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    pose[2, 3] = 1.5
    matrix = torch.tensor([[40.0, 0.0, 31.5], [0.0, 40.0, 15.5], [0.0, 0.0, 1.0]], dtype=torch.float64)
    return CameraRig(names=("FRONT",), intrinsics=matrix[None], ego_from_camera=pose[None], image_size=(32, 64))


@pytest.fixture(scope="module")
def bundle(rig: CameraRig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = tiny_config(cameras=("FRONT",))
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    return save_bundle(folder, BevFormer(config), name="tiny", version="1", rig=rig, provenance={})


@pytest.fixture(scope="module")
def rig_file(rig: CameraRig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rigs") / "rig.yaml"
    path.write_text(yaml.safe_dump(rig.to_dict()))
    return path


class TestPackages:
    @pytest.mark.parametrize(
        ("name", "version", "has_wheel", "verdict"),
        [
            ("torch", "2.3.1", False, Verdict.FAIL),
            ("torch", "2.13.0+cpu", False, Verdict.OK),
            ("numpy", "1.26.4", True, Verdict.OK),
            ("numpy", "2.1.0", True, Verdict.WARN),
            ("numpy", "2.1.0", False, Verdict.OK),
            ("cv2", "4.11.0", True, Verdict.OK),
            ("cv2", "5.0.0-dev", True, Verdict.FAIL),
            ("cv2", "5.0.0", False, Verdict.OK),
        ],
    )
    def test_versions(self, name: str, version: str, has_wheel: bool, verdict: Verdict) -> None:
        assert check_version(name, version, has_cv_bridge_wheel=has_wheel).verdict is verdict

    def test_here_all_is_well(self) -> None:
        assert not [finding for finding in check_packages() if finding.verdict is Verdict.FAIL]

    def test_what_is_missing_is_told_and_the_rest_checked(self) -> None:
        def load(name: str) -> ModuleType:
            if name == "torch":
                raise ModuleNotFoundError("No module named 'torch'")
            if name == "cv_bridge":
                raise AttributeError("_ARRAY_API not found")
            return SimpleNamespace(__version__="1.2")  # type: ignore[return-value]

        found = by_subject(check_packages(load))
        assert found["torch"].verdict is Verdict.FAIL
        assert found["torch"].remedy == "pip install 'torch'"
        assert "_ARRAY_API not found" in found["cv_bridge"].message
        assert found["yaml"].verdict is Verdict.OK


class TestGpu:
    def test_without_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert check_gpu("cpu", "fp32")[0].verdict is Verdict.OK
        assert check_gpu("auto", "fp32")[0].verdict is Verdict.WARN
        assert check_gpu("cuda:0", "fp32")[0].verdict is Verdict.FAIL
        assert by_subject(check_gpu("auto", "fp16"))["precision"].verdict is Verdict.FAIL
        assert "precision" not in by_subject(check_gpu("auto", None))

    @pytest.mark.parametrize(
        ("capability", "precision", "verdict", "words"),
        [
            ((9, 0), "fp32", Verdict.OK, "faster in fp16 or bf16"),
            ((9, 0), "bf16", Verdict.OK, "bf16 suits"),
            ((7, 5), "bf16", Verdict.WARN, "set precision to fp32 or fp16"),
            ((6, 1), "fp16", Verdict.WARN, "set precision to fp32"),
            ((6, 1), "fp32", Verdict.OK, "fp32 suits"),
        ],
    )
    def test_precision_that_fits(
        self, capability: tuple[int, int], precision: str, verdict: Verdict, words: str
    ) -> None:
        gpu = Gpu(name="GPU", capability=capability, free_gib=8.0, total_gib=10.0)
        finding = by_subject(describe_gpu(gpu, precision))["precision"]
        assert finding.verdict is verdict
        assert words in f"{finding.message} {finding.remedy}"

    def test_full_memory(self) -> None:
        gpu = Gpu(name="GPU", capability=(9, 0), free_gib=0.4, total_gib=10.0)
        assert by_subject(describe_gpu(gpu, "fp32"))["memory"].verdict is Verdict.WARN

    @pytest.mark.gpu
    def test_here(self) -> None:
        found = by_subject(check_gpu("auto", "fp32"))
        assert found["device"].verdict is Verdict.OK
        assert found["precision"].verdict is Verdict.OK


class TestBundle:
    def test_good(self, bundle: Path) -> None:
        loaded, findings = check_bundle(bundle, choice=EngineChoice(device="cpu", precision="fp32"))
        assert loaded is not None
        assert [finding.verdict for finding in findings] == [Verdict.OK] * 4
        assert "is tiny 1, loaded" in findings[0].message
        assert findings[2].message == "64x32 of FRONT"
        assert "ms per set, engine torch on cpu, fp32" in findings[3].message

    def test_refused(self, tmp_path: Path) -> None:
        loaded, (finding,) = check_bundle(tmp_path, choice=EngineChoice(device="cpu", precision="fp32"))
        assert loaded is None
        assert finding.verdict is Verdict.FAIL
        assert "has no manifest.json" in finding.message

    def test_that_cannot_run(self, bundle: Path) -> None:
        _, findings = check_bundle(bundle, choice=EngineChoice(device="cpu", precision="fp16"))
        assert findings[-1].verdict is Verdict.FAIL
        assert "precision fp16 needs a CUDA device" in findings[-1].message

    def test_an_engine_that_cannot_run(self, bundle: Path) -> None:
        _, findings = check_bundle(bundle, choice=EngineChoice(engine="onnx"))
        assert findings[-1].verdict is Verdict.FAIL
        assert "no exported network" in findings[-1].message

    def test_weights_that_are_not_finite(self, rig: CameraRig, bundle: Path, tmp_path: Path) -> None:
        from bevdistill_ros.inference.bundle import load_bundle

        student = load_bundle(bundle).student
        for parameter in student.parameters():
            torch.nn.init.constant_(parameter, torch.nan)
        folder = save_bundle(tmp_path / "nan", student, name="nan", version="1", rig=rig, provenance={})
        _, findings = check_bundle(folder, choice=EngineChoice(device="cpu", precision="fp32"))
        assert findings[-1].verdict is Verdict.FAIL
        assert "not finite" in findings[-1].message


class TestDds:
    RMW = "rmw_fastrtps_cpp"

    def profile(self, environment: dict[str, str], image_bytes: float = 150e3, rmw: str = RMW) -> Finding:
        return dds.check_dds(rmw, num_cameras=6, image_bytes=image_bytes, environment=environment)[0]

    @pytest.fixture(autouse=True)
    def _kilted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ROS_DISTRO", "kilted")

    def test_shipped_profile_is_good_for_raw_images(self) -> None:
        assert dds.read_profile(SHIPPED) == dds.Transport(segment_bytes=1 << 27, max_message_bytes=1 << 24)
        finding = self.profile({dds.VARIABLES[0]: str(SHIPPED)}, image_bytes=1600 * 900 * 3)
        assert finding.verdict is Verdict.OK
        assert fast_dds.our_profile() == SHIPPED

    def test_without_ros_the_profile_and_definitions_of_the_source_tree_are_there(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "ament_index_python.packages", None)  # as where it is not installed
        assert fast_dds.our_profile() == SHIPPED
        assert definition_folders() == [SHIPPED.parents[2] / "msg"]

    def test_none(self) -> None:
        finding = self.profile({})
        assert finding.verdict is Verdict.FAIL
        assert finding.remedy.startswith(f"export FASTDDS_DEFAULT_PROFILES_FILE={SHIPPED} for")

    def test_variable_of_another_distribution(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert "this distribution reads FASTDDS_" in self.profile({dds.VARIABLES[1]: str(SHIPPED)}).message
        monkeypatch.setenv("ROS_DISTRO", "jazzy")
        assert self.profile({dds.VARIABLES[1]: str(SHIPPED)}).verdict is Verdict.OK

    @pytest.mark.parametrize(
        ("old", "new", "words"),
        [
            ("134217728", "1000000", "a segment of 1.0 MB, but two bursts of your images need 1.8 MB"),
            ('is_default_profile="true"', 'is_default_profile="false"', "no shared memory"),
            ("<type>SHM</type>", "<type>UDPv4</type>", "no shared memory"),
            ("134217728", "128MB", "segment_size must be a whole number, but is '128MB'"),
            ("</dds>", "", "is not XML"),
        ],
    )
    def test_useless(self, tmp_path: Path, old: str, new: str, words: str) -> None:
        text = SHIPPED.read_text()
        assert old in text
        (tmp_path / "profile.xml").write_text(text.replace(old, new))
        finding = self.profile({dds.VARIABLES[0]: str(tmp_path / "profile.xml")})
        assert finding.verdict is Verdict.FAIL
        assert words in finding.message

    def test_images_in_pieces(self, tmp_path: Path) -> None:
        (tmp_path / "profile.xml").write_text(SHIPPED.read_text().replace("16777216", "65500"))
        finding = self.profile({dds.VARIABLES[0]: str(tmp_path / "profile.xml")})
        assert finding.verdict is Verdict.WARN
        assert "cuts images of 150 kB into pieces of 66 kB" in finding.message

    def test_absent_file(self) -> None:
        assert "cannot be read" in self.profile({dds.VARIABLES[0]: "/nowhere.xml"}).message

    def test_another_middleware(self) -> None:
        assert self.profile({}, rmw="rmw_zenoh_cpp").verdict is Verdict.WARN

    def test_room_of_shared_memory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(dds.shutil, "disk_usage", lambda path: SimpleNamespace(free=64 << 20))
        verdicts = [dds.check_memory(tmp_path, segment << 20).verdict for segment in (128, 32, 8)]
        assert verdicts == [Verdict.FAIL, Verdict.WARN, Verdict.OK]
        monkeypatch.undo()
        assert dds.check_memory(tmp_path / "nowhere", 1).verdict is Verdict.WARN


class TestTopics:
    CAMERAS = ("CAM_FRONT", "CAM_BACK")

    def find(self, published: dict[str, list[str]], subscribed: dict[str, list[str]] | None = None) -> object:
        node = "/robot/detector" if subscribed else ""
        return find_topics(self.CAMERAS, "compressed", node=node, subscribed=subscribed or {}, published=published)

    def test_own_names_where_nothing_is_known(self) -> None:
        topics = self.find({})
        assert topics.images["CAM_FRONT"] == "/bevdistill_detector/input/CAM_FRONT/image/compressed"  # type: ignore[attr-defined]

    def test_layout_that_is_published(self) -> None:
        kind = ["sensor_msgs/msg/CompressedImage"]
        topics = self.find({f"/sensing/camera/camera{number}/image_rect_color/compressed": kind for number in (0, 1)})
        assert topics.camera_infos["CAM_BACK"] == "/sensing/camera/camera1/camera_info"  # type: ignore[attr-defined]
        assert "layout autoware, which is published" in topics.source  # type: ignore[attr-defined]

    def test_layout_of_another_type_is_found_too(self) -> None:
        topics = self.find({"/cam_front/raw": ["sensor_msgs/msg/Image"]})
        assert topics.images["CAM_FRONT"] == "/cam_front/raw"  # type: ignore[attr-defined]

    def test_what_the_node_listens_to_comes_first(self) -> None:
        kind = ["sensor_msgs/msg/CompressedImage"]
        mine = {"/robot/detector/input/CAM_FRONT/image/compressed": kind}
        topics = self.find({f"/{name}/image_rect_compressed": kind for name in self.CAMERAS}, subscribed=mine)
        assert topics.images["CAM_BACK"] == "/robot/detector/input/CAM_BACK/image/compressed"  # type: ignore[attr-defined]

    def test_any_topics_with_the_names_of_cameras(self) -> None:
        published = {
            "/drivers/cam_front/jpeg": ["sensor_msgs/msg/CompressedImage"],
            "/drivers/cam_front/depth": ["sensor_msgs/msg/Image"],
            "/drivers/cam_front/calibration": ["sensor_msgs/msg/CameraInfo"],
            "/other/cam_front/info": ["sensor_msgs/msg/CameraInfo"],
            "/ego": ["nav_msgs/msg/Odometry"],
        }
        topics = self.find(published)
        assert topics.images["CAM_FRONT"] == "/drivers/cam_front/jpeg"  # type: ignore[attr-defined]
        assert topics.camera_infos["CAM_FRONT"] == "/drivers/cam_front/calibration"  # type: ignore[attr-defined]
        assert topics.odometry == "/ego"  # type: ignore[attr-defined]

    def test_the_user_knows_best(self) -> None:
        own = find_topics(self.CAMERAS, "raw", node="", subscribed={}, published={})
        topics = override(own, image="/a/{camera}", camera_info="", odometry="/o")
        assert topics.images == {"CAM_FRONT": "/a/CAM_FRONT", "CAM_BACK": "/a/CAM_BACK"}
        assert (topics.camera_infos, topics.odometry) == (own.camera_infos, "/o")


def test_stale_messages_are_told(tmp_path: Path) -> None:
    built = SimpleNamespace(get_fields_and_field_types=lambda: {"header": "", "score": ""})
    source, installed = tmp_path / "a", tmp_path / "b"
    for folder, kind in ((source, "float32"), (installed, "float64")):
        folder.mkdir()
        (folder / "Thing.msg").write_text(f"# A thing.\n\nstd_msgs/Header header\n{kind}   score  # in [0, 1]\n")
    assert compare_definitions(built, "Thing", [source]) == ""
    assert "different types of fields" in compare_definitions(built, "Thing", [source, installed])
    (source / "Thing.msg").write_text("float32 score\n")
    assert "is built with header, score, but" in compare_definitions(built, "Thing", [source])


class TestReport:
    SECTIONS = (
        Section(name="a", findings=(ok("x", "fine"), warn("y", "so\nso", "mend it"), warn("z", "so", "mend it"))),
        Section(name="b", findings=(fail("z", "broken", "buy another"),)),
    )

    def test_text(self) -> None:
        text = "".join(section_text(section, colour=False) for section in self.SECTIONS)
        assert text.splitlines() == [
            *("a", "  ok    x: fine", "  warn  y: so so", "        -> mend it", "  warn  z: so", "        -> as above"),
            *("b", "  FAIL  z: broken", "        -> buy another"),
        ]

    def test_colour_changes_no_word(self) -> None:
        import re

        text = section_text(self.SECTIONS[1], colour=True)
        assert "\033[1;31mFAIL\033[0m" in text
        assert re.sub(r"\033\[[\d;]*m", "", text) == section_text(self.SECTIONS[1], colour=False)

    def test_summary(self) -> None:
        assert summary(self.SECTIONS) == "1 ok, 2 warn, 1 FAIL: b (z)"
        assert summary(self.SECTIONS[:1]) == "1 ok, 2 warn, 0 FAIL"
        assert has_failed(self.SECTIONS)
        assert not has_failed(self.SECTIONS[:1])

    def test_json(self) -> None:
        content = json.loads(json_text(self.SECTIONS, {"picture": "p.png"}))
        assert content["verdict"] == "FAIL"
        assert content["counts"] == {"ok": 1, "warn": 2, "FAIL": 1}
        assert content["sections"]["b"] == [
            {"verdict": "FAIL", "subject": "z", "message": "broken", "remedy": "buy another"}
        ]
        assert content["picture"] == "p.png"

    def test_the_worst_problem_decides(self) -> None:
        problems = [
            Problem(verdict=Verdict.WARN, message="late", remedy="hurry"),
            Problem(verdict=Verdict.FAIL, message="lost", remedy="search"),
        ]
        finding = judge("it", "came", problems)
        assert (finding.verdict, finding.message, finding.remedy) == (Verdict.FAIL, "came; late; lost", "search")
        assert judge("it", "came", []).verdict is Verdict.OK

    def test_shares(self) -> None:
        assert [share_of(3, 60), share_of(1, 500), share_of(499, 500)] == [
            *("3 of 60 (5 %)", "1 of 500 (0.2 %)", "499 of 500 (99.8 %)")
        ]


class TestCommand:
    def test_both_parsers_read_the_same(self) -> None:
        from training.cli.settings import settings_from

        words = ["--cameras=[A, B]", "--seconds", "2", "--rig=r.yaml", "--json", "--only=[rig]", "--precision", "bf16"]
        expected = DoctorConfig(
            cameras=("A", "B"), seconds=2.0, rig=Path("r.yaml"), json=True, only=("rig",), precision="bf16"
        )
        assert config_from(words) == expected
        assert settings_from(DoctorConfig, words) == expected
        assert config_from([]) == settings_from(DoctorConfig, []) == DoctorConfig()

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--only=[rigs]"], "only must name sections out of packages, ros"),
            (["--seconds=0"], "seconds must be in 0.5...600, but is 0"),
            (["--image_topic=/front"], "image_topic must hold {camera}"),
            (["--sections=2"], "sections"),
            (["--transport=wifi"], "wifi"),
        ],
    )
    def test_wrong_call(self, words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
        for command in (main, lambda words: bevdistill(["doctor", *words])):
            assert command(words) == 2
            out, err = capsys.readouterr()
            assert (out, err.count("\n")) == ("", 1)
            assert message in err

    def test_help_tells_every_setting(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            main(["--help"])
        out = capsys.readouterr().out
        assert all(f"--{name}" in out for name in DoctorConfig.__dataclass_fields__)

    def test_rig_check_of_a_desk(
        self, bundle: Path, rig_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = ["--only=[bundle,rig]", f"--bundle={bundle}", f"--rig={rig_file}", "--device=cpu"]
        for command in (main, lambda words: bevdistill(["doctor", *words])):
            picture = tmp_path / f"{command.__name__}.png"
            assert command([*words, f"--picture={picture}"]) == 0
            out, err = capsys.readouterr()
            assert err == ""
            assert "  ok    FRONT: looks 0.0 deg left of forward" in out
            assert "fields of view, directions, heights and places are those of training" in out
            assert out.endswith("8 ok, 0 warn, 0 FAIL\n")
            assert picture.is_file()
            assert "\033" not in out

    def test_a_bad_rig_ends_with_status_one(
        self, rig: CameraRig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        content = rig.to_dict()
        content["cameras"][0]["ego_from_camera"][2][3] = -1.0
        path = tmp_path / "bad.yaml"
        path.write_text(yaml.safe_dump(content))
        words = ["--only=[rig]", f"--rig={path}", f"--picture={tmp_path / 'sheet.png'}", "--json"]
        for command in (main, lambda words: bevdistill(["doctor", *words])):
            assert command(words) == 1
            out, err = capsys.readouterr()
            report = json.loads(out)
            assert report["verdict"] == "FAIL"
            assert "1.00 m below ground" in report["sections"]["rig"][0]["message"]
            assert report["picture"] == str(tmp_path / "sheet.png")
            assert err.endswith("1 ok, 0 warn, 1 FAIL: rig (FRONT)\n")

    def test_a_rig_file_that_is_none_hides_nothing_else(
        self, tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = ["--only=[bundle,rig]", f"--bundle={bundle}", f"--rig={tmp_path / 'none.yaml'}", "--device=cpu"]
        assert main(words) == 1
        out = capsys.readouterr().out
        assert "  FAIL  rig file: rig_file" in out
        assert "  ok    bundle:" in out

    def test_a_check_that_breaks_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken() -> list[Finding]:
            raise KeyError("x")

        monkeypatch.setattr("bevdistill_ros.doctor.checks.packages.check_packages", broken)
        with Examination(DoctorConfig(only=("packages", "gpu"))) as examination:
            packages, gpu = map(examination.section, examination.wanted)
        assert "the check itself failed: KeyError: 'x'" in packages.findings[0].message
        assert gpu.findings[0].subject == "device"

    def test_without_ros_the_rest_is_checked(self, bundle: Path, rig_file: Path, tmp_path: Path) -> None:
        """In a process of its own, in which no package of ROS can be imported."""
        hidden = ["rclpy", "sensor_msgs", "nav_msgs", "rcl_interfaces", "diagnostic_msgs", "bevdistill_ros.msg"]
        program = f"import sys; sys.modules.update(dict.fromkeys({hidden}))\n"
        program += "from bevdistill_ros.doctor.command import main; sys.exit(main(sys.argv[1:]))"
        words = [f"--bundle={bundle}", f"--rig={rig_file}", f"--picture={tmp_path / 'sheet.png'}", "--json"]
        result = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, cwd=ROOT)
        report = json.loads(result.stdout)
        assert result.returncode == 1
        assert list(report["sections"]) == list(SECTIONS)
        failed = [
            name for name, findings in report["sections"].items() for entry in findings if entry["verdict"] == "FAIL"
        ]
        assert failed == ["ros"]
        assert "without ROS there are no topics" in report["sections"]["topics"][0]["message"]
        assert report["sections"]["rig"][0]["message"].startswith("looks 0.0 deg left of forward")
        assert (tmp_path / "sheet.png").is_file()


@pytest.mark.ros
class TestParameterFile:
    def read(self, tmp_path: Path, text: str) -> object:
        from bevdistill_ros.doctor.live.parameters import parameters_of_file

        (tmp_path / "params.yaml").write_text(text)
        return parameters_of_file(tmp_path / "params.yaml")

    def test_shipped_one(self) -> None:
        from bevdistill_ros.doctor.live.parameters import parameters_of_file

        parameters = parameters_of_file(ROOT / "config" / "node" / "detector.param.yaml")
        assert parameters.sync.reference_camera == "CAM_FRONT"

    def test_foreign_parameters_are_left_alone(self, tmp_path: Path) -> None:
        text = "/**: {ros__parameters: {use_sim_time: true, transport: raw, sync: {max_spread_ms: 50.0}}}"
        parameters = self.read(tmp_path, text)
        assert (parameters.transport, parameters.sync.max_spread_ms) == ("raw", 50.0)  # type: ignore[attr-defined]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("a: 1", "has no ros__parameters"),
            ("{", "is not YAML"),
            ("/**: {ros__parameters: {transport: wifi}}", "parameter transport must be one of raw, compressed"),
            ("/**: {ros__parameters: {a: {a: {a: {a: {a: {a: {a: {a: 1}}}}}}}}}", "nested deeper than"),
        ],
    )
    def test_bad(self, tmp_path: Path, text: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            self.read(tmp_path, text)
