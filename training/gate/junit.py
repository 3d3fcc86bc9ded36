"""Rows of a gate as JUnit XML, which release pipelines show."""

import xml.etree.ElementTree as ET
from collections.abc import Sequence

from training.gate.records import Row


def junit_of(rows: Sequence[Row], name: str) -> str:
    """One test case a row.

    Args:
        rows: What the gate found.
        name: Of the gate.
    """
    failures = sum(not row.passes for row in rows)
    skipped = sum(row.verdict == "skip" for row in rows)
    counts = {"tests": str(len(rows)), "failures": str(failures), "errors": "0", "skipped": str(skipped)}
    suites = ET.Element("testsuites", counts)
    suite = ET.SubElement(suites, "testsuite", {"name": name, **counts})
    for row in rows:
        case = ET.SubElement(suite, "testcase", {"classname": "gate", "name": f"{row.title}, {row.limit}"})
        words = _words(row)
        if not row.passes:
            ET.SubElement(case, "failure", {"message": words, "type": row.verdict}).text = words
        elif row.verdict == "skip":
            ET.SubElement(case, "skipped", {"message": words})
        else:
            ET.SubElement(case, "system-out").text = words
    ET.indent(suites)
    return ET.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _words(row: Row) -> str:
    parts = [f"{row.verdict}: {row.title} is {'undefined' if row.value is None else f'{row.value:.4f}'}, {row.limit}"]
    if row.worse is not None:
        parts.append(f"baseline {row.baseline:.4f}, worse by {row.worse:+.4f}")
    if row.interval is not None:
        parts.append(f"interval {row.interval[0]:+.4f}...{row.interval[1]:+.4f}")
    return "; ".join([*parts, *filter(None, [row.note])])
