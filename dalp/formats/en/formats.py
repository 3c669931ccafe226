"""Overrides of Django's English formats, whose "3:51 p.m." hides the seconds that matter."""

DATETIME_FORMAT = "Y-m-d H:i:s"
DATE_FORMAT = "Y-m-d"
TIME_FORMAT = "H:i:s"
