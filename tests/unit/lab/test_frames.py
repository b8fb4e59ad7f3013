"""The language between terminal, keeper and agent."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.lab.frames import Frame, Kind, json_frame, read_frame

frames = st.builds(
    Frame, st.sampled_from(Kind), st.integers(0, 0xFFFF), st.binary(max_size=5000)
)


@given(st.lists(frames, max_size=5))
def test_frames_come_out_as_they_went_in(sent: list[Frame]) -> None:
    line = io.BytesIO(b"".join(frame.encode() for frame in sent))
    assert [read_frame(line.read) for _ in sent] == sent


@given(frames, st.integers(min_value=0))
def test_half_a_frame_is_the_end(frame: Frame, cut: int) -> None:
    encoded = frame.encode()
    line = io.BytesIO(encoded[: cut % len(encoded)])
    with pytest.raises(EOFError):
        read_frame(line.read)


def test_json_travels_as_json() -> None:
    frame = json_frame(Kind.ANSWER, 3, {"exit": 1})
    assert (frame.channel, frame.json()) == (3, {"exit": 1})
