#!/bin/sh
# Call `article` with curl (7.76 or newer, for --fail-with-body).
set -u

if answer=$(
    curl --silent --show-error --fail-with-body --max-time 10 \
        --header "Authorization: Bearer $MAAS_API_KEY" \
        --header "Content-Type: application/json" \
        --data '{"x": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]}' \
        "$MAAS_BASE_URL/predict/article"
); then
    printf '%s\n' "$answer"
else
    printf '%s\n' "$answer" >&2 # the reason, as JSON
    exit 1
fi
