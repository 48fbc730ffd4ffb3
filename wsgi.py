"""The WSGI application, for `flask --app wsgi` and other servers; `modelport serve` is the way to run it."""

import os

from webapp import config
from webapp.app import create_app

app = create_app(config.prepare(config.load(os.environ)))
