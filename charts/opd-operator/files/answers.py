"""`helm test`: the operator answers, and the API server serves OPDJobs. Exit status 1 with one line when not.

Arguments: the operator's URL, the API server's URL, a folder with `token` and `ca.crt`. Standard library only.
"""

import json
import ssl
import sys
from pathlib import Path
from urllib.request import Request, urlopen

operator, api, account = sys.argv[1], sys.argv[2], Path(sys.argv[3])


def get(url, **options):
    try:
        with urlopen(url, timeout=10, **options) as reply:
            return reply.read().decode()
    except OSError as error:
        sys.exit(f"{getattr(url, 'full_url', url)}: {error}")


get(f"{operator}/healthz")
get(f"{operator}/readyz")
if "opd_" not in get(f"{operator}/metrics"):
    sys.exit(f"{operator}/metrics: shows no metric of the operator")
print("the operator is healthy and ready")

asked = Request(f"{api}/apis/opd.dev/v1alpha1", headers={"Authorization": f"Bearer {(account / 'token').read_text()}"})
kinds = json.loads(get(asked, context=ssl.create_default_context(cafile=account / "ca.crt")))
if not any(resource["kind"] == "OPDJob" for resource in kinds["resources"]):
    sys.exit(f"{api}: serves no OPDJob\nhint: install the CRD (crds.install: true)")
print("the API server serves OPDJobs")
