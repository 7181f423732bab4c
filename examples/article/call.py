"""Call `article` through the Python client. Reads MAAS_BASE_URL and MAAS_API_KEY."""

import json
import sys

import maas

with maas.Client() as client:
    try:
        answer = client.predict("article", x=[1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
    except maas.MaasError as error:
        sys.exit(f"error: {error.message}")
print(json.dumps(answer))
