"""The Open Inference Protocol v2, over HTTP and over gRPC.

models     what can be asked, whatever it is asked over
scoring    from a request to verdicts to an answer, in either form
tensors    tensors from JSON and from bytes
envelope   requests and answers as bodies of HTTP
messages   requests and answers as messages of gRPC
routes     the HTTP side
calls      the gRPC side
"""
