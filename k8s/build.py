"""Writes what is generated in k8s/: the chart's schema, queries, rules and dashboards, and the plain manifests.

`python -m k8s.build` needs helm-python-sdk. A chart reads no files outside of it, so rules and dashboards are copies.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from k8s import schema
from service.autoscaling import queries

HERE = Path(__file__).parent
CHART = HERE / "chart"
DEPLOY = HERE.parent / "deploy"
NOTE = "Written by `python -m k8s.build`"
OLDEST = "1.29"  # release of Kubernetes that the plain manifests are for, and every later one
NAMESPACE = "roundhouse"  # of the plain manifests, and their release


def files() -> Iterator[tuple[Path, str]]:
    """Every generated file of the chart, with its text."""
    yield CHART / "values.schema.json", json.dumps(schema.values(), indent=2) + "\n"
    yield CHART / "templates/_queries.tpl", query_templates()
    for folder, source in ("rules", "prometheus/rules/*.yaml"), ("dashboards", "grafana/dashboards/*.json"):
        for file in sorted(DEPLOY.glob(source)):
            yield CHART / "files" / folder / file.name, file.read_text(encoding="utf-8")


def query_templates() -> str:
    """The autoscaler's queries as templates, whose arguments are those of the functions."""
    of = "{{ .model }}", "{{ .namespace }}"
    texts = {
        "load": queries.load(*of, "{{ .drain_seconds }}", "{{ .drain_cap }}"),
        "in_flight": queries.in_flight(*of),
        "demand": queries.demand(*of),
        "kv_cache": queries.kv_cache(*of),
    }
    defined = [
        f'{{{{- define "roundhouse.query.{name}" -}}}}\n{text}\n{{{{- end -}}}}\n' for name, text in texts.items()
    ]
    return f"{{{{/* {NOTE} from service/autoscaling/queries.py. */}}}}\n" + "".join(defined)


def plain() -> Iterator[tuple[Path, str]]:
    """The plain manifests: what the chart renders of values-dev.yaml, a file for each kind, and their kustomization."""
    import helm_python
    import yaml

    given = yaml.safe_load((HERE / "values-dev.yaml").read_text(encoding="utf-8"))
    given["kubeVersion"] = OLDEST
    with helm_python.Chart.load(CHART) as chart:
        rendered = chart.render(given, name=NAMESPACE, namespace=NAMESPACE)
    names = []
    for path, text in sorted(rendered.items()):
        if path.endswith(".yaml") and text.strip():
            names.append(Path(path).name)
            text = re.sub(r"^ *helm.sh/chart: .*\n", "", text, flags=re.M).replace(
                "managed-by: Helm", "managed-by: kustomize"
            )
            yield HERE / "plain" / names[-1], f"# {NOTE} from the chart.\n{text.strip()}\n"
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": NAMESPACE,
        "resources": ["namespace.yaml", *names],
    }
    yield HERE / "plain/kustomization.yaml", f"# {NOTE}.\n{yaml.safe_dump(kustomization, sort_keys=False)}"


if __name__ == "__main__":
    for make in (files, plain):
        for file, text in make():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
