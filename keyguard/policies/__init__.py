"""What may be signed: rules as data, judged on facts that keyguard has decoded itself.

facts       what a request is: read from the bytes to be signed, never from what a caller says of them
rules       a policy's text taken apart and checked; what it is not sure of it refuses
judging     rules and facts give a verdict: pure, default deny, any deny wins
spending    limits over time, exact under any number of callers
asking      people's answers, bound to what was asked
deciding    all of it for a batch, inside the transaction that signs it
publishing  drafts, rehearsals on real requests, versions
"""
