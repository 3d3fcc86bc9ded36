"""What the documentation says runs: commands and Python of the README and of the getting-started page."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import cv2
import pytest
import yaml

from bevdistill_ros.inference.bundle import load_bundle
from training.cli.commands import COMMANDS, main

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
GETTING_STARTED = ROOT / "docs" / "getting-started.md"
WEIGHTS = ROOT / "config" / "weights"
MAX_README_WORDS = 900


def blocks_of(page: Path, language: str) -> list[str]:
    """Code blocks of a page."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def step_by_step() -> list[list[str]]:
    """The commands of the getting-started page that run in seconds, as words."""
    section = GETTING_STARTED.read_text().partition("## Step by step")[2].partition("\n## ")[0]
    (block,) = re.findall(r"^```bash\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    lines = block.replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line.startswith("bevdistill ")]


def test_each_page_stands_once_in_the_navigation() -> None:
    lines = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2].splitlines()
    pages = [line.rpartition(": ")[2] for line in lines if line.endswith(".md")]
    made = {"contributing.md", "changes.md"}  # by scripts/docs_hooks.py
    assert sorted(pages) == sorted({path.name for path in (ROOT / "docs").glob("*.md")} | made)


@pytest.fixture(scope="module")
def after_the_steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the commands of the page have run one after the other."""
    place = tmp_path_factory.mktemp("reader")
    (place / "config").symlink_to(ROOT / "config")
    before = Path.cwd()
    os.chdir(place)
    try:
        for _, *arguments in step_by_step():
            assert main(arguments) == 0, arguments
    finally:
        os.chdir(before)
    return place


@pytest.mark.slow
def test_commands_of_the_page_leave_what_it_says(after_the_steps: Path) -> None:
    assert [words[1] for words in step_by_step()] == ["synth", "export", "evaluate", "show"]
    first = after_the_steps / "runs" / "first"
    load_bundle(first / "bundle")
    assert (first / "evaluation" / "metrics.json").is_file()
    assert len(list((first / "pictures").glob("*.png"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("page", [README, GETTING_STARTED], ids=lambda page: page.name)
def test_python_of_the_page_runs(
    page: Path, after_the_steps: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _stand_in_for_the_demo(after_the_steps)
    monkeypatch.chdir(after_the_steps)
    blocks = blocks_of(page, "python")
    assert blocks
    for block in blocks:
        exec(compile(block, page.name, "exec"), {})
        assert "tensor(" in capsys.readouterr().out


def _stand_in_for_the_demo(place: Path) -> None:
    """Where the demo writes: the small world and bundle; and a rig file with an image per camera."""
    demo = place / "runs" / "demo"
    if demo.exists():
        return
    demo.symlink_to(place / "runs" / "first")
    rig = load_bundle(demo / "bundle").manifest.rig
    (place / "rig.yaml").write_text(yaml.safe_dump(rig.to_dict()))
    (place / "images").mkdir()
    for name in rig.names:
        source = next((demo / "world" / "samples" / name).glob("*.jpg"))
        cropped = cv2.resize(cv2.imread(str(source)), rig.image_size[::-1])
        cv2.imwrite(str(place / "images" / f"{name}.jpg"), cropped)


def test_readme_is_one_page() -> None:
    assert len(README.read_text().split()) <= MAX_README_WORDS


def pages() -> list[Path]:
    return [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_commands_targets_and_files_that_a_page_names_are_there(page: Path) -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    shell = "\n".join(blocks_of(page, "bash")).replace("\\\n", " ")
    for target in re.findall(r"^make ([a-z0-9-]+)", shell, re.MULTILINE):
        assert target in targets, f"make {target}"
    for words in re.findall(r"^bevdistill ((?:[a-z][a-z-]* )+)", shell + "\n", re.MULTILINE):
        assert words.strip() in COMMANDS, f"bevdistill {words}"
    for path in re.findall(r"(?<![\w/.-])((?:config|results|scripts|launch)/[\w./-]+\.\w+)", page.read_text()):
        assert (ROOT / path).exists(), path
    for link in re.findall(r"\]\(([^)#:]+)(?:#[\w-]*)?\)", page.read_text()):
        at = page.parent / link
        assert at.exists() or link == "contributing.md" or link == "changes.md", link


def test_every_command_is_in_the_tables() -> None:
    tables = GETTING_STARTED.read_text() + (ROOT / "docs" / "benchmarks.md").read_text()
    assert [name for name in COMMANDS if f"`bevdistill {name}`" not in tables and name != "bench"] == []


def test_files_of_the_walk_of_an_image_are_there() -> None:
    walk = (ROOT / "docs" / "architecture.md").read_text().partition("## The walk of an image")[2].partition("\n## ")[0]
    package = ROOT / "bevdistill_ros"
    named = re.findall(r"`([a-z_/]+\.py)`", walk)
    assert len(named) > 20
    for path in named:
        assert (package / "node" / path).is_file() or (package / path).is_file(), path


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built documentation."""
    pytest.importorskip("material", reason="needs mkdocs-material: make setup")
    site = tmp_path_factory.mktemp("docs") / "site"
    command = ["mkdocs", "build", "--strict", "--quiet", "--site-dir", str(site)]
    subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
    return site


@pytest.mark.parametrize(("query", "is_there"), [("shared-memory", True), ("zzyzx", False)])
def test_search_works_on_pages_opened_from_disk(site: Path, tmp_path: Path, query: str, is_there: bool) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs chromium or google-chrome")
    offline = ["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", *offline]
    command += [f"--user-data-dir={tmp_path}", "--virtual-time-budget=8000", "--dump-dom"]
    page = subprocess.run(
        [*command, f"file://{site}/index.html?q={query}"], capture_output=True, text=True, timeout=120
    )
    assert ("md-search-result__item" in page.stdout) == is_there
    assert ('result__meta">No matching documents<' in page.stdout) != is_there


def test_site_needs_no_other_host(site: Path) -> None:
    index = (site / "search" / "search_index.js").read_text()
    assert index.startswith("var __index = ")
    assert "FASTDDS_DEFAULT_PROFILES_FILE" in index
    for page in site.glob("*.html"):
        loaded = re.findall(r'<(?:script|img|iframe)[^>]*\ssrc="?([^"\s>]+)', page.read_text())
        loaded += re.findall(r'<link[^>]*rel="?(?:stylesheet|preconnect)"?[^>]*href="?([^"\s>]+)', page.read_text())
        assert loaded
        assert not [address for address in loaded if address.startswith(("http", "//"))], page.name
