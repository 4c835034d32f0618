"""edgepose: live human pose on the edge.

A camera goes in; named joints with a score and a covariance come out over MQTT.
Heavy libraries are imported where they are used, so that ``import edgepose`` is quick
and works wherever numpy, opencv, paho-mqtt and pydantic are installed.
"""

from edgepose.errors import EdgeposeError

__version__ = "0.1.0"

__all__ = ["EdgeposeError", "__version__"]
