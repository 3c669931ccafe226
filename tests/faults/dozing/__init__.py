"""An app with one slow task, for workers that must be busy when something happens to them."""
