"""What handlers work with: the parts of a dashboard that `create_app` has put on `app.state`."""

from typing import Annotated

from fastapi import Depends, Request

from evomerge.dashboard.processes import Processes
from evomerge.dashboard.settings import Settings
from evomerge.dashboard.shelf import Shelf


class Dashboard:
    """A dashboard, to be read.

    Args:
        request: to it.
    """

    def __init__(self, request: Request) -> None:
        self.settings: Settings = request.app.state.settings
        self.shelf: Shelf = request.app.state.shelf
        self.processes: Processes = request.app.state.processes


class WritableDashboard(Dashboard):
    """A dashboard, to be acted on.

    Args:
        request: to it.

    Raises:
        StudyError: its runs folder is missing or cannot be written.
    """

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self.shelf.require_writable()


Reads = Annotated[Dashboard, Depends(Dashboard)]
Acts = Annotated[WritableDashboard, Depends(WritableDashboard)]
