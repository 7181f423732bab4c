"""The Flask application with waitress: `python flask_waitress.py PORT THREADS`."""

from __future__ import annotations

import sys

import waitress
from flask_app import app

waitress.serve(app, host="127.0.0.1", port=int(sys.argv[1]), threads=int(sys.argv[2]))
