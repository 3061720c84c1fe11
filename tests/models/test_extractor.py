"""Extractors give what the network computes, pooled as asked, and say what they cannot do."""

import logging

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from PIL import Image

from models import (
    DeviceError,
    Extractor,
    ImageError,
    Level,
    OnnxError,
    Preprocessing,
    PreprocessingError,
    Tap,
    TapError,
    decode,
    image_preprocessing,
)
from models.bundled import bundled
from models.extractor import BATCH_ROWS
from tests.models import graphs

SMALL = Preprocessing(8, 8)


def images(count, size=8):
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)) for _ in range(count)]


def extractor(model, preprocessing=SMALL, **options):
    return Extractor(model.SerializeToString(), preprocessing=preprocessing, device="cpu", threads=1, **options)


def full_map(model, tensor, batch):
    """The tensor itself, by a session of its own in which it is an output."""
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    del exposed.graph.output[:]
    exposed.graph.output.append(helper.make_empty_tensor_value_info(tensor))
    session = ort.InferenceSession(exposed.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run([tensor], {session.get_inputs()[0].name: batch})[0]


POOLS = {
    "mean": lambda maps: maps.mean(axis=(2, 3)),
    "max": lambda maps: maps.max(axis=(2, 3)),
    "none": lambda maps: maps.reshape(len(maps), -1),
}


@pytest.mark.parametrize("pool", POOLS)
def test_a_tap_is_the_pooled_map(pool):
    """Pooling inside the graph equals pooling the full map in numpy."""
    model, photos = graphs.convolution(), images(5)
    found = extractor(model, taps=[Tap("map", pool)])
    maps = full_map(model, "map", found.preprocessed(photos))
    assert maps.shape == (5, 4, 6, 6)
    np.testing.assert_allclose(found.images(photos), POOLS[pool](maps), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("pool", POOLS)
def test_a_tap_of_the_bundled_network_is_the_pooled_map(pool):
    """The same for an inner tensor of the bundled network, of 160 channels on 7 by 7 positions."""
    onnx_file, preprocessing, _ = bundled("mobilenet_v2")
    name = "MobilenetV2/expanded_conv_15/add_prequant"
    found = Extractor(onnx_file, preprocessing=preprocessing, taps=[Tap(name, pool)], device="cpu", threads=1)
    photos = images(2, 224)
    maps = full_map(onnx.load_from_string(onnx_file), name, found.preprocessed(photos))
    assert maps.shape == (2, 160, 7, 7)
    np.testing.assert_allclose(found.images(photos), POOLS[pool](maps), rtol=1e-5, atol=1e-5)
    assert found.levels == (Level(name, 160 * (49 if pool == "none" else 1)),)


def test_levels_stand_side_by_side_in_the_order_of_the_taps():
    """Several taps give their columns in the order they were named, and ``levels`` says how many each."""
    taps = [Tap("pooled"), Tap("map", "max"), Tap("map", "none")]
    found = extractor(graphs.convolution(), taps=taps)
    assert [(level.name, level.width) for level in found.levels] == [("pooled", 4), ("map", 4), ("map", 144)]
    assert found.width == 152
    alone = [extractor(graphs.convolution(), taps=[tap]).images(images(3)) for tap in taps]
    np.testing.assert_array_equal(found.images(images(3)), np.hstack(alone))


def test_rows_are_taken_as_they_are():
    """A network of rows gives its output for each row; double and single precision networks alike."""
    rows = np.random.default_rng(1).normal(size=(40, 3))
    for kind in (TensorProto.FLOAT, TensorProto.DOUBLE):
        features = extractor(graphs.linear(element_type=kind), None).rows(rows)
        assert features.dtype == np.float32
        np.testing.assert_allclose(features, np.repeat(rows.sum(axis=1, keepdims=True), 2, axis=1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("count", [1, 3, 4, 5, BATCH_ROWS, BATCH_ROWS + 1, 3 * BATCH_ROWS + 2])
@pytest.mark.parametrize("batch", [4, 5, 32, "N"])
def test_a_fixed_batch_size_makes_no_difference(batch, count):
    """A network that was exported for one batch size gives the features of any number of rows and images."""
    rows = np.random.default_rng(2).normal(size=(count, 3))
    np.testing.assert_array_equal(extractor(graphs.linear(batch), None).rows(rows), extractor(graphs.linear(), None).rows(rows))
    expected = extractor(graphs.convolution()).images(images(count))
    np.testing.assert_allclose(extractor(graphs.convolution(batch)).images(images(count)), expected, rtol=1e-5, atol=1e-4)


def test_a_batch_is_its_rows():
    """Images extracted together have the features that each has alone."""
    photos = images(BATCH_ROWS + 3)
    found = extractor(graphs.convolution())
    np.testing.assert_allclose(found.images(photos), np.vstack([found.images([photo]) for photo in photos]), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_channels_last_networks_get_channels_last(kind):
    """An NHWC network sees the pixels where they belong, as bytes or as floats."""
    element_type = {"uint8": TensorProto.UINT8, "float32": TensorProto.FLOAT}[kind]
    found = extractor(graphs.channels_last(element_type), Preprocessing(8, 8, layout="NHWC", dtype=kind))
    photo = images(1)[0]
    np.testing.assert_array_equal(found.images([photo])[0], np.asarray(photo).transpose(2, 0, 1).ravel())


@pytest.mark.parametrize(
    ("model", "value_range", "expected"),
    [
        (graphs.channels_last(), None, Preprocessing(8, 8, layout="NHWC", dtype="uint8")),
        (graphs.convolution(), "unit", Preprocessing(8, 8, std=(255.0, 255.0, 255.0))),
        (graphs.convolution(channels=1), "symmetric", Preprocessing(8, 8, colour="grey", mean=(127.5,), std=(127.5,))),
        (graphs.linear(), None, None),
    ],
    ids=["bytes", "floats", "grey", "rows"],
)
def test_preprocessing_is_read_from_the_network(model, value_range, expected):
    """Size, layout, channels and type follow from the network's input; the range of floats is given."""
    found = image_preprocessing(model.SerializeToString(), value_range)
    assert found == expected
    if found:
        extractor(model, found)


@pytest.mark.parametrize(
    ("model", "message"), [(graphs.convolution(), "say which range"), (graphs.convolution(size="S"), "height and width")]
)
def test_preprocessing_is_not_guessed(model, message):
    """Where the file does not say it, the range of floats and the size must be given."""
    with pytest.raises(PreprocessingError, match=message):
        image_preprocessing(model.SerializeToString(), None)


def test_the_digest_is_the_identity():
    """Same file, preprocessing and taps: same digest. Any other preprocessing, tap, pool, order or file: another."""
    model = graphs.convolution()
    variants = [
        extractor(model),
        extractor(model, Preprocessing(8, 8, std=(2.0, 1.0, 1.0))),
        extractor(model, Preprocessing(8, 8, resize="crop")),
        extractor(model, Preprocessing(8, 8, colour="bgr")),
        extractor(model, taps=[Tap("map")]),
        extractor(model, taps=[Tap("map", "max")]),
        extractor(model, taps=[Tap("map"), Tap("pooled")]),
        extractor(model, taps=[Tap("pooled"), Tap("map")]),
        extractor(graphs.convolution(batch=4)),
    ]
    assert len({found.digest for found in variants}) == len(variants)
    assert extractor(model).digest == extractor(model, taps=[Tap("pooled")]).digest == variants[0].digest


def test_an_extractor_is_rebuilt_from_its_file_and_spec():
    """File and spec, through JSON's plain data, give an extractor of the same digest and features."""
    first = extractor(graphs.convolution(), taps=[Tap("map", "max")])
    spec = first.spec()
    again = Extractor(
        first.onnx_file,
        preprocessing=Preprocessing.from_json(spec["preprocessing"]),
        taps=[Tap(**tap) for tap in spec["taps"]],
        device="cpu",
    )
    assert again.digest == first.digest
    np.testing.assert_array_equal(again.images(images(3)), first.images(images(3)))


@pytest.fixture
def cpu_only(monkeypatch):
    """onnxruntime as it is on a machine without CUDA."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])


def test_a_missing_gpu_is_reported(cpu_only, caplog):
    """CUDA asked for where there is none: the CPU serves, ``fell_back`` says so, and a warning is logged.

    No GPU can be had where these tests run, so that is the case they can show; that a session on
    CUDA reports itself as such they cannot. A machine that has one plays one that has not.
    """
    with caplog.at_level(logging.WARNING):
        found = Extractor(graphs.linear().SerializeToString(), device="cuda")
    assert found.fell_back
    assert found.provider == "CPUExecutionProvider"
    assert "CUDA was asked for but cannot be had" in caplog.text


def test_a_required_gpu_that_is_missing_is_an_error(cpu_only):
    """With ``require_device`` the same is a DeviceError."""
    with pytest.raises(DeviceError, match="CUDA"):
        Extractor(graphs.linear().SerializeToString(), device="cuda", require_device=True)


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_the_cpu_is_no_fall_back_where_it_was_chosen(device, cpu_only, caplog):
    """Without a wish for CUDA nothing is reported."""
    assert not Extractor(graphs.linear().SerializeToString(), device=device).fell_back
    assert not caplog.records


def integers():
    nodes = [helper.make_node("ArgMax", ["rows"], ["features"], axis=1)]
    return graphs.model(nodes, [("rows", TensorProto.FLOAT, ["N", 3])], [("features", TensorProto.INT64, ["N", 1])])


def one_number():
    nodes = [helper.make_node("ReduceSum", ["rows"], ["features"], keepdims=0)]
    return graphs.model(nodes, [("rows", TensorProto.FLOAT, ["N", 3])], [("features", TensorProto.FLOAT, [])])


@pytest.mark.parametrize("model", [integers(), one_number()], ids=["integers", "one number"])
def test_features_are_floats_with_a_batch_axis(model):
    """An output of integers, or one number for the whole batch, raises TapError."""
    with pytest.raises(TapError):
        extractor(model, None)


def text_input():
    nodes = [helper.make_node("Identity", ["words"], ["features"])]
    return graphs.model(nodes, [("words", TensorProto.STRING, ["N", 3])], [("features", TensorProto.STRING, ["N", 3])])


def two_inputs():
    nodes = [helper.make_node("Add", ["a", "b"], ["features"])]
    return graphs.model(nodes, [(name, TensorProto.FLOAT, ["N", 3]) for name in "ab"], [("features", TensorProto.FLOAT, ["N", 3])])


@pytest.mark.parametrize("model", [text_input(), two_inputs()], ids=["text", "two inputs"])
def test_an_extractor_takes_one_input_of_numbers(model):
    """Other inputs raise OnnxError that lists what the model takes."""
    with pytest.raises(OnnxError, match="this model takes"):
        extractor(model, None)


@pytest.mark.parametrize(
    ("model", "preprocessing", "error", "message"),
    [
        (
            graphs.channels_last(),
            Preprocessing(8, 8, layout="NHWC"),
            PreprocessingError,
            r"gives float32; the network takes tensor\(uint8\)",
        ),
        (graphs.convolution(), Preprocessing(9, 9), OnnxError, r"refuses input of shape \[1, 3, 9, 9\]"),
        (graphs.convolution(size="S"), None, PreprocessingError, "declare a preprocessing"),
    ],
)
def test_a_preprocessing_that_does_not_fit_is_refused_at_once(model, preprocessing, error, message):
    """A wrong type or size shows when the extractor is made, not when the first image comes."""
    with pytest.raises(error, match=message):
        extractor(model, preprocessing)


def test_images_and_rows_are_not_confused():
    """Rows for an image network, images for a network of rows, and rows of another width raise PreprocessingError."""
    with pytest.raises(PreprocessingError, match="takes images"):
        extractor(graphs.convolution()).rows(np.ones((1, 3)))
    with pytest.raises(PreprocessingError, match="takes rows"):
        extractor(graphs.linear(), None).images(images(1))
    for rows in (np.ones((2, 4)), np.ones(3), np.ones((1, 3, 3))):
        with pytest.raises(PreprocessingError, match=r"inputs of shape \[3\]"):
            extractor(graphs.linear(), None).rows(rows)


def test_a_model_that_onnxruntime_cannot_load_is_refused():
    """An operator that does not exist in the standard domain raises OnnxError with one line of reason."""
    nodes = [helper.make_node("NoSuchOperator", ["rows"], ["features"])]
    model = graphs.model(nodes, [("rows", TensorProto.FLOAT, ["N", 3])], [("features", TensorProto.FLOAT, ["N", 3])])
    with pytest.raises(OnnxError, match="cannot load the model") as caught:
        extractor(model, None)
    assert "\n" not in str(caught.value)


def test_the_bundled_network_works_out_of_the_box():
    """1280 finite features for an image of any size, colour or greyscale."""
    onnx_file, preprocessing, taps = bundled("mobilenet_v2")
    found = Extractor(onnx_file, preprocessing=preprocessing, taps=taps, device="cpu", threads=1)
    features = found.images([Image.new("L", (5, 300), 40), images(1, 64)[0].convert("RGBA")])
    assert features.shape == (2, found.width) == (2, 1280)
    assert np.isfinite(features).all()
    assert not np.array_equal(*features)


def test_refusals_share_one_base():
    """All refusals of this package are ValueErrors of one family, so that a caller needs one except clause."""
    with pytest.raises(ValueError, match="not an image"):
        decode(b"no image")
    assert issubclass(ImageError, OnnxError.__base__)


def measured(costs, seconds, **network):
    """The batch that is chosen where a run of n inputs takes ``costs(n)`` seconds by a clock of its own."""
    clock, found = [0.0], extractor(graphs.convolution(**network))

    def run(batch):
        if (cost := costs(len(batch))) is None:
            raise OnnxError("no more")
        clock[0] += cost

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("models.extractor.time.perf_counter", lambda: clock[0])
        patch.setattr(found, "_run", run)
        found.measure(seconds)
    return found.batch


@pytest.mark.parametrize(
    ("costs", "seconds", "batch"),
    [
        (lambda n: 0.005 + 0.001 * n, 0.1, BATCH_ROWS),  # what each run costs anyway is shared
        (lambda n: 0.005 + 0.001 * n, 0.01, 4),  # a batch of eight would take 13 ms
        (lambda n: 0.5 * n, 0.1, 1),  # even one takes longer than a batch may
        (lambda n: 0.001 * n**1.2, 0.1, 1),  # a larger batch falls out of the cache
        (lambda n: 0.001 * n * (0.8 if n < 8 else 1.0), 0.1, 4),
        (lambda n: 0.001 * n * 1.01, 0.1, BATCH_ROWS),  # nothing in it for the network, and less for what is around it
        (lambda n: 0.001, 0.0, 1),  # not wanted
        (lambda n: 0.001 if n < 4 else None, 0.1, 2),  # it declares any number of inputs, and takes three
    ],
)
def test_the_batch_that_suits_the_machine_is_found(costs, seconds, batch):
    """The largest of those at which an input takes the least time, and a run no longer than it may."""
    assert measured(costs, seconds) == batch


@pytest.mark.parametrize("model", [graphs.convolution(), graphs.convolution(batch=4), graphs.linear(batch=3)])
def test_any_network_can_be_measured(model):
    """One of images, or rows, or with a batch of a fixed size; its features are as before."""
    images_or_rows = images(5) if len(model.graph.input[0].type.tensor_type.shape.dim) == 4 else np.ones((5, 3))
    found = extractor(model, SMALL if isinstance(images_or_rows, list) else None)
    features = found.images if isinstance(images_or_rows, list) else found.rows
    before = features(images_or_rows)
    assert found.batch == 1
    found.measure(10.0)
    assert found.batch in (1, 2, 4, 8, 16)
    np.testing.assert_array_equal(features(images_or_rows), before)
