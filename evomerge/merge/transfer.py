"""From host memory to an accelerator, through pinned double buffers on a side stream."""

from collections.abc import Iterator

import torch
from torch import Tensor

_PIECE = 1 << 23  # elements of one transfer: long enough for the bus, small enough for two of all sources


class Transfer:
    """Brings operands to an accelerator, the next piece while the present one is computed with.

    Args:
        device: the accelerator. Only CUDA has a side stream here; any other gets plain copies.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._staged: list[dict[int, Tensor]] = [{}, {}]
        self._events: list[torch.cuda.Event | None] = [None, None]

    def pieces(self, flats: tuple[Tensor, ...]) -> Iterator[tuple[slice, tuple[Tensor, ...]]]:
        """Operands on the device, piece by piece.

        Args:
            flats: (m,) each, on the host.

        Yields:
            The place of the piece, and the operands' parts there.
        """
        count = flats[0].numel()
        places = [slice(start, min(start + _PIECE, count)) for start in range(0, count, _PIECE)]
        coming = self._send(flats, places[0], 0) if places else ()
        for turn, place in enumerate(places):
            here, event = coming, self._events[turn % 2]
            if turn + 1 < len(places):
                coming = self._send(flats, places[turn + 1], (turn + 1) % 2)
            if event is not None:
                torch.cuda.current_stream(self._device).wait_event(event)
                for each in here:
                    each.record_stream(torch.cuda.current_stream(self._device))
            yield place, here

    def _send(self, flats: tuple[Tensor, ...], place: slice, turn: int) -> tuple[Tensor, ...]:
        if self._stream is None:
            return tuple(flat[place].to(self._device) for flat in flats)
        if (last := self._events[turn]) is not None:
            last.synchronize()  # the copies out of these buffers are over
        with torch.cuda.stream(self._stream):
            sent = tuple(
                self._pinned(flat[place], turn, number).to(self._device, non_blocking=True)
                for number, flat in enumerate(flats)
            )
            self._events[turn] = self._stream.record_event()
        return sent

    def _pinned(self, part: Tensor, turn: int, number: int) -> Tensor:
        """The part in pinned memory: as it is, or copied to the buffer that the operand of this number has there."""
        if part.is_pinned():
            return part
        buffers, nbytes = self._staged[turn], part.numel() * part.itemsize
        if number not in buffers or buffers[number].numel() < nbytes:
            buffers[number] = torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)
        return buffers[number][:nbytes].view(part.dtype).copy_(part)
