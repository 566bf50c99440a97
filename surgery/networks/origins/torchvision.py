"""``torchvision:resnet50``: classifiers, detectors, segmentation, video."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

from surgery.networks.origins.origin import Library


class Torchvision(Library):
    """The models of torchvision."""

    name = "torchvision"
    form = "torchvision:NAME"

    def listed(self) -> list[str]:
        import torchvision

        return list(torchvision.models.list_models())

    def build(self, name: str, **arguments: Any) -> Any:
        import torchvision

        builder = torchvision.models.get_model_builder(name)
        # Detection and segmentation builders would download a backbone by default.
        if "weights_backbone" in inspect.signature(builder).parameters:
            arguments.setdefault("weights_backbone", None)
        with warnings.catch_warnings():
            # GoogLeNet and Inception announce that their initialisation will change some day.
            warnings.filterwarnings("ignore", "The default weight initialization", FutureWarning)
            return builder(weights=None, **arguments)
