"""A team's own app, as the tests need one: workflows whose every effect is counted."""
