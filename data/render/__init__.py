"""Data sets that are drawn, not read: renderers and simulators that several papers share."""
