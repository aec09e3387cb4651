"""Pulling from a hub: what is requested, what is stored, and the messages when something fails."""

from pathlib import Path

import pytest

from service.weights import manifest
from tests.weights.conftest import Shell
from tests.weights.hub import Hub
from tests.weights.tiny import AUTO_MAP, COMMIT, OTHER, REPOSITORY, TAKEN, TINY, WEIGHTS, safetensors


def pulled(shell: Shell) -> list[str]:
    return [directory.relative_to(shell.store.folder).as_posix() for directory in shell.store.all_pulled()]


def staged(shell: Shell) -> list[Path]:
    return [path for path in (shell.store.folder / ".partial").iterdir() if path.is_dir()]


def test_a_model_arrives_with_its_manifest(online: Shell, hub: Hub) -> None:
    result = online("pull", TINY)
    assert result.exit_code == 0, result.output
    directory = online.store.directory(TINY)
    assert set(manifest.files(directory)) == TAKEN
    assert all((directory / name).read_bytes() == REPOSITORY[name] for name in TAKEN)
    found = manifest.read(directory)
    assert (found.model, found.repository, found.revision, found.source) == (TINY, TINY, COMMIT, hub.url)
    assert found.files.keys() == TAKEN
    assert manifest.verify(directory, full=True) == []
    assert not staged(online)
    assert f"4 files, 8.35 kB in {directory}" in result.output
    assert f"The revision is not pinned. Pin it in the fleet file: engine: {{revision: {COMMIT}}}" in result.output


def test_a_complete_pull_is_not_downloaded_again(online: Shell, hub: Hub) -> None:
    assert online("pull", TINY).exit_code == 0
    hub.seen.clear()
    result = online("pull", TINY)
    assert result.exit_code == 0
    assert "was there already, verified" in result.output
    assert hub.fetched() == []
    hub.seen.clear()
    assert "verified" in online("pull", TINY, "--revision", COMMIT).output
    assert hub.seen == [], "a commit that is here already needs no hub"


def test_only_a_damaged_file_is_downloaded_again(online: Shell, hub: Hub) -> None:
    online("pull", TINY)
    (online.store.directory(TINY) / "config.json").write_bytes(b"{}")
    hub.seen.clear()
    assert online("pull", TINY).exit_code == 0
    assert hub.fetched() == ["config.json"]
    assert manifest.verify(online.store.directory(TINY)) == []


def test_a_new_revision_replaces_the_old_one_and_fetches_what_differs(online: Shell, hub: Hub) -> None:
    online("pull", TINY)
    hub.add(TINY, REPOSITORY | {"config.json": b'{"model_type": "new"}'}, OTHER)
    hub.seen.clear()
    assert online("pull", TINY).exit_code == 0
    assert hub.fetched() == ["config.json"]
    assert manifest.read(online.store.directory(TINY)).revision == OTHER


@pytest.mark.parametrize("revision", ["main", COMMIT])
def test_a_revision_may_be_named(online: Shell, revision: str) -> None:
    result = online("pull", TINY, "--revision", revision)
    assert result.exit_code == 0, result.output
    assert manifest.read(online.store.directory(TINY)).revision == COMMIT
    assert "not pinned" not in result.output


def test_the_catalogues_id_leads_to_its_repository(online: Shell, hub: Hub) -> None:
    hub.add("meta-llama/Llama-2-70b-chat-hf", REPOSITORY)
    result = online("pull", "llama-2-70b-chat")
    assert result.exit_code == 0, result.output
    assert manifest.read(online.store.directory("meta-llama/Llama-2-70b-chat-hf")).model == "llama-2-70b-chat"


def test_a_broken_connection_is_resumed(online: Shell, hub: Hub) -> None:
    online.monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    hub.cuts["model.safetensors"] = [2000]
    assert online("pull", TINY).exit_code == 0
    assert hub.ranges("model.safetensors") == [None, "bytes=2000-"]
    assert manifest.verify(online.store.directory(TINY)) == []


def test_an_interrupted_pull_continues_with_the_missing_files(online: Shell, hub: Hub) -> None:
    first, second = (f"model-0000{number}-of-00002.safetensors" for number in (1, 2))
    hub.add(TINY, {"config.json": b"{}", first: WEIGHTS, second: safetensors(c=b"3" * 9000)})
    hub.cuts[second] = [2000]
    hub.statuses[second] = [0, 503]
    result = online("pull", TINY)
    assert result.exit_code == 1
    assert f"{TINY} at {hub.url} answers with status 503; try again later" in result.output
    assert pulled(online) == []
    hub.seen.clear()
    assert online("pull", TINY).exit_code == 0
    assert hub.fetched() == [second]
    assert manifest.verify(online.store.directory(TINY), full=True) == []


@pytest.mark.parametrize("leftover", [".cache/huggingface/download/x.incomplete", ".copying"])
def test_what_a_killed_download_left_behind_is_not_published(online: Shell, hub: Hub, leftover: str) -> None:
    hub.statuses["model.safetensors"] = [503]
    online("pull", TINY)
    (directory,) = staged(online)
    (directory / leftover).parent.mkdir(parents=True, exist_ok=True)
    (directory / leftover).write_bytes(b"1234")
    assert online("pull", TINY).exit_code == 0
    assert {path.name for path in online.store.directory(TINY).iterdir()} == TAKEN | {manifest.MANIFEST}


def test_weights_are_downloaded_over_xet_where_the_hub_offers_it(online: Shell, hub: Hub) -> None:
    hub.has_xet = True
    result = online("pull", TINY)
    assert result.exit_code == 0, result.output
    assert "model.safetensors" not in hub.fetched(), "not over HTTP"
    assert (online.store.directory(TINY) / "model.safetensors").read_bytes() == WEIGHTS


def test_a_wrong_byte_over_xet_is_refused(online: Shell, hub: Hub) -> None:
    hub.has_xet = True
    hub.wrong["model.safetensors"] = WEIGHTS[:-1] + b"?"
    result = online("pull", TINY)
    assert result.exit_code == 1
    assert "model.safetensors has SHA-256" in result.output
    assert pulled(online) == []


def test_a_failure_of_xet_has_a_message_with_the_way_around_it(online: Shell, hub: Hub) -> None:
    hub.has_xet = hub.xet_is_broken = True
    result = online("pull", TINY)
    assert result.exit_code == 1
    assert "HF_HUB_DISABLE_XET=1 downloads without Xet" in result.output


@pytest.mark.parametrize(("name", "kind"), [("model.safetensors", "SHA-256"), ("config.json", "the git blob id")])
def test_a_wrong_byte_is_refused(online: Shell, hub: Hub, name: str, kind: str) -> None:
    right = hub.files[TINY][name]
    hub.wrong[name] = right[:-1] + bytes([right[-1] ^ 1])
    result = online("pull", TINY)
    assert result.exit_code == 1
    assert f"{name} has {kind}" in result.output
    assert "It was deleted; pull again to download it again" in result.output
    assert pulled(online) == []
    hub.wrong.clear()
    assert online("pull", TINY).exit_code == 0
    assert (online.store.directory(TINY) / name).read_bytes() == right


def test_a_file_that_is_too_short_is_refused(online: Shell, hub: Hub) -> None:
    hub.wrong["model.safetensors"] = WEIGHTS[:-10]
    assert online("pull", TINY).exit_code == 1
    assert pulled(online) == []


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
    assert pulled(online) == []


def test_the_right_token_opens_a_gated_model_and_is_never_shown(online: Shell, hub: Hub) -> None:
    hub.gated.add(TINY)
    online.monkeypatch.setenv("HF_TOKEN", f"{hub.token}\n")
    result = online("pull", TINY)
    assert result.exit_code == 0, result.output
    assert hub.token not in result.output
    everything = b"".join(path.read_bytes() for path in online.store.folder.rglob("*") if path.is_file())
    assert hub.token.encode() not in everything


def test_an_invalid_token_is_refused_without_showing_it(online: Shell) -> None:
    online.monkeypatch.setenv("HF_TOKEN", "hf_one\nhf_two")
    result = online("pull", TINY)
    assert result.exit_code == 1
    assert "HF_TOKEN is not a valid access token" in result.output
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


def test_a_server_that_is_not_a_hub(online: Shell, hub: Hub) -> None:
    hub.names_commit = False
    result = online("pull", TINY)
    assert result.exit_code == 1
    assert "does not seem to be served by a Hugging Face Hub endpoint" in result.output


def test_offline_by_choice(online: Shell) -> None:
    online.monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    result = online("pull", TINY)
    assert result.exit_code == 1
    assert "HF_HUB_OFFLINE is set" in result.output


def test_a_full_disk_is_reported_before_anything_is_downloaded(online: Shell, hub: Hub) -> None:
    online.monkeypatch.setattr("service.weights.store.DISK_RESERVE", 10**18)
    result = online("pull", TINY)
    assert result.exit_code == 1
    assert "0.0 GB needed" in result.output
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
    assert "its weights are pickle files only (pytorch_model.bin)" in result.output
    assert hub.fetched() == []


def test_pickles_beside_safetensors_stay_where_they_are(online: Shell, hub: Hub) -> None:
    hub.files[TINY]["pytorch_model.bin"] = b"\x80\x04."
    result = online("pull", TINY)
    assert result.exit_code == 0
    assert "skipped: pytorch_model.bin: each is a pickle file" in result.output
    assert set(manifest.files(online.store.directory(TINY))) == TAKEN


CODED = REPOSITORY | {"config.json": AUTO_MAP, "modeling_tiny.py": b"raise SystemExit"}


def test_code_is_refused_before_the_weights_are_fetched(online: Shell, hub: Hub) -> None:
    hub.add(TINY, CODED)
    result = online("pull", TINY)
    assert result.exit_code == 1
    assert "the 'auto_map' of config.json names modeling_tiny.TinyForCausalLM (modeling_tiny.py)" in result.output
    assert "--without-code" in result.output and "--trust-remote-code" in result.output
    assert "model.safetensors" not in hub.fetched()
    assert pulled(online) == []


def test_trusted_code_is_taken(online: Shell, hub: Hub) -> None:
    hub.add(TINY, CODED)
    assert online("pull", TINY, "--trust-remote-code").exit_code == 0
    directory = online.store.directory(TINY)
    assert (directory / "config.json").read_bytes() == AUTO_MAP
    assert (directory / "modeling_tiny.py").read_bytes() == CODED["modeling_tiny.py"]
    assert manifest.read(directory).trust_remote_code


def test_without_code_references_to_it_are_removed(online: Shell, hub: Hub) -> None:
    hub.add(TINY, CODED)
    result = online("pull", TINY, "--without-code")
    assert result.exit_code == 0, result.output
    directory = online.store.directory(TINY)
    assert set(manifest.files(directory)) == TAKEN
    assert b"auto_map" not in (directory / "config.json").read_bytes()
    assert b'"model_type": "tiny"' in (directory / "config.json").read_bytes()
    assert manifest.read(directory).without_code
    assert manifest.verify(directory, full=True) == []
    assert "was there already" in online("pull", TINY, "--without-code").output


def test_trust_in_code_does_not_outlast_its_pull(online: Shell, hub: Hub) -> None:
    hub.add(TINY, CODED)
    online("pull", TINY, "--trust-remote-code")
    assert "names modeling_tiny" in online("pull", TINY).output
    assert online("pull", TINY, "--without-code").exit_code == 0
    assert not (online.store.directory(TINY) / "modeling_tiny.py").exists()


def test_code_from_an_interrupted_pull_is_removed(online: Shell, hub: Hub) -> None:
    hub.add(TINY, CODED)
    hub.statuses["model.safetensors"] = [503]
    assert online("pull", TINY, "--trust-remote-code").exit_code == 1
    assert any((directory / "modeling_tiny.py").exists() for directory in staged(online))
    assert online("pull", TINY, "--without-code").exit_code == 0
    assert set(manifest.files(online.store.directory(TINY))) == TAKEN


def test_broken_safetensors_are_refused(online: Shell, hub: Hub) -> None:
    hub.files[TINY]["model.safetensors"] = WEIGHTS[:-10]
    result = online("pull", TINY)
    assert result.exit_code == 1
    assert "model.safetensors has an invalid header entry for tensor 'b'" in result.output
    assert pulled(online) == []


def test_an_index_without_its_weights_is_refused(online: Shell, hub: Hub) -> None:
    hub.add(TINY, {
        "config.json": b"{}",
        "model.safetensors.index.json": b'{"weight_map": {"a": "model-00001-of-00002.safetensors",'
                                        b' "b": "model-00002-of-00002.safetensors"}}',
        "model-00001-of-00002.safetensors": safetensors(a=b"1"),
    })  # fmt: skip
    result = online("pull", TINY)
    assert result.exit_code == 1
    assert "lists weights that the repository does not have: model-00002-of-00002.safetensors" in result.output
    assert pulled(online) == []


def test_a_name_that_leads_outside_is_skipped(online: Shell, hub: Hub, tmp_path: Path) -> None:
    hub.files[TINY]["../../../escaped.json"] = b"{}"
    assert online("pull", TINY).exit_code == 0
    assert not list(tmp_path.rglob("escaped.json"))
    assert set(manifest.files(online.store.directory(TINY))) == TAKEN
