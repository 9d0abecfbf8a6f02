"""The dashboard: pages that launch, watch, pause, resume, compare and export searches."""

from evomerge.dashboard.settings import Settings

__all__ = ["Settings", "serve"]


def serve(settings: Settings, *, open_page: bool = False) -> None:
    """Serve the dashboard until Ctrl-C; see `evomerge.dashboard.server.run`."""
    from evomerge.dashboard.server import run

    run(settings, open_page=open_page)
