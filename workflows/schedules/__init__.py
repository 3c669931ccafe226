"""Schedules: runs started by the clock, one for each instant of a cron expression in a time zone.

cron.py      which instants a cron expression names, also where a zone's clock is changed
catch_up.py  what to do with the instants that have passed: pure decisions
models.py    Schedule and Tick: the rows
checks.py    whether a schedule can work, said as a person would
firing.py    the sweeper's rule
acts.py      what people do to a schedule, with who and why
forms.py     what they may enter; with cells.py, for workflows/admin/schedules.py
"""
