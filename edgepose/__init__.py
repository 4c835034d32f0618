"""edgepose: live human pose on the edge.

A camera goes in; named joints with a score and a covariance come out over MQTT.
Libraries are imported where they are used, so that ``import edgepose`` is quick and needs none.
"""

from edgepose.errors import EdgeposeError

__version__ = "0.1.0"

__all__ = ["EdgeposeError", "__version__"]
