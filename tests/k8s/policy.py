"""Judges everything that the chart renders by checkov's policies: `python -m tests.k8s.policy CHECKOV`."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from tests.k8s.rendering import NAMESPACE, RELEASES

# What fails and may.
ALLOWED = {
    "CKV_K8S_11": "no CPU limits: they throttle, and tokens come late",
    "CKV_K8S_15": "images have a version or a digest: pulling them again brings nothing new",
    "CKV_K8S_35": "the hub's token and the address of Redis are read from variables: no setting takes them from files",
    "CKV_K8S_43": "digests are for your own registry to say: image.digest",
}


def main(checkov: str) -> int:
    """Runs checkov over each release; returns 1 where something else fails than what may."""
    with tempfile.TemporaryDirectory() as folder:
        for release in RELEASES:
            objects = ({**one, "metadata": {"namespace": NAMESPACE, **one["metadata"]}} for one in release.objects)
            Path(folder, f"{release.name.replace(' ', '-')}.yaml").write_text(yaml.safe_dump_all(objects))
        options = ["--framework", "kubernetes", "--directory", folder, "--output", "json", "--quiet", "--skip-download"]
        done = subprocess.run([checkov, *options], capture_output=True, text=True)
    report: Any = json.loads(done.stdout)
    failed = {
        f"{one['check_id']} {one['check_name']}: {one['resource']} ({Path(one['file_path']).stem})"
        for one in report["results"]["failed_checks"]
        if one["check_id"] not in ALLOWED
    }
    print(f"checkov: {report['summary']['passed']} checks passed in {len(RELEASES)} releases")
    print("\n".join(sorted(failed)), end="\n" if failed else "")
    return 1 if failed or not report["summary"]["passed"] else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
