"""Going back to an earlier version, by command."""

from __future__ import annotations

from tta_agent.errors import LedgerError
from tta_agent.journal import Journal
from tta_agent.sessions import open_session
from tta_agent.settings import Settings
from tta_agent.swap import bring_up, golden
from tta_agent.swappers.oip import OipSwapper
from tta_agent.versions import Ledger


def rollback(settings: Settings, to: int | None) -> int:
    """Put a version back into the server and point `serving` at it; a running agent notices and starts over.

    Raises:
        LedgerError: there is no such version, or nothing served before.
        SwapError: the server refused; what served before the command serves on.
    """
    ledger = Ledger(settings.store.path / "versions")
    aliases = ledger.aliases()
    number = aliases.get("previous") if to is None else to
    if number is None:
        raise LedgerError(f"nothing served before version {aliases.get('serving')}; name one with --to")
    version = ledger.get(number)
    if version.proof == "none":
        raise LedgerError(f"version {number} was never proved to be better; see `tta-agent versions`")
    swapper = OipSwapper(settings.swap.url, settings.model.served_as, timeout_s=settings.swap.timeout_s)
    swapper.probe()
    bring_up(swapper, version, golden(open_session(version.path), ledger.golden_inputs()))
    ledger.serve(number)
    Journal(settings.store.path).event(
        "rollback", version=number, before=aliases.get("serving"), by="command"
    )
    return number
