"""Moved: see `sdlc.target`."""

from sdlc.target import Capabilities, Peak, Profile, Target

__all__ = ["Capabilities", "Peak", "Profile", "Target"]
