"""Pulling from a hub: what is asked of it, what comes of its answers, and what a person is told when it goes wrong."""

from pathlib import Path

import pytest

from service.weights import manifest
from tests.weights.conftest import Shell
from tests.weights.hub import Hub
from tests.weights.tiny import AUTO_MAP, COMMIT, OTHER, REPOSITORY, TAKEN, TINY, WEIGHTS, safetensors


def finished(shell: Shell) -> list[str]:
    return [place.relative_to(shell.store.folder).as_posix() for place in shell.store.finished()]


def scratches(shell: Shell) -> list[Path]:
    return [path for path in (shell.store.folder / ".partial").iterdir() if path.is_dir()]


def test_a_model_arrives_with_its_manifest(online: Shell, hub: Hub) -> None:
    result = online("pull", TINY)
    assert result.exit_code == 0, result.output
    place = online.store.place(TINY)
    assert set(manifest.files(place)) == TAKEN
    assert all((place / name).read_bytes() == REPOSITORY[name] for name in TAKEN)
    found = manifest.read(place)
    assert (found.model, found.repository, found.revision, found.source) == (TINY, TINY, COMMIT, hub.url)
    assert found.files.keys() == TAKEN
    assert manifest.verify(place, full=True) == []
    assert not scratches(online)
    assert f"4 files, 8.35 kB in {place}" in result.output
    assert f"Nothing pins it. In the fleet file: engine: {{revision: {COMMIT}}}" in result.output


def test_what_is_there_already_is_not_fetched_again(online: Shell, hub: Hub) -> None:
    assert online("pull", TINY).exit_code == 0
    hub.seen.clear()
    result = online("pull", TINY)
    assert result.exit_code == 0
    assert "was there already, verified" in result.output
    assert hub.fetched() == []
    hub.seen.clear()
    assert "verified" in online("pull", TINY, "--revision", COMMIT).output
    assert hub.seen == [], "a commit that lies here needs no hub"


def test_a_harmed_file_is_fetched_again_and_the_others_are_not(online: Shell, hub: Hub) -> None:
    online("pull", TINY)
    (online.store.place(TINY) / "config.json").write_bytes(b"{}")
    hub.seen.clear()
    assert online("pull", TINY).exit_code == 0
    assert hub.fetched() == ["config.json"]
    assert manifest.verify(online.store.place(TINY)) == []


def test_a_new_revision_replaces_the_old_one_and_fetches_what_differs(online: Shell, hub: Hub) -> None:
    online("pull", TINY)
    hub.add(TINY, REPOSITORY | {"config.json": b'{"model_type": "new"}'}, OTHER)
    hub.seen.clear()
    assert online("pull", TINY).exit_code == 0
    assert hub.fetched() == ["config.json"]
    assert manifest.read(online.store.place(TINY)).revision == OTHER


@pytest.mark.parametrize("revision", ["main", COMMIT])
def test_a_revision_may_be_named(online: Shell, revision: str) -> None:
    result = online("pull", TINY, "--revision", revision)
    assert result.exit_code == 0, result.output
    assert manifest.read(online.store.place(TINY)).revision == COMMIT
    assert "Nothing pins it" not in result.output


def test_the_catalogues_id_leads_to_its_repository(online: Shell, hub: Hub) -> None:
    hub.add("meta-llama/Llama-2-7b-chat-hf", REPOSITORY)
    result = online("pull", "llama-2-7b-chat")
    assert result.exit_code == 0, result.output
    assert manifest.read(online.store.place("meta-llama/Llama-2-7b-chat-hf")).model == "llama-2-7b-chat"


def test_a_cut_connection_goes_on_where_it_stopped(online: Shell, hub: Hub) -> None:
    online.monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    hub.cuts["model.safetensors"] = [2000]
    assert online("pull", TINY).exit_code == 0
    assert hub.ranges("model.safetensors") == [None, "bytes=2000-"]
    assert manifest.verify(online.store.place(TINY)) == []


def test_an_interrupted_pull_goes_on_when_it_is_run_again(online: Shell, hub: Hub) -> None:
    online.monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    hub.cuts["model.safetensors"] = [2000]
    hub.statuses["model.safetensors"] = [0, 503]
    result = online("pull", TINY)
    assert result.exit_code == 1
    assert f"{TINY} at {hub.url} answers with status 503; try again later" in result.output
    assert finished(online) == []
    hub.seen.clear()
    assert online("pull", TINY).exit_code == 0
    assert hub.fetched() == ["model.safetensors"]
    assert hub.ranges("model.safetensors") == ["bytes=2000-"]
    assert (online.store.place(TINY) / "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize(("name", "kind"), [("model.safetensors", "SHA-256"), ("config.json", "the git id")])
def test_a_wrong_byte_is_not_taken(online: Shell, hub: Hub, name: str, kind: str) -> None:
    right = hub.files[TINY][name]
    hub.wrong[name] = right[:-1] + bytes([right[-1] ^ 1])
    result = online("pull", TINY)
    assert result.exit_code == 1
    assert f"{name} has {kind}" in result.output
    assert "It was thrown away; pull again to fetch it anew" in result.output
    assert finished(online) == []
    hub.wrong.clear()
    assert online("pull", TINY).exit_code == 0
    assert (online.store.place(TINY) / name).read_bytes() == right


def test_a_file_that_is_too_short_is_not_taken(online: Shell, hub: Hub) -> None:
    hub.wrong["model.safetensors"] = WEIGHTS[:-10]
    assert online("pull", TINY).exit_code == 1
    assert finished(online) == []


def test_a_hub_that_lists_names_only_is_asked_for_each_file(online: Shell, hub: Hub) -> None:
    hub.names_only = True
    hub.wrong["model.safetensors"] = WEIGHTS[:-1] + b"\x00"
    assert "model.safetensors has SHA-256" in online("pull", TINY).output
    hub.wrong.clear()
    assert online("pull", TINY).exit_code == 0
    assert [one.path.rpartition("/")[2] for one in hub.seen if one.method == "HEAD"][: len(REPOSITORY)] == [*REPOSITORY]


@pytest.mark.parametrize("token", [None, "hf_wrong"])
def test_a_gated_model_says_what_to_do(online: Shell, hub: Hub, token: str | None) -> None:
    hub.gated.add(TINY)
    if token:
        online.monkeypatch.setenv("HF_TOKEN", token)
    result = online("pull", TINY)
    assert result.exit_code == 1
    assert f"Accept its licence on {hub.url}/{TINY}, then set HF_TOKEN" in result.output
    assert ("No HF_TOKEN is set" in result.output) == (token is None)
    assert "hf_wrong" not in result.output
    assert finished(online) == []


def test_the_right_token_opens_a_gated_model_and_is_never_shown(online: Shell, hub: Hub) -> None:
    hub.gated.add(TINY)
    online.monkeypatch.setenv("HF_TOKEN", f"{hub.token}\n")
    result = online("pull", TINY)
    assert result.exit_code == 0, result.output
    assert hub.token not in result.output
    everything = b"".join(path.read_bytes() for path in online.store.folder.rglob("*") if path.is_file())
    assert hub.token.encode() not in everything


def test_a_token_that_is_none_is_told_without_showing_it(online: Shell) -> None:
    online.monkeypatch.setenv("HF_TOKEN", "hf_one\nhf_two")
    result = online("pull", TINY)
    assert result.exit_code == 1
    assert "HF_TOKEN is no access token" in result.output
    assert "hf_one" not in result.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("acme/missing",), "there is no acme/missing at {url}, or it is private and it needs an HF_TOKEN"),
        ((TINY, "--revision", "v9"), f"{TINY} at {{url}} has no revision 'v9'"),
        ((TINY, "--revision", OTHER), f"{TINY} at {{url}} has no revision '{OTHER}'"),
    ],
)
def test_what_the_hub_does_not_have(online: Shell, hub: Hub, words: tuple[str, ...], message: str) -> None:
    result = online("pull", *words)
    assert result.exit_code == 1
    assert message.replace("{url}", hub.url) in result.output


def test_without_a_network(shell: Shell) -> None:
    shell.monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    result = shell("pull", TINY)
    assert result.exit_code == 1
    assert "http://127.0.0.1:9 cannot be reached" in result.output
    assert "--from DIRECTORY" in result.output


def test_offline_by_choice(online: Shell) -> None:
    online.monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    result = online("pull", TINY)
    assert result.exit_code == 1
    assert "HF_HUB_OFFLINE is set" in result.output


def test_a_full_disk_is_told_before_anything_is_fetched(online: Shell, hub: Hub) -> None:
    online.monkeypatch.setattr("service.weights.pull.RESERVE", 10**18)
    result = online("pull", TINY)
    assert result.exit_code == 1
    assert "0.0 GB are to come and" in result.output
    assert "ROUNDHOUSE_WEIGHTS" in result.output
    assert hub.fetched() == []


def test_two_pulls_of_one_model_at_once(online: Shell) -> None:
    with online.store.locked(TINY):
        result = online("pull", TINY)
    assert result.exit_code == 1
    assert f"another pull of {TINY} is running" in result.output
    assert online("pull", TINY).exit_code == 0


def test_pickles_alone_are_refused(online: Shell, hub: Hub) -> None:
    hub.add("acme/old-chat", {"config.json": b"{}", "pytorch_model.bin": b"\x80\x04."})
    result = online("pull", "acme/old-chat")
    assert result.exit_code == 1
    assert "it has its weights only as pickles (pytorch_model.bin)" in result.output
    assert hub.fetched() == []


def test_pickles_beside_safetensors_stay_where_they_are(online: Shell, hub: Hub) -> None:
    hub.files[TINY]["pytorch_model.bin"] = b"\x80\x04."
    result = online("pull", TINY)
    assert result.exit_code == 0
    assert "left there: pytorch_model.bin: each is a pickle" in result.output
    assert set(manifest.files(online.store.place(TINY))) == TAKEN


CODED = REPOSITORY | {"config.json": AUTO_MAP, "modeling_tiny.py": b"raise SystemExit"}


def test_code_is_refused_before_the_weights_are_fetched(online: Shell, hub: Hub) -> None:
    hub.add(TINY, CODED)
    result = online("pull", TINY)
    assert result.exit_code == 1
    assert "config.json names modeling_tiny.TinyForCausalLM in its 'auto_map' (modeling_tiny.py)" in result.output
    assert "--without-code" in result.output and "--trust-remote-code" in result.output
    assert "model.safetensors" not in hub.fetched()
    assert finished(online) == []


def test_trusted_code_is_taken(online: Shell, hub: Hub) -> None:
    hub.add(TINY, CODED)
    assert online("pull", TINY, "--trust-remote-code").exit_code == 0
    place = online.store.place(TINY)
    assert (place / "config.json").read_bytes() == AUTO_MAP
    assert (place / "modeling_tiny.py").read_bytes() == CODED["modeling_tiny.py"]
    assert manifest.read(place).trust_remote_code


def test_without_code_the_configuration_names_none(online: Shell, hub: Hub) -> None:
    hub.add(TINY, CODED)
    result = online("pull", TINY, "--without-code")
    assert result.exit_code == 0, result.output
    place = online.store.place(TINY)
    assert set(manifest.files(place)) == TAKEN
    assert b"auto_map" not in (place / "config.json").read_bytes()
    assert b'"model_type": "tiny"' in (place / "config.json").read_bytes()
    assert manifest.read(place).without_code
    assert manifest.verify(place, full=True) == []
    assert "was there already" in online("pull", TINY, "--without-code").output


def test_who_trusted_code_once_does_not_get_it_again_without(online: Shell, hub: Hub) -> None:
    hub.add(TINY, CODED)
    online("pull", TINY, "--trust-remote-code")
    assert "names modeling_tiny" in online("pull", TINY).output
    assert online("pull", TINY, "--without-code").exit_code == 0
    assert not (online.store.place(TINY) / "modeling_tiny.py").exists()


def test_code_that_an_interrupted_pull_left_does_not_slip_in(online: Shell, hub: Hub) -> None:
    hub.add(TINY, CODED)
    hub.statuses["model.safetensors"] = [503]
    assert online("pull", TINY, "--trust-remote-code").exit_code == 1
    assert any((scratch / "modeling_tiny.py").exists() for scratch in scratches(online))
    assert online("pull", TINY, "--without-code").exit_code == 0
    assert set(manifest.files(online.store.place(TINY))) == TAKEN


def test_broken_safetensors_are_refused(online: Shell, hub: Hub) -> None:
    hub.files[TINY]["model.safetensors"] = WEIGHTS[:-10]
    result = online("pull", TINY)
    assert result.exit_code == 1
    assert "model.safetensors describes the tensor 'b' wrongly" in result.output
    assert finished(online) == []


def test_an_index_without_its_weights_is_refused(online: Shell, hub: Hub) -> None:
    hub.add(TINY, {
        "config.json": b"{}",
        "model.safetensors.index.json": b'{"weight_map": {"a": "model-00001-of-00002.safetensors",'
                                        b' "b": "model-00002-of-00002.safetensors"}}',
        "model-00001-of-00002.safetensors": safetensors(a=b"1"),
    })  # fmt: skip
    result = online("pull", TINY)
    assert result.exit_code == 1
    assert "names weights that the repository does not have: model-00002-of-00002.safetensors" in result.output
    assert finished(online) == []


def test_a_name_that_leads_elsewhere_is_left(online: Shell, hub: Hub, tmp_path: Path) -> None:
    hub.files[TINY]["../../../escaped.json"] = b"{}"
    assert online("pull", TINY).exit_code == 0
    assert not list(tmp_path.rglob("escaped.json"))
    assert set(manifest.files(online.store.place(TINY))) == TAKEN
