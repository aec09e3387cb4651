"""The chart for an API server older than it asks for: the same objects under the names that such a server has."""

import re
import shutil
from pathlib import Path

from tests.k8s.rendering import CHART

LEAST = 29  # the minor release that the chart asks for
# What is taken out or renamed where the server's minor release is below the first number.
RENAMED = (
    (21, r"apiVersion: policy/v1\n", "apiVersion: policy/v1beta1\n"),
    (23, r"apiVersion: autoscaling/v2\n", "apiVersion: autoscaling/v2beta2\n"),
    (27, r"\n *matchLabelKeys:( .*|\n *- pod-template-hash)", ""),
    (LEAST, r"kubeVersion: .*\n", ""),
)


def renamed(text: str, minor: int) -> str:
    """The text of a manifest or a template for a server of release 1.`minor`."""
    for below, pattern, instead in RENAMED:
        if minor < below:
            text = re.sub(pattern, instead, text)
    return text


def chart(minor: int, folder: Path) -> Path:
    """The chart's folder for a server of release 1.`minor`: a copy in `folder` where that is too old."""
    if minor >= LEAST:
        return CHART
    copy = folder / "chart"
    shutil.copytree(CHART, copy)
    for path in (copy / "Chart.yaml", *(copy / "templates").iterdir()):
        path.write_text(renamed(path.read_text(encoding="utf-8"), minor), encoding="utf-8")
    return copy
