"""Beside `mlserver_model.py` in a repository: the same model, which keeps count of the requests that it has at once.

Each request is answered a little later than it could be, so that others can come meanwhile; how many there were by then
is added to the file `under-way`.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from mlserver.types import InferenceRequest, InferenceResponse
from mlserver_model import OnnxModel  # type: ignore[import-not-found]  # nor is MLServer, where types are checked

UNDER_WAY = Path(__file__).with_name("under-way")


class CountingModel(OnnxModel):  # type: ignore[misc]
    """Wants MLServer without parallel workers, where all requests are in one process."""

    under_way = 0

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """As `OnnxModel` does."""
        self.under_way += 1
        await asyncio.sleep(0.5)
        with UNDER_WAY.open("a") as file:
            file.write(f"{self.under_way}\n")
        try:
            return await super().predict(payload)
        finally:
            self.under_way -= 1
