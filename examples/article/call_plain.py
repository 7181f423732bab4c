"""Call `article` with the standard library only. Reads MAAS_BASE_URL and MAAS_API_KEY."""

import json
import os
import sys
import urllib.error
import urllib.request

request = urllib.request.Request(
    os.environ["MAAS_BASE_URL"] + "/predict/article",
    data=json.dumps({"x": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]}).encode(),
    headers={
        "Authorization": "Bearer " + os.environ["MAAS_API_KEY"],
        "Content-Type": "application/json",
    },
)
try:
    with urllib.request.urlopen(request, timeout=10) as response:
        print(json.dumps(json.load(response)))
except urllib.error.HTTPError as refused:
    # The body is a problem document (RFC 9457) with the reason.
    sys.exit(f"error {refused.code}: {json.load(refused)['detail']}")
except urllib.error.URLError as unreachable:
    sys.exit(f"error: {unreachable.reason}")
