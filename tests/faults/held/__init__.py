"""An app with a workflow whose step waits for the test's word, and a parent process that has used the database."""
