"""Restate's side that runs our code: an ASGI application, which the Restate server calls for every run.

The step is a coroutine: the SDK hands a plain function to a thread, which halves what is reached here.
"""

import os

import restate

service = restate.Service("TenSteps")


async def nothing() -> None:
    """Do nothing."""


@service.handler()
async def run(context: restate.Context) -> None:
    for number in range(int(os.environ["STEPS"])):
        # Comes back when the server has the step's end in its log.
        await context.run_typed(f"step_{number}", nothing)


app = restate.app([service])
