"""Small ONNX networks for the tests, built on the spot."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

OPSET = [helper.make_opsetid("", 17)]


def model(nodes, inputs, outputs, initializers=(), opsets=OPSET):
    """The bytes of a network; inputs and outputs are (name, element type, shape)."""
    values = [[helper.make_tensor_value_info(*value) for value in side] for side in (inputs, outputs)]
    graph = helper.make_graph(list(nodes), "test", *values, [numpy_helper.from_array(a, name) for name, a in initializers])
    return helper.make_model(graph, opset_imports=list(opsets), ir_version=9)


def convolution(batch="N", channels=3, size=8, element_type=TensorProto.FLOAT):
    """NCHW images to a map of four channels ``map``, and its mean ``pooled`` as the only output."""
    weights = np.random.default_rng(0).normal(size=(4, channels, 3, 3)).astype(np.float32)
    return model(
        [
            helper.make_node("Cast", ["image"], ["cast"], to=TensorProto.FLOAT),
            helper.make_node("Conv", ["cast", "weights"], ["map"]),
            helper.make_node("GlobalAveragePool", ["map"], ["mean"]),
            helper.make_node("Flatten", ["mean"], ["pooled"], axis=1),
        ],
        [("image", element_type, [batch, channels, size, size])],
        [("pooled", TensorProto.FLOAT, [batch, 4])],
        [("weights", weights)],
    )


def channels_last(element_type=TensorProto.UINT8, size=8):
    """NHWC images, moved to NCHW inside: output ``flat`` holds all pixels in that order."""
    return model(
        [
            helper.make_node("Cast", ["image"], ["cast"], to=TensorProto.FLOAT),
            helper.make_node("Transpose", ["cast"], ["moved"], perm=[0, 3, 1, 2]),
            helper.make_node("Flatten", ["moved"], ["flat"], axis=1),
        ],
        [("image", element_type, ["N", size, size, 3])],
        [("flat", TensorProto.FLOAT, ["N", 3 * size * size])],
    )


def linear(batch="N", width=3, element_type=TensorProto.FLOAT):
    """Rows times a matrix of ones to two columns."""
    kind = {TensorProto.FLOAT: np.float32, TensorProto.DOUBLE: np.float64}[element_type]
    return model(
        [helper.make_node("MatMul", ["rows", "weights"], ["features"])],
        [("rows", element_type, [batch, width])],
        [("features", element_type, [batch, 2])],
        [("weights", np.ones((width, 2), kind))],
    )


def two_outputs(names=("first", "second")):
    """Rows to two outputs: themselves, and their negatives."""
    return model(
        [helper.make_node("Identity", ["rows"], [names[0]]), helper.make_node("Neg", ["rows"], [names[1]])],
        [("rows", TensorProto.FLOAT, ["N", 3])],
        [(name, TensorProto.FLOAT, ["N", 3]) for name in names],
    )
