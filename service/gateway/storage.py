"""Opens what the gateway keeps outside its memory, as its settings say: responses, usage and shared budgets."""

from typing import TYPE_CHECKING

from service.config.settings import Settings
from service.observability.ledger import Ledger
from service.observability.ledger_file import LedgerFile
from service.observability.metrics import Metrics
from service.stored.database import Database
from service.stored.store import Store

if TYPE_CHECKING:
    from service.admission.shared_budgets import SharedBudgets


def open_store(settings: Settings, metrics: Metrics) -> Store | None:
    """The store of responses; None where nothing is stored."""
    if settings.responses_dir is None:
        return None
    limits = settings.responses_max_bytes, settings.responses_max_age
    return Store(Database(settings.responses_dir, *limits), metrics.response_store_failures.inc)


def open_ledger(settings: Settings, metrics: Metrics) -> Ledger | None:
    """The usage ledger; None where nothing is recorded."""
    if settings.usage_dir is None:
        return None
    file = LedgerFile(settings.usage_dir, settings.usage_detail_age, settings.usage_max_bytes)
    return Ledger(file, metrics.usage_write_failures.inc, metrics.usage_lines_dropped.inc)


def open_shared_budgets(settings: Settings, metrics: Metrics) -> "SharedBudgets | None":
    """The budgets in Redis; None where each gateway counts its own share."""
    url = settings.redis_url.get_secret_value()
    if not url:
        return None
    from service.admission.shared_budgets import SharedBudgets  # whose client takes 9 MB, and is seldom needed

    return SharedBudgets(url, metrics.budget_store_failures.inc)
