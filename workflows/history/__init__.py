"""The history of runs: append-only events, chained by hash, sealed under Merkle roots, and archived in the end.

chain         a run's events, each carrying the hash of the one before
seals         one root over everything since the root before; the proof that an event stands under it
verification  has anybody altered anything?
retention     moving finished runs into archive files, and the legal hold that prevents it
archives      those files: written, and verified without the database
restoring     putting archived runs back
"""

from workflows.history.chain import Chain as Chain
from workflows.history.digests import output_digest as output_digest
from workflows.history.verification import HistoryFault as HistoryFault
from workflows.history.verification import _first_fault as _first_fault
from workflows.history.verification import verify_history as verify_history
