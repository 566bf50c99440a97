"""``timm:resnet50``, also with the tag of a training recipe: ``timm:resnet50.a1_in1k``."""

from __future__ import annotations

from typing import Any

from surgery.networks.origins.origin import Library
from surgery.networks.remembered import Memory


class Timm(Library):
    """PyTorch Image Models."""

    name = "timm"
    form = "timm:NAME"

    def listed(self) -> list[str]:
        import timm

        return list(timm.list_models())

    def has(self, name: str, memory: Memory) -> bool:
        return name in (
            memory.names_of("timm, tagged", _tagged) if "." in name else self.names(memory)
        )

    def build(self, name: str, **arguments: Any) -> Any:
        import timm

        return timm.create_model(name, pretrained=False, **arguments)


def _tagged() -> list[str]:
    import timm

    return list(timm.list_pretrained())
