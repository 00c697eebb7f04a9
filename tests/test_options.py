from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from binpoint.errors import BadOption, InputNotFound
from binpoint.options import CompileOptions, Detections, read_options
from binpoint.target import load_target

options = st.builds(
    CompileOptions,
    name=st.none() | st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,20}", fullmatch=True),
    optimize=st.sampled_from(["speed", "size"]),
    patches=st.sampled_from(["uniform", "mixed"]),
    patch_classes=st.sampled_from(["static", "dynamic"]),
    observer=st.sampled_from(["minmax", "percentile", "mse", "entropy"]),
    percentile=st.floats(min_value=0.1, max_value=100),
    scales=st.sampled_from(["free", "power-of-two"]),
    binary_points=st.sampled_from(["range", "mse", "joint"]),
    equalize=st.booleans(),
    activation_bits=st.integers(2, 8),
    residuals=st.sampled_from(["auto", "narrow", "wide"]),
    weight_bits=st.integers(2, 8),
    weight_terms=st.none() | st.integers(1, 4),
    multipliers=st.sampled_from(["auto", "none"]),
    layer_bits=st.dictionaries(
        st.from_regex("[a-z/]{1,5}", fullmatch=True), st.integers(2, 8), max_size=2
    ),
    detections=st.none()
    | st.builds(
        Detections,
        grid=st.tuples(st.integers(1, 9), st.integers(1, 9)),
        image=st.tuples(st.integers(1, 99), st.integers(1, 99)),
        classes=st.integers(1, 3),
        boxes=st.just(1),
        output=st.none() | st.just("y"),
        anchors=st.just(()) | st.tuples(st.tuples(st.floats(0.5, 9), st.floats(0.5, 9))),
    ),
    seed=st.integers(0, 2**32 - 1),
)


@given(options)
def test_options_read_back_from_their_own_text(given_options: CompileOptions) -> None:
    words = given_options.to_toml().splitlines()
    assert read_options(assignments=words) == given_options


def test_a_file_gives_options_and_a_word_overrides_it(tmp_path: Path) -> None:
    path = tmp_path / "binpoint.toml"
    path.write_text('optimize = "size"\npercentile = 99\nfpu = true\n')
    got = read_options(path, ["optimize=speed", "observer=mse"])
    assert got == CompileOptions(observer="mse", percentile=99.0, fpu=True)


def test_no_words_and_no_file_give_the_defaults() -> None:
    assert read_options() == CompileOptions()


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("optimise=size", "`optimize`"),
        ("weight_terms=0", "int"),
        ("multipliers=some", "some"),
        ("zzz=1", "the keys are"),
        ("optimize=fast", "fast"),
        ("percentile=0", "float"),
        ("percentile=101", "float"),
        ("percentile=high", "want float"),
        ("percentile=nan", "float"),
        ("fpu=1", "bool"),
        ("fpu=yes", "bool"),
        ("seed=-1", "int"),
        ("seed=1.5", "int"),
        ("name=9lives", "A-Za-z"),
        ("name=a b", "A-Za-z"),
        ('name="x*/"', "A-Za-z"),
        ("name=5", "str"),
        ("optimize", "KEY=VALUE"),
        ("=3", "unknown key ``"),
    ],
)
def test_a_wrong_word_is_refused(word: str, says: str) -> None:
    with pytest.raises(BadOption) as caught:
        read_options(assignments=[word])
    assert says in str(caught.value)
    assert word in str(caught.value.at)


def test_an_option_set_twice_is_refused() -> None:
    with pytest.raises(BadOption, match="twice"):
        read_options(assignments=["seed=1", "seed=2"])


def test_a_wrong_key_in_a_file_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text("planer = 'greedy'\n")
    with pytest.raises(BadOption) as caught:
        read_options(path)
    assert "own.toml" in str(caught.value.at)
    assert "`planner`" in str(caught.value.hint)


def test_a_file_with_a_syntax_error_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text("a = = 1\n")
    with pytest.raises(BadOption, match="no valid TOML"):
        read_options(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputNotFound):
        read_options(tmp_path / "none.toml")


def test_classes_of_patches_are_of_patches_of_mixed_precision_on_a_microcontroller() -> None:
    given_options = read_options(assignments=["patch_classes=dynamic", "patches=mixed"])
    given_options.check_for(load_target("cortex-m4"))
    alone = read_options(assignments=["patch_classes=dynamic"])
    with pytest.raises(BadOption, match="differ in precision") as raised:
        alone.check_for(load_target("cortex-m4"))
    assert raised.value.hint == "add patches=mixed"
    with pytest.raises(BadOption, match="means nothing for `zynq-7020`"):
        given_options.check_for(load_target("zynq-7020"))
