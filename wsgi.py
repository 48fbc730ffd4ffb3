"""The application for `flask --app wsgi`, whose commands are those of `modelport`; `modelport serve` runs it."""

import os

import click

from webapp import config
from webapp.app import create_app
from webapp.cli import COMMANDS, main

app = create_app(config.prepare(config.load(os.environ)))
for name in COMMANDS:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    app.cli.add_command(command)
