"""An app with workflows that kill the process that carries them out."""
