"""`python -m webapp.cli`: the command, where its script is not on the path."""

from webapp.cli import main

main()
