"""How many blocks a node is asked for at once. Pure.

Nodes and providers limit by blocks, by results, by bytes or by time, each in its own words. Their words are not read:
whatever the reason, asking for less helps, and asking for a little more later finds the limit again.
"""

MOST_BLOCKS = 10_000
# With more logs than this in one answer less is asked for, so that the commit of a range stays short.
MANY_LOGS = 2_000


def smaller(blocks: int) -> int:
    """Return what to ask for after a node has refused, or not answered for, so many blocks."""
    return max(1, blocks // 2)


def after_success(blocks: int, asked: int, logs: int) -> int:
    """Return what to ask for next; asked: how many blocks were, which may be fewer where there were no more.

    Grows slowly and falls fast: just below a limit, most requests succeed.
    """
    if logs > MANY_LOGS:
        return smaller(blocks)
    if asked < blocks:
        return blocks  # it says nothing about a full range
    return min(MOST_BLOCKS, blocks + blocks // 4 + 1)
