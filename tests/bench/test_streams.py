"""What arrives when, and that the pixels of a stream are the same ones each time."""

import itertools

import numpy as np
import pytest

from tta_agent.bench import subjects
from tta_agent.bench.arrivals import PROTOCOLS, REPEATS, TAIL, UNKNOWN, Deal
from tta_agent.bench.streams import Stream, StreamSpec
from tta_agent.core.errors import ConfigError

NAMES = ("fog", "contrast", "snow")
LABELS = np.arange(400) % 4


def tiny_file(folder, n=48, classes=4):
    """Images for the tiny nets of `tta_agent.testing`."""
    random = np.random.default_rng(0)
    path = folder / "tiny.npz"
    np.savez(
        path,
        inputs=random.integers(0, 256, (n, 1, 8, 8), dtype=np.uint8),
        labels=random.integers(0, classes, n),
    )
    return path


def deal(protocol, order=0, batch=10):
    return PROTOCOLS[protocol].deal(Deal(NAMES, LABELS, batch, order))


def runs(labels):
    """Mean length of stretches of one class."""
    return len(labels) / (1 + np.sum(labels[1:] != labels[:-1]))


@pytest.mark.parametrize("protocol", ["reset", "continual", "correlated", "mixed", "unknown", "clean"])
def test_every_image_comes_once_in_every_domain(protocol):
    arrived = np.concatenate(deal(protocol))
    assert sorted(map(tuple, arrived)) == sorted(itertools.product(range(len(NAMES)), range(len(LABELS))))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_order_is_itself_again_and_no_other(protocol):
    first, again, other = (np.concatenate(deal(protocol, order)) for order in (1, 1, 2))
    assert np.array_equal(first, again)
    assert first.shape != other.shape or not np.array_equal(first, other)


def test_order_0_keeps_the_sequence_of_the_corruptions_and_others_do_not():
    sequences = [[int(part[0, 0]) for part in deal("continual", order)] for order in range(6)]
    assert sequences[0] == [0, 1, 2]
    assert len(set(map(tuple, sequences))) > 1


def test_correlated_streams_come_in_runs_of_a_class():
    shuffled, correlated = (LABELS[np.concatenate(deal(p))[:, 1]] for p in ("continual", "correlated"))
    assert runs(shuffled) < 2 < 5 * runs(shuffled) < runs(correlated)


def test_mixed_streams_are_one_segment_of_all_domains():
    (segment,) = deal("mixed")
    assert runs(segment[:, 0]) < 2


def test_long_streams_repeat_the_corruptions_on_other_images():
    parts = deal("long")
    assert [int(p[0, 0]) for p in parts] == [0, 1, 2] * REPEATS
    assert {len(p) for p in parts} == {20}
    assert len(np.unique(np.concatenate(parts[::3])[:, 1])) == len(LABELS)


def test_label_shift_makes_the_commonest_class_ten_times_the_rarest():
    for part in deal("label_shift"):
        counts = np.bincount(LABELS[part[:, 1]])
        assert counts.max() == pytest.approx(TAIL * counts.min())


def test_a_third_of_an_unknown_stream_has_no_class(tmp_path):
    spec = StreamSpec(tiny_file(tmp_path), "unknown", ("contrast",), images=40, batch=40)
    (batch,) = Stream(spec, tmp_path / "cache").batches()
    assert np.sum(batch.labels == UNKNOWN) == 12
    assert set(batch.labels[batch.labels != UNKNOWN]) <= set(range(4))
    assert batch.x.shape == (40, 1, 8, 8)  # Fashion-MNIST, made to fit


def test_batches_do_not_straddle_segments(tmp_path):
    spec = StreamSpec(tiny_file(tmp_path), "continual", ("contrast", "brightness"), images=25, batch=10)
    stream = Stream(spec, tmp_path / "cache")
    batches = list(stream.batches())
    assert [len(b.labels) for b in batches] == [10, 10, 5, 10, 10, 5]
    assert all(len(set(b.domains)) == 1 for b in batches)
    assert len(stream) == 50


def test_pixels_are_kept_and_do_not_depend_on_the_order(tmp_path):
    spec = StreamSpec(tiny_file(tmp_path), "reset", ("gaussian_noise",), images=48, batch=48)
    first = Stream(spec, tmp_path / "cache").pixels(0)
    (kept,) = (tmp_path / "cache").iterdir()
    stamp = kept.stat().st_mtime_ns
    other = StreamSpec(spec.data, "reset", ("gaussian_noise",), images=48, batch=16, order=3)
    assert np.array_equal(first, Stream(other, tmp_path / "cache").pixels(0))
    assert kept.stat().st_mtime_ns == stamp
    raw = np.load(spec.data)["inputs"]
    assert first.dtype == np.uint8 and not np.array_equal(first, raw)


def test_clean_streams_are_the_file_itself_as_the_model_takes_it(tmp_path):
    spec = StreamSpec(tiny_file(tmp_path), "clean", NAMES, images=48, batch=48, mean=(0.5,), std=(0.25,))
    (batch,) = Stream(spec, tmp_path / "cache").batches()
    raw = np.load(spec.data)["inputs"][batch.images].astype(np.float32)
    assert np.allclose(batch.x, (raw / 255 - 0.5) / 0.25, atol=1e-6)
    assert batch.x.dtype == np.float32


def test_more_images_than_there_are_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"--images 49: .* holds 48"):
        Stream(StreamSpec(tiny_file(tmp_path), "clean", NAMES, images=49), tmp_path)


def test_data_and_models_by_short_names(tmp_path, monkeypatch):
    assert subjects.data_path("fashion").is_file()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subjects, "CHECKOUT", tmp_path / "a" / "b")
    with pytest.raises(ConfigError, match="--data fashion"):
        subjects.data_path(None)
    with pytest.raises(ConfigError, match="did you mean resnet20"):
        subjects.model_flags("resnet2", None, None, (3, 32, 32))
    with pytest.raises(ConfigError, match=r"no net of ours takes images \[1, 8, 8\]"):
        subjects.model_flags(None, None, None, (1, 8, 8))
    flags = subjects.model_flags(None, None, None, (1, 28, 28))
    assert flags["factory"] == "tta_agent.samples.nets:fashion_net" and flags["weights"].is_file()


def shifted_file(folder, counts):
    """Images that are shifted already, in the domains of these names, one after the other in no order."""
    random = np.random.default_rng(1)
    domain = random.permutation([name for name, n in counts.items() for _ in range(n)])
    inputs = random.integers(0, 256, (len(domain), 1, 8, 8), dtype=np.uint8)
    np.savez(folder / "shifted.npz", inputs=inputs, labels=np.arange(len(domain)) % 4, domain=domain)
    return folder / "shifted.npz", inputs, domain


@pytest.mark.parametrize("protocol", [name for name in PROTOCOLS if name not in ("unknown", "clean", "long")])
def test_images_of_domains_that_the_file_names_come_as_they_are_each_in_its_own(tmp_path, protocol):
    path, inputs, domain = shifted_file(tmp_path, {"art": 60, "sketch": 30})
    spec = StreamSpec(path, protocol, ("art", "sketch"), images=60, batch=10, given=True)
    stream = Stream(spec, tmp_path / "cache")
    arrived = list(stream.batches())
    for batch in arrived:
        for x, number in zip(batch.x, batch.domains, strict=True):
            [row] = np.flatnonzero((inputs == (x * 255).round().astype(np.uint8)).all((1, 2, 3)))
            assert domain[row] == spec.domains[number]
    if protocol in ("reset", "continual", "correlated", "mixed"):
        assert len(np.unique(np.concatenate([batch.images for batch in arrived]))) == 90
    assert not list(tmp_path.glob("cache/*"))  # nothing was corrupted


def test_so_many_images_are_taken_of_each_domain_and_unknown_classes_need_a_corruption(tmp_path):
    path, *_ = shifted_file(tmp_path, {"art": 60, "sketch": 30})
    few = Stream(StreamSpec(path, "continual", ("art", "sketch"), images=40, given=True), tmp_path)
    assert [len(segment) for segment in few.segments] == [40, 30]
    with pytest.raises(ConfigError, match=r"unknown.*corruptions"):
        Stream(StreamSpec(path, "unknown", ("art",), images=40, given=True), tmp_path)
