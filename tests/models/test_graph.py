"""Which ONNX files are taken, and what taps make of them."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from models import OnnxError, Tap, TapError
from models.bundled import bundled
from models.graph import default_taps, parse, with_taps
from tests.models import graphs


@pytest.mark.parametrize("data", [b"", b"hello", b"\x89PNG\r\n\x1a\n" + bytes(100), b"{}", b"PK\x03\x04" + bytes(50)])
def test_what_is_no_onnx_model_is_refused(data):
    """Other files raise OnnxError that says so."""
    with pytest.raises(OnnxError, match="not an ONNX model"):
        parse(data)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.7, 0.999])
def test_a_truncated_model_is_refused(share):
    """A file that was cut anywhere raises OnnxError, small or large."""
    for data in (graphs.convolution().SerializeToString(), bundled("mobilenet_v2")[0]):
        with pytest.raises(OnnxError):
            parse(data[: int(share * len(data))])


@given(st.integers(0, 10_000), st.integers(0, 255))
@settings(max_examples=200, derandomize=True)
def test_a_damaged_model_gives_a_model_or_a_refusal(place, value):
    """One wrong byte leads to a model or to OnnxError, never to another error."""
    data = bytearray(graphs.convolution().SerializeToString())
    data[place % len(data)] = value
    with contextlib.suppress(OnnxError):
        parse(bytes(data))


def external(tensor):
    """Marks ``tensor`` as kept in another file."""
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def test_external_data_is_refused():
    """A weight in another file raises OnnxError: no path of an uploaded model is opened."""
    model = graphs.convolution()
    external(model.graph.initializer[0])
    with pytest.raises(OnnxError, match="'weights' has its data in another file"):
        parse(model.SerializeToString())


def test_external_data_in_a_subgraph_or_an_attribute_is_refused():
    """The same where the tensor hides in an attribute, or inside a branch of an If."""
    constant = helper.make_node("Constant", [], ["hidden"], value=helper.make_tensor("hidden", TensorProto.FLOAT, [1], [1.0]))
    external(constant.attribute[0].t)
    value = [helper.make_tensor_value_info("hidden", TensorProto.FLOAT, [1])]
    branch = helper.make_graph([constant], "branch", [], value)
    choice = helper.make_node("If", ["condition"], ["features"], then_branch=branch, else_branch=branch)
    for node in (constant, choice):
        model = graphs.linear()
        model.graph.node.append(node)
        with pytest.raises(OnnxError, match="another file"):
            parse(model.SerializeToString())


def test_a_custom_operator_domain_is_refused():
    """An operator, or only the declared set, of another domain raises OnnxError that names it."""
    used = graphs.linear()
    used.graph.node[0].domain = "com.microsoft"
    declared = graphs.linear()
    declared.opset_import.append(helper.make_opsetid("evil.example", 1))
    for model, domain in ((used, "com.microsoft"), (declared, "evil.example")):
        with pytest.raises(OnnxError, match=domain):
            parse(model.SerializeToString())


def test_a_custom_domain_in_a_subgraph_is_refused():
    """The same for an operator inside a branch."""
    value = [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1])]
    branch = helper.make_graph([helper.make_node("Shout", [], ["out"], domain="evil.example")], "branch", [], value)
    model = graphs.linear()
    model.graph.node.append(helper.make_node("If", ["condition"], ["x"], then_branch=branch, else_branch=branch))
    with pytest.raises(OnnxError, match=r"evil\.example"):
        parse(model.SerializeToString())


def test_a_function_of_its_own_is_taken():
    """A model may bring functions in a domain of its own, made of standard operators."""
    model = graphs.linear()
    body = [helper.make_node("Relu", ["x"], ["y"])]
    model.functions.append(helper.make_function("mine", "Twice", ["x"], ["y"], body, graphs.OPSET))
    model.opset_import.append(helper.make_opsetid("mine", 1))
    assert parse(model.SerializeToString()).functions[0].name == "Twice"


def test_the_output_named_features_is_the_default():
    """``features`` is read by default, or the only output whatever its name; of several the user must choose."""
    assert default_taps(graphs.two_outputs(("features", "other"))) == (Tap("features"),)
    assert default_taps(graphs.convolution()) == (Tap("pooled"),)
    with pytest.raises(TapError, match=r"several outputs, \['first', 'second'\].*--tap"):
        default_taps(graphs.two_outputs())


def test_an_unknown_tap_names_near_ones():
    """A misspelt tensor raises TapError with the names most like it."""
    with pytest.raises(TapError, match=r"'poled' is no tensor.*near names: \['pooled'"):
        with_taps(graphs.convolution(), [Tap("poled")])


def test_a_weight_is_no_tap():
    """Constants of the network are no features."""
    with pytest.raises(TapError, match="no tensor"):
        with_taps(graphs.convolution(), [Tap("weights")])


def test_taps_leave_the_model_as_it_was():
    """The tapped copy has the taps as its only outputs; the original is untouched."""
    model = graphs.convolution()
    before = model.SerializeToString()
    tapped, names = with_taps(model, [Tap("map"), Tap("map", "max"), Tap("pooled")])
    assert [output.name for output in tapped.graph.output] == names
    assert model.SerializeToString() == before


@pytest.mark.parametrize(
    ("text", "tap"),
    [
        ("stage5", Tap("stage5")),
        ("stage5=max", Tap("stage5", "max")),
        ("a/b;c:0=none", Tap("a/b;c:0", "none")),
        ("odd=name", Tap("odd=name")),
        ("odd=name=mean", Tap("odd=name", "mean")),
    ],
)
def test_taps_are_written_as_tensor_and_pool(text, tap):
    """``TENSOR`` or ``TENSOR=POOL``; what follows the last ``=`` counts only if it is a pool."""
    assert Tap.parse(text) == tap


def test_an_unknown_pool_is_refused():
    """Pools are mean, max and none."""
    with pytest.raises(TapError, match="must be 'mean', 'max' or 'none'"):
        Tap("map", "median")
