"""An app in three versions, of which a process has the one that UPGRADE names."""
