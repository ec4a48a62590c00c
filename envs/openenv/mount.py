"""One environment as it is mounted on a server: what its routes and sockets share."""

from __future__ import annotations

from dataclasses import dataclass

from turnwise.envs.openenv.aside import Aside
from turnwise.envs.openenv.directory import Directory
from turnwise.envs.openenv.elsewhere import Elsewhere
from turnwise.envs.openenv.offer import Offer
from turnwise.envs.openenv.rpc import Rpc
from turnwise.envs.serving.service import Service


@dataclass(frozen=True, slots=True)
class Mount:
    """An environment under a path, the root's being empty."""

    path: str
    offer: Offer
    service: Service
    directory: Directory
    aside: Aside
    elsewhere: Elsewhere

    @property
    def rpc(self) -> Rpc:
        """Answers JSON-RPC for it."""
        return Rpc(self.service, self.offer, self.directory, self.aside)
