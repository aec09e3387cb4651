"""The logs that are files, and what the gateway writes to the audit log about itself: its configuration and keys."""

import hashlib
from contextlib import suppress
from pathlib import Path

from service.auth.keys import Key, Keys
from service.config.release import release
from service.config.settings import Settings
from service.fleet.fleet import Fleet
from service.observability.audit import AuditLog
from service.observability.metrics import Metrics
from service.observability.prompt_log import PromptLog
from service.observability.rotating_file import FileLogWriter, RotatingFile


def open_audit(settings: Settings, metrics: Metrics) -> AuditLog | None:
    """The audit log that the settings ask for, if they do."""
    if settings.audit_log is None:
        return None
    file = RotatingFile(settings.audit_log, settings.audit_max_bytes, settings.audit_files)
    writer = FileLogWriter(file, "audit", metrics.file_lines_dropped.labels("audit").inc)
    return AuditLog(writer, settings.audit_requests)


def open_prompt_log(settings: Settings, fleet: Fleet, metrics: Metrics) -> PromptLog | None:
    """The log of prompts that the settings allow, if they do."""
    if settings.prompt_log is None:
        return None
    file = RotatingFile(settings.prompt_log, settings.audit_max_bytes, settings.audit_files)
    return PromptLog(file, fleet.redact, metrics.file_lines_dropped.labels("prompts").inc)


def configuration(settings: Settings) -> dict[str, str]:
    """The version that runs, and digests of the settings and of the fleet file, which tell whether they changed."""
    told = settings.model_dump_json(exclude={"run_dir"})  # pydantic shows no secrets
    return {
        "version": release(),
        "settings_sha256": hashlib.sha256(told.encode()).hexdigest(),
        "fleet_sha256": file_digest(settings.fleet),
    }


def file_digest(path: Path) -> str:
    """The SHA-256 digest of a file; empty where it cannot be read."""
    with suppress(OSError):
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return ""


def key_changes(old: Keys | None, new: Keys | None) -> list[str]:
    """Which keys were added, removed or changed, by their ids; `rotated` is another key under the same id. Pure."""
    before, after = _by_id(old), _by_id(new)
    found = [f"{id} added" for id in after.keys() - before.keys()]
    found += [f"{id} removed" for id in before.keys() - after.keys()]
    for id in after.keys() & before.keys():
        if before[id] != after[id]:
            found.append(f"{id} {'changed' if before[id][0] == after[id][0] else 'rotated'}")
    return sorted(found)


def _by_id(keys: Keys | None) -> dict[str, tuple[bytes, Key]]:
    return {key.id: (digest, key) for digest, key in (keys or {}).items()}
