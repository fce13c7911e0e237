"""Reading audio files: the rule of cutting, what reaches a clip bit for bit, and what becomes of broken files."""

import functools
import operator
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import GeneratorType

import numpy as np
import pytest
import soundfile

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.frontend import audio, audio_file
from tinyscene.deploy.frontend.audio import Recording, clip_count, mix_down

RATE = 32_000


def noise(seconds: float, rate: int = RATE, channels: int = 1, seed: int = 0) -> np.ndarray:
    """int16 noise that stays clear of full scale, (samples, channels)."""
    shape = (round(seconds * rate), channels)
    return (np.random.default_rng(seed).normal(0, 0.1, shape).clip(-0.9, 0.9) * 32768).astype(np.int16)


def write(
    path: Path, samples: np.ndarray, rate: int = RATE, subtype: str | None = None, kind: str | None = None
) -> Path:
    soundfile.write(path, samples, rate, subtype=subtype, format=kind)
    return path


def cut(path: Path, share: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def read(path: Path) -> tuple[list[np.ndarray], list[str]]:
    recording = Recording(path, RATE)
    return list(recording.clips()), recording.notes


CUTS = [(0, 0), (1, 1), (100, 1), (499, 1), (500, 1), (999, 1), (1000, 1), (1001, 1), (1490, 1), (1499, 1)]
CUTS += [(1500, 2), (2000, 2), (2499, 2), (2500, 3), (10_000, 10)]  # milliseconds, clips


@pytest.mark.parametrize(("milliseconds", "clips"), CUTS)
def test_half_a_second_left_over_makes_a_clip(milliseconds: int, clips: int) -> None:
    assert clip_count(milliseconds * 44, 44_000) == clips


@pytest.mark.parametrize(("frames", "clips"), [(66_151, 1), (66_152, 2)])
def test_half_of_an_odd_rate_is_not_rounded_down(frames: int, clips: int) -> None:
    assert clip_count(frames, 44_101) == clips


@pytest.mark.parametrize(("milliseconds", "clips"), CUTS[1:])
def test_recordings_are_cut_by_the_rule(milliseconds: int, clips: int, tmp_path: Path) -> None:
    found, _ = read(write(tmp_path / "a.wav", noise(milliseconds / 1000, 8_000), 8_000))
    assert [clip.shape for clip in found] == [(RATE,)] * clips


def test_int16_at_the_target_rate_comes_through_bit_for_bit(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).integers(-32768, 32768, 2 * RATE).astype(np.int16)
    clips, notes = read(write(tmp_path / "a.wav", samples))
    np.testing.assert_array_equal(np.concatenate(clips), samples)
    assert clips[0].dtype == np.int16
    assert notes == []


def test_what_is_left_over_is_padded_with_zeros_and_noted(tmp_path: Path) -> None:
    samples = noise(1.75)[:, 0]
    clips, notes = read(write(tmp_path / "a.wav", samples))
    np.testing.assert_array_equal(np.concatenate(clips), np.concatenate([samples, np.zeros(RATE // 4, np.int16)]))
    assert notes == ["the last 0.75 s padded to one second"]


def test_channels_are_averaged_and_noted(tmp_path: Path) -> None:
    samples = noise(1, channels=3)
    (clip,), notes = read(write(tmp_path / "a.wav", samples))
    np.testing.assert_array_equal(clip, np.rint(samples.astype(np.float64).sum(axis=1) / 3))
    assert notes == ["3 channels mixed down"]


def test_channels_are_added_in_float64_in_their_order() -> None:
    samples = np.random.default_rng(1).normal(0, 0.1, (1_000, 33)).astype(np.float32)
    expected = [np.float32(functools.reduce(operator.add, frame) / 33) for frame in samples.tolist()]  # Python's floats
    np.testing.assert_array_equal(mix_down(samples), expected)


def test_each_second_is_resampled_on_its_own(tmp_path: Path) -> None:
    samples = noise(3, 44_100)
    whole, _ = read(write(tmp_path / "whole.wav", samples, 44_100))
    (middle,), _ = read(write(tmp_path / "middle.wav", samples[44_100:88_200], 44_100))
    np.testing.assert_array_equal(whole[1], middle)


def test_flac_gives_the_clips_of_wav(tmp_path: Path) -> None:
    samples = noise(2.6, 44_100, channels=2)
    wav, _ = read(write(tmp_path / "a.wav", samples, 44_100))
    flac, _ = read(write(tmp_path / "a.flac", samples, 44_100))
    np.testing.assert_array_equal(np.stack(flac), np.stack(wav))


def test_ogg_gives_nearly_the_clips_of_wav(tmp_path: Path) -> None:
    samples = noise(2, 44_100)
    samples = np.convolve(samples[:, 0], np.ones(20) / 20, "same").astype(np.int16)  # noise that a codec keeps
    wav = np.stack(read(write(tmp_path / "a.wav", samples, 44_100))[0])
    ogg = np.stack(read(write(tmp_path / "a.ogg", samples, 44_100))[0])
    assert ogg.shape == wav.shape
    assert np.corrcoef(ogg.ravel(), wav.ravel())[0, 1] > 0.98


def test_beyond_full_scale_is_clipped_and_noted_once(tmp_path: Path) -> None:
    samples = np.tile(np.array([0.5, 1.5, -1.5, -0.5]), RATE // 2)
    clips, notes = read(write(tmp_path / "a.wav", samples, subtype="FLOAT"))
    assert np.concatenate(clips).tolist() == [16384, 32767, -32768, -16384] * (RATE // 2)
    assert notes == ["clipped at full scale"]


def test_a_recording_is_read_a_second_at_a_time(tmp_path: Path) -> None:
    def peak(seconds: int) -> int:
        path = write(tmp_path / f"{seconds}.wav", np.zeros(seconds * 8_000, np.int16), 8_000)
        clips = Recording(path, RATE).clips()
        assert isinstance(clips, GeneratorType)
        tracemalloc.start()
        try:
            assert sum(1 for _ in clips) == seconds
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1)  # makes the resampler's kernels
    assert peak(100) < 1.5 * peak(2)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda path: path.with_suffix(".flac").touch(), id="missing"),
        pytest.param(Path.mkdir, id="folder"),
        pytest.param(Path.touch, id="empty"),
        pytest.param(lambda path: path.write_text("no sound\n" * 500), id="text"),
        pytest.param(lambda path: path.write_bytes(b"RIFF\xff\xff\xff\x7fWAVE"), id="header alone"),
        pytest.param(lambda path: write(path, noise(0)), id="no samples"),
        pytest.param(lambda path: write(path, noise(1), 500), id="rate too low"),
        pytest.param(lambda path: write(path, np.array([0.1, np.nan]), subtype="FLOAT"), id="NaN"),
        pytest.param(lambda path: write(path, np.array([-np.inf, 0]), subtype="FLOAT"), id="infinity"),
        pytest.param(lambda path: cut(write(path, noise(1), kind="FLAC"), 0.5), id="half a FLAC of one second"),
    ],
)
def test_a_file_that_gives_no_clip_is_refused_in_one_line_that_names_it(
    make: Callable[[Path], object], tmp_path: Path
) -> None:
    path = tmp_path / "a.wav"
    make(path)
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value).splitlines()) == 1


def test_a_colon_in_a_name_leaves_the_reason_readable(tmp_path: Path) -> None:
    path = tmp_path / "take 1: street.wav"
    path.write_text("no sound")
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(caught.value).count("street.wav") == 1


@pytest.mark.skipif(os.name != "posix", reason="names are text")
def test_a_name_may_be_any_bytes(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff\xe9.wav")
    write(tmp_path / "a.wav", noise(1)).rename(path)
    assert len(read(path)[0]) == 1


def test_a_truncated_wav_is_noted_and_cut_by_the_rule(tmp_path: Path) -> None:
    samples = noise(5.2)
    clips, notes = read(cut(write(tmp_path / "a.wav", samples), 0.5))
    np.testing.assert_array_equal(np.stack(clips[:2]).ravel(), samples[: 2 * RATE, 0])
    assert len(clips) == 3
    assert notes == ["truncated: 2.60 s are left", "the last 0.60 s padded to one second"]


def test_a_truncated_flac_keeps_its_first_seconds(tmp_path: Path) -> None:
    samples = noise(5)
    clips, notes = read(cut(write(tmp_path / "a.flac", samples), 0.5))
    np.testing.assert_array_equal(np.concatenate(clips), samples[: 2 * RATE, 0])
    assert len(notes) == 1
    assert notes[0].startswith("damaged: ")
    assert notes[0].endswith("the first 2 s are used")


@pytest.mark.parametrize("share", [0.5, 0.62, 0.66])
def test_a_truncated_mp3_is_noted_and_cut_by_the_rule(share: float, tmp_path: Path) -> None:
    path = cut(write(tmp_path / "a.mp3", noise(5.2, 44_100), 44_100), share)
    whole, rest = divmod(len(soundfile.read(path)[0]), 44_100)
    clips, notes = read(path)
    assert any(note.startswith(("damaged: ", "truncated: ")) for note in notes)
    assert len(clips) == whole + (rest >= 22_050)


def test_not_a_number_further_on_ends_the_recording(tmp_path: Path) -> None:
    samples = noise(3).astype(np.float32) / 32768
    samples[RATE + 5] = np.nan
    clips, notes = read(write(tmp_path / "a.wav", samples, subtype="FLOAT"))
    assert len(clips) == 1
    assert notes == ["damaged: holds NaN or infinite samples; the first 1 s are used"]


def with_total(path: Path, total: int) -> Path:
    """A FLAC whose header gives another number of samples."""
    content = bytearray(path.read_bytes())
    kept = int.from_bytes(content[18:26], "big") >> 36 << 36
    content[18:26] = (kept | total).to_bytes(8, "big")
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("total", [0, 2**36 - 1, 160_000])
def test_a_flac_lasts_as_long_as_its_sound_whatever_its_header_says(total: int, tmp_path: Path) -> None:
    path = with_total(write(tmp_path / "a.flac", noise(2.5), kind="FLAC"), total)
    clips, notes = read(path)
    np.testing.assert_array_equal(clips, read(write(tmp_path / "a.wav", noise(2.5)))[0])
    assert notes[0].startswith("damaged: " if total else "its header gives no length: 2.50 s are there")


def test_a_flac_that_promises_too_much_is_used_up_to_where_it_is_damaged(tmp_path: Path) -> None:
    path = with_total(write(tmp_path / "a.flac", noise(6), kind="FLAC"), 2**35)
    content = bytearray(path.read_bytes())
    content[len(content) * 3 // 4 :] = bytes(len(content) // 4)
    path.write_bytes(content)
    clips, notes = read(path)
    assert len(clips) == 4
    np.testing.assert_array_equal(clips, read(write(tmp_path / "a.wav", noise(6)))[0][:4])
    assert notes[0].startswith("damaged: its header promises 1073741.82 s; the first 4.")


@pytest.mark.parametrize("size", [0, 0x7FFFF000, 2**32 - 1])
def test_a_wav_that_was_written_to_a_pipe_is_read_to_its_end(size: int, tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", noise(2))
    expected, content = read(path)[0], bytearray(path.read_bytes())
    content[40:44] = size.to_bytes(4, "little")
    path.write_bytes(content)
    clips, notes = read(path)
    np.testing.assert_array_equal(clips, expected)
    assert notes == ["its header gives no length: 2.00 s are there"]


@pytest.mark.parametrize("chunk", [b"LIST\x04\0\0\0INFO", b"note\x03\0\0\0abc\0"])
def test_a_wav_without_its_size_is_read_behind_any_chunks(chunk: bytes, tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", noise(1))
    expected, content = read(path)[0], path.read_bytes()
    path.write_bytes(content[:36] + chunk + b"data" + bytes(4) + content[44:])
    clips, notes = read(path)
    np.testing.assert_array_equal(clips, expected)
    assert notes == ["its header gives no length: 1.00 s are there"]


@pytest.mark.parametrize(
    "chunks", [b"LIST\x04\0\0\0INFO", b"LIST\x03\0\0\0INF", b"note\x01\0\0\0a\0LIST\x04\0\0\0INFO"]
)
def test_a_wav_without_sound_but_with_other_chunks_is_empty(chunks: bytes, tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", noise(0))
    path.write_bytes(path.read_bytes() + chunks)  # the second's last byte, which pads it, is not there
    with pytest.raises(InputError, match="holds no samples"):
        read(path)


def test_a_wav_that_promises_less_than_encoders_do_to_a_pipe_is_truncated(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", noise(2))
    content = bytearray(path.read_bytes())
    content[40:44] = (0x7FFFEFFF).to_bytes(4, "little")
    path.write_bytes(content)
    assert read(path)[1] == ["truncated: 2.00 s are left"]


def test_sound_that_begins_like_a_chunk_but_ends_before_it_is_sound(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", noise(0))
    path.write_bytes(path.read_bytes() + b"LIST\x06\0\0\0INFO")
    assert read(path)[1] == ["its header gives no length: 0.00 s are there", "the last 0.00 s padded to one second"]


def test_a_silence_of_few_bytes_is_as_long_as_it_says(tmp_path: Path) -> None:
    path = write(tmp_path / "a.flac", np.zeros(12 * RATE, np.int16), kind="FLAC")
    assert 16 * path.stat().st_size < 12 * RATE
    clips, notes = read(path)
    assert (len(clips), notes) == (12, [])


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_an_ogg_that_was_cut_is_noted(subtype: str, tmp_path: Path) -> None:
    rate = 48_000
    path = write(tmp_path / "a.ogg", noise(6, rate), rate, subtype=subtype, kind="OGG")
    assert not any("truncated" in note for note in read(path)[1])
    os.truncate(path, path.stat().st_size - 1)  # of its last page
    assert any(note.startswith("truncated: ") for note in read(path)[1])
    _, notes = read(cut(path, 0.6))
    assert notes[0].startswith("truncated: ")


def test_an_ogg_whose_last_page_goes_on_in_another_is_truncated(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ogg", noise(2, 48_000), 48_000, subtype="VORBIS", kind="OGG")
    content = bytearray(path.read_bytes())
    content[content.rfind(b"OggS") + 5] = 1  # flags: begins with the rest of a packet, and is not the last
    path.write_bytes(content)
    assert any(note.startswith("truncated: ") for note in read(path)[1])


def test_what_follows_the_last_page_of_an_ogg_is_neither_a_cut_nor_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ogg", noise(2, 48_000), 48_000, subtype="VORBIS", kind="OGG")
    with path.open("ab") as handle:
        handle.write(b"TAG")
    assert not any("truncated" in note for note in read(path)[1])
    os.truncate(path, 2**26)
    tracemalloc.start()
    read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**23


def test_a_channel_that_is_inverted_does_not_silence_the_other(tmp_path: Path) -> None:
    left = noise(2)[:, 0]
    clips, notes = read(write(tmp_path / "a.wav", np.stack([left, -left], 1)))
    np.testing.assert_array_equal(np.concatenate(clips), left)
    assert notes == ["2 channels mixed down", "its channels cancel each other: the first is used where they do"]
    np.testing.assert_array_equal(mix_down(np.stack([left, -left], 1)) * 32768, left)


def test_silent_channels_do_not_cancel_each_other(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a.wav", np.zeros((RATE, 2), np.int16)))[1] == ["2 channels mixed down"]


def test_channels_that_differ_are_mixed_down_though_one_is_partly_inverted(tmp_path: Path) -> None:
    left, right = noise(1)[:, 0], np.random.default_rng(9).integers(-20_000, 20_000, RATE).astype(np.int16)
    mixed = np.stack([left, right - left // 2], 1)
    expected = np.rint(mixed.astype(float).mean(1) / 32768 * 32768)
    np.testing.assert_allclose(np.concatenate(read(write(tmp_path / "a.wav", mixed))[0]), expected, atol=1)


@pytest.mark.parametrize("frames", [86_400_000, 86_400_001])
def test_a_recording_of_more_than_a_day_is_refused_before_it_is_read(frames: int, tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", np.zeros(1000, np.int16), 1_000, subtype="PCM_U8")
    with path.open("r+b") as handle:  # sparse
        handle.seek(40)
        handle.write(frames.to_bytes(4, "little"))
        handle.truncate(44 + frames)
    if frames == 86_400_000:
        assert Recording(path, RATE).clip_count == 24 * 60 * 60
        return
    with pytest.raises(InputError, match=r"a\.wav: lasts longer than 24 hours: cut it into parts"):
        Recording(path, RATE)


@pytest.mark.parametrize(
    ("excess", "note"), [(0, "damaged: ends before its header says"), (1, "damaged: its header promises")]
)
def test_a_header_is_believed_up_to_16_samples_a_byte(excess: int, note: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.flac", noise(2), kind="FLAC")
    _, notes = read(with_total(path, 16 * path.stat().st_size + excess))
    assert notes[0].startswith(note)


def test_the_sound_that_is_counted_is_bounded_by_the_size_of_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet, silence = np.random.default_rng(0).integers(-1, 2, 4 * RATE).astype(np.int16), np.zeros(12 * RATE, np.int16)
    path, small = (write(tmp_path / f"{each.size}.flac", each, kind="FLAC") for each in (quiet, silence))
    assert path.stat().st_size + 16 < quiet.size < 16 * path.stat().st_size < 2**35
    assert 16 * small.stat().st_size < silence.size
    monkeypatch.setattr(audio_file, "MAX_COUNTED", 0)
    assert read(with_total(path, 2**35))[1][0].endswith("the first 4.00 s are used")
    with pytest.raises(InputError, match="lasts longer than"):
        read(small)


def test_hundreds_of_channels_need_no_more_memory_than_a_few(tmp_path: Path) -> None:
    def peak(channels: int) -> int:
        path = write(tmp_path / f"{channels}.wav", np.ones((RATE, channels), np.int16))
        tracemalloc.start()
        try:
            read(path)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(512) < 2 * peak(32)


def test_a_second_with_not_a_number_is_not_used_in_part_whatever_its_channels(tmp_path: Path) -> None:
    samples = noise(1, channels=64).astype(np.float32) / 32768
    samples[20_000, 5] = np.nan  # beyond the samples that are decoded at once
    with pytest.raises(InputError, match="damaged: holds NaN"):
        read(write(tmp_path / "a.wav", samples, subtype="FLOAT"))


def test_a_second_that_ends_where_a_block_does_is_used_as_far_as_it_goes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", noise(1, channels=64))
    block = 2 * 64 * (2**20 // 64)  # bytes of what is decoded at once
    path.write_bytes(path.read_bytes()[: 44 + block])
    (clip,), _ = read(path)
    assert clip[: 2**14].any()
    assert not clip[2**14 :].any()


def test_a_second_that_is_shorter_than_its_header_says_keeps_the_blocks_before_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = with_total(write(tmp_path / "a.flac", noise(1.5), kind="FLAC"), 3 * RATE)
    expected = read(path)[0]
    assert len(expected) == 2
    monkeypatch.setattr(audio, "BLOCK", RATE // 2)  # so that the sound ends where a block does
    np.testing.assert_array_equal(read(path)[0], expected)


@pytest.mark.parametrize("gain", [2.0**-12, 1.0, 2.0**12])
def test_the_first_second_is_the_same_at_any_gain(gain: float, tmp_path: Path) -> None:
    samples = noise(1)[:, 0] / np.float32(32768)
    path = write(tmp_path / "a.wav", gain * samples, subtype="DOUBLE")
    np.testing.assert_array_equal(Recording(path, RATE).first_second(), samples / np.abs(samples).max())


def test_samples_without_channels_are_mono() -> None:
    samples = noise(0.1)[:, 0]
    np.testing.assert_array_equal(mix_down(samples), samples / np.float32(32768))


@pytest.mark.parametrize(
    ("shape", "kind"),
    [((4,), kind) for kind in ("i1", "u1", "?", "u2", "i4", "i8", "c8", "U1")] + [((), "i2"), ((1, 1, 4), "f4")],
)
def test_samples_of_another_type_or_shape_are_refused(shape: tuple[int, ...], kind: str) -> None:
    with pytest.raises(InputError, match="needed are int16 or float"):
        mix_down(np.zeros(shape, kind))


@pytest.mark.parametrize("worst", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers_are_refused(worst: float) -> None:
    with pytest.raises(InputError, match="NaN or infinite"):
        mix_down(np.array([0, worst]))


def test_samples_without_a_channel_are_refused_and_no_samples_are_none() -> None:
    with pytest.raises(InputError, match="no channel"):
        mix_down(np.zeros((4, 0)))
    assert mix_down(np.zeros((0, 2))).shape == (0,)


@pytest.mark.parametrize(("ratio", "cancels"), [(15, False), (16, False), (17, True)])
def test_channels_cancel_each_other_if_they_are_more_than_16_times_louder_than_their_mean(
    ratio: int, cancels: bool
) -> None:
    left = np.array([ratio, -ratio], np.float32) / 64
    mono = mix_down(np.stack([left, 2 * np.sign(left) / 64 - left], 1))  # whose mean is 1/64 or -1/64
    np.testing.assert_array_equal(mono, left if cancels else np.sign(left) / 64)
