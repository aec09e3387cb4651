"""The JSON schema of the chart's values: strict, and of the fleet file exactly what its own schema takes."""

import json
import re
from typing import Any

from service.fleet.schema import FleetFile

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
SOME: Schema = {"type": "integer", "minimum": 1}
PORT: Schema = {"type": "integer", "minimum": 1, "maximum": 65535}
MAYBE: Schema = {"type": ["integer", "null"], "minimum": 1}
POSITIVE: Schema = {"type": "number", "exclusiveMinimum": 0}
OBJECT: Schema = {"type": "object"}  # what Kubernetes itself checks
OBJECTS: Schema = {"type": "array", "items": OBJECT}
TEXTS: Schema = {"type": "array", "items": TEXT}
WORDS: Schema = {"type": "object", "additionalProperties": TEXT}
VARIABLES: Schema = {
    "type": "object",
    "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_]*$"},
    "additionalProperties": {"type": ["string", "number", "boolean"]},
}
SIZE: Schema = {"type": "string", "pattern": "^[0-9]+(\\.[0-9]+)?(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?$"}
SURGE: Schema = {"type": ["integer", "string"], "minimum": 0, "pattern": "^[0-9]{1,3}%$"}
DURATION: Schema = {"type": "string", "pattern": "^[0-9]{1,5}(ms|s|m|h)$"}
NAME: Schema = {"type": "string", "pattern": "^([a-z0-9]([a-z0-9.-]*[a-z0-9])?)?$", "maxLength": 253}
# Of models: they are in the names of objects.
KEY: Schema = {"pattern": "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", "maxLength": 63}
# Keys of a model's entry in the fleet file that follow from other values.
OF_THE_CHART = ("addresses", "min_replicas", "max_replicas", "scale_down_after")
# Python's \w has the letters of any script, which that of Helm's Go has not.
LETTERS = (
    ("[^\\W_A-Z]", "[\\p{L}\\p{N}]"),
    ("[^\\WA-Z]", "[\\p{L}\\p{N}_]"),
    ("[^\\W_]", "[\\p{L}\\p{N}]"),
    ("\\w", "\\p{L}\\p{N}_"),
)
REPETITION = re.compile(r"\{0,[0-9]+\}")


def one_of(*values: str) -> Schema:
    """One of these words."""
    return {"type": "string", "enum": list(values)}


def of(**properties: Schema) -> Schema:
    """An object with these keys and no others."""
    return {"type": "object", "additionalProperties": False, "properties": properties}


def image() -> Schema:
    """The usual keys of an image. `latest` is nobody's version."""
    return of(
        registry=TEXT,
        repository={"type": "string", "minLength": 1},
        tag={"type": "string", "pattern": "^[A-Za-z0-9_.-]{0,128}$", "not": {"const": "latest"}},
        digest={"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
        pullPolicy=one_of("Always", "IfNotPresent", "Never"),
    )


def pod() -> dict[str, Schema]:
    """What the gateway's pods and a model's have in common."""
    return {
        "image": image(),
        "replicas": COUNT,
        "port": PORT,
        "env": VARIABLES,
        "resources": of(requests=OBJECT, limits=OBJECT, claims=OBJECTS),
        "nodeSelector": WORDS,
        "tolerations": OBJECTS,
        "affinity": OBJECT,
        "topologySpreadConstraints": OBJECTS,
        "priorityClassName": TEXT,
        "podLabels": WORDS,
        "podAnnotations": WORDS,
        "drain": of(endpointSeconds=SOME, timeoutSeconds=SOME, teardownSeconds=SOME),
        "terminationGracePeriodSeconds": MAYBE,
        "podDisruptionBudget": of(enabled=FLAG, maxUnavailable=SURGE | {"minimum": 1}),
    }


def model() -> Schema:
    """A model's values, and those of `engineDefaults`."""
    claim = of(existingClaim=NAME, size=SIZE, storageClass=TEXT, accessModes={**TEXTS, "minItems": 1})
    path = of(path={"type": "string", "pattern": "^(/.*)?$"})
    reference = {"type": "string", "pattern": "^(.+@sha256:[0-9a-f]{64})?$"}
    scaling = of(
        kind=one_of("keda", "hpa", "none"),
        minReplicas=COUNT,
        maxReplicas=SOME,
        capacityPerReplica={"type": ["number", "null"], "exclusiveMinimum": 0},
        concurrencyPerReplica=POSITIVE,
        drain=of(seconds=POSITIVE, maxReplicas=MAYBE),
        kvCacheTarget={"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 1},
        scaleUp=of(stabilizationWindowSeconds=COUNT, percent=SOME, pods=SOME, periodSeconds=SOME),
        scaleDown=of(stabilizationWindowSeconds=MAYBE, pods=SOME, periodSeconds=SOME),
        cooldownSeconds=MAYBE,
        pollingIntervalSeconds=SOME,
        fallback=of(failureThreshold=SOME, replicas=MAYBE),
    )
    picker = of(name=NAME, port=PORT, failureMode=one_of("FailOpen", "FailClose"))
    return of(
        **pod(),
        enabled=FLAG,
        order={"type": "integer", "minimum": 0, "maximum": 999999},
        fleet={"$ref": "#/$defs/ModelEntry"},
        gpuResource={"type": "string", "minLength": 1},
        runtimeClassName=TEXT,
        startup=of(budgetSeconds=SOME, downloadSeconds=COUNT, periodSeconds=SOME),
        rollingUpdate=of(maxSurge=SURGE, maxUnavailable=SURGE),
        minReadySeconds=COUNT,
        shm=of(sizeLimit=SIZE),
        cache=of(
            kind=one_of("emptyDir", "pvc", "hostPath", "image"),
            emptyDir=of(sizeLimit=SIZE),
            pvc=claim,
            hostPath=path,
            image=of(reference=reference, pullPolicy=one_of("Always", "IfNotPresent", "Never")),
        ),
        download=of(enabled=FLAG),
        compileCache=of(kind=one_of("emptyDir", "pvc", "hostPath"), pvc=claim, hostPath=path),
        multiNode=of(enabled=FLAG, size={"type": "integer", "minimum": 2}, networkInterface=TEXT),
        autoscaling=scaling,
        inferencePool=of(enabled=FLAG, endpointPicker=picker),
    )


def values() -> Schema:
    """The whole schema."""
    secret = of(name=NAME, key={"type": "string", "pattern": "^[A-Za-z0-9._-]+$"})
    monitor = of(enabled=FLAG, labels=WORDS, interval=DURATION, scrapeTimeout=DURATION)
    gateway = of(
        **pod(),
        workers=SOME,
        maxProcesses=SOME,
        autoscaling=of(enabled=FLAG, minReplicas=SOME, maxReplicas=SOME, targetCPUUtilizationPercentage=SOME),
        service=of(type=one_of("ClusterIP", "NodePort", "LoadBalancer"), port=PORT, annotations=WORDS),
    )
    names = ("apiKey", "keys", "engineKey", "cacheSecret", "redisUrl", "metricsKey", "hubToken")
    fleet, definitions = of_the_fleet()
    served: Schema = {"$ref": "#/$defs/model"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Values of the chart roundhouse",
        **of(
            nameOverride=NAME,
            fullnameOverride=NAME,
            kubeVersion={"type": "string", "pattern": "^(v?1\\.[0-9]+(\\.[0-9]+)?.*)?$"},
            commonLabels=WORDS,
            imagePullSecrets=OBJECTS,
            fleet=fleet,
            models={"type": "object", "propertyNames": KEY, "additionalProperties": served},
            engineDefaults=served,
            autoscaling=of(
                prometheus=of(serverAddress=TEXT, authenticationRef=NAME, authModes=TEXT),
                metricsScrapedBy=one_of("serviceMonitor", "other"),
                gpuQuota=MAYBE,
            ),
            gateway=gateway,
            secrets=of(**dict.fromkeys(names, secret)),
            podSecurityContext=OBJECT,
            securityContext=OBJECT,
            serviceAccount=of(create=FLAG, name=NAME, annotations=WORDS),
            priorityClasses=of(create=FLAG, gateway={"type": "integer"}, engine={"type": "integer"}),
            httpRoute=of(enabled=FLAG, parentRefs=OBJECTS, hostnames=TEXTS, requestTimeout=DURATION, annotations=WORDS),
            ingress=of(
                enabled=FLAG,
                className=TEXT,
                annotations=WORDS,
                hosts=TEXTS,
                tls=OBJECTS,
                nginx=of(enabled=FLAG, connectSeconds=SOME, readSeconds=SOME, sendSeconds=SOME, maxBodySize=TEXT),
            ),
            networkPolicy=of(
                enabled=FLAG,
                gatewayFrom=OBJECTS,
                prometheusFrom=OBJECTS,
                dnsTo=OBJECTS,
                gatewayEgress=OBJECTS,
                engineEgress=OBJECTS,
                internet=of(cidr=TEXT, **{"except": TEXTS}),
            ),
            monitoring=of(
                serviceMonitor=monitor,
                podMonitor=monitor,
                prometheusRule=of(enabled=FLAG, labels=WORDS, runbookUrl=TEXT, kubeStateMetrics=FLAG),
                dashboards=of(enabled=FLAG, labels=WORDS, annotations=WORDS),
            ),
            **{"global": OBJECT},
        ),
        "$defs": {**definitions, "model": model()},
    }


def of_the_fleet() -> tuple[Schema, Schema]:
    """The schema of the fleet file's top level without its models, and the definitions that it needs."""
    text = json.dumps(FleetFile.model_json_schema())
    for python, go in LETTERS:
        text = text.replace(json.dumps(python)[1:-1], json.dumps(go)[1:-1])
    # Helm's regular expressions take a tenth of a second for a hundred repetitions of all letters.
    found = json.loads(REPETITION.sub("*", text))
    definitions = found.pop("$defs")
    entry = definitions["ModelEntry"]
    entry["properties"] = {key: one for key, one in entry["properties"].items() if key not in OF_THE_CHART}
    entry.pop("required")  # a model's own values and `engineDefaults` are put together
    del found["properties"]["models"], found["required"]
    # Where the fleet file takes a short form too, which its schema does not say.
    users = definitions["SignOn"]["properties"]
    users["audience"] = {"type": ["string", "array"], "items": TEXT}
    for access in (users["tenants"], users["default_tenant"]):
        access.clear()
    return found, definitions
