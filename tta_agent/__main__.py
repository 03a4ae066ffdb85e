"""`python -m tta_agent`."""

from tta_agent.cli.main import main

main()
