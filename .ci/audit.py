"""Look for known vulnerabilities in what is installed here, by pip-audit, and say plainly what was not looked up.

    python .ci/audit.py

fails for a vulnerability that is not in `ACCEPTED`. Where the index cannot be asked, or does not know a version, it
says so and goes on: a network that is down is no finding, and no all-clear either.
"""

from __future__ import annotations

import json
import subprocess
import sys

#: Vulnerabilities that do not concern this package, each with the reason: {"PYSEC-...": "why"}.
ACCEPTED: dict[str, str] = {}


def main() -> int:
    """Print what was found; 1 if there is a vulnerability."""
    command = [sys.executable, "-m", "pip_audit", "--skip-editable", "--progress-spinner", "off", "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if not done.stdout.strip():
        print(f"NOT AUDITED: pip-audit gave no report. It said:\n{done.stderr[-2000:]}")
        return 0
    packages = json.loads(done.stdout)["dependencies"]
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    found = [(package, vulnerability) for package in packages for vulnerability in package.get("vulns", [])]
    open_ones = [(package, vulnerability) for package, vulnerability in found if vulnerability["id"] not in ACCEPTED]
    for package, vulnerability in open_ones:
        fixed = ", ".join(vulnerability["fix_versions"]) or "no version yet"
        print(f"{package['name']} {package['version']}: {vulnerability['id']}, mended in {fixed}")
    n_audited = len(packages) - len(skipped)
    n_accepted = len(found) - len(open_ones)
    print(f"{n_audited} of {len(packages)} packages audited: {len(open_ones)} vulnerabilities, {n_accepted} accepted.")
    if skipped:
        print(f"NOT AUDITED, because the index does not know them in this version: {', '.join(skipped)}")
    return 1 if open_ones else 0


if __name__ == "__main__":
    sys.exit(main())
