"""The settings of the logs: the one on standard output, and those that are files."""

from pydantic_settings import BaseSettings, SettingsConfigDict

from service.config.setting_types import Bytes, CarriedLog, Files, Fraction, LogFormat, LogLevel, UserPath


class LogSettings(BaseSettings):
    """A part of `Settings`, which says how fields and their descriptions are read."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    log_format: LogFormat = "auto"
    """How the log on standard output is written: `json`, `text`, or `auto`: as text where that is a terminal.

    Text has colours on a terminal, unless `NO_COLOR` is set.
    """
    log_level: LogLevel = "info"
    """Least level of the lines that are written: `debug`, `info`, `warning` or `error`.

    Of requests, those that failed are `error`, those that were refused `warning`, and all others `info`.
    """
    log_sample: Fraction = 1.0
    """Part of the requests that were completed which get a line, from 0 to 1; what went wrong always gets one."""
    log_probes: bool = False
    """Whether requests to `/health`, `/ping`, `/metrics` and the console that went well get a line each."""
    log_engines: CarriedLog = "errors"
    """Which lines of engines' own logs are written too: `errors`, `all` or `off`; their files have all of them."""

    audit_log: UserPath | None = None
    """File to which is appended who changed or used what, a line of JSON for each action; none is if unset.

    Others than its owner must not be able to read it. `roundhouse keys` writes to it too.
    """
    audit_requests: bool = False
    """Whether each use of a model is an action for the audit log."""
    prompt_log: UserPath | None = None
    """File to which prompts and outputs are appended, of tenants that the fleet file gives `log_prompts: true`.

    Others than its owner must not be able to read it. Without it such a fleet file is refused.
    """
    audit_max_bytes: Bytes = 64 * 2**20
    """Size at which the audit log, or the prompt log, is put aside and a new file begun."""
    audit_files: Files = 10
    """How many files of such a log there are at most; the oldest is deleted for a new one."""
