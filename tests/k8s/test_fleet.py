"""Gateways and cluster cannot disagree: the fleet file that the chart renders is held against the objects beside it."""

from pathlib import Path

from service.autoscaling import queries
from service.engine.argv import argv
from service.fleet.fleet import Fleet
from tests.k8s.rendering import NAMESPACE, RELEASES, Object, Release
from tests.support import fleets
from tests.support.each import each

every_release = each("release", RELEASES, ids=lambda one: one.name)


def fleet_of(release: Release, folder: Path) -> Fleet:
    """As the gateway reads it."""
    return fleets.load(folder, release.fleet())


def engines(release: Release) -> dict[str, tuple[Object, Object]]:
    """The workload, and the pod that serves, by the id of the model that its command names."""
    found = {}
    for workload, pod in release.pods():
        words = " ".join(pod["spec"]["containers"][0]["args"]).split()
        if "engine" in words:
            found[words[words.index("--model") + 1]] = workload, pod
    return found


@every_release
def test_each_model_of_the_fleet_is_what_runs_at_its_address(release: Release, tmp_path: Path) -> None:
    served = fleet_of(release, tmp_path).served
    running = engines(release)
    assert [one.id for one in served] == sorted(running, key=[one.id for one in served].index)
    for one in served:
        workload, pod = running[one.id]
        (address,) = one.addresses
        host, _, port = address.partition(":")
        service = release.named("Service", host)
        assert service["spec"]["clusterIP"] == "None"
        assert service["spec"]["ports"][0]["port"] == int(port)
        labels = pod["metadata"]["labels"]
        selector = dict(service["spec"]["selector"])
        assert (selector.pop("leaderworkerset.sigs.k8s.io/worker-index", None) == "0") is (
            workload["kind"] == "LeaderWorkerSet"
        )
        assert selector.items() <= labels.items()
        engine = pod["spec"]["containers"][0]
        words = " ".join(engine["args"]).split()
        assert words[words.index("--port") + 1] == port
        assert engine["ports"][0] == {"name": "http", "containerPort": int(port), "protocol": "TCP"}
        assert pod["metadata"]["annotations"]["roundhouse/model-id"] == one.id
    others = {one["metadata"]["name"] for one in release.of("Deployment", "LeaderWorkerSet")}
    assert len(others) == len(served) + 1  # the gateway


@every_release
def test_a_replica_has_the_gpus_that_its_engine_is_started_for(release: Release, tmp_path: Path) -> None:
    running = engines(release)
    for one in fleet_of(release, tmp_path).served:
        workload, pod = running[one.id]
        limits = pod["spec"]["containers"][0]["resources"]["limits"]
        pods = workload["spec"]["leaderWorkerTemplate"]["size"] if workload["kind"] == "LeaderWorkerSet" else 1
        assert int(limits.get("nvidia.com/gpu", 0)) * pods == one.gpus
        command = argv(one, ["vllm"], tmp_path / "socket", 20)
        sizes = [int(command[command.index(flag) + 1]) for flag in PARALLEL if flag in command]
        product = 1
        for size in sizes:
            product *= size
        assert product == max(1, one.gpus)


@every_release
def test_the_processes_of_an_engine_have_shared_memory(release: Release) -> None:
    """The 64 MiB that a pod has without it are less than the 160 that vLLM asks for where it starts a worker."""
    for _, pod in engines(release).values():
        (mount,) = (one for one in pod["spec"]["containers"][0]["volumeMounts"] if one["mountPath"] == "/dev/shm")
        (volume,) = (one for one in pod["spec"]["volumes"] if one["name"] == mount["name"])
        assert volume["emptyDir"]["medium"] == "Memory"


@every_release
def test_engines_on_a_cpu_do_not_all_bind_to_its_first_core(release: Release, tmp_path: Path) -> None:
    for one in fleet_of(release, tmp_path).served:
        assert one.gpus or one.env["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"


PARALLEL = ("--tensor-parallel-size", "--pipeline-parallel-size", "--data-parallel-size")


@every_release
def test_gateways_and_engines_read_the_same_file(release: Release) -> None:
    mounted = set()
    for _, pod in release.pods():
        spec = pod["spec"]
        words = " ".join(spec["containers"][0]["args"]).split()
        if "--fleet" in words:
            volumes = {mount["mountPath"]: mount["name"] for mount in spec["containers"][0]["volumeMounts"]}
            path = Path(words[words.index("--fleet") + 1])
            (volume,) = (one for one in spec["volumes"] if one["name"] == volumes[str(path.parent)])
            mounted.add((volume["configMap"]["name"], path.name))
    (name, key) = mounted.pop()
    assert not mounted
    assert release.named("ConfigMap", name)["data"].keys() == {key}


@every_release
def test_what_waits_for_a_model_at_zero_waits_for_its_start(release: Release, tmp_path: Path) -> None:
    scaled = {one["metadata"]["name"]: one["spec"]["minReplicaCount"] for one in release.of("ScaledObject")}
    running = engines(release)
    for one in fleet_of(release, tmp_path).served:
        workload, pod = running[one.id]
        at_zero = scaled.get(workload["metadata"]["name"]) == 0
        triggers = [
            trigger["name"]
            for each in release.of("ScaledObject")
            if each["metadata"]["name"] == workload["metadata"]["name"]
            for trigger in each["spec"]["triggers"]
        ]
        assert ("demand" in triggers) is at_zero
        assert (one.min_replicas == 0) is at_zero
        if at_zero:
            variables = {each["name"]: each.get("value") for each in pod["spec"]["containers"][0]["env"]}
            assert one.timeouts.activation == float(str(variables["ROUNDHOUSE_START_TIMEOUT"]))


@every_release
def test_an_autoscaler_asks_what_the_gateway_answers(release: Release, tmp_path: Path) -> None:
    """The very queries of `service/autoscaling/queries.py`, of which each is asked of a real Prometheus elsewhere."""
    running = engines(release)
    asked = {}
    for one in release.of("ScaledObject"):
        asked[one["metadata"]["name"]] = {
            trigger["name"]: (trigger["metadata"]["query"], trigger["metadata"]["threshold"])
            for trigger in one["spec"]["triggers"]
        }
    recorded = {
        (rule["record"], rule["labels"]["model"]): rule["expr"]
        for one in release.of("PrometheusRule")
        for group in one["spec"]["groups"]
        for rule in group["rules"]
        if rule.get("record", "").startswith("roundhouse_autoscaling_")
    }
    for one in release.of("HorizontalPodAutoscaler"):
        metrics = [each["external"] for each in one["spec"]["metrics"] if each["type"] == "External"]
        for each_one in metrics:
            name, model = each_one["metric"]["name"], each_one["metric"]["selector"]["matchLabels"]["model"]
            signal = name.removeprefix("roundhouse_autoscaling_")
            target = each_one["target"]["averageValue"]
            asked.setdefault(one["metadata"]["name"], {})[signal] = recorded.pop((name, model)), target
    assert not recorded
    for id_, (workload, _) in running.items():
        found = asked.pop(workload["metadata"]["name"], None)
        if found is None:
            continue
        of = id_, NAMESPACE
        capacity = float(found["load"][1])
        most = next(
            one["spec"].get("maxReplicaCount") or one["spec"]["maxReplicas"]
            for one in release.of("ScaledObject", "HorizontalPodAutoscaler")
            if one["metadata"]["name"] == workload["metadata"]["name"]
        )
        cap = max(1, most // 2) * capacity
        assert found["load"][0] == queries.load(*of, 30, int(cap) if cap == int(cap) else cap)
        assert found["in_flight"][0] == queries.in_flight(*of)
        if "demand" in found:
            assert found["demand"] == (queries.demand(*of), "1000000")
        assert found["kv_cache"] == (queries.kv_cache(*of), "0.8")
    assert not asked


def test_an_engine_starts_again_for_its_own_settings_alone() -> None:
    """An alias, a policy or another model's change is read by the gateways while everything runs."""

    def checksums(**over: object) -> dict[str, str]:
        given = {"fleet": {"auth": "none"}, "models": {"a": {"fleet": {"model": "pebble-chat"}},
                                                       "b": {"fleet": {"model": "pebble-code", **over}}}}  # fmt: skip
        release = Release("", given)
        return {id_: pod["metadata"]["annotations"]["checksum/engine"] for id_, (_, pod) in engines(release).items()}

    before = checksums()
    assert checksums(aliases=["x"], weight=5, fallback=["pebble-chat"], policy="round_robin", max_queued=3) == before
    changed = checksums(engine={"max_model_len": 512})
    assert changed["a"] == before["a"]
    assert changed["b"] != before["b"]
