"""Call `article` with nothing but Python's standard library."""

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
    # The server says in a sentence what is wrong (RFC 9457).
    sys.exit(f"error {refused.code}: {json.load(refused)['detail']}")
except urllib.error.URLError as unreachable:
    sys.exit(f"error: {unreachable.reason}")
