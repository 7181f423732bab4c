from maas.gateway.openai.subtitles import srt, vtt

SEGMENTS = [
    {"start": 0.0, "end": 1.9996, "text": " Ever tried."},
    {"start": 3725.5, "end": 3726.25, "text": " a --> b\n\nc"},
]


def test_srt_numbers_its_cues_and_has_commas() -> None:
    assert srt(SEGMENTS) == (
        "1\n00:00:00,000 --> 00:00:02,000\nEver tried.\n\n"
        "2\n01:02:05,500 --> 01:02:06,250\na -> b c\n\n"
    )


def test_vtt_has_a_head_and_points() -> None:
    assert vtt(SEGMENTS) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:02.000\nEver tried.\n\n"
        "01:02:05.500 --> 01:02:06.250\na -> b c\n\n"
    )


def test_silence_is_a_file_without_cues() -> None:
    assert srt([]) == ""
    assert vtt([]) == "WEBVTT\n\n"
