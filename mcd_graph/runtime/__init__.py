"""For applications: sessions that know the operators of compressed models."""

from mcd_graph.runtime.enabling import disable, enable
from mcd_graph.runtime.sessions import InferenceSession, session_options

__all__ = ["InferenceSession", "disable", "enable", "session_options"]
