"""`python -m tta_agent`."""

from tta_agent.cli import main

main()
