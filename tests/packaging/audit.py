"""Known vulnerabilities of what the locks name: `python -m tests.packaging.audit LOCK…`, as `make check` runs it.

pip-audit asks a database on the internet about each package. Where that cannot be reached, or does not know a package,
nothing was audited: this says so, and why, instead of calling it clean. Exits with 1 if there is a vulnerability.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TIMEOUT = 600.0  # seconds for all packages of a lock
SHOWN = 5  # names of packages that were not audited


def command(locks: Sequence[Path]) -> list[str]:
    """pip-audit for locks that have no package in common. What they pin is audited, and nothing resolved or built."""
    options = ["--format", "json", "--progress-spinner", "off", "--require-hashes", "--disable-pip"]
    program = Path(sys.executable).with_name("pip-audit")
    return [str(program), *options, *(word for lock in locks for word in ("-r", str(lock)))]


def verdict(status: int, output: str, errors: str) -> tuple[bool, str]:
    """Whether the audit may pass, and what to print, from what pip-audit ended with and wrote. Pure."""
    try:
        packages: list[dict[str, Any]] = json.loads(output)["dependencies"]
    except (ValueError, KeyError, TypeError):
        lines = errors.strip().splitlines() or [f"pip-audit ended with {status}"]
        return _unreachable(errors), f"not audited: {lines[-1][:300]}"
    found = [
        f"  {one['name']} {one['version']}: {', '.join([vuln['id'], *vuln.get('aliases', ())])}"
        f" (fixed in {', '.join(vuln['fix_versions']) or 'no release yet'})"
        for one in packages
        for vuln in one.get("vulns", ())
    ]
    skipped = [one["name"] for one in packages if "skip_reason" in one]
    text = f"{len(packages) - len(skipped)} of {len(packages)} packages audited, {len(found)} known vulnerabilities"
    if skipped:
        more = ", …" if len(skipped) > SHOWN else ""
        text += f"; not audited, for the database does not know them: {', '.join(skipped[:SHOWN])}{more}"
    return not found, "\n".join([text, *found])


def _unreachable(errors: str) -> bool:
    """Whether pip-audit failed because it could not reach its database, and not because of what it was given."""
    return any(word in errors for word in ("ConnectionError", "ConnectTimeout", "ReadTimeout", "ServiceError"))


def main() -> None:
    """Audits the locks that are named, and prints the verdict."""
    locks = [Path(name) for name in sys.argv[1:]]
    try:
        done = subprocess.run(command(locks), capture_output=True, text=True, timeout=TIMEOUT, check=False)
        passes, text = verdict(done.returncode, done.stdout, done.stderr)
    except subprocess.TimeoutExpired:
        passes, text = True, f"not audited: the database did not answer within {TIMEOUT:g} s"
    print(f"{', '.join(lock.name for lock in locks)}: {text}")
    sys.exit(not passes)


if __name__ == "__main__":
    main()
