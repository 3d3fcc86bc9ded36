"""`bevdistill report`: a report as a page."""

import html
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from bevdistill_ros.core.files import write_whole
from training.page.html import page, picture
from training.page.html import sections as join_sections
from training.report import sections
from training.report.bags import Place, places_of
from training.report.pictures import FALSE, FILM_TYPE, MISSED, write_bev, write_cameras, write_film
from training.report.scenes import Scenes
from training.score.read import Report, read_json, read_report

PAGE, MEDIA = "report.html", "media"
MAX_FRAMES = 200


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """What `bevdistill report` makes a page of."""

    report: Path  # report.json of `bevdistill score`
    root: Path | None = None  # data set, for pictures; null: where the report says that it was
    pictures: bool = True  # draw frames and a film; the page is complete without
    frames: int = 6  # worst frames that are drawn, by missed and false boxes
    film: str = "worst"  # scene whose film is drawn from above; worst: that of the worst frame; none
    bags: tuple[Path, ...] = ()  # recordings of the frames; each frame then says where it is in them
    gate: Path | None = None  # what `bevdistill gate --output` wrote
    replay: Path | None = None  # report.json of `bevdistill replay`, for latency and drops
    output: Path | None = None  # folder for report.html and media/; null: that of the report
    progress: bool = True  # show a bar

    def __post_init__(self) -> None:
        if not 1 <= self.frames <= MAX_FRAMES:
            raise ValueError(f"frames must be in 1...{MAX_FRAMES}, but is {self.frames}")


def run_report(config: ReportConfig) -> str:
    """Write the page; returns where it is.

    Raises:
        ValueError: The report, the data set, a bag or the film's scene can't be read or does not exist.
        OSError: The page can't be written.
    """
    report = read_report(config.report)
    output = config.output or config.report.parent
    timing = read_json(config.replay) if config.replay is not None else report.content
    timing = timing.get("timing") or timing
    film = _film_scene(config, report)
    parts = [
        ("Summary", sections.summary(report)),
        ("Gate", sections.gate(_gate(config.gate)) if config.gate is not None else ""),
        ("Classes", sections.classes(report)),
        ("Distance, regions, scenes", sections.parts(report)),
        ("Worst frames", _frames(config, report, output)),
        ("Film", _film(config, report, film, output)),
        ("Detections", sections.detections(report)),
        ("Timing", sections.timing(timing)),
    ]
    source = report.content["source"]
    title = f"{source['split']} of {source['version']}"
    write_whole(output / PAGE, page(f"Report: {title}", join_sections(parts)))
    return f"page: {output / PAGE}"


def _gate(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content.get("rows"), list) or "passed" not in content:
        raise ValueError(f"{path} is not what `bevdistill gate --output` writes")
    return content


def _scenes(config: ReportConfig, report: Report) -> Scenes:
    root = config.root or Path(str(report.content["source"]["root"]))
    if not root.is_dir():
        raise ValueError(f"there is no data set at {root} for pictures; name it with --root, or set --pictures false")
    return Scenes(report, root)


def _film_scene(config: ReportConfig, report: Report) -> str:
    if config.film == "none" or not config.pictures:
        return ""
    if config.film == "worst":
        return str(report.frames["scene"][sections.worst_frames(report, 1)[0]])
    if config.film not in report.scenes:
        raise ValueError(f"film: there is no scene '{config.film}'; there are {', '.join(report.scenes[:20])}")
    return config.film


def _frames(config: ReportConfig, report: Report, output: Path) -> str:
    """The worst frames, each with its numbers, its pictures and its place in a bag."""
    scenes = _scenes(config, report) if config.pictures else None
    places = places_of(config.bags, report)
    worst = tqdm(sections.worst_frames(report, config.frames), desc="frames", unit="frame", disable=not config.progress)
    shown = "".join(_frame(report, number, scenes, places, output) for number in worst)
    rule = "most missed and false boxes" if report.is_scored else "most boxes"
    marks = f'rings: <span style="color:{MISSED}">missed</span>, <span style="color:{FALSE}">false</span>'
    legend = f" Green: ground truth; other colours: detections by class; {marks}." if scenes is not None else ""
    return f"<p>The frames with {rule}, worst first; keys j and k go from one to the next.{legend}</p>{shown}"


def _frame(report: Report, number: int, scenes: Scenes | None, places: dict[str, Place], output: Path) -> str:
    token, scene = str(report.frames["token"][number]), str(report.frames["scene"][number])
    first = report.frames["scene"].index(scene)
    seconds = (report.frames["stamp_us"][number] - report.frames["stamp_us"][first]) / 1e6
    title = f"{scene}, {seconds:.1f} s"
    drawn = ""
    if scenes is not None:
        frame = scenes.frame(token, with_images=True)
        stem = f"frame_{number:05d}"
        cameras = write_cameras(frame, scenes.cameras, output / MEDIA, stem)
        pictures = [picture(f"{MEDIA}/{path.name}", f"{name}, {title}") for name, path in cameras]
        above = write_bev(frame, output / MEDIA, stem)
        bev = picture(f"{MEDIA}/{above.name}", f"{title} from above")
        drawn = f'<div class="frame">{sections.columns(pictures)}{bev}</div>'
    place = places[token].html() if token in places else ""
    words = html.escape(f"{sections.frame_words(report, number)}")
    return (
        f'<article data-stop tabindex="-1"><h3>{html.escape(title)}</h3><p>{words}</p><p class="dim">sample '
        f"{html.escape(token)}, stamp {report.frames['stamp_us'][number] / 1e6:.6f} s</p>{drawn}{place}</article>"
    )


def _film(config: ReportConfig, report: Report, scene: str, output: Path) -> str:
    if not scene:
        return ""
    numbers = np.flatnonzero(np.array(report.frames["scene"]) == scene)
    tokens = [str(report.frames["token"][number]) for number in numbers]
    stamps = [int(report.frames["stamp_us"][number]) for number in numbers]
    path = output / MEDIA / f"film.{FILM_TYPE}"
    bar = tqdm(tokens, desc="film", unit="frame", disable=not config.progress)
    poster = write_film(_scenes(config, report), bar, stamps, scene, path)
    name = html.escape(scene)
    return (
        f"<p>{name} from above, as fast as it was driven; green: ground truth, other colours: detections.</p>"
        f'<video controls loop muted playsinline preload="metadata" src="{MEDIA}/{path.name}" '
        f'poster="{MEDIA}/{poster.name}" '
        f'aria-label="{name} from above"></video>'
    )
