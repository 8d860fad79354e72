"""Series are standardised by the training set, gaps are found or filled, files of wrong form are named."""

import numpy as np
import pytest

from tost.data.series import fill_forward, statistics
from tost.data.sources import SequenceOptions, load_sequences

PARTS = ("train", "validation", "test")


def rows(count=40, longest=12, channels=2, seed=0):
    """Series of 3 to `longest` steps, their labels and lengths."""
    generator = np.random.default_rng(seed)
    values = [generator.normal(3, 5, (generator.integers(3, longest + 1), channels)) for _ in range(count)]
    return [value.astype(np.float32) for value in values], [("no", "yes")[i % 2] for i in range(count)]


def npz(path, values, labels, flat=True):
    lengths = np.array([len(value) for value in values])
    if flat:
        x = np.concatenate(values)
    else:
        x = np.zeros((len(values), lengths.max(), values[0].shape[1]), dtype=np.float32)
        for row, value in zip(x, values):
            row[: len(value)] = value
    np.savez(path, x=x, y=np.array(labels), lengths=lengths)
    return path


def load(path, source="series", **changes):
    path = None if path is None else str(path)
    return load_sequences(SequenceOptions(**{"source": source, "path": path, "validation": 0.2, **changes}))


def items(part):
    return [part[i] for i in range(len(part))]


@pytest.mark.parametrize("flat", [True, False])
def test_arrays_come_back_standardised(tmp_path, flat):
    values, labels = rows()
    sets = load(npz(tmp_path / "a.npz", values, labels, flat))
    assert sets.in_features == 2 and sets.classes == ["no", "yes"] and sets.max_length == max(map(len, values))
    assert [len(getattr(sets, part)) for part in PARTS] == [24, 8, 8]
    mean, std = (np.array(sets.facts[name]) for name in ("mean", "std"))
    seen = []
    for part in PARTS:
        for item in items(getattr(sets, part)):
            assert item["x"].dtype == np.float32
            back = item["x"] * std + mean
            [index] = [i for i, v in enumerate(values) if len(v) == len(back) and np.allclose(v, back, atol=1e-4)]
            assert labels[index] == sets.classes[item["label"]]
            seen.append(index)
    assert sorted(seen) == list(range(40)), "every series is in one part"
    train = np.concatenate([item["x"] for item in items(sets.train)])
    assert np.abs(train.mean(0)).max() < 1e-5 and np.abs(train.std(0) - 1).max() < 1e-5
    assert load(tmp_path / "a.npz").facts == sets.facts


def test_one_channel_without_lengths_and_labels_that_are_numbers(tmp_path):
    x = np.random.default_rng(0).normal(size=(30, 7))
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(30) % 3 * 5.0)
    sets = load(tmp_path / "a.npz", max_length=5, samples=6, evaluated=3)
    assert sets.classes == ["0", "5", "10"] and sets.in_features == 1 and sets.max_length == 5
    assert [len(getattr(sets, part)) for part in PARTS] == [6, 3, 3] and len(sets.train[0]["x"]) == 5


def test_a_folder_keeps_its_split_and_the_training_set_gives_the_statistics(tmp_path):
    values, labels = rows(20)
    npz(tmp_path / "train.npz", values, labels)
    other, told = rows(8, seed=1)
    npz(tmp_path / "test.npz", [value + 100 for value in other], told)
    sets = load(tmp_path)
    assert [len(getattr(sets, part)) for part in PARTS] == [16, 4, 8]
    mean, std = np.array(sets.facts["mean"]), np.array(sets.facts["std"])
    assert np.abs(mean - 3).max() < 3 and np.allclose(sets.test[0]["x"], (other[0] + 100 - mean) / std, atol=1e-4)
    npz(tmp_path / "mine_VALIDATION.npz", other, told)
    assert [len(getattr(load(tmp_path), part)) for part in PARTS] == [20, 8, 8]


def test_statistics_leave_gaps_out():
    values = np.array([[1, np.nan, 7], [3, np.nan, 7], [np.nan, np.nan, 7]])
    mean, std = statistics(values)
    assert mean.tolist() == [2, 0, 7] and std.tolist() == [1, 1, 1]


def test_filling_forward_is_the_definition():
    generator = np.random.default_rng(0)
    values = np.where(generator.random((50, 4)) < 0.5, np.nan, generator.normal(size=(50, 4)))
    expected, last = values.copy(), np.zeros(4)
    for row in expected:
        for channel in range(4):
            last[channel] = last[channel] if np.isnan(row[channel]) else row[channel]
            row[channel] = last[channel]
    assert np.array_equal(fill_forward(values), expected)


def with_gaps(folder):
    values, labels = rows()
    values[3][1, 1] = np.nan
    values[3][2] = np.nan
    values[4][0, 0] = np.nan
    return npz(folder / "gaps.npz", values, labels)


def test_gaps_are_refused_with_their_place(tmp_path):
    with pytest.raises(ValueError, match=r"gaps\.npz: a missing value in series 3, step 1, channel 1 \(from 0\)"):
        load(with_gaps(tmp_path))


def test_filled_gaps_are_marked(tmp_path):
    sets = load(with_gaps(tmp_path), gaps="fill")
    assert sets.in_features == 3 and sets.facts["gaps"] == 4
    marks = [item["x"][:, 2] for part in PARTS for item in items(getattr(sets, part))]
    assert sum(mark.sum() for mark in marks) == 3 and all(set(mark.tolist()) <= {0.0, 1.0} for mark in marks)
    for part in PARTS:
        for item in items(getattr(sets, part)):
            x, mark = item["x"][:, :2], item["x"][:, 2]
            assert np.isfinite(x).all()
            if mark.sum() == 2:
                assert mark[1] == mark[2] == 1 and x[1, 1] == x[0, 1] and np.array_equal(x[2], x[1])
            elif mark.sum() == 1:
                assert mark[0] == 1 and x[0, 0] == 0, "before the first value stands the mean"


def plain(**arrays):
    return lambda path: np.savez(path, **arrays)


ONES = np.ones((6, 4, 2), dtype=np.float32)
LABELS = np.array(list("ababab"))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_bytes(b""), "not a .npz file of plain arrays"),
        (lambda path: path.write_bytes(b"PK\3\4 nothing"), "not a .npz file of plain arrays"),
        (plain(x=ONES), r"expected arrays x \(numbers\) and y \[n\].*got \{'x': \(6, 4, 2\)\}"),
        (plain(x=ONES.astype(str), y=LABELS), "expected arrays x"),
        (plain(x=ONES, y=LABELS.astype(object)), r"not a \.npz file of plain arrays \(Object arrays cannot"),
        (plain(x=ONES, y=LABELS[:5]), r"x \(6, 4, 2\), 5 labels, 5 lengths: expected x \[n, longest\]"),
        (plain(x=ONES, y=LABELS, lengths=np.full(6, 5)), "6 lengths: expected x"),
        (plain(x=ONES, y=LABELS, lengths=np.full(6, -1)), "expected a length, a whole number from 0 on"),
        (plain(x=ONES, y=LABELS, lengths=np.full(6, 2.0)), "expected a length, a whole number from 0 on"),
        (plain(x=ONES, y=LABELS, lengths=np.array([4, 4, 0, 4, 4, 4])), "series 2 has no step"),
        (plain(x=ONES[:0], y=LABELS[:0]), "no series in it"),
        (plain(x=np.where(ONES > 0, np.inf, 0), y=LABELS), "series 0 holds an infinite number"),
        (plain(x=ONES, y=np.array(["a"] * 6)), r"labels of at least two classes, got \['a'\]"),
        (plain(x=ONES, y=LABELS), "class 0 has 1 different sequences, too few to split"),
    ],
)
def test_broken_arrays_are_named(tmp_path, write, message):
    write(tmp_path / "broken.npz")
    with pytest.raises(ValueError, match=message) as told:
        load(tmp_path / "broken.npz")
    assert "\n" not in str(told.value)


def test_a_bomb_of_zeros_is_refused(tmp_path, monkeypatch):
    from tost.data import series_files

    monkeypatch.setattr(series_files, "LARGEST", 10_000)
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((100, 100)), y=np.arange(100) % 2)
    with pytest.raises(ValueError, match="bytes of arrays, more than 10,000"):
        load(tmp_path / "a.npz")


def test_folders_and_names_that_hold_none_are_refused(tmp_path):
    (tmp_path / "x.csv").write_text("1,2\n")
    with pytest.raises(ValueError, match=r"expected NAME_TRAIN\.ts and NAME_TEST\.ts, .* found \['x\.csv'\]"):
        load(tmp_path)
    with pytest.raises(ValueError, match=r"expected a \.ts or \.npz file, or a folder"):
        load(tmp_path / "x.csv")
    with pytest.raises(ValueError, match=r"reads a \.ts or \.npz file, or a folder of them: set --data\.path"):
        load(None)
    with pytest.raises(ValueError, match=r"sktime ships series of --data\.name BasicMotions, .* got 'Lynx'"):
        load(None, "sktime", name="Lynx")


# sktime's format and its own sets


def ts(path, lines, channels=2):
    head = [
        "@problemName mine",
        "@timestamps false",
        "@missing true",
        f"@univariate {str(channels == 1).lower()}",
        *([f"@dimensions {channels}"] if channels > 1 else []),
        "@equalLength false",
        "@classLabel true no yes",
        "@data",
    ]
    path.write_text("\n".join([*head, *lines]) + "\n")
    return path


def line(value, label):
    return ":".join(",".join("?" if np.isnan(v) else f"{v:.6f}" for v in channel) for channel in value.T) + f":{label}"


@pytest.mark.parametrize("channels", [1, 2])
def test_ts_files_are_what_the_arrays_are(tmp_path, channels):
    pytest.importorskip("sktime")
    values, labels = rows(30, channels=channels)
    values[5][1, 0] = np.nan
    values = [np.round(value, 6) for value in values]
    ts(tmp_path / "mine.ts", [line(v, c) for v, c in zip(values, labels)], channels)
    sets = load(tmp_path / "mine.ts", gaps="fill")
    assert sets.in_features == channels + 1 and sets.facts["gaps"] == 1 and sets.classes == ["no", "yes"]
    mean, std = np.array(sets.facts["mean"]), np.array(sets.facts["std"])
    found = 0
    for part in PARTS:
        for item in items(getattr(sets, part)):
            back, mark = item["x"][:, :-1] * std + mean, item["x"][:, -1:]
            same = [len(v) == len(back) and np.allclose(v, back, atol=1e-3) for v in values]
            found += any(same) or bool(mark.any())
            assert not any(same) or labels[same.index(True)] == sets.classes[item["label"]]
    assert found == 30


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "not a .ts file with class labels|no series in it"),
        (["1,2,3:4,5:no", "1,2:3,4:yes"], r"the channels of series 0 have \[3, 2\] steps"),
        (["1,2:3,x:no"], "not a .ts file with class labels"),
        (["1,2:3,4:perhaps"], r"expected labels of at least two classes, got \['perhaps'\]"),
        (["1,2:3,4:no", "1,2:3,4:5,6:yes"], "not a .ts file with class labels"),
    ],
)
def test_broken_ts_files_are_named(tmp_path, lines, message):
    pytest.importorskip("sktime")
    with pytest.raises(ValueError, match=message) as told:
        load(ts(tmp_path / "broken.ts", lines))
    assert "broken.ts" in str(told.value) and "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("name", "channels", "longest", "counts"),
    [
        ("ACSF1", 1, 1460, [80, 20, 100]),
        ("BasicMotions", 6, 100, [32, 8, 40]),
        ("JapaneseVowels", 12, 29, [216, 54, 370]),
    ],
)
def test_sets_that_sktime_ships(name, channels, longest, counts):
    pytest.importorskip("sktime")
    sets = load(None, "sktime", name=name)
    assert sets.in_features == channels and sets.max_length == longest
    assert [len(getattr(sets, part)) for part in PARTS] == counts
    train = np.concatenate([item["x"] for item in items(sets.train)])
    assert np.abs(train.mean(0)).max() < 1e-4 and np.abs(train.std(0) - 1).max() < 1e-4
    lengths = {len(item["x"]) for item in items(sets.train)}
    assert (len(lengths) > 1) == (name == "JapaneseVowels")
