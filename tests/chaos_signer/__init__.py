"""Transactions of many addresses on two chains while workers die, answers get lost and blocks are taken back."""
