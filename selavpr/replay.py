"""CUDA graphs: what a network does to photos of one shape, recorded once and then replayed.

For one photo a ViT is a thousand small kernels, and asking a GPU for each of them takes longer than
it takes to compute them. A recording is asked for once.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable

import torch
from torch import Tensor, nn

from selavpr.folding import Folded, fold
from selavpr.structs import Features

log = logging.getLogger(__name__)

SEEN = 2
"""Times a shape is computed plainly before it is recorded: recording takes as long as several."""

KEPT = 16
"""Recordings kept, the last used; each holds its activations' memory."""

Compute = Callable[[Tensor, Folded | None], Features]
"""Features of ``[B, 3, H, W]`` pixels, by the network itself or by what was folded of it"""


class _Recording:
    """One shape's kernels, with the memory they read and write."""

    def __init__(self, compute: Compute, pixels: Tensor, folded: Folded) -> None:
        self._input = pixels.clone()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(pixels.device):
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                # Libraries set up their workspaces, which no graph may.
                compute(self._input, folded)
            torch.cuda.current_stream().wait_stream(stream)
            # Other threads may use the GPU for something else meanwhile.
            with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
                self._output = compute(self._input, folded)

    def __call__(self, pixels: Tensor) -> Features:
        self._input.copy_(pixels)
        self._graph.replay()
        local = self._output.local
        return Features(
            self._output.descriptor.clone(),
            self._output.tokens.clone(),
            None if local is None else local.clone(),
        )


class Replays:
    """Recordings of one network by shape. Threads take turns.

    They belong to the network's memory: a copy of it begins with none, and so does the network
    itself when its weights have changed.
    """

    def __init__(self) -> None:
        """Nothing is recorded yet."""
        self._folded: Folded | None = None
        self._state: tuple[torch.dtype, int] | None = None
        self._seen: Counter[Hashable] = Counter()
        self._recordings: OrderedDict[Hashable, _Recording] = OrderedDict()
        self._turn = threading.Lock()
        self._held: list[dict[str, nn.Parameter | None]] = []

    def __reduce__(self) -> tuple[type[Replays], tuple[()]]:
        """Copies and pickles are empty."""
        return Replays, ()

    def __call__(
        self,
        network: nn.Module,
        precision: torch.dtype,
        compute: Compute,
        pixels: Tensor,
        *options: Hashable,
    ) -> Features:
        """The features of a batch on a GPU, in inference mode.

        Args:
            network: whose weights these are.
            precision: of the arithmetic; weights are folded and cast once, not in every pass.
            compute: makes the features; under autocast without its cache, whose tensors a recording
                would go on reading after they are gone.
            pixels: ``[B, 3, H, W]``.
            *options: what else ``compute`` depends on.
        """
        key = (tuple(pixels.shape), *options)
        with self._turn:
            if not self._held:  # to walk through a large network takes longer than to replay it
                self._held = [m._parameters for m in network.modules() if m._parameters]
            versions = (w._version for held in self._held for w in held.values() if w is not None)
            state = (precision, sum(versions))
            if state != self._state:
                self._state = state
                self._folded = None
                self._seen.clear()
                self._recordings.clear()
            found = self._recordings.pop(key, None)
            if found is None:
                self._seen[key] += 1
                if self._seen[key] != SEEN + 1:  # too early; or recording failed, once and for all
                    return compute(pixels, None)
                try:
                    self._folded = self._folded or fold(network, precision)
                    found = _Recording(compute, pixels, self._folded)
                except RuntimeError as error:
                    log.warning("A shape cannot be recorded and stays slower: %s", error)
                    return compute(pixels, None)
            self._recordings[key] = found
            while len(self._recordings) > KEPT:
                forgotten, _ = self._recordings.popitem(last=False)
                del self._seen[forgotten]
            return found(pixels)
