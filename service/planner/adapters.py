"""The GPU memory that an engine sets aside for LoRA adapters, whether or not any is loaded."""

from service.architectures.linear_layers import LinearLayer, linear_layers
from service.architectures.shape import Shape

ELEMENT_BYTES = 2  # of an adapter's weights, which have the type of the activations


def adapter_bytes(shape: Shape, slots: int, rank: int, degree: int = 1) -> int | None:
    """The bytes on each of `degree` GPUs for `slots` adapters at once (`max_loras`) of up to `rank`.

    Sum over the linear layers of slots x rank x (inputs + outputs) x 2 bytes; None where a size is unknown. Tensor
    parallelism divides the outputs of most layers and the inputs of those that add up.
    """
    if not slots:
        return 0
    layers = linear_layers(shape)
    if layers is None:
        return None
    return slots * rank * ELEMENT_BYTES * sum(layer.count * _width(layer, degree) for layer in layers)


def _width(layer: LinearLayer, degree: int) -> int:
    inputs = layer.inputs // degree if layer.split == "inputs" else layer.inputs
    outputs = layer.outputs // degree if layer.split == "outputs" else layer.outputs
    return inputs + outputs
