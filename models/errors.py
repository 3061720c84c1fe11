"""What this package refuses.

ModelError
  OnnxError            the ONNX file cannot be used
  TapError             a tap names no usable tensor of the graph
  PreprocessingError   the preprocessing is not well formed, or does not fit the network
  DeviceError          the device that was required is not there
  ImageError           the input is not an image that can be decoded
    ImageTooLargeError it has more pixels than are decoded
"""

from __future__ import annotations


class ModelError(ValueError):
    """Base of all refusals of this package; its text is written for the caller."""


class OnnxError(ModelError): ...


class TapError(ModelError): ...


class PreprocessingError(ModelError): ...


class DeviceError(ModelError): ...


class ImageError(ModelError): ...


class ImageTooLargeError(ImageError): ...
