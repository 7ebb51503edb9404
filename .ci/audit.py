"""Look for known vulnerabilities in what is installed here, by pip-audit, and say plainly what was not looked up.

    python .ci/audit.py

fails for a vulnerability that is not in `ACCEPTED`, and where pip-audit is missing or breaks. Where the index cannot be
reached, or does not know a version, it says so and goes on: a network that is down is no finding, and no all-clear
either.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys

#: Vulnerabilities that do not concern this package, each with the reason: {"PYSEC-...": "why"}.
ACCEPTED: dict[str, str] = {}

#: Lines by which pip-audit says that it could not reach the index, or that this is out of order.
NETWORK = re.compile(
    r"^requests\.exceptions\.(?:ConnectionError|ProxyError|ConnectTimeout|ReadTimeout|HTTPError: 5\d\d)\b.*"
    r"|^.*Tip: your network may be blocking this service.*",
    re.MULTILINE,
)


def main() -> int:
    """Print what was found; 1 if there is a vulnerability, or if nothing was looked up though the network is well."""
    command = [sys.executable, "-m", "pip_audit", "--skip-editable", "--progress-spinner", "off", "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if not done.stdout.strip():
        if unreachable := NETWORK.search(done.stderr):
            print(f"NOT AUDITED: the index cannot be reached. pip-audit said:\n{unreachable[0][:2000]}")
            return 0
        print(f"pip-audit failed ({done.returncode}) and gave no report. It said:\n{done.stderr[-2000:]}")
        return 1
    packages = json.loads(done.stdout)["dependencies"]
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    found = [(package, vulnerability) for package in packages for vulnerability in package.get("vulns", [])]
    open_ones = [(package, vulnerability) for package, vulnerability in found if vulnerability["id"] not in ACCEPTED]
    for package, vulnerability in open_ones:
        fixed = ", ".join(vulnerability["fix_versions"]) or "no version yet"
        print(f"{package['name']} {package['version']}: {vulnerability['id']}, fixed in {fixed}")
    n_audited = len(packages) - len(skipped)
    n_accepted = len(found) - len(open_ones)
    print(f"{n_audited} of {len(packages)} packages audited: {len(open_ones)} vulnerabilities, {n_accepted} accepted.")
    if skipped:
        print(f"NOT AUDITED, because the index does not know them in this version: {', '.join(skipped)}")
    return 1 if open_ones else 0


if __name__ == "__main__":
    sys.exit(main())
